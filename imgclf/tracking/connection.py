"""The connection to MLflow: which store, which experiment, and errors in plain words."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from urllib.parse import unquote

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException, RestException
from mlflow.utils.uri import is_local_uri
from requests import HTTPError
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from imgclf.errors import ImgclfError
from imgclf.tracking import SERVER_SCHEMES
from imgclf.tracking.exclusive import LockError, exclusive
from imgclf.tracking.identity import absolute_uri, adopted_run

REFUSED_HINT = (
    "Check MLFLOW_TRACKING_URI (a server's address, or sqlite:///FILE), that its server runs, and"
    " that the experiment has not been deleted."
)
# MLflow's own, in every store.
DEFAULT_EXPERIMENT = "Default"
# How different stores say that something is not there.
_ABSENT = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}
_TEMPORARY = {
    "TEMPORARILY_UNAVAILABLE",
    "INTERNAL_ERROR",
    "REQUEST_LIMIT_EXCEEDED",
    "RESOURCE_EXHAUSTED",
    "DEADLINE_EXCEEDED",
    "IO_ERROR",
}
_TEMPORARY_STATUSES = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}
_DENIED = {"PERMISSION_DENIED", "UNAUTHENTICATED"}
_DENIED_STATUSES = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
_DENIED_BY_A_DISK = (errno.EACCES, errno.EPERM, errno.EROFS)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def connect(uri: str | None = None) -> MlflowClient:
    """Return a client of a store; None for the one of MLFLOW_TRACKING_URI, or ``./mlflow.db``.

    Raises:
        ImgclfError: it is MLflow's file store, or other processes do not let it be opened.
    """
    store = absolute_uri(uri or mlflow.get_tracking_uri())
    if is_local_uri(store):
        raise ImgclfError(
            f"'{store}' is MLflow's file store, which keeps what is sent again a second time.",
            "Set MLFLOW_TRACKING_URI to a database, such as sqlite:///mlflow.db, or a server;"
            " 'mlflow migrate-filestore' brings older runs into one.",
        )
    if store.startswith(SERVER_SCHEMES):
        return MlflowClient(tracking_uri=uri)
    # MLflow fails where two processes create the tables of a new database at once.
    with exclusive(f"the database {lock_name(store)}"):
        return MlflowClient(tracking_uri=uri)


def lock_name(uri: str) -> str:
    """Return the name by which processes take turns at a store: one, whatever links lead there."""
    database = uri.removeprefix("sqlite:///")
    return uri if database == uri else f"sqlite:///{os.path.realpath(unquote(database))}"


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
    """Tell whether a call may succeed later: it is right, and the store away, busy or full."""
    if isinstance(error, MlflowException):
        return error.error_code in _TEMPORARY
    if status := _status(error):
        return status >= 500 or status in _TEMPORARY_STATUSES
    if isinstance(error, OSError):
        # A disk may be full, or a file server away. A file of the run that is gone stays away.
        gone = isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError)
        return not gone and not is_denied(error)
    return isinstance(error, LockError)


def is_denied(error: Exception) -> bool:
    """Tell whether a call failed for want of a right, which a person can give."""
    if isinstance(error, MlflowException):
        return error.error_code in _DENIED
    if status := _status(error):
        return status in _DENIED_STATUSES
    return isinstance(error, OSError) and error.errno in _DENIED_BY_A_DISK


def is_answered_by_another(error: Exception) -> bool:
    """Tell whether something else than MLflow says that there is nothing at its address.

    A proxy does so while MLflow is being started; or the address is wrong. MLflow itself answers
    in JSON.
    """
    if isinstance(error, HTTPError):
        return _status(error) == HTTPStatus.NOT_FOUND and "error_code" not in error.response.text
    is_plain = isinstance(error, MlflowException) and not isinstance(error, RestException)
    return is_plain and error.error_code == "ENDPOINT_NOT_FOUND"


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
    text = " ".join(str(error).split()).partition(" [SQL:")[0]  # a page of it, from a database
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        place = error.filename2 or error.filename
        where = f"at '{os.path.dirname(place)}'" if isinstance(place, str) else "there"
        text = f"{error.strerror} in MLflow's store: make room {where}"
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
