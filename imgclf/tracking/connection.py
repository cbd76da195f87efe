"""The connection to MLflow: which store, which experiment, and errors in plain words."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from requests import RequestException
from sqlalchemy.exc import SQLAlchemyError

from imgclf.errors import ImgclfError
from imgclf.tracking import SERVER_SCHEMES
from imgclf.tracking.identity import adopted_run

REFUSED_HINT = (
    "Check MLFLOW_TRACKING_URI (a server's address, or sqlite:///FILE), that its server runs, and"
    " that the experiment has not been deleted."
)
# How different stores say that something is not there.
_ABSENT = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}
_TEMPORARY = {"TEMPORARILY_UNAVAILABLE", "INTERNAL_ERROR", "REQUEST_LIMIT_EXCEEDED", "IO_ERROR"}


def connect() -> MlflowClient:
    """Return a client of the store that MLFLOW_TRACKING_URI names, or of ``./mlflow.db``."""
    return MlflowClient()


def tracking_uri() -> str:
    """Return the address of the store that `connect` connects to."""
    return mlflow.get_tracking_uri()


def import_store() -> None:
    """Import now what the first call to a database would import, which takes seconds."""
    if not tracking_uri().startswith(SERVER_SCHEMES):
        import mlflow.store.tracking.sqlalchemy_store  # noqa: F401


def is_temporary(error: Exception) -> bool:
    """Tell whether a call may succeed later: the server is away or busy, not the call wrong."""
    if isinstance(error, MlflowException):
        return error.error_code in _TEMPORARY
    return isinstance(error, ConnectionError | TimeoutError | RequestException)


def is_absent(error: MlflowException) -> bool:
    """Tell whether a call failed because what it asked for does not exist."""
    return error.error_code in _ABSENT


def describe(error: Exception) -> str:
    """Return one line that a person can read."""
    text = " ".join(str(error).split())
    return text if len(text) <= 400 else text[:400] + " …"


@contextmanager
def readable_errors() -> Iterator[None]:
    """Turn MLflow's exceptions into `ImgclfError`, for calls that a person waits for."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, ImportError, OSError) as error:
        raise ImgclfError(
            f"The MLflow store at {tracking_uri()} failed: {describe(error)}",
            REFUSED_HINT,
        ) from error


def find_experiment(client: MlflowClient, name: str) -> str | None:
    """Return the id of the experiment that every command looks in, or None if it does not exist.

    Args:
        client: the store.
        name: from ``--experiment``; where it is empty, MLFLOW_EXPERIMENT_NAME, then
            MLFLOW_EXPERIMENT_ID, then MLflow's default experiment.
    """
    experiment_id = os.environ.get("MLFLOW_EXPERIMENT_ID", "")
    # Under the runner, its choice of an experiment stands above the shell's.
    if not name and experiment_id and (adopted_run() or not _named_by_shell()):
        return experiment_id
    experiment = client.get_experiment_by_name(name or _named_by_shell() or "Default")
    return experiment.experiment_id if experiment else None


def _named_by_shell() -> str:
    return os.environ.get("MLFLOW_EXPERIMENT_NAME", "")


def find_or_create_experiment(client: MlflowClient, name: str) -> str:
    """Return the id of `find_experiment`, creating the experiment where it does not exist."""
    found = find_experiment(client, name)
    if found is not None:
        return found
    try:
        return client.create_experiment(name or _named_by_shell() or "Default")
    except MlflowException as error:
        # Another process may have created it in between.
        found = find_experiment(client, name)
        if found is None:
            raise error
        return found
