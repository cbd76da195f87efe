"""Networks by name, and the classifier that wraps one with its normalisation."""

from imgclf.models import cnn, resnet, speed  # noqa: F401 - importing registers the networks
from imgclf.models.classifier import ImageClassifier, create_classifier, num_parameters
from imgclf.models.registry import (
    InputShape,
    NetworkSettings,
    create_network,
    designed_norm_layer,
    network_names,
    smallest_input,
)

__all__ = [
    "ImageClassifier",
    "InputShape",
    "NetworkSettings",
    "create_classifier",
    "create_network",
    "designed_norm_layer",
    "network_names",
    "num_parameters",
    "smallest_input",
]
