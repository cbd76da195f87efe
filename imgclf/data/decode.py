"""Image files -> pixels of one size, and what is known of each file."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from imgclf.card import Preprocessing
from imgclf.errors import BadImageError
from imgclf.preprocess import image_size_of, is_grey, open_image, to_array

LARGEST_OWN_SIZE = 128
# Stored images are larger than the input by this factor, so that random crops have room.
CROP_MARGIN = 1.15
_FILES_AT_A_TIME = 256


class Decoded(NamedTuple):
    """One decoded file: SHA-256 of its bytes, (width, height), and whether it is free of colour."""

    digest: str
    size: tuple[int, int]
    is_grey: bool


# What is known of a decoded file, or the reason why it cannot be read.
Outcome = Decoded | str


def choose_size(files: Sequence[Path], image_size: int) -> Preprocessing:
    """Choose the size of the network's input, and of what is stored of each image.

    Args:
        files: the image files; only their headers are read.
        image_size: height and width of the input in pixels. 0: the images' own size where they all
            share one of at most `LARGEST_OWN_SIZE` pixels, else `LARGEST_OWN_SIZE` squared.
    """
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


def decode_files(
    files: Sequence[Path], preprocessing: Preprocessing
) -> Iterator[tuple[NDArray[np.uint8], list[Outcome]]]:
    """Decode files at the stored size, on all cores, in order and a few hundred at a time.

    Yields:
        the pixels of the readable ones, uint8 [m, resize_height, resize_width, 3], and one outcome
        for each file.
    """
    height, width = preprocessing.resize_height, preprocessing.resize_width
    stored = Preprocessing.identity(height, width, 3)
    # Pillow lets go of the interpreter's lock while it decodes and resizes.
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for start in range(0, len(files), _FILES_AT_A_TIME):
            chosen = files[start : start + _FILES_AT_A_TIME]
            pixels = np.empty((len(chosen), height, width, 3), np.uint8)
            outcomes = list(pool.map(_decode, chosen, pixels, [stored] * len(chosen)))
            yield pixels[[not isinstance(outcome, str) for outcome in outcomes]], outcomes


def _decode(path: Path, pixels: NDArray[np.uint8], stored: Preprocessing) -> Outcome:
    """Decode one file into ``pixels``."""
    try:
        content = path.read_bytes()
        image = open_image(content)
        pixels[:] = to_array(image, stored)
    except BadImageError as error:
        return error.message
    except OSError as error:
        return str(error.strerror or error)
    # Resizing can wash a little colour out, so the file itself has the last word.
    grey = is_grey(pixels) and (image.mode == "L" or is_grey(np.asarray(image)))
    return Decoded(hashlib.sha256(content).hexdigest(), image.size, grey)
