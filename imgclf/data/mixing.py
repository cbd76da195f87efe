"""What is pasted over an image or blended into it: Cutout, CutMix and MixUp.

Boxes are int64 [batch, 4]: top, left, bottom and right in pixels, the last two exclusive.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def cutout(images: Tensor, boxes: Tensor) -> Tensor:
    """Blacken a box of each image (DeVries and Taylor, arXiv:1708.04552).

    Args:
        images: uint8 [batch, height, width, channels].
        boxes: int64 [batch, 4]; what lies outside the image counts for nothing.

    Returns:
        uint8 [batch, height, width, channels].
    """
    return images.masked_fill(_inside(boxes, images), 0)


def draw_cutout_boxes(
    generator: np.random.Generator, number: int, side: int, height: int, width: int
) -> NDArray[np.int64]:
    """Draw squares of ``side`` pixels around positions that are uniform in the image.

    Returns:
        int64 [number, 4]; they may reach beyond the image.
    """
    top = generator.integers(0, height, number) - side // 2
    left = generator.integers(0, width, number) - side // 2
    return np.stack([top, left, top + side, left + side], axis=1)


def cutmix(images: Tensor, partners: Tensor, boxes: Tensor) -> Tensor:
    """Paste a box of each partner over its image (Yun et al., arXiv:1905.04899).

    Args:
        images, partners: uint8 [batch, height, width, channels].
        boxes: int64 [batch, 4], within the image; empty where nothing is pasted.

    Returns:
        uint8 [batch, height, width, channels].
    """
    return torch.where(_inside(boxes, images), partners, images)


def draw_cutmix_boxes(
    generator: np.random.Generator, shares: NDArray[np.float64], height: int, width: int
) -> NDArray[np.int64]:
    """Draw boxes around positions that are uniform in the image, cut off at its borders.

    Args:
        generator: source of the random numbers.
        shares: float64 [number], of the image's area that its box leaves where nothing is cut off.
        height, width: of the images, in pixels.

    Returns:
        int64 [number, 4].
    """
    sides = []
    half = 0.5 * np.sqrt(1.0 - shares)
    for size in (height, width):
        centre = generator.integers(0, size, len(shares))
        reach = (half * size).astype(np.int64)
        sides.append((np.maximum(centre - reach, 0), np.minimum(centre + reach, size)))
    (top, bottom), (left, right) = sides
    return np.stack([top, left, bottom, right], axis=1)


def kept_area(boxes: Tensor, height: int, width: int) -> Tensor:
    """Return the share of each image's area that its box leaves: float32 [batch]."""
    top, left, bottom, right = boxes.unbind(dim=1)
    return 1.0 - (bottom - top) * (right - left) / (height * width)


def mixup(images: Tensor, partners: Tensor, shares: Tensor) -> Tensor:
    """Blend each image with its partner (Zhang et al., arXiv:1710.09412).

    Args:
        images, partners: uint8 [batch, height, width, channels].
        shares: float32 [batch], of the image itself.

    Returns:
        uint8 [batch, height, width, channels].
    """
    blended = torch.lerp(partners.float(), images.float(), shares[:, None, None, None])
    return blended.round_().to(torch.uint8)


def mixed_targets(labels: Tensor, partners: Tensor, shares: Tensor, num_classes: int) -> Tensor:
    """Return the probability of each class: ``shares`` of an image's own, the rest its partner's.

    Args:
        labels, partners: int64 [batch].
        shares: float32 [batch].
        num_classes: columns of the result.

    Returns:
        float32 [batch, num_classes]; each row sums to 1.
    """
    classes = torch.arange(num_classes, device=labels.device)
    own, other = ((which[:, None] == classes).float() for which in (labels, partners))
    return torch.lerp(other, own, shares[:, None])


def _inside(boxes: Tensor, images: Tensor) -> Tensor:
    """Return which pixels lie in the image's box: bool [batch, height, width, 1]."""
    height, width = images.shape[1:3]
    top, left, bottom, right = boxes[:, :, None].unbind(dim=1)
    rows = torch.arange(height, device=boxes.device)
    columns = torch.arange(width, device=boxes.device)
    of_rows = (rows >= top) & (rows < bottom)
    of_columns = (columns >= left) & (columns < right)
    return (of_rows[:, :, None] & of_columns[:, None, :])[..., None]
