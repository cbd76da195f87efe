"""A run's trained network, rebuilt from the files that the run has logged."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from imgclf.card import ModelCard
from imgclf.config import TrainConfig
from imgclf.errors import ImgclfError, UsageError
from imgclf.models import ImageClassifier, create_classifier
from imgclf.training.weights import load_weights


@dataclass(frozen=True)
class TrainedModel:
    """What a training run has selected.

    Attributes:
        config: of the run, resolved.
        card: classes, preprocessing, provenance.
        model: with the selected weights, on the CPU, in evaluation mode.
        sha256: of the file with the weights.
    """

    config: TrainConfig
    card: ModelCard
    model: ImageClassifier
    sha256: str


def load_trained_model(folder: Path) -> TrainedModel:
    """Rebuild a network from a run's ``model/`` folder.

    Raises:
        ImgclfError: a file is damaged, or was written by another version of imgclf.
    """
    config = read_config(folder / "config.json")
    card = ModelCard.from_json(_read_text(folder / "card.json"))
    model = create_classifier(config, card.preprocessing, len(card.classes), card.mean, card.std)
    weights = folder / "weights.safetensors"
    load_weights(model, weights)
    return TrainedModel(
        config, card, model.eval(), hashlib.sha256(weights.read_bytes()).hexdigest()
    )


def read_config(path: Path) -> TrainConfig:
    """Read a run's parameters, which `TrainConfig.to_json` wrote.

    Raises:
        ImgclfError: the file is damaged, or was written by another version of imgclf.
    """
    try:
        # Every value stands there: the recipe that they came from may be gone.
        return TrainConfig(**json.loads(_read_text(path)))
    except (UsageError, ValueError, TypeError, RecursionError) as error:
        reason = error.message if isinstance(error, UsageError) else str(error)
        raise ImgclfError(
            f"The run's parameters in '{path.name}' cannot be used: {reason}",
            "The file is damaged, or was written by another version of imgclf; train again.",
        ) from error


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ImgclfError(
            f"The run's file '{path.name}' cannot be read: {error}.",
            "It is damaged or was removed; train again.",
        ) from error
