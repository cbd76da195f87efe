"""A stratified, seeded split into training, validation and test images."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imgclf.data.dataset import ImageDataset
from imgclf.errors import ImgclfError


@dataclass(frozen=True)
class Split:
    """Which images are trained on, validated on and tested on.

    Attributes:
        train, val, test: int64 positions in the data set, sorted, without overlap. ``val`` may be
            empty.
        digest: SHA-256 over the names of the images in each part.
    """

    train: NDArray[np.int64]
    val: NDArray[np.int64]
    test: NDArray[np.int64]
    digest: str

    @property
    def sizes(self) -> dict[str, int]:
        """The number of images in each part."""
        return {"train": len(self.train), "val": len(self.val), "test": len(self.test)}


def split_dataset(
    dataset: ImageDataset, val_fraction: float, test_fraction: float, seed: int
) -> Split:
    """Deal out each class on its own, at random, so that every part holds every class.

    A class gives ``round(fraction * size)`` images to validation and to test, and at least one to
    each part that is wanted.

    Raises:
        ImgclfError: a class has fewer images than parts.
    """
    parts = 3 if val_fraction > 0 else 2
    generator = np.random.default_rng(seed)
    train, val, test = [], [], []
    for label, name in enumerate(dataset.classes):
        members = np.flatnonzero(dataset.labels == label)
        if len(members) < parts:
            raise ImgclfError(
                f"Class '{name}' of '{dataset.name}' has {len(members)} image(s); a split into"
                f" {parts} parts needs at least {parts}.",
                "Add images to the class or remove it"
                + ("; --val-fraction 0 needs one image less." if parts == 3 else "."),
            )
        shuffled = generator.permutation(members)
        # In very small classes the bounds leave one image at least to each part.
        num_val = min(max(1, round(val_fraction * len(members))), len(members) - 2)
        num_val = num_val if val_fraction > 0 else 0
        num_test = min(max(1, round(test_fraction * len(members))), len(members) - num_val - 1)
        val.append(shuffled[:num_val])
        test.append(shuffled[num_val : num_val + num_test])
        train.append(shuffled[num_val + num_test :])
    return _split(dataset.names, *(np.sort(np.concatenate(part)) for part in (train, val, test)))


def _split(names: Sequence[str], *parts: NDArray[np.int64]) -> Split:
    hasher = hashlib.sha256()
    for part in parts:
        for position in part:
            hasher.update(names[position].encode("utf-8", "surrogatepass") + b"\n")
        hasher.update(b"\0")
    return Split(*parts, digest=hasher.hexdigest())
