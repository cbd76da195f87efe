"""The connection to MLflow: which store, which experiment, and errors in plain words."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from urllib.parse import unquote

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from requests import HTTPError, RequestException
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from imgclf.errors import ImgclfError
from imgclf.tracking import SERVER_SCHEMES
from imgclf.tracking.exclusive import exclusive
from imgclf.tracking.identity import absolute_uri, adopted_run

REFUSED_HINT = (
    "Check MLFLOW_TRACKING_URI (a server's address, or sqlite:///FILE), that its server runs, and"
    " that the experiment has not been deleted."
)
# MLflow's own, in every store.
DEFAULT_EXPERIMENT = "Default"
# How different stores say that something is not there.
_ABSENT = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}
_TEMPORARY = {"TEMPORARILY_UNAVAILABLE", "INTERNAL_ERROR", "REQUEST_LIMIT_EXCEEDED", "IO_ERROR"}
_TEMPORARY_STATUSES = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}
_DENIED = {"PERMISSION_DENIED", "UNAUTHENTICATED"}
_DENIED_STATUSES = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}


def connect(uri: str | None = None) -> MlflowClient:
    """Return a client of a store; None for the one of MLFLOW_TRACKING_URI, or ``./mlflow.db``."""
    store = absolute_uri(uri or mlflow.get_tracking_uri())
    if store.startswith(SERVER_SCHEMES):
        return MlflowClient(tracking_uri=uri)
    # MLflow fails where two processes create the tables of a new database at once.
    with exclusive(f"the database {store}"):
        return MlflowClient(tracking_uri=uri)


def tracking_uri() -> str:
    """Return the address of the store that `connect` connects to, a database's path absolute."""
    return absolute_uri(mlflow.get_tracking_uri())


def has_store() -> bool:
    """Tell whether there is a store to look in: MLflow makes a database that is absent."""
    url = make_url(tracking_uri()) if tracking_uri().startswith("sqlite:") else None
    path = url.database if url else None
    if not path or path.startswith((":", "file:")):
        return True
    # MLflow's default address is that of a web page, with %20 for a space.
    return os.path.exists(path) or os.path.exists(unquote(path))


def import_store() -> None:
    """Import now what the first call to a database would import, which takes seconds."""
    if not tracking_uri().startswith(SERVER_SCHEMES):
        import mlflow.store.tracking.sqlalchemy_store  # noqa: F401


def is_temporary(error: Exception) -> bool:
    """Tell whether a call may succeed later: the server is away or busy, not the call wrong."""
    if isinstance(error, MlflowException):
        return error.error_code in _TEMPORARY
    if status := _status(error):
        return status >= 500 or status in _TEMPORARY_STATUSES
    return isinstance(error, ConnectionError | TimeoutError | RequestException)


def is_denied(error: Exception) -> bool:
    """Tell whether a call failed for want of a right, which a person can give."""
    if isinstance(error, MlflowException):
        return error.error_code in _DENIED
    return _status(error) in _DENIED_STATUSES


def _status(error: Exception) -> int:
    """Return the status of an HTTP answer that was an error; 0 where there was no answer."""
    if isinstance(error, HTTPError) and error.response is not None:
        return error.response.status_code
    return 0


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
    experiment = client.get_experiment_by_name(name or _named_by_shell() or DEFAULT_EXPERIMENT)
    return experiment.experiment_id if experiment else None


def _named_by_shell() -> str:
    return os.environ.get("MLFLOW_EXPERIMENT_NAME", "")


def find_or_create_experiment(client: MlflowClient, name: str) -> str:
    """Return the id of the experiment with a name, creating it where it does not exist."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return found.experiment_id
    try:
        return client.create_experiment(name)
    except MlflowException as error:
        # Another process may have created it in between.
        found = client.get_experiment_by_name(name)
        if found is None:
            raise error
        return found.experiment_id
