"""Names that a person can type, with one line of meaning each, and configurations by name.

No torch here: help, suggestions and checks of names are instant. The functions behind the names
live in `imgclf.data.sources` and `imgclf.models`; tests hold both lists against each other.
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any

from imgclf.errors import UsageError

DATASETS = {
    "digits": "1,797 real handwritten digits, 8x8 grey, from scikit-learn; needs no network",
    "mnist": "70,000 handwritten digits, 28x28 grey; downloaded once (12 MB)",
    "fashion_mnist": "70,000 pictures of clothes, 28x28 grey; downloaded once (31 MB)",
    "cifar10": "60,000 photographs of 10 kinds of things, 32x32 colour; downloaded once (170 MB)",
    "cifar100": "60,000 photographs of 100 kinds of things, 32x32 colour; downloaded once (169 MB)",
}

MODELS = {
    "digits-cnn": "three 3x3 convolutions and a dense layer, for the 8x8 digits",
    "small-cnn": "VGG-style blocks with batch normalisation, for any size, channels and classes",
    "mnist-cnn": "two 3x3 convolutions and a dense layer of 128, as published for MNIST",
    "fast-cnn": "a 5x5 and a 3x3 convolution and a dense layer of 256, for seconds on a CPU",
    "fashion-cnn": "three convolutions of 5x5, 4x4 and 3x3 and a dense layer of 512",
    "cifar10-cnn": "two 3x3 convolutions and a dense layer of 512, with dropout",
    "resnet20": "nine residual blocks of 16, 32 and 64 filters, for photographs",
    "speed-cnn-16": "whitened input, six 3x3 convolutions of 16 to 64 filters, for a CPU",
    "speed-cnn-32": "whitened input, six 3x3 convolutions of 32 to 128 filters, for a CPU",
    "speed-cnn-64": "whitened input, six 3x3 convolutions of 64 to 256 filters, for a GPU",
    "speed-resnet": "whitened input, nine 3x3 convolutions of 128 and 512 filters, for a GPU",
}

NORMALIZATIONS = {
    "dataset": "by mean and standard deviation of the training images, per channel",
    "half": "pixels from -1 to 1: mean 0.5, standard deviation 0.5",
    "unit": "pixels from 0 to 1",
}

LOSSES = {
    "cross-entropy": "the negative logarithm of the true class's probability",
    "focal": "cross-entropy that counts what is right already less (focus 2), for imbalance",
    "binary-cross-entropy": "one yes-or-no question for each class",
}

SCHEDULES = {
    "constant": "rises linearly, then stays",
    "linear": "rises linearly, then falls to zero linearly",
    "cosine": "rises linearly, then falls to zero along half a cosine",
    "one-cycle": "rises along half a cosine, then falls along another",
    "step": "rises linearly, then drops every so many epochs",
}

# Metrics that the best epoch can be best in; all but the loss are better when higher.
MONITORS = ("val/accuracy", "val/loss", "val/precision", "val/recall", "val/f1")


@dataclass(frozen=True)
class Recipe:
    """A whole configuration by name.

    Attributes:
        summary: one line.
        description: where it comes from, what it costs, and the accuracy to expect.
        values: parameters of `TrainConfig`; the others keep their defaults.
    """

    summary: str
    description: str
    values: Mapping[str, Any]


def _recipe(summary: str, description: str, **values: Any) -> Recipe:
    return Recipe(summary, description, MappingProxyType(values))


# What the published notebooks leave at their frameworks' defaults: no schedule, no decay, and fp32
# (on a GPU, too).
_PLAIN = {
    "schedule": "constant",
    "warmup_ratio": 0.0,
    "weight_decay": 0.0,
    "epochs": 10,
    "precision": "fp32",
}

# How the whitened networks are trained: many parameters are said once.
_SPEED = {
    "optimizer": "muon",
    "learning_rate": 0.02,
    "weight_decay": 0.01,
    "batch_size": 256,
    "label_smoothing": 0.1,
    "horizontal_flip": True,
    "crop_padding": 2,
    "dropout": 0.0,
}

# For GPUs: larger steps, whose momentum is short; and between the two.
_LARGE_BATCHES = {"learning_rate": 0.04, "momentum": 0.6, "batch_size": 1000}
_MIDDLE_BATCHES = {"learning_rate": 0.03, "momentum": 0.8, "batch_size": 500}

RECIPES = {
    "mnist-cnn": _recipe(
        "MNIST as in the published notebook: Adam, 10 epochs",
        "Two convolutions and two dense layers, pixels from -1 to 1, Adam at 0.001, batches of 64, "
        "10 epochs. The notebook's printed flatten size (64*12*12) disagrees with its own pooling; "
        "here it is computed (64*6*6). Published claim: 98% on the test split; here 99.01% (3 "
        "seeds). Cost: about 3 minutes on two CPU cores.",
        dataset="mnist",
        model="mnist-cnn",
        normalization="half",
        optimizer="adam",
        learning_rate=0.001,
        batch_size=64,
        dropout=0.0,
        **_PLAIN,
    ),
    "fashion-cnn": _recipe(
        "Fashion-MNIST as in the published notebook: SGD with momentum, 10 epochs",
        "Three convolutions (20, 46, 70 filters) and two dense layers, pixels from 0 to 1, SGD "
        "with momentum and weight decay, batches of 36, a quarter of the training images for "
        "validation, 10 epochs. Published claim: 90% on the test split; here 90.63% (3 seeds). "
        "Cost: about 7 minutes on two CPU cores.",
        dataset="fashion_mnist",
        model="fashion-cnn",
        normalization="unit",
        optimizer="sgd",
        nesterov=False,
        learning_rate=0.01,
        batch_size=36,
        dropout=0.0,
        val_fraction=0.25,
        **{**_PLAIN, "weight_decay": 0.0005},
    ),
    "cifar10-cnn": _recipe(
        "CIFAR-10 as in the published notebook: Adam, dropout, 10 epochs",
        "Two convolutions and a dense layer of 512 with dropout 0.25, pixels from -1 to 1, Adam at "
        "0.001, batches of 64, 10 epochs. Published claim: 70% on the test split; here 72.77% on a "
        "JPEG copy (3 seeds). Cost: about 5 minutes on two CPU cores.",
        dataset="cifar10",
        model="cifar10-cnn",
        normalization="half",
        optimizer="adam",
        learning_rate=0.001,
        batch_size=64,
        dropout=0.25,
        **_PLAIN,
    ),
    "mnist-fast": _recipe(
        "MNIST in one epoch: 99% in seconds on a CPU",
        "A small network, one epoch of Adam on all 60,000 training images with a one-cycle "
        "learning rate and label smoothing; no validation, nothing selected. On the test split "
        "99.24% (5 seeds). Cost: about seven seconds on two CPU cores.",
        dataset="mnist",
        model="fast-cnn",
        val_fraction=0.0,
        epochs=1,
        batch_size=128,
        optimizer="adam",
        learning_rate=0.008,
        adam_beta1=0.7,
        adam_beta2=0.9,
        weight_decay=0.0,
        warmup_ratio=0.15,
        label_smoothing=0.1,
        dropout=0.0,
    ),
    "mnist-best": _recipe(
        "MNIST as well as minutes on a CPU allow",
        "A whitened network, ten epochs of Muon on all 60,000 training images with random crops, "
        "rotations by up to 10 degrees and label smoothing; no validation, nothing selected. On "
        "the test split 99.70% (5 seeds). Cost: about six minutes on two CPU cores.",
        dataset="mnist",
        model="speed-cnn-32",
        val_fraction=0.0,
        epochs=10,
        rotation=10.0,
        **{**_SPEED, "horizontal_flip": False},
    ),
    "mnist-best-gpu": _recipe(
        "MNIST as well as minutes on a GPU allow",
        "What mnist-best does, with twice the filters, three times the epochs, crops and rotations "
        "that reach further, larger batches and averaged weights; no validation, nothing selected. "
        "On the test split 99.72% (2 seeds). Cost: about a minute on an H200.",
        dataset="mnist",
        model="speed-cnn-64",
        val_fraction=0.0,
        epochs=30,
        rotation=15.0,
        ema=True,
        **{**_SPEED, **_MIDDLE_BATCHES, "horizontal_flip": False, "crop_padding": 4},
    ),
    "fashion-fast": _recipe(
        "Fashion-MNIST in five epochs: minutes on a CPU",
        "A small whitened network, five epochs of Muon with random crops, mirror images and label "
        "smoothing. On the test split 92.69% (5 seeds). Cost: a bit more than a minute on two CPU "
        "cores.",
        dataset="fashion_mnist",
        model="speed-cnn-16",
        epochs=5,
        **_SPEED,
    ),
    "fashion-best": _recipe(
        "Fashion-MNIST as well as minutes on a CPU allow",
        "A whitened network, 16 epochs of Muon with random crops, mirror images, squares cut out "
        "and label smoothing. On the test split 94.39% (5 seeds). Cost: about nine minutes on two "
        "CPU cores.",
        dataset="fashion_mnist",
        model="speed-cnn-32",
        epochs=16,
        cutout=8,
        **_SPEED,
    ),
    "fashion-best-gpu": _recipe(
        "Fashion-MNIST as well as minutes on a GPU allow",
        "A whitened residual network, 24 epochs of Muon on all 60,000 training images with random "
        "crops, mirror images, squares cut out, label smoothing and averaged weights; no "
        "validation, nothing selected. Zhong et al., arXiv:1708.04896, report 96.3% for a larger "
        "network; accuracy (95.5% is wanted) and cost here: not measured.",
        dataset="fashion_mnist",
        model="speed-resnet",
        val_fraction=0.0,
        epochs=24,
        cutout=10,
        ema=True,
        **{**_SPEED, **_MIDDLE_BATCHES},
    ),
    "cifar10-cpu": _recipe(
        "CIFAR-10 in ten minutes on a CPU",
        "A whitened network, nine epochs of Muon on all 50,000 training images with random crops, "
        "mirror images, label smoothing and averaged weights; no validation, nothing selected. On "
        "the test split of a JPEG copy 87.06% (5 seeds). Cost: eight to nine minutes on two CPU "
        "cores.",
        dataset="cifar10",
        model="speed-cnn-32",
        val_fraction=0.0,
        epochs=9,
        ema=True,
        **_SPEED,
    ),
    "cifar10-fast": _recipe(
        "CIFAR-10 in seconds on a GPU",
        "A whitened network as published (Jordan, arXiv:2404.00498: 94% with test-time "
        "augmentation), eight epochs of Muon in batches of 1,000 on all 50,000 training images "
        "with random crops, mirror images, label smoothing and averaged weights; no validation, "
        "nothing selected. On the test split of a JPEG copy 88.96% (3 seeds); on the canonical "
        "files not measured. Cost: eight seconds on an H200.",
        dataset="cifar10",
        model="speed-cnn-64",
        val_fraction=0.0,
        epochs=8,
        ema=True,
        **{**_SPEED, **_LARGE_BATCHES, "label_smoothing": 0.2},
    ),
    "cifar10-best": _recipe(
        "CIFAR-10 as well as a minute on a GPU allows",
        "A whitened residual network much as published (Jordan, arXiv:2404.00498: 96% with "
        "test-time augmentation after 37 epochs of SGD), 37 epochs of Muon in batches of 1,000 on "
        "all 50,000 training images with random crops, mirror images, squares cut out, label "
        "smoothing and averaged weights; no validation, nothing selected. On the test split of a "
        "JPEG copy 91.52% (1 seed); on the canonical files not measured. Cost: 41 seconds on an "
        "H200.",
        dataset="cifar10",
        model="speed-resnet",
        val_fraction=0.0,
        epochs=37,
        cutout=12,
        ema=True,
        **{**_SPEED, **_LARGE_BATCHES, "label_smoothing": 0.2, "crop_padding": 4},
    ),
}


def nearest(name: str, names: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the closest of ``names``, or nothing where none is close."""
    spellings = {name.lower().replace("_", "-"): name for name in names}
    matches = get_close_matches(name.lower().replace("_", "-"), list(spellings), n=1, cutoff=0.5)
    return f" Did you mean '{spellings[matches[0]]}'?" if matches else ""


def check_recipe_file(path: Path) -> None:
    """Raise `UsageError` where a file's name does not say that it is YAML."""
    if not _is_yaml(path):
        raise UsageError(f"A recipe's file ends in .yaml, not like '{path}'.")


def _is_yaml(path: Path) -> bool:
    return path.suffix.lower() in (".yaml", ".yml")


# What PyYAML's safe loader raises beside its own errors: for an impossible date, a number of 5,000
# digits, a tag that its text does not fit, brackets in brackets.
_FAULTY_YAML = (ValueError, LookupError, AttributeError, OverflowError, RecursionError)


def recipe_values(recipe: str) -> dict[str, Any]:
    """Return the parameters that a recipe sets.

    Args:
        recipe: a name of `RECIPES`, or the path of a YAML file with parameters.

    Raises:
        UsageError: neither a known name nor a readable file of parameters.
    """
    if recipe in RECIPES:
        return dict(RECIPES[recipe].values)
    path = Path(os.path.expanduser(recipe))
    if not _is_yaml(path):
        raise UsageError(
            f"--recipe '{recipe}' is unknown.{nearest(recipe, RECIPES)}",
            f"Give a YAML file, or one of: {', '.join(RECIPES)}.",
        )
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, *_FAULTY_YAML) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UsageError(f"Cannot read the recipe '{recipe}': {reason}") from error
    # A list may stand for a billion others: it must not even be shown.
    if (
        not isinstance(values, dict)
        or "recipe" in values
        or not all(isinstance(value, str | int | float) for value in values.values())
    ):
        raise UsageError(
            f"The recipe '{recipe}' is no list of parameters with one value each.",
            "'imgclf train --save-recipe FILE' writes one; a recipe cannot name another recipe.",
        )
    return {name: _number(value) for name, value in values.items()}


def _number(value: Any) -> Any:
    """Return the number that a person meant by 1e-3, which YAML takes for text."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        return float(value)
    return value
