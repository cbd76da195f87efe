"""Image files -> pixels of one size, and what is known of each file."""

import hashlib
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from imgclf.card import Preprocessing
from imgclf.errors import BadImageError
from imgclf.preprocess import fit_image, is_grey, open_image

LARGEST_OWN_SIZE = 128
# Stored images are larger than the input by this factor, so that random crops have room.
CROP_MARGIN = 1.15
# The largest image that is read, without compression, takes less.
_MOST_BYTES = 2**30


class Decoded(NamedTuple):
    """One decoded file: SHA-256 of its bytes, (width, height), and whether it is free of colour."""

    digest: str
    size: tuple[int, int]
    is_grey: bool


# What is known of a decoded file, or the reason why it cannot be read.
Outcome = Decoded | str


class Batch(NamedTuple):
    """Decoded files.

    Attributes:
        pixels: of the readable ones, uint8 [m, height, width, channels].
        outcomes: [n] what is known of each file.
    """

    pixels: NDArray[np.uint8]
    outcomes: list[Outcome]


def choose_size(shared: tuple[int, int] | None, image_size: int) -> Preprocessing:
    """Choose the size of the network's input, and of what is stored of each image.

    Args:
        shared: (width, height) in pixels of all readable images; None where they differ.
        image_size: height and width of the input in pixels. 0: the images' own size where they all
            share one of at most `LARGEST_OWN_SIZE` pixels, else `LARGEST_OWN_SIZE` squared.

    Returns:
        a rule with three channels.
    """
    if shared and not image_size and max(shared) <= LARGEST_OWN_SIZE:
        return Preprocessing.identity(shared[1], shared[0], 3)
    if shared == (image_size, image_size):
        return Preprocessing.identity(image_size, image_size, 3)
    image_size = image_size or LARGEST_OWN_SIZE
    # An even margin leaves the centre in the middle of a pixel grid.
    stored = image_size + 2 * round(image_size * (CROP_MARGIN - 1) / 2 + 0.49)
    return Preprocessing(image_size, image_size, 3, stored, stored)


def first_size(files: Sequence[Path]) -> tuple[int, int] | None:
    """Return (width, height) of the first image that can be read; None where there is none."""
    for path in files:
        try:
            return open_image(_read(path)).size
        except (BadImageError, OSError):
            continue  # reported when the images are decoded
    return None


def decode_batch(files: Sequence[Path], stored: Preprocessing) -> Batch:
    """Decode files one after the other, each read once.

    Args:
        files: the image files.
        stored: the size and channels of the pixels.
    """
    pixels = np.empty((len(files), stored.height, stored.width, stored.channels), np.uint8)
    outcomes: list[Outcome] = []
    readable = 0
    for path in files:
        outcome = _decode(path, pixels[readable], stored)
        readable += isinstance(outcome, Decoded)
        outcomes.append(outcome)
    return Batch(pixels[:readable], outcomes)


def _decode(path: Path, pixels: NDArray[np.uint8], stored: Preprocessing) -> Outcome:
    """Decode one file into ``pixels``."""
    try:
        content = _read(path)
        image = open_image(content)
        pixels[:] = fit_image(image, stored)
        # Resizing can wash a little colour out, so the file itself has the last word.
        grey = image.mode == "L" or (
            (stored.channels == 1 or is_grey(pixels)) and is_grey(np.asarray(image))
        )
    except BadImageError as error:
        return error.message
    except OSError as error:
        return str(error.strerror or error)
    except MemoryError:
        return "it does not fit into memory"
    return Decoded(hashlib.sha256(content).hexdigest(), image.size, grey)


def _read(path: Path) -> bytes:
    """Return a file's bytes; a pipe or a device, which may have no end, is not opened.

    Raises:
        BadImageError: it is no file, or larger than any image that is read.
        OSError: it cannot be read.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise BadImageError("not a file: a folder, a pipe or a device")
    if status.st_size > _MOST_BYTES:
        raise BadImageError(f"{status.st_size / 2**30:,.1f} GiB; files of up to 1 GiB are read")
    return path.read_bytes()


def outcome_from_json(value: Any) -> Outcome:
    """Return an outcome that JSON has made a list of.

    Raises:
        TypeError, ValueError: it is none.
    """
    if isinstance(value, str):
        return value
    digest, (width, height), grey = value
    if [type(part) for part in (digest, width, height, grey)] != [str, int, int, bool]:
        raise TypeError(f"{value!r:.80} does not describe an image")
    return Decoded(digest, (width, height), grey)
