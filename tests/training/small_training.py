"""Small training runs that the tests of the loop share: real digits, small networks."""

import math
from collections.abc import Container
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor, nn

from imgclf.config import TrainConfig
from imgclf.data.augment import Augmentation
from imgclf.data.loader import TrainLoader
from imgclf.models import ImageClassifier, InputShape, NetworkSettings, create_network
from imgclf.training.device import Compute
from imgclf.training.loop import EpochEnd, Snapshot

CPU = torch.device("cpu")
FP32 = Compute(CPU, torch.float32, 1, "cpu")
Event = Snapshot | EpochEnd


def some_digits(number: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    bunch: Any = load_digits()
    images = np.round(bunch.images[:number] * (255 / 16)).astype(np.uint8)
    return images[..., None], bunch.target[:number].astype(np.int64)


def loader_of(
    config: TrainConfig, number: int, device: torch.device = CPU, resident: bool | None = None
) -> TrainLoader:
    augmentation = Augmentation.from_config(config, 8, 8)
    images, labels = some_digits(number)
    return TrainLoader(
        images, np.arange(number), labels, 10, augmentation, config, device, resident
    )


def digits_cnn(config: TrainConfig) -> nn.Module:
    torch.manual_seed(config.seed)
    settings = NetworkSettings(10, config.dropout, "batch")
    network = create_network("digits-cnn", InputShape(1, 8, 8), settings)
    return ImageClassifier(network, [78.0], [96.0])


class DoubleNetwork(nn.Module):
    """A small network with batch normalisation, in float64: differences are not rounding."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.layers = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 4, 3, stride=2),
            nn.Flatten(),
            nn.Linear(36, 10),
        ).double()

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images.permute(0, 3, 1, 2).double() / 255)


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same_weights(one: nn.Module, other: nn.Module) -> None:
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


class Frozen(nn.Module):
    """Answers from fixed weights, in float64, and counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layer = nn.Linear(64, 10).double()
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return self.layer(images.flatten(1).double() / 255)


class WithBadSteps(nn.Module):
    """Its logits are not finite in some of its calls, which count from 0.

    With ``in_front``, its network itself is given what is not finite.
    """

    def __init__(self, network: nn.Module, bad: Container[int], in_front: bool = False) -> None:
        super().__init__()
        self.network, self.bad, self.in_front, self.calls = network, bad, in_front, 0

    def forward(self, images: Tensor) -> Tensor:
        factor = math.inf if self.calls in self.bad else 1.0
        self.calls += 1
        if self.in_front:
            return self.network(images * factor)
        return self.network(images) * factor
