"""Random changes of colour, with the definitions of ``torchvision.transforms.v2.functional``.

Every function but the first takes planes, float32 [batch, channels, height, width] from 0 to 255,
and gives new ones, with one factor per image.
"""

import torch
from torch import Tensor

# The weights of red, green and blue in grey (ITU-R BT.601).
_RED, _GREEN, _BLUE = 0.2989, 0.587, 0.114


def jitter_colours(images: Tensor, factors: Tensor | None, shifts: Tensor | None) -> Tensor:
    """Change brightness, contrast, saturation and hue, in this order.

    Args:
        images: uint8 [batch, height, width, channels].
        factors: float32 [batch, 3], of brightness, contrast and saturation, not negative; None: as
            they are.
        shifts: float32 [batch], of hue, in turns of the colour circle; None: none.

    Returns:
        uint8 [batch, height, width, channels]. Grey images have neither saturation nor hue.
    """
    planes = images.permute(0, 3, 1, 2).float().contiguous()
    if factors is not None:
        brightness, contrast, saturation = factors[..., None, None, None].unbind(dim=1)
        planes = adjust_brightness(planes, brightness)
        planes = adjust_contrast(planes, contrast)
        planes = adjust_saturation(planes, saturation)
    if shifts is not None:
        planes = shift_hue(planes, shifts[:, None, None])
    return planes.round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def adjust_brightness(planes: Tensor, factors: Tensor) -> Tensor:
    """Multiply all values by an image's factor, float32 [batch, 1, 1, 1]."""
    return (planes * factors).clamp_(0.0, 255.0)


def adjust_contrast(planes: Tensor, factors: Tensor) -> Tensor:
    """Stretch all values away from the image's mean grey by a factor, float32 [batch, 1, 1, 1]."""
    mean = _grey(planes).mean(dim=(1, 2, 3), keepdim=True)
    return torch.lerp(mean, planes, factors).clamp_(0.0, 255.0)


def adjust_saturation(planes: Tensor, factors: Tensor) -> Tensor:
    """Stretch each pixel's values away from its grey by a factor, float32 [batch, 1, 1, 1]."""
    return torch.lerp(_grey(planes), planes, factors).clamp_(0.0, 255.0)


def shift_hue(planes: Tensor, shifts: Tensor) -> Tensor:
    """Turn each pixel's hue around the colour circle and keep its HSV saturation and value.

    Args:
        planes: float32 [batch, 1 or 3, height, width].
        shifts: float32 [batch, 1, 1], in turns.
    """
    if planes.shape[1] == 1:
        return planes
    red, green, blue = planes.unbind(dim=1)
    # Pairwise: far faster on a CPU than a reduction over the channels.
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    # Grey pixels have no hue: with a chroma of 0, any will do.
    divisor = torch.where(chroma == 0, 1.0, chroma)
    sixths = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, (blue - red) / divisor + 2.0, (red - green) / divisor + 4.0),
    )
    sixths += shifts * 6.0
    # Each channel follows the same curve of the hue, a third of the circle apart.
    offsets = torch.arange(5, 0, -2, device=planes.device)[:, None, None]
    places = (sixths[:, None] + offsets).remainder_(6.0)
    missing = torch.minimum(places, 4.0 - places).clamp_(0.0, 1.0)
    return value[:, None] - missing.mul_(chroma[:, None])


def _grey(planes: Tensor) -> Tensor:
    if planes.shape[1] == 1:
        return planes
    red, green, blue = planes.split(1, dim=1)
    return (red * _RED).add_(green, alpha=_GREEN).add_(blue, alpha=_BLUE)
