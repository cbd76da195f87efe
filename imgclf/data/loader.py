"""Training batches: gathered and augmented as whole tensors where the arithmetic is."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imgclf.config import TrainConfig
from imgclf.data.augment import Augmentation


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
    """The training images, resident on the device, dealt out in a new order each epoch.

    Args:
        images: uint8 [n, stored height, stored width, channels].
        labels: int64 [n].
        num_classes: of the data set.
        augmentation: what is done to each image.
        config: gives ``batch_size``, ``gradient_accumulation_steps``, ``balanced_sampling`` and
            ``seed``, which fixes every order and every draw.
        device: where the images live.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        num_classes: int,
        augmentation: Augmentation,
        config: TrainConfig,
        device: torch.device,
    ) -> None:
        self._images = augmentation.pad(torch.from_numpy(images).to(device))
        self._labels = torch.from_numpy(labels).to(device)
        self._num_classes = num_classes
        self._augmentation = augmentation
        self._config = config
        bounds = _batch_bounds(len(labels), config.batch_size)
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
    def class_counts(self) -> Tensor:
        """Images of each class, int64 [classes], on the device."""
        return torch.bincount(self._labels, minlength=self._num_classes)

    def epoch(self, epoch: int) -> Iterator[list[Batch]]:
        """Yield the batches of each step, in the order of this epoch.

        Every image comes exactly once, or every class equally often with balanced sampling. The
        last batch of an epoch may be smaller than the others, or larger by one.
        """
        order = torch.from_numpy(self._order(epoch)).to(self._images.device)
        draws = self._augmentation.draw(self._images, self._config.seed, epoch)
        for bounds in self._steps:
            batches = []
            for start, end in bounds:
                chosen = order[start:end]
                # An image that balanced sampling shows again has other draws each time.
                rows = chosen
                if self._config.balanced_sampling:
                    rows = torch.arange(start, end, device=order.device)
                drawn = draws.rows(rows)
                images, labels = self._images, self._labels[chosen]
                images = self._augmentation.apply(images, chosen, drawn)
                images, targets = self._augmentation.mix(images, labels, drawn, self._num_classes)
                batches.append(Batch(images, labels, targets))
            yield batches

    def _order(self, epoch: int) -> NDArray[np.int64]:
        generator = np.random.default_rng([self._config.seed, epoch, 0])
        if self._config.balanced_sampling:
            return balanced_order(self._labels.cpu().numpy(), generator)
        return generator.permutation(self.num_images)


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


def _batch_bounds(num_images: int, batch_size: int) -> list[tuple[int, int]]:
    starts = list(range(0, num_images, batch_size))
    ends = [*starts[1:], num_images]
    if len(starts) > 1 and ends[-1] - starts[-1] == 1:
        # Batch normalisation cannot train on a single image: it joins the batch before.
        starts.pop()
        del ends[-2]
    return list(zip(starts, ends, strict=True))
