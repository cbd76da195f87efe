"""Who a run is, from its first moment."""

import os
import secrets
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from imgclf.errors import ImgclfError, UsageError

# Tags of every run that imgclf opens or adopts.
RUN_ID_TAG = "imgclf.run_id"
KIND_TAG = "imgclf.kind"
DATASET_TAG = "imgclf.dataset"
DATASET_DIGEST_TAG = "imgclf.dataset_digest"
SPLIT_DIGEST_TAG = "imgclf.split_digest"
MODEL_TAG = "imgclf.model"
EPOCHS_TAG = "imgclf.epochs"
TRAINING_RUN_TAG = "imgclf.training_run"
# Of the file that holds a model: model.onnx, or the weights.
SHA256_TAG = "imgclf.sha256"
KINDS = ("train", "export", "evaluate", "predict")


@dataclass(frozen=True)
class RunIdentity:
    """A run's own id, its kind, and where it belongs in MLflow.

    Attributes:
        run_id: imgclf's own id, such as ``20261121-090144-3f2a``: known before MLflow answers.
        kind: one of `KINDS`; only train runs compete for the best.
        name: the run's name in MLflow; empty leaves an adopted run's name.
        experiment: an experiment's name; empty for MLflow's environment variables or default.
        adopted: MLflow's id of a run that ``mlflow run`` has opened; empty where there is none.
        folder: the run's local folder.
    """

    run_id: str
    kind: str
    name: str
    experiment: str
    adopted: str
    folder: str

    def to_dict(self) -> dict[str, str]:
        """Return the identity as JSON-ready values."""
        return asdict(self)


def create_identity(runs_dir: Path, kind: str, name: str, experiment: str) -> RunIdentity:
    """Give a run its id and its local folder ``<runs_dir>/<id>/``."""
    assert kind in KINDS
    if adopted_run() and experiment:
        raise UsageError(
            f"--experiment '{experiment}': the runner has opened the run in an experiment already.",
            "Give it to the runner: mlflow run --experiment-name NAME.",
        )
    run_id = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    folder = (runs_dir / run_id).resolve()
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise ImgclfError(
            f"Cannot create the run's folder '{folder}': {error.strerror}.",
            "Give another place with --runs-dir.",
        ) from error
    return RunIdentity(run_id, kind, name, experiment, adopted_run(), str(folder))


def adopted_run() -> str:
    """Return MLflow's id of the run that the ``mlflow run`` runner opened for this process."""
    return os.environ.get("MLFLOW_RUN_ID", "")
