"""Pixels in JSON: all that are some arrive, in order; nothing else does."""

import json
from typing import Any

import numpy as np
import pytest

from imgclf.card import ModelCard, Preprocessing
from imgclf.serving.body import LARGE_BODY
from imgclf.serving.errors import RequestError
from imgclf.serving.json_pixels import as_pixels, max_json_bytes, read_json


@pytest.mark.parametrize("size", [(8, 8, 1), (28, 28, 1), (32, 32, 3), (1, 300, 1), (300, 1, 3)])
@pytest.mark.parametrize("value", [255, 255.0])
def test_json_may_be_as_long_as_pixels_are_written(size: tuple[int, int, int], value: float):
    card = ModelCard(
        classes=("cat", "dog"),
        preprocessing=Preprocessing.identity(*size),
        mean=(0.0,) * size[2],
        std=(255.0,) * size[2],
    )
    pixels = np.full((64, *size), value, type(value)).tolist()
    longest = len(json.dumps({"inputs": [{"name": "image", "data": pixels}]}))
    assert longest <= max_json_bytes(card, 64) < 4 * longest + 100_000


@pytest.mark.parametrize(
    "value", [-1, 256, 0.5, 10**400, "1", True, None, {}, float("nan"), float("inf"), -0.001]
)
def test_what_is_no_pixel_is_refused(value: Any):
    with pytest.raises(RequestError) as caught:
        as_pixels([0, value], (2,))
    assert caught.value.status == 422


def test_pixels_written_with_a_point_are_pixels():
    assert as_pixels([0.0, 255.0, 7], (3,)).tolist() == [0, 255, 7]


# More numbers than are read at once.
MANY = (5, 150, 200, 3)


@pytest.mark.parametrize("shape", [MANY, (MANY[0], -1), (-1,)], ids=["nested", "rows", "flat"])
@pytest.mark.parametrize("kind", [int, float])
def test_many_pixels_arrive_in_order(shape: tuple[int, ...], kind: type):
    pixels = np.random.default_rng(0).integers(0, 256, MANY, np.uint8)
    found = as_pixels(pixels.reshape(shape).astype(kind).tolist(), MANY)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, pixels)


def test_a_wrong_pixel_or_image_behind_many_is_refused():
    nested = np.zeros(MANY, int).tolist()
    nested[-1][-1][-1][-1] = 256
    with pytest.raises(RequestError, match="pixels must be whole numbers from 0 to 255"):
        as_pixels(nested, MANY)
    nested[-1] = nested[-1][:-1]
    with pytest.raises(RequestError, match="there must be 450000 numbers, in lists of equal"):
        as_pixels(nested, MANY)


def test_large_json_is_read_as_small_json_is():
    value = {"a": [0, -7, 10**30, 0.5, -2e-9, 1e400, True, None, "\u00e4\ud800"], "b": {"c": []}}
    content = json.dumps(value).encode()
    assert read_json(content) == value
    assert read_json(content.ljust(LARGE_BODY + 1)) == value
    for damaged in (content[:-1], content + b"x", b"9" * 10_000, b"[" * (LARGE_BODY + 1)):
        with pytest.raises(RequestError, match="the body is no JSON"):
            read_json(damaged.ljust(LARGE_BODY + 1))


def test_one_long_text_among_the_pixels_costs_no_memory():
    """NumPy would make room for the longest text at each place: here 40 GB."""
    with pytest.raises(RequestError):
        as_pixels(["", *[""] * 9_998, "x" * 1_000_000], (10_000,))
