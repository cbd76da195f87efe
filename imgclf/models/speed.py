"""Networks that reach a good accuracy in little arithmetic.

After Jordan, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, arXiv:2404.00498: a whitening
convolution in front, three blocks of 3x3 convolutions that begin near the identity, each pooled
after its first convolution, and the largest value over all positions at the end. They were made for
32 pixels: of inputs above 64 and above 128 the whitening convolution reads every second and every
fourth position.
"""

from torch import Tensor, nn

from imgclf.models.registry import InputShape, NetworkSettings, register
from imgclf.models.whitening import WhiteningConvolution


@register(min_size=9, norm_layer="batch")
def speed_cnn_16(shape: InputShape, settings: NetworkSettings) -> nn.Module:
    """Blocks of 16, 64 and 64 filters, for seconds on a CPU."""
    return _speed_cnn(shape, settings, (16, 64, 64))


@register(min_size=9, norm_layer="batch")
def speed_cnn_32(shape: InputShape, settings: NetworkSettings) -> nn.Module:
    """Blocks of 32, 128 and 128 filters, for minutes on a CPU."""
    return _speed_cnn(shape, settings, (32, 128, 128))


@register(min_size=9, norm_layer="batch")
def speed_cnn_64(shape: InputShape, settings: NetworkSettings) -> nn.Module:
    """Blocks of 64, 256 and 256 filters, as published, for seconds on a GPU."""
    return _speed_cnn(shape, settings, (64, 256, 256))


@register(min_size=9, norm_layer="batch")
def speed_resnet(shape: InputShape, settings: NetworkSettings) -> nn.Module:
    """Blocks of 128, 512 and 512 filters with a residual convolution, for a minute on a GPU."""
    return _speed_cnn(shape, settings, (128, 512, 512), residual=True)


def _speed_cnn(
    shape: InputShape,
    settings: NetworkSettings,
    widths: tuple[int, int, int],
    residual: bool = False,
) -> nn.Module:
    size = min(shape.height, shape.width)
    stride = 1 if size <= 64 else 2 if size <= 128 else 4
    whitening = WhiteningConvolution(shape.channels, max(2, stride), stride)
    layers: list[nn.Module] = [whitening, nn.GELU()]
    channels = whitening.out_channels
    for width in widths:
        # Pooled before the normalisation, which has a quarter of the numbers to read then.
        layers += [_convolution(channels, width, settings), nn.MaxPool2d(2)]
        layers += [*_norm(width, settings), nn.GELU()]
        second = [_convolution(width, width, settings), *_norm(width, settings)]
        if residual:
            third = [_convolution(width, width, settings), *_norm(width, settings)]
            second = [_Residual(*second, nn.GELU(), *third)]
        layers += [*second, nn.GELU()]
        channels = width
    head = [nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Dropout(settings.dropout)]
    return nn.Sequential(*layers, *head, nn.Linear(channels, settings.num_classes))


class _Residual(nn.Sequential):
    """Layers beside a shortcut."""

    def forward(self, input: Tensor) -> Tensor:
        return input + super().forward(input)


def _convolution(channels: int, width: int, settings: NetworkSettings) -> nn.Conv2d:
    layer = nn.Conv2d(channels, width, 3, padding=1, bias=settings.norm_layer == "none")
    # The first filters begin as the identity: what comes in passes through from the first step.
    nn.init.dirac_(layer.weight.data[:channels])
    return layer


def _norm(width: int, settings: NetworkSettings) -> list[nn.Module]:
    return [nn.BatchNorm2d(width)] if settings.norm_layer == "batch" else []
