"""Runs as they stand in MLflow: listing them, and the rule by which one is best."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import Run

from imgclf.errors import ImgclfError
from imgclf.recipes import nearest
from imgclf.tracking.connection import (
    connect,
    find_experiment,
    has_store,
    readable_errors,
    tracking_uri,
)
from imgclf.tracking.identity import (
    DATASET_DIGEST_TAG,
    DATASET_TAG,
    EPOCHS_TAG,
    KIND_TAG,
    MODEL_TAG,
    RUN_ID_TAG,
    SPLIT_DIGEST_TAG,
)

_MODEL_FOLDER = "model"
EXPORT_FOLDER = "export"
EXPORTED_MODEL = f"{EXPORT_FOLDER}/model.onnx"


@dataclass(frozen=True)
class TrainRun:
    """A training run, as MLflow holds it.

    Attributes:
        run_id: imgclf's own id.
        mlflow_run_id: MLflow's.
        name, dataset, model, status: as in the MLflow UI.
        dataset_digest, split_digest: what it was trained and selected on.
        epochs: complete ones, so far where it has not finished.
        val_accuracy: of the selected weights; None without a validation split.
        test_accuracy: of the same weights; None before the end.
        seconds: how long it ran; None while it runs.
        start_time_ms: milliseconds since 1970.
    """

    run_id: str
    mlflow_run_id: str
    name: str
    dataset: str
    model: str
    status: str
    dataset_digest: str
    split_digest: str
    epochs: int
    best_epoch: int
    val_accuracy: float | None
    test_accuracy: float | None
    seconds: float | None
    start_time_ms: int


def list_runs(experiment: str = "") -> list[TrainRun]:
    """Return the experiment's training runs, best first: finished, then by validation accuracy.

    Raises:
        ImgclfError: the store cannot be read.
    """
    with readable_errors():
        # To look must not make a database.
        if not has_store():
            if experiment:
                raise _nothing_recorded(f"There is no experiment '{experiment}'")
            return []
        client = connect()
        experiment_id = find_experiment(client, experiment)
        if experiment_id is None and experiment:
            names = [found.name for found in client.search_experiments(max_results=1000)]
            raise ImgclfError(
                f"There is no experiment '{experiment}'.{nearest(experiment, names)}",
                f"There are: {', '.join(names[:10])}{' …' if len(names) > 10 else ''}.",
            )
        if experiment_id is None:
            return []
        runs = [
            _from_mlflow(client, run)
            for run in _search(client, experiment_id, f"`{KIND_TAG}` = 'train'")
        ]
    return sorted(runs, key=_rank)


def best_run(experiment: str = "", dataset: str = "", digest: str = "") -> TrainRun:
    """Return the best run: highest validation accuracy among finished runs that can be compared.

    Runs can be compared where the data set's digest and the split's digest are the same.

    Args:
        experiment: as `list_runs` takes it.
        dataset: only runs on the data set with this name; empty for all.
        digest: only runs on data with this digest; empty for all.

    Raises:
        ImgclfError: there is none, or there are several that cannot be compared.
    """
    every = list_runs(experiment)
    candidates = [run for run in every if run.status == "FINISHED" and run.val_accuracy is not None]
    if dataset:
        candidates = [run for run in candidates if run.dataset == dataset]
    if digest:
        candidates = [run for run in candidates if run.dataset_digest == digest]
    if not candidates:
        raise ImgclfError(_why_none(every, dataset, digest), "Train one: imgclf train")
    groups: dict[tuple[str, str], TrainRun] = {}
    for run in candidates:
        groups.setdefault((run.dataset_digest, run.split_digest), run)
    if len(groups) > 1:
        raise ImgclfError(
            "The experiment holds runs on different data or splits, whose accuracies cannot be"
            " compared. The best of each:\n"
            + "\n".join(
                f"  {run.dataset:<20} data {run.dataset_digest[:8]}  split {run.split_digest[:8]}"
                f"  val {run.val_accuracy:.2%}  --run {run.run_id}"
                for run in groups.values()
            ),
            "Choose one with --run" + ("." if dataset else ", or a data set with --dataset."),
        )
    return candidates[0]


def _nothing_recorded(what: str) -> ImgclfError:
    return ImgclfError(
        f"{what}: nothing is recorded at {tracking_uri()} yet.",
        "Set MLFLOW_TRACKING_URI to the store that it was recorded in.",
    )


def find_run(run_id: str) -> TrainRun:
    """Return a training run by its own id or by MLflow's, from whichever experiment.

    Raises:
        ImgclfError: there is none, or it is no training run.
    """
    with readable_errors():
        if not has_store():
            raise _nothing_recorded(f"There is no run '{run_id}'")
        client = connect()
        experiment_ids = [
            found.experiment_id for found in client.search_experiments(max_results=1000)
        ]
        condition = "tags.`{}` = '{}'" if "-" in run_id else "attributes.run_id = '{1}'"
        query = condition.format(RUN_ID_TAG, run_id.replace("'", ""))
        found = client.search_runs(experiment_ids, query)
        if not found:
            raise ImgclfError(f"There is no run '{run_id}'.", "'imgclf runs' lists them.")
        if found[0].data.tags.get(KIND_TAG) != "train":
            raise ImgclfError(
                f"Run '{run_id}' is not a training run of imgclf.", "'imgclf runs' lists those."
            )
        return _from_mlflow(client, found[0])


@contextmanager
def download_model(run: TrainRun) -> Iterator[Path]:
    """Fetch a run's model folder (weights, card, configuration) for the length of a block.

    Raises:
        ImgclfError: the run has none, or it cannot be fetched.
    """
    with tempfile.TemporaryDirectory(prefix="imgclf-") as folder, readable_errors():
        client = connect()
        if not client.list_artifacts(run.mlflow_run_id, _MODEL_FOLDER):
            raise ImgclfError(
                f"Run '{run.run_id}' ({run.status}) has no trained model.",
                "Choose a finished run: 'imgclf runs' lists them.",
            )
        download_artifacts(run_id=run.mlflow_run_id, artifact_path=_MODEL_FOLDER, dst_path=folder)
        yield Path(folder) / _MODEL_FOLDER


def has_export(run: TrainRun) -> bool:
    """Tell whether a run holds an exported model."""
    with readable_errors():
        found = connect().list_artifacts(run.mlflow_run_id, EXPORT_FOLDER)
    return any(item.path == EXPORTED_MODEL for item in found)


def _search(client: MlflowClient, experiment_id: str, condition: str) -> Sequence[Run]:
    runs: list[Run] = []
    token = None
    while True:
        page = client.search_runs([experiment_id], f"tags.{condition}", page_token=token)
        runs += page
        token = page.token
        if not token:
            return runs


def _from_mlflow(client: MlflowClient, run: Run) -> TrainRun:
    tags, metrics, info = run.data.tags, run.data.metrics, run.info
    seconds = (info.end_time - info.start_time) / 1000 if info.end_time else None
    return TrainRun(
        run_id=tags.get(RUN_ID_TAG, ""),
        mlflow_run_id=info.run_id,
        name=info.run_name or "",
        dataset=tags.get(DATASET_TAG, ""),
        model=tags.get(MODEL_TAG, ""),
        status=info.status,
        dataset_digest=tags.get(DATASET_DIGEST_TAG, ""),
        split_digest=tags.get(SPLIT_DIGEST_TAG, ""),
        epochs=int(tags[EPOCHS_TAG]) if EPOCHS_TAG in tags else _epochs_so_far(client, run),
        best_epoch=int(metrics.get("best/epoch", 0)),
        val_accuracy=metrics.get("best/val_accuracy"),
        test_accuracy=metrics.get("test/accuracy"),
        seconds=seconds,
        start_time_ms=info.start_time,
    )


def _epochs_so_far(client: MlflowClient, run: Run) -> int:
    """Return the epochs of a run that did not come to its end: the last step of the loss."""
    if "train/loss" not in run.data.metrics:
        return 0
    history = client.get_metric_history(run.info.run_id, "train/loss")
    return max(point.step for point in history)


def _rank(run: TrainRun) -> tuple[Any, ...]:
    accuracy = -1.0 if run.val_accuracy is None else run.val_accuracy
    # Of equally good runs, the earlier one stays first: a later run must be better to win.
    return run.status != "FINISHED", -accuracy, run.start_time_ms


def _why_none(runs: Sequence[TrainRun], dataset: str, digest: str) -> str:
    if not runs:
        return "There is no training run in this experiment."
    if dataset and all(run.dataset != dataset for run in runs):
        names = ", ".join(sorted({run.dataset for run in runs}))
        return f"There is no training run on '{dataset}' in this experiment; there are: {names}."
    return (
        "No training run in this experiment"
        + (" on this data" if digest else "")
        + " has finished with a validation accuracy."
    )
