"""Optimisers, learning-rate schedules and averaged weights."""

import math

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from imgclf.config import TrainConfig

# torch.optim.lr_scheduler.OneCycleLR's defaults: where the cycle begins and ends.
_ONE_CYCLE_START = 1 / 25
_ONE_CYCLE_END = _ONE_CYCLE_START / 1e4


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
        return SGD(groups, lr=lr, momentum=config.momentum, nesterov=nesterov, fused=fused)
    return {"adam": Adam, "adamw": AdamW}[config.optimizer](groups, lr=lr, fused=fused)


def learning_rate_at(step: int, steps_per_epoch: int, config: TrainConfig) -> float:
    """Return the learning rate of one step; a pure function, so that resuming needs no state.

    Args:
        step: 0 for the first of the run.
        steps_per_epoch: optimiser steps in an epoch.
        config: gives ``epochs``, ``schedule``, ``learning_rate``, ``warmup_ratio`` and, for the
            step schedule, ``step_epochs`` and ``step_factor``.

    ``one-cycle`` rises along a half cosine from 1/25 of the rate and falls along another to
    1/250,000 (Smith and Topin, Super-Convergence, arXiv:1708.07120, with PyTorch's defaults). The
    others rise linearly; then ``cosine`` falls to zero, ``step`` drops every so many epochs
    (counted from the first) and ``constant`` stays.
    """
    peak, total_steps = config.learning_rate, config.epochs * steps_per_epoch
    if config.schedule == "one-cycle":
        # The end of the cycle lies one step behind the last: no step is spent at its tiny rate,
        # which a run of few steps could not afford.
        total_steps += 1
        peak_step = config.warmup_ratio * total_steps - 1
        if step <= peak_step:
            start = peak * _ONE_CYCLE_START
            return _half_cosine(start, peak, step / peak_step if peak_step > 0 else 1.0)
        progress = (step - peak_step) / (total_steps - 1 - peak_step)
        return _half_cosine(peak, peak * _ONE_CYCLE_END, progress)
    warmup_steps = int(config.warmup_ratio * total_steps)
    if step < warmup_steps:
        return peak * ((step + 1) / warmup_steps)
    if config.schedule == "cosine":
        return _half_cosine(peak, 0.0, (step - warmup_steps) / (total_steps - warmup_steps))
    if config.schedule == "step":
        epochs_between = config.step_epochs or math.ceil(config.epochs / 3)
        return peak * config.step_factor ** (step // steps_per_epoch // epochs_between)
    assert config.schedule == "constant"
    return peak


def _half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


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
