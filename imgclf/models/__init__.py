"""Networks by name, and the classifier that wraps one with its normalisation."""

from imgclf.models import cnn  # noqa: F401 - importing it registers its networks
from imgclf.models.classifier import ImageClassifier, create_classifier
from imgclf.models.registry import InputShape, create_network, network_names, smallest_input

__all__ = [
    "ImageClassifier",
    "InputShape",
    "create_classifier",
    "create_network",
    "network_names",
    "smallest_input",
]
