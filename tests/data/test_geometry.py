from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import chisquare, ks_2samp
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.v2 import functional as torchvision_functional

from imgclf.data.geometry import draw_inception_windows, resized_crop, rotate

pytestmark = pytest.mark.usefixtures("one_thread")


def resized_by_pillow(
    pixels: NDArray[np.uint8], top: int, left: int, window: NDArray[np.int64], size: tuple[int, int]
) -> NDArray[np.uint8]:
    height, width = (int(length) for length in window)
    box = (left, top, left + width, top + height)
    image = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0])
    resized = image.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=box)
    return np.asarray(resized).reshape(*size, pixels.shape[2])


def assert_equal_to_pillow(
    images: NDArray[np.uint8],
    windows: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
    size: tuple[int, int],
) -> None:
    """Within one grey level: Pillow rounds twice, after the columns and after the rows."""
    flip = np.arange(len(images)) % 3 == 0
    top, left, window, mirrored = (torch.from_numpy(table) for table in (*windows, flip))
    result = resized_crop(torch.from_numpy(images), top, left, window, mirrored, size)
    assert result.dtype == torch.uint8
    assert result.is_contiguous()
    for pixels, image, row, column, sides, is_mirrored in zip(
        result.numpy(), images, *windows, flip, strict=True
    ):
        expected = resized_by_pillow(image, int(row), int(column), sides, size)
        expected = expected[:, ::-1] if is_mirrored else expected
        assert np.abs(pixels.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("size", [(37, 45), (16, 16), (5, 9), (64, 50), (1, 1), (1, 60)])
def test_a_resized_crop_equals_pillows(
    grey_or_colour: NDArray[np.uint8], size: tuple[int, int]
) -> None:
    windows = draw_inception_windows(np.random.default_rng(1), 20, (37, 45), 0.05)
    assert_equal_to_pillow(grey_or_colour, windows, size)


@pytest.mark.parametrize("size", [(8, 8), (1, 1)])
def test_the_smallest_windows_are_resized_as_pillow_does(
    photographs: NDArray[np.uint8], size: tuple[int, int]
) -> None:
    """One pixel, one row, one column, a corner."""
    top = np.array([0, 36, 20, 0], np.int64)
    left = np.array([0, 44, 0, 17], np.int64)
    window = np.array([[1, 1], [1, 1], [1, 45], [37, 1]], np.int64)
    assert_equal_to_pillow(photographs[:4], (top, left, window), size)


def test_windows_of_the_inputs_own_size_are_cut_out_unchanged(
    photographs: NDArray[np.uint8],
) -> None:
    top, left = torch.tensor([0, 3, 7]), torch.tensor([0, 15, 11])
    window, flip = torch.tensor([[30, 30]] * 3), torch.tensor([False, False, True])
    images = torch.from_numpy(photographs[:3])
    result = resized_crop(images, top, left, window, flip, (30, 30)).numpy()
    np.testing.assert_array_equal(result[0], photographs[0, :30, :30])
    np.testing.assert_array_equal(result[1], photographs[1, 3:33, 15:45])
    np.testing.assert_array_equal(result[2], photographs[2, 7:37, 11:41][:, ::-1])


@pytest.mark.parametrize(
    ("stored", "smallest_area"),
    [((100, 100), 0.08), ((100, 100), 0.9), ((60, 80), 0.35), ((200, 20), 0.35), ((20, 70), 0.1)],
)
def test_inception_windows_are_drawn_as_torchvision_draws_them(
    stored: tuple[int, int], smallest_area: float
) -> None:
    height, width = stored
    top, left, window = draw_inception_windows(
        np.random.default_rng(0), 20_000, stored, smallest_area
    )
    assert ((window > 0) & (window <= stored)).all()
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + window[:, 0] <= height).all()
    assert (left + window[:, 1] <= width).all()

    torch.manual_seed(0)
    image: Any = torch.zeros(1, height, width)
    theirs = np.array(
        [
            RandomResizedCrop.get_params(image, [smallest_area, 1.0], [3 / 4, 4 / 3])
            for _ in range(2_000)
        ]
    ).T
    ours = np.stack([top, left, *window.T])
    for our, their in zip(ours, theirs, strict=True):
        assert ks_2samp(our, their).pvalue > 1e-3
    # Areas and shapes as well: sides that fit one by one need not fit together.
    assert ks_2samp(ours[2] * ours[3], theirs[2] * theirs[3]).pvalue > 1e-3
    assert ks_2samp(ours[2] / ours[3], theirs[2] / theirs[3]).pvalue > 1e-3


def test_a_window_lies_anywhere_with_equal_chances() -> None:
    top, left, window = draw_inception_windows(np.random.default_rng(0), 200_000, (12, 12), 0.1)
    chosen = (window == [7, 8]).all(axis=1)
    counts = np.zeros((6, 5), int)
    np.add.at(counts, (top[chosen], left[chosen]), 1)
    assert counts.sum() > 1_000
    assert chisquare(counts.ravel()).pvalue > 1e-4


@pytest.mark.parametrize("stored", [(1, 12), (12, 1), (1, 1), (2, 3)])
def test_images_of_one_pixel_a_side_have_windows_too(stored: tuple[int, int]) -> None:
    top, left, window = draw_inception_windows(np.random.default_rng(0), 500, stored, 0.3)
    assert (window >= 1).all()
    assert (np.stack([top, left], axis=1) + window <= stored).all()


@pytest.mark.parametrize(("height", "width"), [(37, 45), (32, 32), (31, 9), (1, 12), (1, 1)])
def test_a_rotation_equals_torchvisions(
    grey_or_colour: NDArray[np.uint8], height: int, width: int
) -> None:
    """Within one grey level: the positions of pixels are rounded differently in float32."""
    images = grey_or_colour[:, :height, :width].copy()
    degrees = np.random.default_rng(2).uniform(-180, 180, len(images)).astype(np.float32)
    degrees[:2] = 0.0, -12.5
    result = rotate(torch.from_numpy(images), torch.from_numpy(degrees))
    assert result.dtype == torch.uint8
    assert result.is_contiguous()
    for pixels, image, angle in zip(result.numpy(), images, degrees.tolist(), strict=True):
        planes = torch.from_numpy(image).permute(2, 0, 1)
        turned = torchvision_functional.rotate(planes, angle, InterpolationMode.BILINEAR)
        expected = turned.permute(1, 2, 0).numpy()
        differences = np.abs(pixels.astype(int) - expected)
        assert differences.max() <= 1
        assert (differences > 0).mean() < 0.02


def test_quarter_turns_move_pixels_and_change_none(photographs: NDArray[np.uint8]) -> None:
    squares = photographs[:4, :37, :37].copy()
    degrees = torch.tensor([0.0, 90.0, 180.0, -90.0])
    result = rotate(torch.from_numpy(squares), degrees).numpy()
    for pixels, image, turns in zip(result, squares, (0, 1, 2, -1), strict=True):
        np.testing.assert_array_equal(pixels, np.rot90(image, turns))
    upside_down = rotate(torch.from_numpy(photographs[:1]), torch.tensor([180.0])).numpy()
    np.testing.assert_array_equal(upside_down[0], photographs[0, ::-1, ::-1])


def test_a_rotation_is_black_outside() -> None:
    white = torch.full((2, 30, 40, 3), 255, dtype=torch.uint8)
    result = rotate(white, torch.tensor([20.0, -35.0]))
    for corner in (result[:, 0, 0], result[:, 0, -1], result[:, -1, 0], result[:, -1, -1]):
        assert not corner.any()
    assert (result[:, 10:20, 15:25] == 255).all()
