"""The training loop. It reads from top to bottom and knows neither tracker nor screen.

It yields: a `Snapshot` at most twice a second and when it is told to stop, moments at which the
state is consistent and may be saved, and an `EpochEnd` after each pass over the images. What to do
with them is the caller's business.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from imgclf.config import TrainConfig
from imgclf.data.loader import TrainLoader
from imgclf.errors import ImgclfError
from imgclf.training.compilation import compiled_forward
from imgclf.training.device import Compute, seed_generator
from imgclf.training.losses import create_loss
from imgclf.training.optimization import create_optimizer, update_average
from imgclf.training.schedules import learning_rate_at

SECONDS_BETWEEN_SNAPSHOTS = 0.5


@dataclass
class EpochSums:
    """Of the epoch in progress, gathered on the device and read only for a snapshot.

    Attributes:
        sums: float32 [3]: losses, right answers, and images, where the loss was finite.
        steps: steps of the epoch so far.
        seconds: what they have taken, up to the last snapshot.
    """

    sums: Tensor
    steps: int = 0
    seconds: float = 0.0

    @classmethod
    def start(cls, device: torch.device) -> "EpochSums":
        """Begin an epoch."""
        return cls(torch.zeros(3, dtype=torch.float32, device=device))


@dataclass
class TrainState:
    """All that changes while training; a checkpoint holds all of it.

    Attributes:
        model: the weights that are optimised.
        averaged: their moving average, or None where it is not wanted.
        optimizer, scaler: the optimiser, and the loss scaling that fp16 needs.
        sums: of the epoch in progress.
        bad_steps: int64, a scalar on the device: how many of the last steps in a row had a loss
            that is not finite. Once that is too many, every step counts.
        epoch: complete epochs so far.
        step: steps so far, over all epochs.
    """

    model: nn.Module
    averaged: nn.Module | None
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    sums: EpochSums
    bad_steps: Tensor
    epoch: int = 0
    step: int = 0

    @classmethod
    def start(cls, model: nn.Module, config: TrainConfig, compute: Compute) -> "TrainState":
        """Begin with fresh weights on the device."""
        # Channels last: the layout in which the images lie; faster on CPU and GPU alike.
        model = model.to(compute.device).to(memory_format=torch.channels_last)
        scaled = compute.precision is torch.float16
        return cls(
            model=model,
            averaged=copy.deepcopy(model) if config.ema else None,
            optimizer=create_optimizer(model, config),
            scaler=torch.amp.GradScaler(compute.device.type, enabled=scaled),
            sums=EpochSums.start(compute.device),
            bad_steps=torch.zeros((), dtype=torch.int64, device=compute.device),
        )

    @property
    def selected_model(self) -> nn.Module:
        """The weights that are evaluated, saved and exported: one set, never two."""
        return self.model if self.averaged is None else self.averaged


@dataclass(frozen=True)
class Snapshot:
    """A moment inside an epoch. Loss and accuracy are means over the epoch so far.

    Where ``bad_steps`` is not 0, so many last steps had a loss that is not finite.
    """

    epoch: int
    step_in_epoch: int
    loss: float
    accuracy: float
    images_per_second: float
    bad_steps: int = 0


@dataclass(frozen=True)
class EpochEnd:
    """An epoch's training figures: means over its images, as they were seen."""

    epoch: int
    loss: float
    accuracy: float
    learning_rate: float
    images_per_second: float


class NonFiniteLossError(ImgclfError):
    """The loss is no longer finite.

    Attributes:
        step: the first of the steps in a row, from 0, over all epochs.
        bad_steps: how many there were in a row when that was too many.
    """

    def __init__(self, step: int, bad_steps: int) -> None:
        super().__init__(
            f"The training loss is not finite from step {step + 1} on: the weights diverged.",
            "Lower --learning-rate, raise --warmup-ratio, or use --precision fp32.",
        )
        self.step, self.bad_steps = step, bad_steps


def train_epochs(
    state: TrainState,
    loader: TrainLoader,
    config: TrainConfig,
    compute: Compute,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Snapshot | EpochEnd]:
    """Train until ``config.epochs`` are complete or ``stop()`` is true after a step.

    It goes on where the state stands, inside an epoch too.

    Raises:
        NonFiniteLossError: for more than ``config.max_bad_steps`` steps in a row, or to the end.
    """
    loss_of = create_loss(config, loader.class_counts)
    statistics = _RunningStatistics(state.model)
    forward = compiled_forward(state.model, loader.batch_size) if config.compile else state.model
    for epoch in range(state.epoch + 1, config.epochs + 1):
        clock = _Clock(state.sums.seconds)
        state.model.train()
        for batches in loader.epoch(epoch, state.sums.steps):
            # Dropout is drawn from (seed, step) alone, so that a resumed run draws the same.
            seed_generator(compute.device, _step_seed(config.seed, state.step))
            for group in state.optimizer.param_groups:
                group["lr"] = learning_rate_at(state.step, loader.steps_per_epoch, config)
            statistics.keep()
            state.optimizer.zero_grad()
            num_images = sum(map(len, batches))
            sums = []
            for batch in batches:
                with compute.autocast():
                    logits = forward(batch.images)
                loss = loss_of(logits, batch.targets)
                share = torch.full_like(loss, len(batch) / num_images)
                state.scaler.scale(loss).backward(share)
                sums.append(_sums(loss, logits, batch.labels))
            is_bad = _add(state, reduce(torch.add, sums), config.max_bad_steps)
            statistics.put_back(is_bad)
            if config.gradient_clip_norm:
                state.scaler.unscale_(state.optimizer)
                clip_grad_norm_(state.model.parameters(), config.gradient_clip_norm)
            _step(state, is_bad)
            if state.averaged is not None:
                update_average(state.averaged, state.model, state.step, config.ema_decay)
            state.step += 1
            state.sums.steps += 1

            stopping = stop()
            if stopping or clock.due():
                yield _snapshot(state, epoch, clock, config)
            if stopping:
                return
        end = _snapshot(state, epoch, clock, config)
        if end.bad_steps and epoch == config.epochs:
            # No step comes that could be better.
            raise NonFiniteLossError(state.step - end.bad_steps, end.bad_steps)
        state.epoch, state.sums = epoch, EpochSums.start(compute.device)
        last_rate = learning_rate_at(state.step - 1, loader.steps_per_epoch, config)
        yield EpochEnd(epoch, end.loss, end.accuracy, last_rate, end.images_per_second)


def _step_seed(seed: int, step: int) -> int:
    """Mix both well: of its seed, torch's CPU generator uses the lowest 32 bits only."""
    return int(np.random.SeedSequence([seed, step, 3]).generate_state(1, np.uint64)[0])


def _sums(loss: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Return a batch's part of `EpochSums.sums`."""
    loss = loss.detach()
    right = (logits.detach().argmax(1) == labels).sum()
    return torch.stack([loss * len(labels), right, torch.full_like(loss, len(labels))])


def _add(state: TrainState, sums: Tensor, most_bad: int) -> Tensor:
    """Add a step's sums where its loss is finite, and tell on the device whether it is not."""
    # Infinity times 0 is no number, and what is no number differs from 0.
    is_bad = sums[0] * 0 != 0
    state.sums.sums += sums.masked_fill(is_bad, 0)
    goes_on = is_bad | (state.bad_steps > most_bad)
    state.bad_steps = (state.bad_steps + 1) * goes_on
    return is_bad


def _step(state: TrainState, is_bad: Tensor) -> None:
    """Update the weights, unless the loss is not finite.

    The scaler sees to that by itself. Fused optimisers and Muon are told as it tells them, without
    waiting for the device; those on Apple's GPUs go on.
    """
    optimizer = state.optimizer
    if not state.scaler.is_enabled() and getattr(optimizer, "_step_supports_amp_scaling", False):
        setattr(optimizer, "found_inf", is_bad.float())  # noqa: B010
    state.scaler.step(optimizer)
    state.scaler.update()


class _RunningStatistics:
    """What a forward pass changes in a network: the statistics of batch normalisation.

    A step that is left out must leave them, too: an infinity would stay in them, and in their
    average, for ever. They are copied and put back joined to one tensor, on the device: a few
    operations, however many layers there are.

    Args:
        model: its floating-point buffers are meant; they stay the same tensors while it trains.
    """

    def __init__(self, model: nn.Module) -> None:
        buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        self._sizes = [buffer.numel() for buffer in buffers]
        # As they lie in memory, whatever their layout.
        self._flat = [buffer.as_strided((buffer.numel(),), (1,)) for buffer in buffers]
        self._kept = torch.empty(0)

    def keep(self) -> None:
        """Copy them as they are before a forward pass."""
        if self._flat:
            self._kept = torch.cat(self._flat)

    def put_back(self, is_bad: Tensor) -> None:
        """Undo what was done to them since then, where the flag on the device is true."""
        if self._flat:
            right = torch.where(is_bad, self._kept, torch.cat(self._flat))
            torch._foreach_copy_(self._flat, right.split(self._sizes))


class _Clock:
    """Seconds of an epoch, and when a snapshot is due."""

    def __init__(self, seconds_before: float) -> None:
        self._start = self._last = time.perf_counter()
        self._before = seconds_before

    def due(self) -> bool:
        now = time.perf_counter()
        if now - self._last < SECONDS_BETWEEN_SNAPSHOTS:
            return False
        self._last = now
        return True

    def seconds(self) -> float:
        return self._before + time.perf_counter() - self._start


def _snapshot(state: TrainState, epoch: int, clock: _Clock, config: TrainConfig) -> Snapshot:
    """Read what has gathered on the device."""
    bad_steps = int(state.bad_steps)
    if bad_steps > config.max_bad_steps:
        raise NonFiniteLossError(state.step - bad_steps, config.max_bad_steps + 1)
    loss, right, images = state.sums.sums.tolist()
    state.sums.seconds = clock.seconds()
    loss, accuracy = (loss / images, right / images) if images else (math.nan, math.nan)
    speed = images / state.sums.seconds
    return Snapshot(epoch, state.sums.steps, loss, accuracy, speed, bad_steps)
