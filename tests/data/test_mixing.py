from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import chisquare, ks_2samp
from torchvision.transforms import v2

from imgclf.data.mixing import (
    cutmix,
    cutout,
    draw_cutmix_boxes,
    draw_cutout_boxes,
    kept_area,
    mixed_targets,
    mixup,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(("height", "width"), [(37, 45), (5, 8), (1, 9), (1, 1)])
@pytest.mark.parametrize("side", [1, 4, 7])
def test_cutout_blackens_a_square_cut_off_at_the_borders(
    grey_or_colour: NDArray[np.uint8], height: int, width: int, side: int
) -> None:
    images = grey_or_colour[:, :height, :width] | 1  # nothing is black yet
    boxes = draw_cutout_boxes(np.random.default_rng(0), len(images), side, height, width)
    result = cutout(torch.from_numpy(images), torch.from_numpy(boxes)).numpy()
    for pixels, image, (top, left, bottom, right) in zip(result, images, boxes, strict=True):
        expected = image.copy()
        expected[max(top, 0) : bottom, max(left, 0) : right] = 0
        np.testing.assert_array_equal(pixels, expected)
        assert (bottom - top, right - left) == (side, side)
        assert (pixels == 0).any()


@pytest.mark.parametrize("side", [4, 5])
def test_squares_lie_around_every_position_equally_often(side: int) -> None:
    boxes = draw_cutout_boxes(np.random.default_rng(0), 20_000, side, 6, 7)
    counts = np.zeros((6, 7), int)
    np.add.at(counts, (boxes[:, 0] + side // 2, boxes[:, 1] + side // 2), 1)
    assert counts.sum() == 20_000
    assert chisquare(counts.ravel()).pvalue > 1e-4


def as_torchvision_wants(images: torch.Tensor) -> torch.Tensor:
    return images.permute(0, 3, 1, 2)


@pytest.mark.parametrize(("height", "width"), [(37, 45), (5, 8), (1, 9), (1, 1)])
def test_cutmix_pastes_and_labels_as_torchvision_does(
    grey_or_colour: NDArray[np.uint8], height: int, width: int
) -> None:
    images = torch.from_numpy(grey_or_colour[:, :height, :width])
    labels = torch.arange(len(images)) % 6
    generator = np.random.default_rng(0)
    boxes = torch.from_numpy(
        draw_cutmix_boxes(generator, generator.random(len(images)), height, width)
    )
    result = cutmix(images, images.roll(1, 0), boxes)
    assert result.dtype == torch.uint8
    shares = kept_area(boxes, height, width)
    targets = mixed_targets(labels, labels.roll(1, 0), shares, 6)
    transform = v2.CutMix(num_classes=6)
    for position, (top, left, bottom, right) in enumerate(boxes.tolist()):
        parameters: dict[str, Any] = {
            "box": (left, top, right, bottom),
            "lam_adjusted": 1 - (right - left) * (bottom - top) / (height * width),
            "labels": labels,
            "batch_size": len(images),
        }
        pasted = transform.transform(as_torchvision_wants(images), parameters)[position]
        assert torch.equal(result[position].permute(2, 0, 1), pasted)
        expected = transform.transform(labels, parameters)[position]
        torch.testing.assert_close(targets[position], expected, rtol=0, atol=1e-6)


def test_targets_equal_the_area_that_is_seen_of_each_image() -> None:
    generator = np.random.default_rng(0)
    boxes = torch.from_numpy(draw_cutmix_boxes(generator, generator.random(500), 9, 14))
    black = torch.zeros(500, 9, 14, 1, dtype=torch.uint8)
    mixed = cutmix(black, black + 1, boxes)
    pasted = mixed.float().mean(dim=(1, 2, 3))
    assert pasted.min() == 0
    assert pasted.max() > 0.7
    labels = torch.zeros(500, dtype=torch.int64)
    targets = mixed_targets(labels, labels + 2, kept_area(boxes, 9, 14), 3)
    zeros = torch.zeros(500)
    expected = torch.stack([1 - pasted, zeros, pasted], dim=1)
    torch.testing.assert_close(targets, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_boxes_are_drawn_as_torchvision_draws_them(alpha: float) -> None:
    generator = np.random.default_rng(0)
    ours = draw_cutmix_boxes(generator, generator.beta(alpha, alpha, 20_000), 30, 50)
    top, left, bottom, right = ours.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert ((top <= bottom) & (bottom <= 30)).all()
    assert ((left <= right) & (right <= 50)).all()

    torch.manual_seed(0)
    transform = v2.CutMix(alpha=alpha, num_classes=2)
    samples = [transform.make_params([torch.zeros(2, 1, 30, 50)]) for _ in range(2_000)]
    theirs = np.array([sample["box"] for sample in samples])[:, [1, 0, 3, 2]]
    for our, their in zip(ours.T, theirs.T, strict=True):
        assert ks_2samp(our, their).pvalue > 1e-3
    areas = kept_area(torch.from_numpy(ours), 30, 50).numpy()
    assert ks_2samp(areas, [sample["lam_adjusted"] for sample in samples]).pvalue > 1e-3


def test_mixup_blends_and_labels_as_torchvision_does(
    grey_or_colour: NDArray[np.uint8],
) -> None:
    images = torch.from_numpy(grey_or_colour)
    labels = torch.arange(len(images)) % 6
    shares = torch.from_numpy(np.random.default_rng(0).random(len(images)).astype(np.float32))
    result = mixup(images, images.roll(1, 0), shares)
    assert result.dtype == torch.uint8
    targets = mixed_targets(labels, labels.roll(1, 0), shares, 6)
    transform = v2.MixUp(num_classes=6)
    for position, share in enumerate(shares.tolist()):
        parameters: dict[str, Any] = {
            "lam": share,
            "labels": labels,
            "batch_size": len(images),
        }
        blended = transform.transform(as_torchvision_wants(images).double(), parameters)[position]
        difference = result[position].permute(2, 0, 1) - blended
        assert difference.abs().max() <= 0.5001  # rounded once
        expected = transform.transform(labels, parameters)[position]
        torch.testing.assert_close(targets[position], expected, rtol=0, atol=1e-6)


def test_shares_of_all_and_nothing_change_no_pixel(photographs: NDArray[np.uint8]) -> None:
    images = torch.from_numpy(photographs)
    partners = images.flip(0)
    assert torch.equal(mixup(images, partners, torch.ones(20)), images)
    assert torch.equal(mixup(images, partners, torch.zeros(20)), partners)
    assert torch.equal(cutmix(images, partners, torch.zeros(20, 4, dtype=torch.int64)), images)


def test_an_image_mixed_with_itself_stays_as_it_is(photographs: NDArray[np.uint8]) -> None:
    images = torch.from_numpy(photographs)
    assert torch.equal(mixup(images, images, torch.linspace(0, 1, 20)), images)


def test_two_images_of_one_class_leave_no_doubt() -> None:
    labels = torch.tensor([0, 2, 1])
    targets = mixed_targets(labels, labels, torch.tensor([0.1, 0.5, 0.7]), 3)
    torch.testing.assert_close(targets, torch.eye(3)[labels], rtol=0, atol=1e-7)


def test_targets_of_an_image_sum_to_one() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 50, (1_000,), generator=generator)
    shares = torch.rand(1_000, generator=generator)
    targets = mixed_targets(labels, labels.roll(1), shares, 50)
    assert targets.dtype == torch.float32
    assert (targets >= 0).all()
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(1_000), rtol=0, atol=1e-6)
