"""Training batches: gathered and augmented as whole tensors where the arithmetic is."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor

from imgclf.config import TrainConfig
from imgclf.container import memory_within_limit
from imgclf.data.augment import Augmentation, Draws
from imgclf.data.dataset import images_at_a_time

_Result = TypeVar("_Result")

_BATCHES_AHEAD = 2
# Batches from images on the device are augmented together up to so many bytes: each operation costs
# its launch, on a GPU most of all. What a CPU makes stays in its cache.
_BYTES_AT_ONCE = {"cpu": 2**18, "cuda": 2**24, "mps": 2**24}

_Bounds = tuple[int, int]


@dataclass(frozen=True)
class Batch:
    """Images that go through the network together.

    Attributes:
        images: uint8 [batch, height, width, channels].
        labels: int64 [batch].
        targets: what the loss compares with: the labels, or float32 [batch, classes] where images
            were mixed.
    """

    images: Tensor
    labels: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.labels)


class TrainLoader:
    """The training images, dealt out in a new order each epoch.

    They live on the device where they fit into half of its free memory. Where they do not, batches
    are gathered from where they lie (memory, or a file mapped into it), two ahead of the step; to a
    GPU they are copied while it computes.

    Args:
        images: uint8 [m, stored height, stored width, channels], of the whole data set.
        positions: int64 [n], the training images among them.
        labels: int64 [m], of the whole data set.
        num_classes: of the data set.
        augmentation: what is done to each image.
        config: gives ``batch_size``, ``gradient_accumulation_steps``, ``balanced_sampling`` and
            ``seed``, which fixes every order and every draw.
        device: where the batches go.
        resident: whether the images live on the device; None: where they fit.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        positions: NDArray[np.int64],
        labels: NDArray[np.int64],
        num_classes: int,
        augmentation: Augmentation,
        config: TrainConfig,
        device: torch.device,
        resident: bool | None = None,
    ) -> None:
        self._images, self._positions, self._device = images, positions, device
        self._labels = torch.from_numpy(labels[positions]).to(device)
        self._num_classes = num_classes
        self._augmentation = augmentation
        self._config = config
        num_bytes = self._shape_of_padded().numel()
        self.resident = _fits(num_bytes, device) if resident is None else resident
        if self.resident:
            self._on_device = self._pad_all()
        elif device.type == "cuda":
            # What is queued on one stream is done in turn: copies among the steps would wait.
            self._copying = torch.cuda.Stream(device)
        bounds = _batch_bounds(len(positions), config.batch_size)
        together = config.gradient_accumulation_steps
        self._steps = [bounds[i : i + together] for i in range(0, len(bounds), together)]

    @property
    def num_images(self) -> int:
        """Images in an epoch."""
        return len(self._labels)

    @property
    def steps_per_epoch(self) -> int:
        """Steps of the optimiser in an epoch."""
        return len(self._steps)

    @property
    def batch_size(self) -> int:
        """Images in every batch of an epoch but the last."""
        start, end = self._steps[0][0]
        return end - start

    @property
    def class_counts(self) -> Tensor:
        """Images of each class, int64 [classes], on the device."""
        return torch.bincount(self._labels, minlength=self._num_classes)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[list[Batch]]:
        """Yield the batches of each step, in the order of this epoch.

        Every image comes exactly once, or every class equally often with balanced sampling. The
        last batch of an epoch may be smaller than the others, or larger by one.

        Args:
            epoch: from 1.
            first_step: steps before it are left out; the others are what they always are.
        """
        steps = self._steps[first_step:]
        order = self._order(epoch)
        on_device = torch.from_numpy(order).to(self._device)
        draws = self._augmentation.draw(self._shape_of_padded(), self._config.seed, epoch)
        if not self._config.balanced_sampling:
            # With it, a row is a place in the order: an image that comes again has other draws.
            draws = draws.rows(on_device)
        bounds = [batch for step in steps for batch in step]
        augmented = self._augmented(order, on_device, bounds, draws)
        for step in steps:
            yield [
                self._batch(next(augmented), on_device[start:end], draws.part(start, end))
                for start, end in step
            ]

    def positions(self, epoch: int, step: int) -> NDArray[np.int64]:
        """Return which images of the data set a step of an epoch sees, int64 [n]."""
        bounds = self._steps[step]
        return self._positions[self._order(epoch)[bounds[0][0] : bounds[-1][1]]]

    def _augmented(
        self, order: NDArray[np.int64], on_device: Tensor, bounds: list[_Bounds], draws: Draws
    ) -> Iterator[Tensor]:
        """Yield, batch by batch, its images."""
        together = self._together(bounds)
        joined = [(batches[0][0], batches[-1][1]) for batches in together]
        sources = self._sources(order, on_device, joined)
        for batches, (first, last), source in zip(together, joined, sources, strict=True):
            images = self._augmentation.apply(*source, draws.part(first, last))
            yield from (images[start - first : end - first] for start, end in batches)

    def _together(self, bounds: list[_Bounds]) -> list[list[_Bounds]]:
        """Group batches that follow one another: those that are augmented at once."""
        number = 1
        if self.resident:
            batch_bytes = self.batch_size * self._shape_of_padded()[0].numel()
            number = max(1, _BYTES_AT_ONCE[self._device.type] // batch_bytes)
        return [bounds[start : start + number] for start in range(0, len(bounds), number)]

    def _sources(
        self, order: NDArray[np.int64], on_device: Tensor, bounds: list[_Bounds]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield, for each bounds, the padded images that they are cut from and which of them."""
        if self.resident:
            for start, end in bounds:
                yield self._on_device, on_device[start:end]
            return
        calls = (partial(self._gather, order[start:end]) for start, end in bounds)
        for images, copied in _ahead(calls):
            if copied is not None:
                # The GPU waits for this copy before it goes on, and the memory is not given away
                # while steps that are queued read it.
                computing = torch.cuda.current_stream(self._device)
                computing.wait_event(copied)
                images.record_stream(computing)
            images = images.to(self._device)
            yield self._augmentation.pad(images), torch.arange(len(images), device=self._device)

    def _batch(self, images: Tensor, chosen: Tensor, drawn: Draws) -> Batch:
        labels = self._labels[chosen]
        images, targets = self._augmentation.mix(images, labels, drawn, self._num_classes)
        return Batch(images, labels, targets)

    def _gather(self, chosen: NDArray[np.int64]) -> tuple[Tensor, torch.cuda.Event | None]:
        """Gather some images from where they lie, and begin to copy them to a GPU.

        Returns:
            the images, and what a GPU must wait for before it reads them; None: nothing.
        """
        positions = self._positions[chosen]
        # In the order of the file, which a disk likes.
        ascending = np.argsort(positions)
        shape, on_gpu = (len(positions), *self._images.shape[1:]), self._device.type == "cuda"
        # A GPU copies from pinned memory without anybody waiting for it.
        gathered = torch.empty(shape, dtype=torch.uint8, pin_memory=on_gpu)
        gathered.numpy()[ascending] = self._images[positions[ascending]]
        if not on_gpu:
            return gathered, None
        copied = torch.cuda.Event()
        with torch.cuda.stream(self._copying):
            images = gathered.to(self._device, non_blocking=True)
            copied.record(self._copying)
        return images, copied

    def _pad_all(self) -> Tensor:
        """Bring the training images to the device, some at a time: they lie in memory once."""
        padded = torch.empty_like(self._shape_of_padded(), memory_format=torch.contiguous_format)
        together = images_at_a_time(self._images)
        for start in range(0, self.num_images, together):
            positions = self._positions[start : start + together]
            images = torch.from_numpy(self._images[positions]).to(self._device)
            padded[start : start + len(images)] = self._augmentation.pad(images)
        return padded

    def _shape_of_padded(self) -> Tensor:
        """Return a tensor of the shape of all images with their border, without content."""
        one = torch.zeros((1, *self._images.shape[1:]), dtype=torch.uint8, device=self._device)
        padded = self._augmentation.pad(one)
        return padded.expand(self.num_images, *padded.shape[1:])

    def _order(self, epoch: int) -> NDArray[np.int64]:
        generator = np.random.default_rng([self._config.seed, epoch, 0])
        if self._config.balanced_sampling:
            return balanced_order(self._labels.cpu().numpy(), generator)
        return generator.permutation(self.num_images)


def _fits(num_bytes: int, device: torch.device) -> bool:
    """Tell whether so much takes at most half of the memory that is free where it would lie."""
    if device.type == "cuda":
        return num_bytes <= torch.cuda.mem_get_info(device)[0] // 2
    return num_bytes <= memory_within_limit(psutil.virtual_memory().available) // 2


def _ahead(calls: Iterable[Callable[[], _Result]]) -> Iterator[_Result]:
    """Yield the calls' results; they are made in a thread, some while one before is used."""
    with ThreadPoolExecutor(1) as pool:
        pending: deque[Future[_Result]] = deque()
        for call in calls:
            pending.append(pool.submit(call))
            if len(pending) > _BATCHES_AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def balanced_order(labels: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """Draw as many images as there are, every class that occurs as often as any other.

    Within a class no image comes twice before each has come once: drawing them independently (as
    torch's WeightedRandomSampler does) would leave a third of the images out of an epoch.

    Args:
        labels: int64 [n].
        generator: is drawn from.

    Returns:
        positions, int64 [n]; the classes' numbers differ by one at most.
    """
    classes = generator.permutation(np.unique(labels))
    shares = np.diff(np.arange(len(classes) + 1) * len(labels) // len(classes))
    chosen = [
        np.resize(generator.permutation(np.flatnonzero(labels == label)), share)
        for label, share in zip(classes, shares, strict=True)
    ]
    return generator.permutation(np.concatenate(chosen))


def _batch_bounds(num_images: int, batch_size: int) -> list[_Bounds]:
    starts = list(range(0, num_images, batch_size))
    ends = [*starts[1:], num_images]
    if len(starts) > 1 and ends[-1] - starts[-1] == 1:
        # Batch normalisation cannot train on a single image: it joins the batch before.
        starts.pop()
        del ends[-2]
    return list(zip(starts, ends, strict=True))
