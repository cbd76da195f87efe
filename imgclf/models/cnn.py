"""Plain convolutional networks."""

import torch
from torch import nn

from imgclf.models.registry import InputShape, register


def _convolution(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolution, batch normalisation, ReLU. The normalisation makes a bias superfluous."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


@register(min_size=4)
def digits_cnn(shape: InputShape, num_classes: int, dropout: float) -> nn.Module:
    """Three 3x3 convolutions and a dense layer, for images of about 8x8 pixels."""
    return nn.Sequential(
        _convolution(shape.channels, 32),
        _convolution(32, 64),
        nn.MaxPool2d(2),
        _convolution(64, 128),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(128 * (shape.height // 4) * (shape.width // 4), num_classes),
    )


@register(min_size=2)
def small_cnn(shape: InputShape, num_classes: int, dropout: float) -> nn.Module:
    """VGG-style blocks with batch normalisation and an average over positions at the end.

    Resolution is halved until about 4x4 positions are left, so that every unit of the last block
    sees most of the image, whatever the input's size. Inputs above 64 pixels are halved by the
    first convolution already: at full resolution it would cost most of the time.
    """
    size = min(shape.height, shape.width)
    stride = 2 if size > 64 else 1
    channels = 32
    blocks = [_convolution(shape.channels, channels, stride), _convolution(channels, channels)]
    size //= stride
    while size >= 8:
        wider = min(2 * channels, 256)
        blocks += [nn.MaxPool2d(2), _convolution(channels, wider), _convolution(wider, wider)]
        channels, size = wider, size // 2
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout)]
    return nn.Sequential(*blocks, *head, nn.Linear(channels, num_classes))


def _pooled(channels_in: int, channels_out: int, kernel_size: int, padding: int) -> list[nn.Module]:
    """Convolution, ReLU and max-pooling, as the published notebooks stack them."""
    return [
        nn.Conv2d(channels_in, channels_out, kernel_size, padding=padding),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
    ]


def _dense_head(
    features: nn.Sequential, shape: InputShape, hidden: int, num_classes: int, dropout: float
) -> nn.Sequential:
    """Two dense layers after convolutions; the width of the first is computed, not assumed."""
    with torch.no_grad():
        width = features(torch.zeros(1, *shape)).numel()
    head = [nn.Linear(width, hidden), nn.ReLU(inplace=True), nn.Dropout(dropout)]
    return nn.Sequential(features, nn.Flatten(), *head, nn.Linear(hidden, num_classes))


@register(min_size=10)
def mnist_cnn(shape: InputShape, num_classes: int, dropout: float) -> nn.Module:
    """The published MNIST notebook's network: 32 and 64 filters, a dense layer of 128."""
    features = nn.Sequential(
        *_pooled(shape.channels, 32, 3, padding=1),
        *_pooled(32, 64, 3, padding=0),
    )
    return _dense_head(features, shape, 128, num_classes, dropout)


@register(min_size=8)
def fashion_cnn(shape: InputShape, num_classes: int, dropout: float) -> nn.Module:
    """The published Fashion-MNIST notebook's network, padded so that 28 pixels become 3."""
    features = nn.Sequential(
        *_pooled(shape.channels, 20, 5, padding=2),
        *_pooled(20, 46, 4, padding=2),
        *_pooled(46, 70, 3, padding=1),
    )
    return _dense_head(features, shape, 512, num_classes, dropout)


@register(min_size=4)
def cifar10_cnn(shape: InputShape, num_classes: int, dropout: float) -> nn.Module:
    """The published CIFAR-10 notebook's network: 32 and 64 filters, a dense layer of 512."""
    features = nn.Sequential(
        *_pooled(shape.channels, 32, 3, padding=1),
        *_pooled(32, 64, 3, padding=1),
        nn.Dropout(dropout),
    )
    return _dense_head(features, shape, 512, num_classes, dropout)
