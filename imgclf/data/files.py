"""Labelled image files -> labelled uint8 images, decoded once."""

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from imgclf.card import Preprocessing
from imgclf.data.dataset import ImageDataset, content_digest
from imgclf.errors import BadImageError, ImgclfError, some_of
from imgclf.preprocess import image_size_of, is_grey, open_image, to_array

LARGEST_OWN_SIZE = 128
# Stored images are larger than the input by this factor, so that random crops have room.
CROP_MARGIN = 1.15


@dataclass(frozen=True)
class Listing:
    """Labelled image files, before any is decoded.

    Attributes:
        name: of the data set.
        root: what the names are relative to.
        source: the folder or file that lists the images.
        files, names: [n] each image's path, and its path below the root.
        labels: int64 [n], positions in ``classes``.
        parts: int8 [n], as in `ImageDataset`.
        classes: label names, sorted.
    """

    name: str
    root: Path
    source: Path
    files: tuple[Path, ...]
    names: tuple[str, ...]
    labels: NDArray[np.int64]
    parts: NDArray[np.int8]
    classes: tuple[str, ...]

    @classmethod
    def from_entries(
        cls, name: str, root: Path, source: Path, entries: Iterable[tuple[Path, str, int]]
    ) -> "Listing":
        """Sort (path, label name, part) entries by label and path, whatever their order was.

        Raises:
            ImgclfError: there are no images.
        """
        ordered = sorted(entries, key=lambda entry: (entry[1], entry[0]))
        classes = sorted({label for _, label, _ in ordered})
        if not classes:
            raise ImgclfError(
                f"'{source}' has no images.",
                f"Lay the images out as {root.name}/<class>/<image>, with two classes or more.",
            )
        numbers = {label: number for number, label in enumerate(classes)}
        return cls(
            name=printable(name),
            root=root,
            source=source,
            files=tuple(path for path, _, _ in ordered),
            names=tuple(os.path.relpath(path, root).replace(os.sep, "/") for path, _, _ in ordered),
            labels=np.array([numbers[label] for _, label, _ in ordered], np.int64),
            parts=np.array([part for _, _, part in ordered], np.int8),
            classes=tuple(printable(label) for label in classes),
        )

    def keep(self, positions: list[int]) -> "Listing":
        """Return a listing of some of the files; the classes stay."""
        return dataclasses.replace(
            self,
            files=tuple(self.files[position] for position in positions),
            names=tuple(self.names[position] for position in positions),
            labels=self.labels[positions],
            parts=self.parts[positions],
        )


def printable(label: str) -> str:
    """Return a label as text: a name that is not UTF-8 is written as Python shows it."""
    return label.encode("utf-8", "backslashreplace").decode()


def load_listing(listing: Listing, image_size: int, max_bad_images: float) -> ImageDataset:
    """Decode the files of a listing.

    The input has the images' own size where they all share one of at most `LARGEST_OWN_SIZE`
    pixels, and ``image_size`` (or `LARGEST_OWN_SIZE`) squared otherwise. It has one channel where
    every image is grey, else three.

    Args:
        listing: the files.
        image_size: height and width of the input in pixels; 0 chooses it as said above.
        max_bad_images: the largest share of unreadable images accepted.

    Raises:
        ImgclfError: too many unreadable images.
    """
    preprocessing = _choose_size(listing.files, image_size)
    pixels, outcomes = _decode_all(listing.files, preprocessing)
    unreadable = tuple(
        (name, outcome)
        for name, outcome in zip(listing.names, outcomes, strict=True)
        if isinstance(outcome, str)
    )
    _check_unreadable(listing, unreadable, max_bad_images)
    decoded = [outcome for outcome in outcomes if not isinstance(outcome, str)]
    if unreadable:
        kept = [i for i, outcome in enumerate(outcomes) if not isinstance(outcome, str)]
        listing, pixels = listing.keep(kept), pixels[kept]
    digests = tuple(image.digest for image in decoded)
    if all(image.is_grey for image in decoded):
        pixels = np.ascontiguousarray(pixels[..., :1])
    return ImageDataset(
        name=listing.name,
        images=pixels,
        labels=listing.labels,
        parts=listing.parts,
        classes=listing.classes,
        names=listing.names,
        files=listing.files,
        preprocessing=dataclasses.replace(preprocessing, channels=pixels.shape[-1]),
        digests=digests,
        sizes=tuple(image.size for image in decoded),
        digest=content_digest(listing.classes, listing.names, listing.labels, digests),
        source=str(listing.source),
        unreadable=unreadable,
    )


def _choose_size(files: Sequence[Path], image_size: int) -> Preprocessing:
    common = _common_size(files)
    if common and not image_size and max(common) <= LARGEST_OWN_SIZE:
        return Preprocessing.identity(common[1], common[0], 3)
    if common == (image_size, image_size):
        return Preprocessing.identity(image_size, image_size, 3)
    image_size = image_size or LARGEST_OWN_SIZE
    # An even margin leaves the centre in the middle of a pixel grid.
    stored = image_size + 2 * round(image_size * (CROP_MARGIN - 1) / 2 + 0.49)
    return Preprocessing(image_size, image_size, 3, stored, stored)


def _common_size(files: Sequence[Path]) -> tuple[int, int] | None:
    """Return (width, height) where all readable images share it; only headers are read."""
    sizes = set()
    for path in files:
        try:
            sizes.add(image_size_of(path))
        except BadImageError:
            continue  # reported when the images are decoded
        if len(sizes) > 1:
            return None
    return sizes.pop() if sizes else None


class _Decoded(NamedTuple):
    """One decoded file: SHA-256 of its bytes, (width, height), and whether it is free of colour."""

    digest: str
    size: tuple[int, int]
    is_grey: bool


def _decode_all(
    files: Sequence[Path], preprocessing: Preprocessing
) -> tuple[NDArray[np.uint8], list[_Decoded | str]]:
    """Decode every file at the stored size.

    Returns:
        uint8 [n, resize_height, resize_width, 3], and what is known of each file, or the reason why
        it cannot be read.
    """
    height, width = preprocessing.resize_height, preprocessing.resize_width
    stored = Preprocessing.identity(height, width, 3)
    pixels = np.zeros((len(files), height, width, 3), np.uint8)

    def decode(position: int) -> _Decoded | str:
        try:
            content = files[position].read_bytes()
            image = open_image(content)
            pixels[position] = to_array(image, stored)
        except BadImageError as error:
            return error.message
        except OSError as error:
            return str(error.strerror or error)
        # Resizing can wash a little colour out, so the file itself has the last word.
        grey = is_grey(pixels[position]) and (image.mode == "L" or is_grey(np.asarray(image)))
        return _Decoded(hashlib.sha256(content).hexdigest(), image.size, grey)

    # Pillow lets go of the interpreter's lock while it decodes and resizes.
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return pixels, list(pool.map(decode, range(len(files)), chunksize=1))


def _check_unreadable(
    listing: Listing, unreadable: tuple[tuple[str, str], ...], max_bad_images: float
) -> None:
    total = len(listing.files)
    if len(unreadable) <= max_bad_images * total:
        return
    reasons = [f"{name}: {reason}" for name, reason in unreadable]
    raise ImgclfError(
        f"{len(unreadable)} of {total} images in '{listing.source}' cannot be read, more than"
        f" {100 * max_bad_images:.3g}% of them:\n" + some_of(reasons),
        "Repair or remove them, or raise --max-bad-images. All are listed by: imgclf datasets"
        " FOLDER --max-bad-images 1",
    )
