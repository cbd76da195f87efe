"""A stratified, seeded split into training, validation and test images."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imgclf.data.dataset import FREE, TEST, TRAIN, VAL, ImageDataset
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
    def parts(self) -> dict[str, NDArray[np.int64]]:
        """The parts by name."""
        return {"train": self.train, "val": self.val, "test": self.test}

    @property
    def sizes(self) -> dict[str, int]:
        """The number of images in each part."""
        return {name: len(positions) for name, positions in self.parts.items()}


def split_dataset(
    dataset: ImageDataset, val_fraction: float, test_fraction: float, seed: int
) -> Split:
    """Keep the parts that the data set gives, and deal out the others class by class, at random.

    Where no image is given for testing (or validation), each class gives ``round(fraction * size)``
    of its images to that part, and at least one; its size leaves out the images that are given for
    another part. A given test split is never trained on or validated on.

    Raises:
        ImgclfError: there is one class only, a class has no readable image or fewer than there are
            parts to be dealt, or there is nothing to train on.
    """
    _check_classes(dataset)
    draw_test = not (dataset.parts == TEST).any()
    draw_val = val_fraction > 0 and not (dataset.parts == VAL).any()
    generator = np.random.default_rng(seed)
    parts = dataset.parts.copy()
    for label, name in enumerate(dataset.classes):
        members = np.flatnonzero((dataset.labels == label) & np.isin(parts, (FREE, TRAIN)))
        needed = 1 + draw_val + draw_test
        if needed > 1 and 0 < len(members) < needed:
            raise ImgclfError(
                f"Class '{name}' of '{dataset.name}' has {len(members)} image(s); a split into"
                f" {needed} parts needs at least {needed}.",
                "Add images to the class or remove it"
                + ("; --val-fraction 0 needs one image less." if draw_val else "."),
            )
        shuffled = generator.permutation(members)
        # In very small classes the bounds leave one image at least to each part.
        most_val = len(members) - 1 - draw_test
        num_val = min(max(1, round(val_fraction * len(members))), most_val) if draw_val else 0
        most_test = len(members) - 1 - num_val
        num_test = min(max(1, round(test_fraction * len(members))), most_test) if draw_test else 0
        parts[shuffled[:num_val]] = VAL
        parts[shuffled[num_val : num_val + num_test]] = TEST
        parts[shuffled[num_val + num_test :]] = TRAIN
    train, val, test = (np.flatnonzero(parts == part) for part in (TRAIN, VAL, TEST))
    if not len(train):
        raise ImgclfError(
            f"'{dataset.name}' has no images to train on.", "Give some images the split 'train'."
        )
    return _split(dataset.names, train, val, test)


def given_split(dataset: ImageDataset) -> Split:
    """Return the parts that the data set gives; what it leaves free counts as training images."""
    parts = np.where(dataset.parts == FREE, TRAIN, dataset.parts)
    train, val, test = (np.flatnonzero(parts == part) for part in (TRAIN, VAL, TEST))
    return _split(dataset.names, train, val, test)


def _check_classes(dataset: ImageDataset) -> None:
    if len(dataset.classes) < 2:
        raise ImgclfError(
            f"'{dataset.source}' has images of one class only: '{dataset.classes[0]}'.",
            "Lay the images out as FOLDER/<class>/<image>, with two classes or more.",
        )
    for label, name in enumerate(dataset.classes):
        if not (dataset.labels == label).any():
            raise ImgclfError(
                f"No image of class '{name}' in '{dataset.source}' can be read.",
                "Repair its images, or remove the class.",
            )


def missing_classes(dataset: ImageDataset, split: Split) -> dict[str, tuple[str, ...]]:
    """Return, for each part that is not empty, the classes that it lacks."""
    missing = {}
    for part, positions in split.parts.items():
        absent = set(range(len(dataset.classes))) - set(dataset.labels[positions].tolist())
        if len(positions) and absent:
            missing[part] = tuple(dataset.classes[label] for label in sorted(absent))
    return missing


def _split(names: Sequence[str], *parts: NDArray[np.int64]) -> Split:
    hasher = hashlib.sha256()
    for part in parts:
        for position in part:
            hasher.update(names[position].encode("utf-8", "surrogatepass") + b"\n")
        hasher.update(b"\0")
    return Split(*parts, digest=hasher.hexdigest())
