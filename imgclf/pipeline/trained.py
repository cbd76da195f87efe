"""A run's trained network, rebuilt from the files that the run has logged."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from imgclf.card import ModelCard
from imgclf.config import TrainConfig
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
    # Every value stands there: the recipe that they came from may be gone.
    config = TrainConfig(**json.loads((folder / "config.json").read_text(encoding="utf-8")))
    card = ModelCard.from_json((folder / "card.json").read_text(encoding="utf-8"))
    model = create_classifier(config, card.preprocessing, len(card.classes), card.mean, card.std)
    weights = folder / "weights.safetensors"
    load_weights(model, weights)
    return TrainedModel(
        config, card, model.eval(), hashlib.sha256(weights.read_bytes()).hexdigest()
    )
