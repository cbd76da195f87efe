"""Which images of a data set a model is measured on."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imgclf.card import ModelCard
from imgclf.config import TrainConfig
from imgclf.data.dataset import TEST, VAL, ImageDataset
from imgclf.data.splits import split_dataset
from imgclf.errors import ImgclfError
from imgclf.recipes import nearest

SPLITS = ("test", "val", "train", "all")


@dataclass(frozen=True)
class Subset:
    """Some images of a data set.

    Attributes:
        split: one of `SPLITS`.
        positions: int64 [n], in the data set.
        labels: int64 [n], positions in the model's classes.
        note: what to know of them.
    """

    split: str
    positions: NDArray[np.int64]
    labels: NDArray[np.int64]
    note: str


def choose_subset(images: ImageDataset, split: str, card: ModelCard, config: TrainConfig) -> Subset:
    """Choose the images to measure a model on, and say what their figures are worth.

    Args:
        images: the data set.
        split: one of `SPLITS`; empty for ``test`` where the data gives a test split, else ``all``.
        card: of the model.
        config: how a split that the data does not give is dealt out.

    Raises:
        ImgclfError: there are no such images, or the model does not know one of their classes.
    """
    split = split or ("test" if (images.parts == TEST).any() else "all")
    given = {"val": VAL, "test": TEST}.get(split)
    provenance = card.provenance
    if split == "all":
        positions, held_out = np.arange(len(images)), False
    elif given is not None and (images.parts == given).any():
        # A given test split is never trained on.
        positions, held_out = np.flatnonzero(images.parts == given), split == "test"
    else:
        dealt = split_dataset(images, config.val_fraction, config.test_fraction, config.split_seed)
        positions = dealt.parts[split]
        held_out = split == "test" and dealt.digest == provenance.get("split_digest")
    if not len(positions):
        raise ImgclfError(
            f"'{images.name}' has no {split} images.", "Choose another --split, such as all."
        )
    note = ""
    if images.digest == provenance.get("dataset_digest") and not held_out:
        note = (
            "the model was trained on this data, and these images are not its test split: the"
            " figures say nothing about new images"
        )
    return Subset(split, positions, _labels(images, positions, card), note)


def _labels(
    images: ImageDataset, positions: NDArray[np.int64], card: ModelCard
) -> NDArray[np.int64]:
    """Return the images' labels as positions in the model's classes, matched by name."""
    present = [images.classes[label] for label in np.unique(images.labels[positions])]
    unknown = [name for name in present if name not in card.classes]
    if unknown:
        known = ", ".join(card.classes[:20]) + (" …" if len(card.classes) > 20 else "")
        raise ImgclfError(
            f"The model does not know {len(unknown)} of the data's classes, such as"
            f" '{unknown[0]}'.{nearest(unknown[0], card.classes)}",
            f"It knows: {known}. Rename the others, or leave their images out.",
        )
    numbers = {name: number for number, name in enumerate(card.classes)}
    own = np.array([numbers.get(name, -1) for name in images.classes], np.int64)
    return own[images.labels[positions]]
