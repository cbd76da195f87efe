"""Photos are turned upright, cut to the middle and resized."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from image_files import COLOUR, HEIGHT, WIDTH, Pixels, encode, textured_photo
from imgclf.card import Preprocessing
from imgclf.preprocess import (
    centre_crop,
    is_grey,
    open_image,
    to_array,
)


@pytest.fixture(scope="module")
def photo() -> Pixels:
    return textured_photo()


# --- Orientation

UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: np.rot90(stored, 1),
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_photos_are_turned_upright(kind: str, orientation: int, photo: Pixels, tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    stored = to_array(encode(photo, kind, **options), COLOUR)
    path = tmp_path / "photo"
    path.write_bytes(encode(photo, kind, exif=exif, **options))
    expected = UPRIGHT[orientation](stored)
    height, width = expected.shape[:2]
    np.testing.assert_array_equal(
        to_array(path, Preprocessing.identity(height, width, 3)), expected
    )
    assert open_image(path).size == (width, height)


def test_unknown_orientation_leaves_the_photo_as_it_is(photo: Pixels):
    exif = Image.Exif()
    exif[0x0112] = 9
    np.testing.assert_array_equal(to_array(encode(photo, "PNG", exif=exif), COLOUR), photo)


# --- Size


def triangle(pixels: NDArray[np.float64], size: int, start: float, end: float) -> NDArray[Any]:
    """Resample the first axis' part start..end with a triangle filter, in exact arithmetic."""
    scale = (end - start) / size
    places = np.arange(len(pixels)) + 0.5
    rows = []
    for position in range(size):
        centre = start + (position + 0.5) * scale
        weights = np.clip(1 - np.abs(places - centre) / max(scale, 1.0), 0, None)
        rows.append(np.tensordot(weights / weights.sum(), pixels, axes=1))
    return np.stack(rows)


@pytest.mark.parametrize(
    ("size", "target"),
    [
        ((200, 300), (50, 50)),
        ((300, 200), (50, 50)),
        ((97, 61), (28, 40)),
        ((10, 7), (32, 32)),
        ((33, 500), (20, 10)),
        ((64, 96), (32, 48)),
    ],
)
def test_largest_centred_part_is_resized_with_an_antialiased_triangle_filter(
    size: tuple[int, int], target: tuple[int, int]
):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    expected = pixels.astype(np.float64)
    scale = max(target[0] / size[0], target[1] / size[1])
    for axis in (0, 1):
        half = target[axis] / scale / 2
        middle = size[axis] / 2
        resampled = triangle(expected.swapaxes(0, axis), target[axis], middle - half, middle + half)
        expected = resampled.swapaxes(0, axis)
    result = to_array(pixels, Preprocessing.identity(*target, 3))
    # Pillow rounds to whole levels twice, once for each axis.
    assert np.abs(result - expected).max() <= 1


def test_wide_photo_is_resized_by_its_height_and_cut_at_both_sides(photo: Pixels):
    wide = np.tile(photo, (10, 12, 1))  # 480 x 240
    whole = np.asarray(Image.fromarray(wide).resize((120, 60), Image.Resampling.BILINEAR))
    result = to_array(wide, Preprocessing.identity(60, 60, 3))
    np.testing.assert_array_equal(result, whole[:, 30:90])


def test_centre_is_cut_out_of_the_resized_image(photo: Pixels):
    large = to_array(photo, Preprocessing.identity(20, 26, 3))
    small = to_array(photo, Preprocessing(16, 18, 3, resize_height=20, resize_width=26))
    np.testing.assert_array_equal(small, large[2:18, 4:22])


def test_image_of_the_resized_size_is_only_cut(photo: Pixels):
    result = to_array(photo, Preprocessing(20, 30, 3, resize_height=HEIGHT, resize_width=WIDTH))
    np.testing.assert_array_equal(result, photo[2:22, 5:35])


@pytest.mark.parametrize("size", [(1, 1), (1, 50_000), (50_000, 1), (2, 9999), (9999, 3)])
def test_slivers_give_the_right_size_and_colour(size: tuple[int, int]):
    image = Image.new("RGB", (size[1], size[0]), (10, 200, 90))
    started = time.perf_counter()
    result = to_array(encode(image, "PNG"), Preprocessing(224, 224, 3, 256, 256))
    assert time.perf_counter() - started < 2
    assert result.shape == (224, 224, 3)
    assert (result == (10, 200, 90)).all()


def test_centre_crop_needs_no_copy_and_works_on_batches():
    batch = np.arange(2 * 6 * 7 * 1, dtype=np.uint8).reshape(2, 6, 7, 1)
    cropped = centre_crop(batch, 4, 3)
    np.testing.assert_array_equal(cropped, batch[:, 1:5, 2:5])
    assert np.shares_memory(cropped, batch)
    # An odd remainder goes below and to the right.
    np.testing.assert_array_equal(centre_crop(batch, 3, 4), batch[:, 1:4, 1:5])


def test_is_grey_sees_a_single_coloured_pixel():
    pixels = np.full((3, 4, 5, 3), 77, np.uint8)
    assert is_grey(pixels)
    for channel in range(3):
        tinted = pixels.copy()
        tinted[2, 3, 4, channel] = 78
        assert not is_grey(tinted)
