"""Optimisers and averaged weights."""

import inspect
from typing import TypeVar, cast

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from imgclf.config import TrainConfig

_Optimizer = TypeVar("_Optimizer", bound=Optimizer)


def create_optimizer(model: nn.Module, config: TrainConfig) -> Optimizer:
    """Build the optimiser, with weight decay on matrices and filters only.

    Decay pulls weights to zero; on biases and batch-normalisation scales it only does harm
    (He et al., Bag of Tricks for Image Classification, arXiv:1812.01187).
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {
            "params": [parameter for parameter in parameters if parameter.ndim > 1],
            "weight_decay": config.weight_decay,
        },
        {
            "params": [parameter for parameter in parameters if parameter.ndim <= 1],
            "weight_decay": 0.0,
        },
    ]
    lr = config.learning_rate
    fused = parameters[0].device.type in ("cpu", "cuda")
    if config.optimizer == "sgd":
        nesterov = config.nesterov
        return _SGD(groups, lr=lr, momentum=config.momentum, nesterov=nesterov, fused=fused)
    return {"adam": _Adam, "adamw": _AdamW}[config.optimizer](groups, lr=lr, fused=fused)


def _without_compiler(optimizer: type[_Optimizer]) -> type[_Optimizer]:
    """Return an optimiser without the decorators by which torch imports its compiler.

    They tell the compiler to leave a method alone and import it for that, which takes as long as
    torch itself; no optimiser is compiled here. The methods below the decorators stay as they are.
    """
    plain = {
        name: inspect.unwrap(getattr(optimizer, name))
        for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    }
    step = torch.no_grad()(inspect.unwrap(optimizer.step))
    made = type(optimizer.__name__, (optimizer,), {**plain, "step": step})
    return cast("type[_Optimizer]", made)


_SGD, _Adam, _AdamW = _without_compiler(SGD), _without_compiler(Adam), _without_compiler(AdamW)


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
    for name in ours.keys() - set(floating):
        ours[name].copy_(theirs[name])
