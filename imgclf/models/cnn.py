"""Plain convolutional networks."""

import torch
from torch import nn

from imgclf.models.registry import InputShape, NetworkSettings, convolution, register


def _activated(
    channels_in: int, channels_out: int, settings: NetworkSettings, stride: int = 1
) -> nn.Sequential:
    """3x3 convolution, normalisation, ReLU."""
    layers = convolution(channels_in, channels_out, settings, stride=stride)
    return nn.Sequential(*layers, nn.ReLU(inplace=True))


@register(min_size=4, norm_layer="batch")
def digits_cnn(shape: InputShape, settings: NetworkSettings) -> nn.Module:
    """Three 3x3 convolutions and a dense layer, for images of about 8x8 pixels."""
    return nn.Sequential(
        _activated(shape.channels, 32, settings),
        _activated(32, 64, settings),
        nn.MaxPool2d(2),
        _activated(64, 128, settings),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(settings.dropout),
        nn.Linear(128 * (shape.height // 4) * (shape.width // 4), settings.num_classes),
    )


@register(min_size=2, norm_layer="batch")
def small_cnn(shape: InputShape, settings: NetworkSettings) -> nn.Module:
    """VGG-style blocks with batch normalisation and an average over positions at the end.

    Resolution is halved until about 4x4 positions are left, so that every unit of the last block
    sees most of the image, whatever the input's size. Inputs above 64 pixels are halved by the
    first convolution already: at full resolution it would cost most of the time.
    """
    size = min(shape.height, shape.width)
    stride = 2 if size > 64 else 1
    channels = 32
    blocks = [
        _activated(shape.channels, channels, settings, stride),
        _activated(channels, channels, settings),
    ]
    size //= stride
    while size >= 8:
        wider = min(2 * channels, 256)
        blocks += [
            nn.MaxPool2d(2),
            _activated(channels, wider, settings),
            _activated(wider, wider, settings),
        ]
        channels, size = wider, size // 2
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(settings.dropout)]
    return nn.Sequential(*blocks, *head, nn.Linear(channels, settings.num_classes))


def _pooled(
    channels_in: int,
    channels_out: int,
    settings: NetworkSettings,
    kernel_size: int = 3,
    padding: int = 1,
) -> list[nn.Module]:
    """Convolution, ReLU and max-pooling, as the published notebooks stack them.

    Pooled first, which gives the same numbers and leaves a quarter of them to the ReLU.
    """
    layers = convolution(channels_in, channels_out, settings, kernel_size, padding=padding)
    return [*layers, nn.MaxPool2d(2), nn.ReLU(inplace=True)]


def _dense_head(
    features: nn.Sequential, shape: InputShape, hidden: int, settings: NetworkSettings
) -> nn.Sequential:
    """Two dense layers after convolutions; the width of the first is computed, not assumed."""
    with torch.no_grad():
        width = features.eval()(torch.zeros(1, *shape)).numel()
    features.train()
    head = [nn.Linear(width, hidden), nn.ReLU(inplace=True), nn.Dropout(settings.dropout)]
    return nn.Sequential(features, nn.Flatten(), *head, nn.Linear(hidden, settings.num_classes))


@register(min_size=10, norm_layer="none")
def mnist_cnn(shape: InputShape, settings: NetworkSettings) -> nn.Module:
    """The published MNIST notebook's network: 32 and 64 filters, a dense layer of 128."""
    features = nn.Sequential(
        *_pooled(shape.channels, 32, settings),
        *_pooled(32, 64, settings, padding=0),
    )
    return _dense_head(features, shape, 128, settings)


@register(min_size=12, norm_layer="none")
def fast_cnn(shape: InputShape, settings: NetworkSettings) -> nn.Module:
    """24 filters of 5x5 and 32 of 3x3, a dense layer of 256: digits in little arithmetic."""
    features = nn.Sequential(
        *_pooled(shape.channels, 24, settings, kernel_size=5, padding=0),
        *_pooled(24, 32, settings, padding=0),
    )
    return _dense_head(features, shape, 256, settings)


@register(min_size=8, norm_layer="none")
def fashion_cnn(shape: InputShape, settings: NetworkSettings) -> nn.Module:
    """The published Fashion-MNIST notebook's network, padded so that 28 pixels become 3."""
    features = nn.Sequential(
        *_pooled(shape.channels, 20, settings, kernel_size=5, padding=2),
        *_pooled(20, 46, settings, kernel_size=4, padding=2),
        *_pooled(46, 70, settings),
    )
    return _dense_head(features, shape, 512, settings)


@register(min_size=4, norm_layer="none")
def cifar10_cnn(shape: InputShape, settings: NetworkSettings) -> nn.Module:
    """The published CIFAR-10 notebook's network: 32 and 64 filters, a dense layer of 512."""
    features = nn.Sequential(
        *_pooled(shape.channels, 32, settings),
        *_pooled(32, 64, settings),
        nn.Dropout(settings.dropout),
    )
    return _dense_head(features, shape, 512, settings)
