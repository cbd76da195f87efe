"""Who a run is, from its first moment."""

import os
import secrets
import shlex
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from imgclf.errors import ImgclfError, UsageError
from imgclf.recipes import nearest
from imgclf.tracking.journal import JOURNAL_FILE, read_records, run_folders
from imgclf.tracking.sent import read_sent

# Tags of every run that imgclf opens or adopts.
RUN_ID_TAG = "imgclf.run_id"
KIND_TAG = "imgclf.kind"
DATASET_TAG = "imgclf.dataset"
DATASET_DIGEST_TAG = "imgclf.dataset_digest"
SPLIT_DIGEST_TAG = "imgclf.split_digest"
MODEL_TAG = "imgclf.model"
EPOCHS_TAG = "imgclf.epochs"
# Why a run did not finish.
ERROR_TAG = "imgclf.error"
TRAINING_RUN_TAG = "imgclf.training_run"
# Of the file that holds a model: model.onnx, or the weights.
SHA256_TAG = "imgclf.sha256"
# Of each model file of an export, on its training run: the artifact's path follows.
ARTIFACT_SHA256_TAG = SHA256_TAG + "/"
KINDS = ("train", "export", "evaluate", "predict")


@dataclass(frozen=True)
class RunIdentity:
    """A run's own id, its kind, and where it belongs in MLflow.

    Attributes:
        run_id: imgclf's own id, such as ``20261121-090144-3f2a``: known before MLflow answers.
        kind: one of `KINDS`; only train runs compete for the best.
        name: the run's name in MLflow; empty leaves an adopted run's name.
        tracking_uri: of the store, as it is right in every folder.
        experiment: an experiment's name; empty for MLflow's default.
        experiment_id: instead of a name, where the shell gives one.
        adopted: MLflow's id of a run that ``mlflow run`` has opened; empty where there is none.
        folder: the run's local folder.
    """

    run_id: str
    kind: str
    name: str
    tracking_uri: str
    experiment: str
    experiment_id: str
    adopted: str
    folder: str

    def to_dict(self) -> dict[str, str]:
        """Return the identity as JSON-ready values."""
        return asdict(self)


def create_identity(runs_dir: Path, kind: str, name: str, experiment: str) -> RunIdentity:
    """Give a run its id and its local folder ``<runs_dir>/<id>/``.

    What MLflow's environment variables say of its place is kept: a later shell may say otherwise.

    Args:
        runs_dir: receives the folder.
        kind: one of `KINDS`.
        name: as `RunIdentity` has it.
        experiment: its name; empty for MLFLOW_EXPERIMENT_NAME, then MLFLOW_EXPERIMENT_ID.

    Raises:
        UsageError: an experiment is given under the runner.
        ImgclfError: the folder cannot be made.
    """
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
    experiment = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME", "")
    return RunIdentity(
        run_id=run_id,
        kind=kind,
        name=name,
        tracking_uri=shell_tracking_uri() or _default_tracking_uri(),
        experiment=experiment,
        experiment_id="" if experiment else os.environ.get("MLFLOW_EXPERIMENT_ID", ""),
        adopted=adopted_run(),
        folder=str(folder),
    )


def read_identity(folder: Path) -> RunIdentity:
    """Return the identity of a run from its folder, wherever the folder is now.

    Raises:
        ImgclfError: the folder holds no journal of a run, or one that cannot be read.
    """
    for record in read_records(folder / JOURNAL_FILE):
        try:
            identity = RunIdentity(**record.content["identity"])
            if not all(isinstance(text, str) for text in vars(identity).values()):
                raise TypeError("an identity is made of text")
        except (KeyError, TypeError) as error:
            raise ImgclfError(
                f"The journal in '{folder}' is of another version of imgclf.",
                "Use that version for this run.",
            ) from error
        return replace(identity, folder=str(folder.resolve()))
    raise ImgclfError(f"The journal in '{folder}' holds no run.", "Train anew.")


def find_run_folder(runs_dir: Path, run_id: str) -> Path:
    """Return the local folder of a run by imgclf's id or by MLflow's.

    Raises:
        ImgclfError: there is none.
    """
    folders = run_folders(runs_dir)
    for folder in folders:
        if run_id in (folder.name, read_sent(folder).mlflow_run_id):
            return folder
    for folder in folders:
        # MLflow's id of an adopted run is known before MLflow was reached.
        with suppress(ImgclfError):
            if run_id and run_id == read_identity(folder).adopted:
                return folder
    names = [folder.name for folder in folders]
    raise ImgclfError(
        f"There is no run '{run_id}' in '{runs_dir}'.{nearest(run_id, names)}",
        f"The last ones there: {', '.join(names[-3:])}."
        if names
        else "Say with --runs-dir where the runs' folders are.",
    )


def sync_command(folder: Path, *options: str) -> str:
    """Return the command that sends what a run has left, as it can be typed in this folder.

    Args:
        folder: the run's local folder.
        options: of ``imgclf sync``.
    """
    runs_dir = folder.parent
    place = [] if runs_dir.resolve() == Path("runs").resolve() else ["--runs-dir", str(runs_dir)]
    return shlex.join(["imgclf", "sync", *place, *options, folder.name])


def shell_tracking_uri() -> str:
    """Return the store that MLFLOW_TRACKING_URI names, as `absolute_uri` has it; else empty."""
    return absolute_uri(os.environ.get("MLFLOW_TRACKING_URI", ""))


def _default_tracking_uri() -> str:
    """Return the store that MLflow takes in this folder where nobody names one.

    Not asked of MLflow, which takes seconds to import.
    """
    # Where its file store was used before, MLflow stays with it.
    if any(path.parent.name.isdigit() for path in Path("mlruns").glob("*/meta.yaml")):
        return Path("mlruns").absolute().as_uri()
    path = Path("mlflow.db").absolute().as_uri().removeprefix("file://")
    return f"{'sqlite://' if sys.platform == 'win32' else 'sqlite:///'}{path}"


def absolute_uri(tracking_uri: str) -> str:
    """Return a store's address as it is right in every folder: with a database's whole path."""
    database = tracking_uri.removeprefix("sqlite:///")
    if database == tracking_uri or database.startswith("/"):
        return tracking_uri
    return f"sqlite:///{os.path.abspath(database)}"


def adopted_run() -> str:
    """Return MLflow's id of the run that the ``mlflow run`` runner opened for this process."""
    return os.environ.get("MLFLOW_RUN_ID", "")
