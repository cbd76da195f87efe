"""Proved models in MLflow: the ONNX flavour, registered versions and the alias ``champion``."""

import contextlib
import hashlib
import io
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import onnx
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema, TensorSpec
from numpy.typing import NDArray

from imgclf.card import ModelCard
from imgclf.model_file import INPUT, OUTPUTS
from imgclf.tracking.connection import (
    connect,
    is_absent,
    lock_name,
    readable_errors,
    tracking_uri,
)
from imgclf.tracking.exclusive import exclusive
from imgclf.tracking.identity import (
    ARTIFACT_SHA256_TAG,
    DATASET_DIGEST_TAG,
    RUN_ID_TAG,
    SHA256_TAG,
    SPLIT_DIGEST_TAG,
)
from imgclf.tracking.logged_models import find_logged_model
from imgclf.tracking.runs import EXPORT_FOLDER, TrainRun

CHAMPION = "champion"
_ONNX_MODEL_NAME = "onnx"
_VAL_ACCURACY_TAG = "imgclf.val_accuracy"


@dataclass(frozen=True)
class Registration:
    """A registered model version.

    Attributes:
        name, version: of the registered model.
        is_champion: whether the alias points at it.
        reason: why, in words.
    """

    name: str
    version: str
    is_champion: bool
    reason: str


def register_export(
    run: TrainRun, model_file: Path, card: ModelCard, example: NDArray[np.uint8]
) -> Registration:
    """Log a proved model file to its training run, register it, and move the alias by the rule.

    Exports of one user on one machine do so one after the other: none moves the alias by what
    another is changing, and none takes a model that another is logging for the rest of a failure.

    Args:
        run: the training run that the model comes from.
        model_file: the ONNX file.
        card: its card.
        example: uint8 [2, height, width, channels], an input example.

    Raises:
        ImgclfError: the store cannot be reached or refuses, or another export does not end.
    """
    name = registered_name(run.dataset)
    with readable_errors(), exclusive(f"{lock_name(tracking_uri())}, model {name}"):
        client = connect()
        sha256 = hashlib.sha256(model_file.read_bytes()).hexdigest()
        registered = _find_version(client, name, run, sha256)
        if registered is None:
            registered = _log(run, model_file, card, example, name, sha256)
        is_champion, reason = _update_champion(client, registered, run)
    return Registration(name, str(registered.version), is_champion, reason)


def log_export_files(run: TrainRun, folder: Path) -> None:
    """Add the files of an export, without its folders, to its training run, under ``export/``.

    The SHA-256 of each model file becomes a tag of the run, by which a fetched one is known.
    """
    with readable_errors():
        client = connect()
        for path in sorted(folder.iterdir()):
            if path.suffix == ".onnx":
                sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
                tag = f"{ARTIFACT_SHA256_TAG}{EXPORT_FOLDER}/{path.name}"
                client.set_tag(run.mlflow_run_id, tag, sha256)
            if path.is_file():
                client.log_artifact(run.mlflow_run_id, str(path), EXPORT_FOLDER)


def log_export_metrics(run: TrainRun, values: Mapping[str, float]) -> None:
    """Add figures of an export's proof to its training run."""
    with readable_errors():
        now_ms = time.time_ns() // 1_000_000
        metrics = [Metric(name, value, now_ms, 0) for name, value in values.items()]
        connect().log_batch(run.mlflow_run_id, metrics=metrics)


def registered_name(dataset: str) -> str:
    """Return the registered model's name for a data set; MLflow forbids some characters.

    A backslash would part folders on Windows.
    """
    return "imgclf-" + re.sub(r"[/:.%\"'\\]", "-", dataset)


def onnx_signature(card: ModelCard) -> ModelSignature:
    """Return what an exported model takes and answers, in MLflow's terms."""
    size, classes = card.preprocessing, len(card.classes)
    image = TensorSpec(np.dtype(np.uint8), (-1, size.height, size.width, size.channels), INPUT)
    answers: list[ColSpec | TensorSpec] = [
        TensorSpec(np.dtype(np.float32), (-1, classes), output) for output in OUTPUTS
    ]
    return ModelSignature(Schema([image]), Schema(answers))


def tag_runner_run(mlflow_run_id: str, tags: Mapping[str, str]) -> None:
    """Tag the run that the ``mlflow run`` runner opened for a step other than training."""
    with readable_errors():
        client = connect()
        for name, value in tags.items():
            client.set_tag(mlflow_run_id, name, value)


def _find_version(
    client: MlflowClient, name: str, run: TrainRun, sha256: str
) -> ModelVersion | None:
    """Find the version that an earlier export of the same file has registered."""
    for found in client.search_model_versions(f"name = '{name}'"):
        if found.run_id == run.mlflow_run_id and found.tags.get(SHA256_TAG) == sha256:
            return found
    return None


def _log(
    run: TrainRun,
    model_file: Path,
    card: ModelCard,
    example: NDArray[np.uint8],
    name: str,
    sha256: str,
) -> ModelVersion:
    tags = {
        RUN_ID_TAG: run.run_id,
        DATASET_DIGEST_TAG: run.dataset_digest,
        SPLIT_DIGEST_TAG: run.split_digest,
        SHA256_TAG: sha256,
    }
    if run.val_accuracy is not None:
        tags[_VAL_ACCURACY_TAG] = repr(run.val_accuracy)
    options: dict[str, Any] = {"run_id": run.mlflow_run_id}
    client = connect()
    # An export that was interrupted may have logged it.
    found = find_logged_model(client, run, _ONNX_MODEL_NAME, sha256)
    # MLflow announces on standard error what this function returns.
    with contextlib.redirect_stderr(io.StringIO()):
        logged = found or mlflow.onnx.log_model(
            onnx.load_from_string(model_file.read_bytes()),
            name=_ONNX_MODEL_NAME,
            signature=onnx_signature(card),
            input_example=example,
            pip_requirements=[
                f"{package}=={version(package)}"
                for package in ("mlflow", "numpy", "onnx", "onnxruntime")
            ],
            save_as_external_data=False,
            onnx_execution_providers=["CPUExecutionProvider"],
            step=run.best_epoch,
            tags=tags,
            **options,
        )
        registered = mlflow.register_model(f"models:/{logged.model_id}", name, tags=tags)
    return client.get_model_version(name, str(registered.version))


def _update_champion(
    client: MlflowClient, candidate: ModelVersion, run: TrainRun
) -> tuple[bool, str]:
    """Move the alias where the candidate's run beats the champion's on the same data and split."""
    name, number = candidate.name, str(candidate.version)
    try:
        champion = client.get_model_version_by_alias(name, CHAMPION)
    except MlflowException as error:
        if not is_absent(error):
            raise
        champion = None
    if champion is not None and str(champion.version) == number:
        return True, "it was already"
    if run.val_accuracy is None:
        return False, "its run had no validation split"
    if champion is None:
        client.set_registered_model_alias(name, CHAMPION, number)
        return True, "the first version"
    same = all(
        champion.tags.get(tag) == candidate.tags.get(tag)
        for tag in (DATASET_DIGEST_TAG, SPLIT_DIGEST_TAG)
    )
    if not same:
        return False, f"version {champion.version} was trained on other data or another split"
    if _VAL_ACCURACY_TAG not in champion.tags:
        return False, f"version {champion.version}, made champion by hand, has no such figure"
    best = float(champion.tags[_VAL_ACCURACY_TAG])
    if run.val_accuracy <= best:
        return False, f"version {champion.version} has validation accuracy {best:.2%}"
    client.set_registered_model_alias(name, CHAMPION, number)
    return True, f"better than version {champion.version} ({best:.2%})"
