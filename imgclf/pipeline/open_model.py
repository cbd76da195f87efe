"""A model that answers, wherever it is: in a file, in MLflow's registry, in a training run."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from imgclf.card import ModelCard
from imgclf.config import TrainConfig
from imgclf.data.dataset import SelectedImages
from imgclf.errors import UsageError
from imgclf.evaluation.inference import predict_logits
from imgclf.pipeline.trained import load_trained_model
from imgclf.predict import Predictor
from imgclf.progress import say
from imgclf.tracking import MODEL_SCHEMES
from imgclf.tracking.model_address import download_model_file
from imgclf.tracking.runs import download_model, find_run, has_export

_BATCH_SIZE = 256


@dataclass(frozen=True)
class OpenedModel:
    """A model that answers.

    Attributes:
        name: as it was given.
        card: its card.
        sha256: of the file that holds it.
        config: how its training dealt images out, as far as that is known.
        training_run: MLflow's id; empty where it is unknown.
        answer: uint8 [n, height, width, channels] -> logits, float32 [n, classes]; it reads a batch
            at a time.
    """

    name: str
    card: ModelCard
    sha256: str
    config: TrainConfig
    training_run: str
    answer: Callable[[NDArray[np.uint8] | SelectedImages], NDArray[np.float32]]


def open_model(model: str, run: str | None) -> OpenedModel:
    """Open a model.

    Args:
        model: a ``model.onnx``, ``models:/…`` or ``runs:/…``; empty where ``run`` is given.
        run: a training run's id; None where ``model`` is given.

    Raises:
        UsageError: neither is given, or both.
        ImgclfError: there is no such model, or it cannot be used.
    """
    if bool(model) == (run is not None):
        raise UsageError(
            "Say what to evaluate: either --model or --run.",
            "--model takes a model.onnx, models:/… or runs:/…; --run a training run's id.",
        )
    if run is not None:
        return _open_run(run)
    if not model.startswith(MODEL_SCHEMES):
        return _open_file(Path(model), model, TrainConfig())
    with download_model_file(model) as path:
        return _open_file(path, model, TrainConfig())


def _open_run(run_id: str) -> OpenedModel:
    run = find_run(run_id)
    with download_model(run) as folder:
        trained = load_trained_model(folder)
    if has_export(run):
        with download_model_file(f"runs:/{run.mlflow_run_id}") as path:
            return _open_file(path, f"run {run.run_id}", trained.config)
    say(f"run {run.run_id} has no exported model: its trained weights answer")
    device = torch.device("cpu")
    return OpenedModel(
        name=f"run {run.run_id}",
        card=trained.card,
        sha256=trained.sha256,
        config=trained.config,
        training_run=run.mlflow_run_id,
        answer=lambda images: predict_logits(trained.model, images, device),
    )


def _open_file(path: Path, name: str, config: TrainConfig) -> OpenedModel:
    predictor = Predictor(path)

    def answer(images: NDArray[np.uint8] | SelectedImages) -> NDArray[np.float32]:
        starts = range(0, len(images), _BATCH_SIZE)
        batches = [predictor.run(images[start : start + _BATCH_SIZE])[0] for start in starts]
        return np.concatenate(batches)

    return OpenedModel(
        name=name,
        card=predictor.card,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        config=config,
        training_run=predictor.card.provenance.get("mlflow_run_id", ""),
        answer=answer,
    )
