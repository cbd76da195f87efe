"""Labelled image files -> labelled uint8 images, decoded once."""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgclf.card import Preprocessing
from imgclf.data.cache import Progress, load_decoded
from imgclf.data.dataset import ImageDataset, content_digest
from imgclf.data.decode import Decoded
from imgclf.errors import ImgclfError, printable, some_of


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
            ImgclfError: there are no images, or two labels are the same text.
        """
        ordered = sorted(entries, key=lambda entry: (entry[1], entry[0]))
        classes = sorted({label for _, label, _ in ordered})
        if not classes:
            raise ImgclfError(
                f"'{source}' has no images.",
                f"Lay the images out as {root.name}/<class>/<image>, with two classes or more.",
            )
        _refuse_lookalikes(source, classes)
        numbers = {label: number for number, label in enumerate(classes)}
        return cls(
            name=printable(name),
            root=root,
            source=source,
            files=tuple(path for path, _, _ in ordered),
            names=tuple(_below(path, root) for path, _, _ in ordered),
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


def _below(path: Path, root: Path) -> str:
    inside, prefix = str(path), str(root) + os.sep
    # os.path.relpath takes its time, and only the paths of a CSV file need it.
    plain = inside.startswith(prefix) and os.pardir not in inside
    relative = inside[len(prefix) :] if plain else os.path.relpath(path, root)
    return relative.replace(os.sep, "/")


def _refuse_lookalikes(source: Path, labels: Sequence[str]) -> None:
    """Refuse a name that is not UTF-8 beside one that is how Python shows it."""
    written: dict[str, str] = {}
    for label in labels:
        if written.setdefault(printable(label), label) != label:
            raise ImgclfError(
                f"Two classes of '{source}' are both written '{printable(label)}'.",
                "Rename the one whose name is not UTF-8.",
            )


def load_listing(
    listing: Listing,
    wanted: int | Preprocessing,
    max_bad_images: float,
    cache: Path,
    progress: Progress,
) -> ImageDataset:
    """Decode the files of a listing, or take their pixels from the cache.

    Args:
        listing: the files.
        wanted: how the network reads images; or an ``image_size`` as `choose_size` takes it: the
            input then has one channel where every image is grey, else three.
        max_bad_images: the largest share of unreadable images accepted.
        cache: folder of decoded images.
        progress: is told the number of decoded files and of all files.

    Raises:
        ImgclfError: too many unreadable images, or a cache that cannot be written.
    """
    source = str(listing.source)
    pixels, outcomes, preprocessing = load_decoded(listing.files, wanted, cache, source, progress)
    unreadable = tuple(
        (name, outcome)
        for name, outcome in zip(listing.names, outcomes, strict=True)
        if isinstance(outcome, str)
    )
    _check_unreadable(listing, unreadable, max_bad_images)
    if unreadable:
        readable = [i for i, image in enumerate(outcomes) if isinstance(image, Decoded)]
        listing = listing.keep(readable)
    decoded = [outcome for outcome in outcomes if isinstance(outcome, Decoded)]
    digests = tuple(image.digest for image in decoded)
    return ImageDataset(
        name=listing.name,
        images=pixels,
        labels=listing.labels,
        parts=listing.parts,
        classes=listing.classes,
        names=listing.names,
        files=listing.files,
        preprocessing=preprocessing,
        digests=digests,
        sizes=tuple(image.size for image in decoded),
        digest=content_digest(listing.classes, listing.names, listing.labels, digests),
        source=source,
        unreadable=unreadable,
    )


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
