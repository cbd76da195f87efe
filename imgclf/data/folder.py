"""A folder with one sub-folder per class -> labelled uint8 images, decoded once."""

import dataclasses
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgclf.card import Preprocessing
from imgclf.data.dataset import ImageDataset, content_digest
from imgclf.errors import BadImageError, ImgclfError
from imgclf.predict import find_images
from imgclf.preprocess import image_size_of, is_grey, open_image, to_array

LARGEST_OWN_SIZE = 128
# Stored images are larger than the input by this factor, so that random crops have room.
CROP_MARGIN = 1.15
SHOWN_PROBLEMS = 10


def load_folder(root: Path, image_size: int, max_bad_images: float) -> ImageDataset:
    """Read ``root/<class>/**`` images.

    The input has the images' own size where they all share one of at most `LARGEST_OWN_SIZE`
    pixels, and ``image_size`` (or `LARGEST_OWN_SIZE`) squared otherwise. It has one channel where
    every image is grey, else three.

    Args:
        root: the folder.
        image_size: height and width of the input in pixels; 0 chooses it as said above.
        max_bad_images: the largest share of unreadable images accepted.

    Raises:
        ImgclfError: no images, fewer than two classes, or too many unreadable images.
    """
    root = root.resolve()
    files, labels, classes = _list_images(root)
    preprocessing = _choose_size(files, image_size)
    pixels, digests, reasons, grey = _decode_all(files, preprocessing)
    names = [path.relative_to(root).as_posix() for path in files]
    unreadable = tuple(
        (name, reason) for name, reason in zip(names, reasons, strict=True) if reason
    )
    _check_unreadable(root, unreadable, len(files), max_bad_images)
    if unreadable:
        kept = [position for position, reason in enumerate(reasons) if not reason]
        files = [files[position] for position in kept]
        names = [names[position] for position in kept]
        digests = [digests[position] for position in kept]
        pixels, labels = pixels[kept], labels[kept]
        _check_classes(root, labels, classes)
    if all(grey):
        pixels = np.ascontiguousarray(pixels[..., :1])
    return ImageDataset(
        name=root.name or "root",
        images=pixels,
        labels=labels,
        classes=classes,
        names=tuple(names),
        files=tuple(files),
        preprocessing=dataclasses.replace(preprocessing, channels=pixels.shape[-1]),
        digest=content_digest(classes, names, labels, digests),
        source=str(root),
        unreadable=unreadable,
    )


def _list_images(root: Path) -> tuple[list[Path], NDArray[np.int64], tuple[str, ...]]:
    """Return image files, their labels and the class names, all in sorted order."""
    folders = sorted(
        path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")
    )
    found = [(folder, find_images(folder)) for folder in folders]
    found = [(folder, files) for folder, files in found if files]
    hint = f"Lay the images out as {root.name}/<class>/<image>, with two classes or more."
    if not found:
        raise ImgclfError(f"No images in sub-folders of '{root}'.", hint)
    if len(found) == 1:
        raise ImgclfError(f"'{root}' has images of one class only: '{found[0][0].name}'.", hint)
    labels = [label for label, (_, files) in enumerate(found) for _ in files]
    # Labels are text: a name that is not UTF-8 is written as Python shows it.
    classes = tuple(folder.name.encode("utf-8", "backslashreplace").decode() for folder, _ in found)
    return [path for _, files in found for path in files], np.array(labels, np.int64), classes


def _choose_size(files: list[Path], image_size: int) -> Preprocessing:
    common = _common_size(files)
    if common and not image_size and max(common) <= LARGEST_OWN_SIZE:
        return Preprocessing.identity(common[1], common[0], 3)
    if common == (image_size, image_size):
        return Preprocessing.identity(image_size, image_size, 3)
    image_size = image_size or LARGEST_OWN_SIZE
    # An even margin leaves the centre in the middle of a pixel grid.
    stored = image_size + 2 * round(image_size * (CROP_MARGIN - 1) / 2 + 0.49)
    return Preprocessing(image_size, image_size, 3, stored, stored)


def _common_size(files: list[Path]) -> tuple[int, int] | None:
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


def _decode_all(
    files: list[Path], preprocessing: Preprocessing
) -> tuple[NDArray[np.uint8], list[str], list[str], list[bool]]:
    """Decode every file at the stored size.

    Returns:
        uint8 [n, resize_height, resize_width, 3]; SHA-256 of each file; for each file the reason
        why it cannot be read, empty where it can; and whether it is free of colour.
    """
    height, width = preprocessing.resize_height, preprocessing.resize_width
    stored = Preprocessing.identity(height, width, 3)
    pixels = np.zeros((len(files), height, width, 3), np.uint8)

    def decode(position: int) -> tuple[str, str, bool]:
        try:
            content = files[position].read_bytes()
            image = open_image(content)
            pixels[position] = to_array(image, stored)
        except BadImageError as error:
            return "", error.message, True
        except OSError as error:
            return "", str(error.strerror or error), True
        # Resizing can wash a little colour out, so the file itself has the last word.
        grey = is_grey(pixels[position]) and (image.mode == "L" or is_grey(np.asarray(image)))
        return hashlib.sha256(content).hexdigest(), "", grey

    # Pillow lets go of the interpreter's lock while it decodes and resizes.
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        outcomes = list(pool.map(decode, range(len(files)), chunksize=1))
    digests, reasons, grey = (list(column) for column in zip(*outcomes, strict=True))
    return pixels, digests, reasons, grey


def _check_unreadable(
    root: Path, unreadable: tuple[tuple[str, str], ...], total: int, max_bad_images: float
) -> None:
    if len(unreadable) <= max_bad_images * total:
        return
    shown = [f"  {name}: {reason}" for name, reason in unreadable[:SHOWN_PROBLEMS]]
    if len(unreadable) > len(shown):
        shown.append(f"  and {len(unreadable) - len(shown)} more")
    raise ImgclfError(
        f"{len(unreadable)} of {total} images in '{root}' cannot be read, more than"
        f" {max_bad_images:.3g} of them:\n" + "\n".join(shown),
        "Repair or remove them, or raise --max-bad-images.",
    )


def _check_classes(root: Path, labels: NDArray[np.int64], classes: tuple[str, ...]) -> None:
    for label, name in enumerate(classes):
        if not (labels == label).any():
            raise ImgclfError(
                f"No image of class '{name}' in '{root}' can be read.",
                "Repair its images, or remove the folder.",
            )
