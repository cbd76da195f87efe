"""Where the pixels of a training image come from: windows, mirrors, Inception's crop, rotation.

Every function takes and gives a whole batch, with one row of parameters per image.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

_ASPECT_RATIOS = 3 / 4, 4 / 3
_LOG_ASPECT_RATIOS = math.log(3 / 4), math.log(4 / 3)
_ATTEMPTS = 10


def crop(
    images: Tensor,
    indices: Tensor,
    top: Tensor | None,
    left: Tensor | None,
    flip: Tensor | None,
    size: tuple[int, int],
) -> Tensor:
    """Cut windows out of some images and mirror some of the windows, in one gather.

    Args:
        images: uint8 [n, stored height, stored width, channels].
        indices: int64 [batch], the images wanted.
        top, left: int64 [batch], the corner of each window, in pixels; None: 0.
        flip: bool [batch], whether the window is mirrored left to right; None: none is.
        size: height and width of the windows, in pixels.

    Returns:
        uint8 [batch, height, width, channels].
    """
    height, width = size
    rows = torch.arange(height, device=images.device)[None]
    columns = _mirrored_positions(flip, width, images.device)
    rows = rows if top is None else rows + top[:, None]
    columns = columns if left is None else columns + left[:, None]
    return images[indices[:, None, None], rows[:, :, None], columns[:, None, :]]


def resized_crop(
    images: Tensor,
    top: Tensor,
    left: Tensor,
    window: Tensor,
    flip: Tensor | None,
    size: tuple[int, int],
) -> Tensor:
    """Resize a window of each image, and mirror some of the results.

    Interpolates by a triangle filter, widened where the window shrinks: Pillow's bilinear filter,
    whose outermost pixels look beyond the window too.

    Args:
        images: uint8 [batch, stored height, stored width, channels].
        top, left: int64 [batch], the corner of each window, in pixels.
        window: int64 [batch, 2], height and width of each window, in pixels.
        flip: bool [batch], whether the result is mirrored left to right; None: none is.
        size: height and width of the result, in pixels.

    Returns:
        uint8 [batch, height, width, channels].
    """
    height, width = size
    upright = torch.arange(height, device=images.device)[None]
    mirrored = _mirrored_positions(flip, width, images.device)
    of_rows = _interpolation(top, window[:, 0], upright, images.shape[1])
    of_columns = _interpolation(left, window[:, 1], mirrored, images.shape[2])
    resized = torch.einsum("byh,bhwc->bywc", of_rows, images.float())
    resized = torch.einsum("bxw,bywc->byxc", of_columns, resized)
    return resized.round_().to(torch.uint8).contiguous()


def draw_inception_windows(
    generator: np.random.Generator, number: int, stored: tuple[int, int], smallest_area: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Draw windows of random area, shape and place (Szegedy et al., arXiv:1409.4842).

    As torchvision's ``RandomResizedCrop``: of ten draws, the first whose window fits; where none
    does, the largest centred window with an aspect ratio between 3/4 and 4/3.

    Args:
        generator: source of the random numbers.
        number: of windows.
        stored: height and width of the images, in pixels.
        smallest_area: of a window, as a share of the image's area; the largest is 1.

    Returns:
        top and left, int64 [number], and the windows' height and width, int64 [number, 2].
    """
    height, width = stored
    narrowest, widest = _ASPECT_RATIOS
    largest = min(height, round(width / narrowest)), min(width, round(height * widest))
    windows = np.tile(np.array(largest, np.int64), (number, 1))
    top, left = ((side - length) // 2 for side, length in zip(stored, windows.T, strict=True))
    open_rows = np.arange(number)
    for _ in range(_ATTEMPTS):
        area = generator.uniform(smallest_area, 1.0, len(open_rows)) * height * width
        aspect_ratio = np.exp(generator.uniform(*_LOG_ASPECT_RATIOS, len(open_rows)))
        sides = np.sqrt([area / aspect_ratio, area * aspect_ratio]).T
        drawn = np.rint(sides).astype(np.int64)
        fits = ((drawn > 0) & (drawn <= stored)).all(axis=1)
        rows, fitting = open_rows[fits], drawn[fits]
        windows[rows] = fitting
        top[rows] = generator.integers(0, height - fitting[:, 0] + 1)
        left[rows] = generator.integers(0, width - fitting[:, 1] + 1)
        open_rows = open_rows[~fits]
    return top, left, windows


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Turn each image about its centre, anticlockwise, with black outside.

    Args:
        images: uint8 [batch, height, width, channels].
        degrees: float32 [batch].

    Returns:
        uint8 [batch, height, width, channels], interpolated bilinearly.
    """
    batch, height, width, channels = images.shape
    angles = torch.deg2rad(degrees)
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    # Where each pixel comes from; both axes run from -1 to 1, so the sides' ratio comes in.
    to_source = [cos, -sin * (height / width), zero, sin * (width / height), cos, zero]
    grid = affine_grid(
        torch.stack(to_source, dim=1).view(batch, 2, 3),
        [batch, channels, height, width],
        align_corners=False,
    )
    planes = images.permute(0, 3, 1, 2).float().contiguous()
    turned = grid_sample(planes, grid, mode="bilinear", align_corners=False)
    return turned.round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _mirrored_positions(flip: Tensor | None, width: int, device: torch.device) -> Tensor:
    """Return the column that each pixel of a row shows: int64 [batch, width], or [1, width]."""
    positions = torch.arange(width, device=device)[None]
    return positions if flip is None else torch.where(flip[:, None], positions.flip(1), positions)


def _interpolation(start: Tensor, length: Tensor, positions: Tensor, num_stored: int) -> Tensor:
    """Return the weight of each stored pixel in each new one, along one side.

    Args:
        start, length: int64 [batch], where the window begins and how long it is, in stored pixels.
        positions: int64 [batch, new] or [1, new], the place of each new pixel within the window, in
            new pixels.
        num_stored: pixels stored along that side.

    Returns:
        float32 [batch, new, num_stored]; each row sums to 1.
    """
    scale = length[:, None] / positions.shape[1]
    centres = start[:, None] + (positions + 0.5) * scale
    pixels = torch.arange(num_stored, device=positions.device) + 0.5
    distance = (pixels - centres[:, :, None]).abs() / scale.clamp(min=1.0)[:, :, None]
    weights = (1.0 - distance).clamp_(min=0.0)
    return weights / weights.sum(dim=2, keepdim=True)
