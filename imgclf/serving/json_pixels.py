"""Pixels written as JSON: how long that may be, and how it is read beside other work."""

import json
import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgclf.card import ModelCard
from imgclf.serving.body import LARGE_BODY
from imgclf.serving.errors import RequestError

# A grey pixel in nested lists is at most `[255.0], `; the rest is for the brackets of its row.
_BYTES_OF_A_NUMBER = 12
_BYTES_BESIDE_PIXELS = 64 * 2**10
_NUMBERS_AT_ONCE = 2**16


def max_json_bytes(card: ModelCard, max_images: int) -> int:
    """Return how many bytes of JSON a request for the model needs at most."""
    size = card.preprocessing
    pixels = max_images * size.height * size.width * size.channels
    return _BYTES_OF_A_NUMBER * pixels + _BYTES_BESIDE_PIXELS


def read_json(content: bytes) -> Any:
    """Read a JSON text.

    Raises:
        RequestError: it is none.
    """
    try:
        if len(content) <= LARGE_BODY:
            return json.loads(content)
        # The parser is written in C and holds the interpreter's lock to its end. Where it calls
        # functions written in Python, other threads have their turn.
        return json.loads(
            content, parse_int=lambda text: int(text), parse_float=lambda text: float(text)
        )
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"the body is no JSON: {error}") from error


def as_pixels(data: Any, shape: Sequence[int]) -> NDArray[np.uint8]:
    """Make pixels of nested or flat lists of whole numbers from 0 to 255.

    Raises:
        RequestError: they are something else, or not as many as ``shape`` says.
    """
    images, numbers = shape[0], math.prod(shape[1:])
    wrong_number = RequestError(
        422, f"there must be {images * numbers} numbers, in lists of equal length"
    )
    # Nested lists have one entry for each image, flat ones one for each number.
    entries, rest = divmod(len(data), images) if isinstance(data, list) else (0, 1)
    if rest:
        raise wrong_number
    # Some at a time: NumPy holds the interpreter's lock while it reads lists.
    step = max(1, _NUMBERS_AT_ONCE // numbers)
    parts = []
    for start in range(0, images, step):
        # As objects: of text, NumPy would make an array as wide as its longest string.
        values = np.array(data[start * entries : (start + step) * entries], dtype=object)
        if values.size != min(step, images - start) * numbers:
            raise wrong_number
        parts.append(_whole_numbers(values))
    return np.concatenate(parts).reshape(shape)


def _whole_numbers(values: NDArray[np.object_]) -> NDArray[np.uint8]:
    """Return the values as a flat array."""
    if set(map(type, values.flat)) <= {int, float}:
        with suppress(OverflowError):
            numbers = values.astype(np.float64).ravel()
            pixels = np.clip(np.nan_to_num(numbers), 0, 255).astype(np.uint8)
            if (pixels == numbers).all():
                return pixels
    raise RequestError(422, "pixels must be whole numbers from 0 to 255")
