from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional as torchvision_functional

from imgclf.data.colour import (
    adjust_brightness,
    adjust_contrast,
    adjust_saturation,
    jitter_colours,
    shift_hue,
)

pytestmark = pytest.mark.usefixtures("one_thread")

Adjustment = Callable[[Tensor, float], Tensor]

ADJUSTMENTS: list[tuple[Callable[[Tensor, Tensor], Tensor], Adjustment]] = [
    (adjust_brightness, torchvision_functional.adjust_brightness),
    (adjust_contrast, torchvision_functional.adjust_contrast),
    (adjust_saturation, torchvision_functional.adjust_saturation),
]
NAMES = ["brightness", "contrast", "saturation"]


@pytest.fixture
def images(grey_or_colour: NDArray[np.uint8]) -> Tensor:
    """Photographs and the extremes: black, white, pure colours. uint8 [25, 37, 45, channels]."""
    flat = np.zeros((5, 37, 45, 3), np.uint8)
    flat[1] = 255
    flat[2] = 255, 0, 0
    flat[3] = 0, 255, 255
    flat[4] = 128, 128, 129
    flat = flat[..., : grey_or_colour.shape[-1]]
    return torch.from_numpy(np.concatenate([grey_or_colour, flat]))


def planes_of(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2)


def each_by_torchvision(images: Tensor, adjust: Adjustment, factors: Tensor) -> Tensor:
    """One image after the other; float images from 0 to 1, uint8 images from 0 to 255."""
    pairs = zip(planes_of(images), factors.tolist(), strict=True)
    return torch.stack([adjust(image, factor) for image, factor in pairs])


def drawn(number: int, lowest: float, highest: float) -> Tensor:
    factors = np.random.default_rng(3).uniform(lowest, highest, number)
    factors[:3] = lowest, highest, (lowest + highest) / 2
    return torch.from_numpy(factors.astype(np.float32))


@pytest.mark.parametrize(("ours", "theirs"), ADJUSTMENTS, ids=NAMES)
def test_adjustments_equal_torchvisions_in_float(
    images: Tensor, ours: Callable[[Tensor, Tensor], Tensor], theirs: Adjustment
) -> None:
    factors = drawn(len(images), 0.0, 2.0)
    result = ours(planes_of(images).float(), factors[:, None, None, None])
    expected = each_by_torchvision(images / 255, theirs, factors) * 255
    torch.testing.assert_close(result, expected, rtol=0, atol=0.002)


def test_shifted_hue_equals_torchvisions_in_float(images: Tensor) -> None:
    shifts = drawn(len(images), -0.5, 0.5)
    result = shift_hue(planes_of(images).float(), shifts[:, None, None])
    expected = each_by_torchvision(images / 255, torchvision_functional.adjust_hue, shifts) * 255
    torch.testing.assert_close(result, expected, rtol=0, atol=0.002)


@pytest.mark.parametrize("position", range(3), ids=NAMES)
def test_jittered_pixels_equal_torchvisions_on_uint8(images: Tensor, position: int) -> None:
    """Within one grey level: torchvision cuts fractions off, of its results and of grey."""
    factors = torch.ones(len(images), 3)
    factors[:, position] = drawn(len(images), 0.6, 1.4)
    result = jitter_colours(images, factors, None)
    assert result.dtype == torch.uint8
    assert result.is_contiguous()
    expected = each_by_torchvision(images, ADJUSTMENTS[position][1], factors[:, position])
    assert (planes_of(result).int() - expected.int()).abs().max() <= 1


def test_shifted_pixels_equal_torchvisions_on_uint8(images: Tensor) -> None:
    """Within one grey level: torchvision cuts fractions off, by its own scale of 256 levels."""
    shifts = drawn(len(images), -0.5, 0.5)
    result = jitter_colours(images, None, shifts)
    expected = each_by_torchvision(images, torchvision_functional.adjust_hue, shifts)
    assert (planes_of(result).int() - expected.int()).abs().max() <= 1


def test_all_four_are_done_in_order_and_rounded_once(images: Tensor) -> None:
    generator = np.random.default_rng(4)
    factors = torch.from_numpy(generator.uniform(0.2, 1.8, (len(images), 3)).astype(np.float32))
    shifts = drawn(len(images), -0.3, 0.3)
    expected = images / 255
    for (_, adjust), column in zip(ADJUSTMENTS, factors.unbind(dim=1), strict=True):
        expected = each_by_torchvision(expected, adjust, column).permute(0, 2, 3, 1)
    expected = each_by_torchvision(expected, torchvision_functional.adjust_hue, shifts) * 255
    result = planes_of(jitter_colours(images, factors, shifts))
    assert (result.float() - expected).abs().max() <= 0.502  # half a level, and float32


def test_no_change_changes_nothing(images: Tensor) -> None:
    ones, zeros = torch.ones(len(images), 3), torch.zeros(len(images))
    assert torch.equal(jitter_colours(images, ones, zeros), images)
    assert torch.equal(jitter_colours(images, None, None), images)


def test_grey_images_keep_saturation_and_hue_to_themselves(photographs: NDArray[np.uint8]) -> None:
    grey = torch.from_numpy(photographs[..., 1:2].copy())
    factors = torch.tensor([1.0, 1.0, 0.3]).expand(len(grey), -1)
    shifts = torch.full((len(grey),), 0.4)
    assert torch.equal(jitter_colours(grey, factors, shifts), grey)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_of_one_pixel_is_its_own_mean(channels: int) -> None:
    pixel = torch.full((1, 1, 1, channels), 100, dtype=torch.uint8)
    brightened = jitter_colours(pixel, torch.tensor([[1.5, 0.2, 1.0]]), torch.tensor([0.5]))
    assert brightened.flatten().tolist() == [150] * channels
