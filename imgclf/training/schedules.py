"""Learning-rate schedules: a schedule is one registered function."""

import math
from collections.abc import Callable

from imgclf.config import TrainConfig

# Takes a step (0 for the first of the run), the steps of an epoch and the configuration; returns
# what the learning rate is multiplied by.
Schedule = Callable[[int, int, TrainConfig], float]
_SCHEDULES: dict[str, Schedule] = {}

# torch.optim.lr_scheduler.OneCycleLR's defaults: where the cycle begins and ends.
_ONE_CYCLE_START = 1 / 25
_ONE_CYCLE_END = _ONE_CYCLE_START / 1e4


def register(schedule: Schedule) -> Schedule:
    """Make a schedule known by its function's name, with hyphens for underscores."""
    name = schedule.__name__.strip("_").replace("_", "-")
    assert name not in _SCHEDULES, f"there is a schedule '{name}' already"
    _SCHEDULES[name] = schedule
    return schedule


def schedule_names() -> tuple[str, ...]:
    """Return the names of the registered schedules."""
    return tuple(_SCHEDULES)


def learning_rate_at(step: int, steps_per_epoch: int, config: TrainConfig) -> float:
    """Return the learning rate of one step; a pure function, so that resuming needs no state.

    Args:
        step: 0 for the first of the run.
        steps_per_epoch: optimiser steps in an epoch.
        config: gives ``epochs``, ``schedule``, ``learning_rate`` and the schedule's own options.
    """
    return config.learning_rate * _SCHEDULES[config.schedule](step, steps_per_epoch, config)


@register
def _one_cycle(step: int, steps_per_epoch: int, config: TrainConfig) -> float:
    """Rise along a half cosine from 1/25 and fall along another to 1/250,000.

    Smith and Topin, Super-Convergence, arXiv:1708.07120, with PyTorch's defaults.
    """
    # The end of the cycle lies one step behind the last: no step is spent at its tiny rate, which a
    # run of few steps could not afford.
    total_steps = config.epochs * steps_per_epoch + 1
    peak_step = config.warmup_ratio * total_steps - 1
    if step <= peak_step:
        return _half_cosine(_ONE_CYCLE_START, 1.0, step / peak_step if peak_step > 0 else 1.0)
    progress = (step - peak_step) / (total_steps - 1 - peak_step)
    return _half_cosine(1.0, _ONE_CYCLE_END, progress)


@register
def _constant(step: int, steps_per_epoch: int, config: TrainConfig) -> float:
    return _warm_up(step, steps_per_epoch, config)


@register
def _cosine(step: int, steps_per_epoch: int, config: TrainConfig) -> float:
    """Fall to zero along half a cosine (Loshchilov and Hutter, SGDR, arXiv:1608.03983)."""
    return _half_cosine(
        _warm_up(step, steps_per_epoch, config), 0.0, _descent(step, steps_per_epoch, config)
    )


@register
def _linear(step: int, steps_per_epoch: int, config: TrainConfig) -> float:
    descent = _descent(step, steps_per_epoch, config)
    return _warm_up(step, steps_per_epoch, config) * (1 - descent)


@register
def _step(step: int, steps_per_epoch: int, config: TrainConfig) -> float:
    """Drop by ``step_factor`` every ``step_epochs``, counted from the first epoch."""
    epochs_between = config.step_epochs or math.ceil(config.epochs / 3)
    drops = step // steps_per_epoch // epochs_between
    return _warm_up(step, steps_per_epoch, config) * config.step_factor**drops


def _warm_up(step: int, steps_per_epoch: int, config: TrainConfig) -> float:
    """Rise linearly to 1 in the first ``warmup_ratio`` of all steps."""
    warmup_steps = int(config.warmup_ratio * config.epochs * steps_per_epoch)
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0


def _descent(step: int, steps_per_epoch: int, config: TrainConfig) -> float:
    """Return the share of the steps after the warm-up that lie behind: 0 until its end."""
    total_steps = config.epochs * steps_per_epoch
    warmup_steps = int(config.warmup_ratio * total_steps)
    return max(0, step - warmup_steps) / (total_steps - warmup_steps)


def _half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
