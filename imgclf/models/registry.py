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


NetworkFactory = Callable[[InputShape, int, float], nn.Module]
_NETWORKS: dict[str, tuple[NetworkFactory, int]] = {}


def register(min_size: int) -> Callable[[NetworkFactory], NetworkFactory]:
    """Make a network known by its function's name, with hyphens for underscores.

    The function takes the input's shape, the number of classes and the dropout rate, and returns a
    module from normalised float [batch, channels, height, width] to logits [batch, classes].

    Args:
        min_size: the smallest height or width that it can read, in pixels.
    """

    def add(factory: NetworkFactory) -> NetworkFactory:
        _NETWORKS[factory.__name__.replace("_", "-")] = (factory, min_size)
        return factory

    return add


def network_names() -> tuple[str, ...]:
    """Return the names of the registered networks."""
    return tuple(_NETWORKS)


def smallest_input(name: str) -> int:
    """Return the smallest height or width that a network can read, in pixels."""
    return _NETWORKS[name][1]


def create_network(name: str, shape: InputShape, num_classes: int, dropout: float) -> nn.Module:
    """Build a network with fresh weights, drawn from torch's global random state.

    Raises:
        UsageError: the images are too small for it.
    """
    factory, min_size = _NETWORKS[name]
    if min(shape.height, shape.width) < min_size:
        raise UsageError(
            f"--model {name} reads images of {min_size}x{min_size} pixels or more, not"
            f" {shape.height}x{shape.width}.",
            "Choose another model, or pass a larger --image-size.",
        )
    return factory(shape, num_classes, dropout)
