"""What every source of images becomes."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgclf.card import Preprocessing
from imgclf.cores import available_cores
from imgclf.preprocess import centre_crop, to_array

# The part of the split that an image was published in; FREE ones are dealt out.
FREE, TRAIN, VAL, TEST = range(4)
# Who goes through all images gathers so much of them at a time.
_BYTES_AT_A_TIME = 4 * 2**20


@dataclass(frozen=True)
class ImageDataset:
    """Labelled images, decoded once.

    Attributes:
        name: what a person calls it: ``digits``, or a folder's name.
        images: uint8 [n, height, width, channels], at least as large as the network's input; in
            memory, or mapped from the disk.
        labels: int64 [n], positions in ``classes``.
        parts: int8 [n], `FREE`, or the part of the split that the source gives: `TRAIN`, `VAL` or
            `TEST`.
        classes: label names, sorted.
        names: [n] what identifies each image: the path below the root, or its position.
        files: [n] the image files; empty where the images do not come from files.
        preprocessing: from an image file to the network's input.
        digests: [n] SHA-256 of each image's file, or of its pixels where there is none.
        sizes: [n] (width, height) in pixels, upright, as published: before resizing.
        digest: SHA-256 of the content: class names, names, labels and bytes of every image.
        source: where it comes from, for people.
        unreadable: name and reason of each image that was left out.
    """

    name: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    parts: NDArray[np.int8]
    classes: tuple[str, ...]
    names: tuple[str, ...]
    files: tuple[Path, ...]
    preprocessing: Preprocessing
    digests: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    digest: str
    source: str
    unreadable: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def inputs(self, indices: NDArray[np.int64] | slice) -> NDArray[np.uint8]:
        """Return images as the network reads them: the centre of what is stored.

        Args:
            indices: int64 [m], or a slice.

        Returns:
            uint8 [m, height, width, channels] of ``preprocessing``.
        """
        size = self.preprocessing
        return centre_crop(self.images[indices], size.height, size.width)


@dataclass(frozen=True)
class SelectedImages:
    """Some images of a data set as the network reads them, gathered when they are asked for.

    So a split of data that is larger than memory can be read a batch at a time.

    Attributes:
        dataset: may be mapped from the disk.
        positions: int64 [n], which of its images.
        preprocessing: of the network that reads them; None: as the data set says. Another one than
            the data set's is for data sets of arrays, whose images are then resized.
    """

    dataset: ImageDataset
    positions: NDArray[np.int64]
    preprocessing: Preprocessing | None = None

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, chosen: "slice | NDArray[np.int64]") -> NDArray[np.uint8]:
        """Return uint8 [m, height, width, channels]."""
        positions, wanted = self.positions[chosen], self.preprocessing
        if wanted is None or wanted == self.dataset.preprocessing:
            return self.dataset.inputs(positions)
        assert not self.dataset.files, "files are read for the network"
        with ThreadPoolExecutor(available_cores()) as pool:
            stored = (self.dataset.images[position] for position in positions)
            return np.stack(list(pool.map(lambda image: to_array(image, wanted), stored)))

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Give one image after the other, uint8 [height, width, channels]."""
        for position in range(len(self)):
            yield self[position : position + 1][0]


def from_arrays(
    name: str,
    images: NDArray[np.uint8],
    labels: NDArray[np.integer],
    classes: tuple[str, ...],
    num_test: int = 0,
    source: str = "",
) -> ImageDataset:
    """Make a data set of images in memory.

    Args:
        name: what a person calls it.
        images: uint8 [n, height, width, channels] with 1 (grey) or 3 (RGB) channels.
        labels: [n], positions in ``classes``.
        classes: label names.
        num_test: so many images at the end are its published test split; 0: it has none.
        source: where it comes from, for people.
    """
    parts = np.full(len(images), TRAIN if num_test else FREE, np.int8)
    parts[len(images) - num_test :] = TEST
    names = tuple(str(position) for position in range(len(images)))
    labels = labels.astype(np.int64)
    digests = tuple(hashlib.sha256(image.tobytes()).hexdigest() for image in images)
    return ImageDataset(
        name=name,
        images=images,
        labels=labels,
        parts=parts,
        classes=classes,
        names=names,
        files=(),
        preprocessing=Preprocessing.identity(*images.shape[1:]),
        digests=digests,
        sizes=((images.shape[2], images.shape[1]),) * len(images),
        digest=content_digest(classes, names, labels, digests),
        source=source,
    )


def content_digest(
    classes: Sequence[str], names: Sequence[str], labels: NDArray[np.int64], digests: Sequence[str]
) -> str:
    """Return the SHA-256 of a data set's content; ``digests`` holds one digest per image."""
    hasher = hashlib.sha256()
    images = zip(names, labels, digests, strict=True)
    for text in (*classes, *(f"{name}\0{label}\0{digest}" for name, label, digest in images)):
        # "surrogatepass": file names that are not UTF-8 count as well.
        hasher.update(text.encode("utf-8", "surrogatepass") + b"\n")
    return hasher.hexdigest()


def images_at_a_time(images: NDArray[np.uint8]) -> int:
    """Return how many images to gather together, so that memory is bounded whatever their size.

    Args:
        images: uint8 [n, height, width, channels]; only its shape is used.
    """
    return max(1, _BYTES_AT_A_TIME // math.prod(images.shape[1:]))
