"""Networks by name: a network is one registered function."""

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from imgclf.errors import UsageError


class InputShape(NamedTuple):
    """The shape of one image, as a network reads it."""

    channels: int
    height: int
    width: int


class NetworkSettings(NamedTuple):
    """What can be chosen in every network.

    Attributes:
        num_classes: outputs.
        dropout: rate before the dense layers.
        norm_layer: after each convolution: ``batch`` or ``none``.
    """

    num_classes: int
    dropout: float
    norm_layer: str


NetworkFactory = Callable[[InputShape, NetworkSettings], nn.Module]


class _Network(NamedTuple):
    factory: NetworkFactory
    min_size: int
    norm_layer: str


_NETWORKS: dict[str, _Network] = {}


def register(min_size: int, norm_layer: str) -> Callable[[NetworkFactory], NetworkFactory]:
    """Make a network known by its function's name, with hyphens for underscores.

    The function returns a module from normalised float [batch, channels, height, width] to logits
    [batch, classes].

    Args:
        min_size: the smallest height or width that it can read, in pixels.
        norm_layer: what it was designed with, ``batch`` or ``none``.
    """

    def add(factory: NetworkFactory) -> NetworkFactory:
        name = factory.__name__.replace("_", "-")
        assert name not in _NETWORKS, f"there is a network '{name}' already"
        _NETWORKS[name] = _Network(factory, min_size, norm_layer)
        return factory

    return add


def convolution(
    channels_in: int,
    channels_out: int,
    settings: NetworkSettings,
    kernel_size: int = 3,
    stride: int = 1,
    padding: int = 1,
) -> list[nn.Module]:
    """Return a convolution and its normalisation, which makes a bias superfluous."""
    norm = [nn.BatchNorm2d(channels_out)] if settings.norm_layer == "batch" else []
    size = {"kernel_size": kernel_size, "stride": stride, "padding": padding}
    return [nn.Conv2d(channels_in, channels_out, bias=not norm, **size), *norm]


def network_names() -> tuple[str, ...]:
    """Return the names of the registered networks."""
    return tuple(_NETWORKS)


def smallest_input(name: str) -> int:
    """Return the smallest height or width that a network can read, in pixels."""
    return _NETWORKS[name].min_size


def designed_norm_layer(name: str) -> str:
    """Return what ``--norm-layer auto`` stands for in a network."""
    return _NETWORKS[name].norm_layer


def create_network(name: str, shape: InputShape, settings: NetworkSettings) -> nn.Module:
    """Build a network with fresh weights, drawn from torch's global random state.

    Raises:
        UsageError: the images are too small for it.
    """
    factory, min_size, _ = _NETWORKS[name]
    if min(shape.height, shape.width) < min_size:
        raise UsageError(
            f"--model {name} reads images of {min_size}x{min_size} pixels or more, not"
            f" {shape.height}x{shape.width}.",
            "Choose another model, or pass a larger --image-size.",
        )
    return factory(shape, settings)
