"""Training batches: gathered and augmented as whole tensors where the arithmetic is."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imgclf.data.augment import Augmentation


@dataclass(frozen=True)
class Batch:
    """One step's images.

    Attributes:
        images: uint8 [batch, height, width, channels].
        labels: int64 [batch].
        targets: what the loss asks for. The labels; or, where images are mixed, the probability
            of each class, float32 [batch, classes].
    """

    images: Tensor
    labels: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.labels)


class TrainLoader:
    """The training images, resident on the device, dealt out in a new order each epoch.

    Args:
        images: uint8 [n, stored height, stored width, channels].
        labels: int64 [n].
        batch_size: images per step; the last batch of an epoch may be smaller, or larger by one.
        augmentation: what is done to each image.
        seed: fixes every order and every draw.
        device: where the images live.
        num_classes: columns of the targets where images are mixed.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        batch_size: int,
        augmentation: Augmentation,
        seed: int,
        device: torch.device,
        num_classes: int,
    ) -> None:
        self._images = augmentation.pad(torch.from_numpy(images).to(device))
        self._labels = torch.from_numpy(labels).to(device)
        self._augmentation = augmentation
        self._seed = seed
        self._num_classes = num_classes
        self._bounds = _batch_bounds(len(labels), batch_size)

    @property
    def num_images(self) -> int:
        """Images in an epoch."""
        return len(self._labels)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""
        return len(self._bounds)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yield every image exactly once, in the order of this epoch."""
        order = np.random.default_rng([self._seed, epoch, 0]).permutation(self.num_images)
        indices = torch.from_numpy(order).to(self._images.device)
        draws = self._augmentation.draw(self._images, self._seed, epoch)
        for start, end in self._bounds:
            chosen = indices[start:end]
            images = self._augmentation.apply(self._images, chosen, draws)
            labels = self._labels[chosen]
            images, targets = self._augmentation.mix(
                images, labels, chosen, draws, self._num_classes
            )
            yield Batch(images, labels, targets)


def _batch_bounds(num_images: int, batch_size: int) -> list[tuple[int, int]]:
    starts = list(range(0, num_images, batch_size))
    ends = [*starts[1:], num_images]
    if len(starts) > 1 and ends[-1] - starts[-1] == 1:
        # Batch normalisation cannot train on a single image: it joins the batch before.
        starts.pop()
        del ends[-2]
    return list(zip(starts, ends, strict=True))
