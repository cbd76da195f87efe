"""Optimisers and averaged weights."""

from collections.abc import Container
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from imgclf.config import TrainConfig
from imgclf.training.muon import Muon
from imgclf.training.uncompiled import SGD, Adam, AdamW


def create_optimizer(model: nn.Module, config: TrainConfig) -> Optimizer:
    """Build the optimiser, with weight decay on matrices and filters only.

    Decay pulls weights to zero; on biases and batch-normalisation scales it only does harm
    (He et al., Bag of Tricks for Image Classification, arXiv:1812.01187).
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def group(dimensions: Container[int], weight_decay: float) -> dict[str, Any]:
        chosen = [parameter for parameter in parameters if parameter.ndim in dimensions]
        return {"params": chosen, "weight_decay": weight_decay}

    vectors, matrices, filters = (0, 1), (2,), (3, 4, 5)
    lr, momentum, nesterov = config.learning_rate, config.momentum, config.nesterov
    betas = (config.adam_beta1, config.adam_beta2)
    fused = parameters[0].device.type in ("cpu", "cuda")
    if config.optimizer == "muon":
        of_filters = group(filters, config.weight_decay)
        others = [group(matrices, config.weight_decay), group(vectors, 0.0)]
        return Muon(of_filters, others, lr, momentum, nesterov, betas, fused)
    groups = [group(matrices + filters, config.weight_decay), group(vectors, 0.0)]
    if config.optimizer == "sgd":
        sgd = SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov, fused=fused)
        for parameter in parameters:
            # Where the first step is left out (its loss is not finite), the fused SGD would
            # keep memory that nobody has written as its momentum.
            sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return sgd
    return {"adam": Adam, "adamw": AdamW}[config.optimizer](groups, lr=lr, betas=betas, fused=fused)


@torch.no_grad()
def update_average(averaged: nn.Module, model: nn.Module, updates: int, decay: float) -> None:
    """Move the averaged weights a step towards the model's.

    Batch-normalisation statistics are averaged too: the average has its own. The decay grows with
    the number of updates, ``min(decay, (1 + updates) / (10 + updates))``, so that a short run is
    not dominated by its first weights (as TensorFlow's ExponentialMovingAverage does).

    Args:
        averaged: changed in place.
        model: has the same architecture.
        updates: how often the average was updated before.
        decay: the decay in the long run.
    """
    weight = 1 - min(decay, (1 + updates) / (10 + updates))
    ours, theirs = averaged.state_dict(), model.state_dict()
    floating = [name for name, tensor in ours.items() if tensor.is_floating_point()]
    torch._foreach_lerp_(
        [ours[name] for name in floating], [theirs[name] for name in floating], weight
    )
    counts = [name for name, tensor in ours.items() if not tensor.is_floating_point()]
    if counts:
        torch._foreach_copy_([ours[name] for name in counts], [theirs[name] for name in counts])
