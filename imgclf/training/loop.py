"""The training loop. It reads from top to bottom and knows neither tracker nor screen.

It yields: a `Snapshot` at most twice a second, when the state is consistent and may be saved, and
an `EpochEnd` after each pass over the images. What to do with them is the caller's business.
"""

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

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
class TrainState:
    """All that changes while training.

    Attributes:
        model: the weights that are optimised.
        averaged: their moving average, or None where it is not wanted.
        optimizer, scaler: the optimiser, and the loss scaling that fp16 needs.
        epoch: complete epochs so far.
        step: steps so far, over all epochs.
    """

    model: nn.Module
    averaged: nn.Module | None
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
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
        )

    @property
    def selected_model(self) -> nn.Module:
        """The weights that are evaluated, saved and exported: one set, never two."""
        return self.model if self.averaged is None else self.averaged


@dataclass(frozen=True)
class Snapshot:
    """A moment inside an epoch. Loss and accuracy are means over the epoch so far."""

    epoch: int
    step_in_epoch: int
    loss: float
    accuracy: float
    images_per_second: float


@dataclass(frozen=True)
class EpochEnd:
    """An epoch's training figures: means over its images, as they were seen."""

    epoch: int
    loss: float
    accuracy: float
    learning_rate: float
    images_per_second: float


def train_epochs(
    state: TrainState,
    loader: TrainLoader,
    config: TrainConfig,
    compute: Compute,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Snapshot | EpochEnd]:
    """Train until ``config.epochs`` are complete or ``stop()`` is true after a step.

    Raises:
        ImgclfError: the loss is no longer finite.
    """
    loss_of = create_loss(config, loader.class_counts)
    forward = compiled_forward(state.model) if config.compile else state.model
    for epoch in range(state.epoch + 1, config.epochs + 1):
        meter = _Meter(epoch, compute.device)
        state.model.train()
        for batches in loader.epoch(epoch):
            # Dropout is drawn from (seed, step) alone, so that a resumed run draws the same.
            seed_generator(compute.device, _step_seed(config.seed, state.step))
            for group in state.optimizer.param_groups:
                group["lr"] = learning_rate_at(state.step, loader.steps_per_epoch, config)
            state.optimizer.zero_grad()
            num_images = sum(map(len, batches))
            for batch in batches:
                with _autocast(compute):
                    logits = forward(batch.images)
                loss = loss_of(logits, batch.targets)
                state.scaler.scale(loss * (len(batch) / num_images)).backward()
                meter.add(loss, logits, batch.labels)
            if config.gradient_clip_norm:
                state.scaler.unscale_(state.optimizer)
                clip_grad_norm_(state.model.parameters(), config.gradient_clip_norm)
            state.scaler.step(state.optimizer)
            state.scaler.update()
            if state.averaged is not None:
                update_average(state.averaged, state.model, state.step, config.ema_decay)
            state.step += 1

            if meter.due():
                yield meter.snapshot()
            if stop():
                return
        state.epoch = epoch
        end = meter.snapshot()
        last_rate = state.optimizer.param_groups[0]["lr"]
        yield EpochEnd(epoch, end.loss, end.accuracy, last_rate, end.images_per_second)


def _step_seed(seed: int, step: int) -> int:
    """Mix both well: of its seed, torch's CPU generator uses the lowest 32 bits only."""
    return int(np.random.SeedSequence([seed, step, 3]).generate_state(1, np.uint64)[0])


def _autocast(compute: Compute) -> torch.autocast:
    enabled = compute.precision is not torch.float32
    return torch.autocast(compute.device.type, dtype=compute.precision, enabled=enabled)


class _Meter:
    """Sums of one epoch, gathered on the device and read only for a snapshot."""

    def __init__(self, epoch: int, device: torch.device) -> None:
        self._epoch = epoch
        self._sums = torch.zeros(2, dtype=torch.float32, device=device)
        self._images = self._steps = 0
        self._start = self._last = time.perf_counter()

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        correct = (logits.detach().argmax(1) == labels).sum()
        self._sums += torch.stack([loss.detach().float() * len(labels), correct.float()])
        self._images += len(labels)
        self._steps += 1

    def due(self) -> bool:
        now = time.perf_counter()
        if now - self._last < SECONDS_BETWEEN_SNAPSHOTS:
            return False
        self._last = now
        return True

    def snapshot(self) -> Snapshot:
        loss, accuracy = (self._sums / self._images).tolist()
        if loss != loss or loss == float("inf"):
            raise ImgclfError(
                f"The training loss is {loss} in epoch {self._epoch}: the weights diverged.",
                "Lower --learning-rate, raise --warmup-ratio, or use --precision fp32.",
            )
        speed = self._images / (time.perf_counter() - self._start)
        return Snapshot(self._epoch, self._steps, loss, accuracy, speed)
