"""Residual networks."""

from torch import Tensor, nn
from torch.nn.functional import relu

from imgclf.models.registry import InputShape, NetworkSettings, convolution, register


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(
        self, channels_in: int, channels_out: int, stride: int, settings: NetworkSettings
    ) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            *convolution(channels_in, channels_out, settings, stride=stride),
            nn.ReLU(inplace=True),
            *convolution(channels_out, channels_out, settings),
        )
        # Each block begins as its shortcut alone (Goyal et al., arXiv:1706.02677): without
        # normalisation, that is also what keeps the activations from growing with the depth.
        last = self.residual[-1]
        assert isinstance(last, nn.BatchNorm2d | nn.Conv2d)
        nn.init.zeros_(last.weight)
        same = stride == 1 and channels_in == channels_out
        projection = convolution(channels_in, channels_out, settings, 1, stride, padding=0)
        self.shortcut = nn.Identity() if same else nn.Sequential(*projection)

    def forward(self, features: Tensor) -> Tensor:
        return relu(self.shortcut(features) + self.residual(features))


@register(min_size=4, norm_layer="batch")
def resnet20(shape: InputShape, settings: NetworkSettings) -> nn.Module:
    """ResNet-20 for small images (He et al., arXiv:1512.03385, section 4.2), with projections.

    Inputs above 64 pixels are halved by the first convolution, and those above 128 once more by the
    first block: the published network was made for 32.
    """
    strides, size = [1, 1, 2, 2], min(shape.height, shape.width)
    for position in (0, 1):
        if size > 64:
            strides[position], size = 2, (size + 1) // 2
    layers = convolution(shape.channels, 16, settings, stride=strides[0])
    layers.append(nn.ReLU(inplace=True))
    channels = 16
    for width, stride in zip((16, 32, 64), strides[1:], strict=True):
        for position in range(3):
            layers.append(_BasicBlock(channels, width, stride if position == 0 else 1, settings))
            channels = width
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(settings.dropout)]
    return nn.Sequential(*layers, *head, nn.Linear(channels, settings.num_classes))
