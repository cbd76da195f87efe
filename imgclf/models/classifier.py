"""From stored pixels to logits: normalisation belongs to the model."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from imgclf.card import Preprocessing
from imgclf.config import TrainConfig
from imgclf.models.registry import InputShape, NetworkSettings, create_network
from imgclf.models.whitening import WhiteningConvolution


class ImageClassifier(nn.Module):
    """A network behind its normalisation; the one module that is trained, tested and exported.

    Args:
        network: from normalised float [batch, channels, height, width] to logits.
        mean, std: per channel, in pixel values 0 to 255.
    """

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Classify pixels.

        Args:
            images: uint8 or float, [batch, height, width, channels], 0 to 255.

        Returns:
            logits [batch, classes].
        """
        return self.network(self._normalise(images))

    @property
    def whitens(self) -> bool:
        """Whether the network has a whitening convolution."""
        return any(isinstance(layer, WhiteningConvolution) for layer in self.network.modules())

    def fit_whitening(self, images: Tensor) -> None:
        """Compute the filters of whitening convolutions, where the network has any.

        Args:
            images: of the training split, uint8 [n, height, width, channels].
        """
        for layer in self.network.modules():
            if isinstance(layer, WhiteningConvolution):
                layer.fit(self._normalise(images))

    def _normalise(self, images: Tensor) -> Tensor:
        # The permuted view of NHWC pixels is a channels_last tensor: no copy is made.
        pixels = images.permute(0, 3, 1, 2).float()
        return (pixels - self.mean) / self.std


def num_parameters(network: nn.Module) -> int:
    """Return the number of weights."""
    return sum(weight.numel() for weight in network.parameters())


def create_classifier(
    config: TrainConfig,
    size: Preprocessing,
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> ImageClassifier:
    """Build a configuration's network behind its normalisation.

    Args:
        config: resolved; gives ``model``, ``dropout`` and ``norm_layer``.
        size: the input.
        num_classes: outputs.
        mean, std: as `ImageClassifier` takes them.

    Raises:
        UsageError: the images are too small for the network.
    """
    shape = InputShape(size.channels, size.height, size.width)
    settings = NetworkSettings(num_classes, config.dropout, config.norm_layer)
    return ImageClassifier(create_network(config.model, shape, settings), mean, std)
