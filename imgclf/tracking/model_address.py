"""``models:/…`` and ``runs:/…``: from an address in MLflow to a ``model.onnx`` on this machine."""

import hashlib
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.exceptions import MlflowException

from imgclf.errors import ImgclfError, UsageError
from imgclf.recipes import nearest
from imgclf.tracking.connection import connect, is_absent, readable_errors
from imgclf.tracking.identity import ARTIFACT_SHA256_TAG, SHA256_TAG
from imgclf.tracking.runs import EXPORTED_MODEL, find_run

_MODEL_FILE = "model.onnx"
_REGISTERED = re.compile(r"models:/+(?P<name>[^/]+?)(?:@(?P<alias>[^/@]+)|/(?P<version>[^/]+))")
_LOGGED = re.compile(r"models:/+(?P<id>m-[0-9a-f]+)")
_OF_RUN = re.compile(r"runs:/+(?P<run>[^/]+)(?:/(?P<path>.+))?")
_SHOWN = 10


@contextmanager
def download_model_file(address: str) -> Iterator[Path]:
    """Fetch the ``model.onnx`` behind an address for the length of a block.

    Args:
        address: ``models:/NAME@ALIAS``, ``models:/NAME/VERSION``, ``models:/m-ID`` (a logged
            model), ``runs:/ID`` or ``runs:/ID/PATH``, where ID is imgclf's or MLflow's id of a
            training run and PATH an artifact, or ``onnx`` for the exported model.

    Raises:
        UsageError: the address has another form.
        ImgclfError: nothing is there, it is no exported model, or not the file whose digest its
            registered version or its training run has as a tag.
    """
    with tempfile.TemporaryDirectory(prefix="imgclf-") as folder:
        with readable_errors():
            resolved, sha256 = _resolve(connect(), address)
        yield _download(address, resolved, sha256, folder)


class AliasedModel:
    """The ``model.onnx`` behind an alias, which may come to stand for another version.

    Args:
        address: ``models:/NAME@ALIAS``.
        folder: receives the file.

    Attributes:
        path: the file.

    Raises:
        UsageError: the address always stands for the same model.
        ImgclfError: as `download_model_file`.
    """

    def __init__(self, address: str, folder: Path) -> None:
        registered = _REGISTERED.fullmatch(address)
        if not registered or not registered["alias"]:
            raise UsageError(
                f"--reload cannot follow '{address}'.",
                "Give a file, or an alias that may come to stand for another version:"
                " models:/NAME@champion.",
            )
        self.path = folder / _MODEL_FILE
        self._address = address
        self._version = ""
        self.fetch_if_moved()

    def fetch_if_moved(self) -> str:
        """Put the file of another version at `path`, at once, where the alias stands for one now.

        Returns:
            the version's address; empty where it is the one that is there already.

        Raises:
            ImgclfError: as `download_model_file`; the file stays.
        """
        with readable_errors():
            resolved, sha256 = _resolve(connect(), self._address)
        if resolved == self._version:
            return ""
        with tempfile.TemporaryDirectory(dir=self.path.parent) as folder:
            _download(self._address, resolved, sha256, folder).replace(self.path)
        self._version = resolved
        return resolved


def _download(address: str, resolved: str, sha256: str, folder: str) -> Path:
    """Fetch what `_resolve` has found for an address, and return the path of the model's file."""
    with readable_errors():
        found = Path(download_artifacts(resolved, dst_path=folder))
    path = found / _MODEL_FILE if found.is_dir() else found
    if path.suffix != ".onnx" or not path.is_file():
        raise ImgclfError(
            f"'{address}' holds no {_MODEL_FILE}.",
            "Give the exported model: models:/NAME@champion, or runs:/ID of a training run.",
        )
    if sha256 and hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        raise ImgclfError(
            f"'{address}' is not the file that was exported: its SHA-256 differs from the one that"
            " MLflow keeps as a tag.",
            "Somebody has changed it in the artifact store: export the run again.",
        )
    return path


def _resolve(client: MlflowClient, address: str) -> tuple[str, str]:
    """Return an address that MLflow can download from, of something that exists.

    Returns:
        the address, and the SHA-256 that the file must have; empty where that is not known.
    """
    if logged := _LOGGED.fullmatch(address):
        return _logged_model(client, logged["id"])
    if registered := _REGISTERED.fullmatch(address):
        return _version(client, registered["name"], registered["alias"], registered["version"])
    if of_run := _OF_RUN.fullmatch(address):
        return _artifact(client, of_run["run"], of_run["path"])
    raise UsageError(
        f"'{address}' is no address of a model.",
        "Give models:/NAME@ALIAS, models:/NAME/VERSION, models:/m-ID, or runs:/ID.",
    )


def _logged_model(client: MlflowClient, model_id: str) -> tuple[str, str]:
    try:
        tags = client.get_logged_model(model_id).tags
    except MlflowException as error:
        if not is_absent(error):
            raise
        raise ImgclfError(
            f"There is no logged model '{model_id}'.", "The MLflow UI lists them under a run."
        ) from error
    return f"models:/{model_id}", tags.get(SHA256_TAG, "")


def _version(
    client: MlflowClient, name: str, alias: str | None, version: str | None
) -> tuple[str, str]:
    try:
        if alias:
            found = client.get_model_version_by_alias(name, alias)
        else:
            found = client.get_model_version(name, version or "")
    except MlflowException as error:
        if not is_absent(error):
            raise
        raise _no_such_version(client, name, f"@{alias}" if alias else f"/{version}") from error
    return f"models:/{name}/{found.version}", found.tags.get(SHA256_TAG, "")


def _no_such_version(client: MlflowClient, name: str, which: str) -> ImgclfError:
    """Say what is missing, the model or its version, and what there is instead."""
    found = client.search_registered_models(max_results=1000)
    models = {model.name: model for model in found}
    if not models:
        return ImgclfError(
            f"There is no model '{name}': no model is registered here.",
            "Train and export one: imgclf train, imgclf export.",
        )
    if name not in models:
        return ImgclfError(
            f"There is no registered model '{name}'.{nearest(name, list(models))}",
            f"There are: {_listed(list(models))}.",
        )
    versions = client.search_model_versions(f"name = '{name}'")
    present = [f"@{found}" for found in models[name].aliases]
    present += [f"/{found.version}" for found in versions]
    return ImgclfError(f"The model '{name}' has no '{which}'.", f"There are: {_listed(present)}.")


def _artifact(client: MlflowClient, run_id: str, path: str | None) -> tuple[str, str]:
    run = find_run(run_id)
    # The logged model of that name is the same file.
    path = path if path and path != "onnx" else EXPORTED_MODEL
    folder, _, _ = path.rpartition("/")
    present = [found.path for found in client.list_artifacts(run.mlflow_run_id, folder or None)]
    if path in present:
        file = path if path.endswith(".onnx") else f"{path}/{_MODEL_FILE}"
        tags = client.get_run(run.mlflow_run_id).data.tags
        return f"runs:/{run.mlflow_run_id}/{path}", tags.get(ARTIFACT_SHA256_TAG + file, "")
    if path == EXPORTED_MODEL:
        raise ImgclfError(
            f"Run '{run.run_id}' has no exported model.",
            f"Export it: imgclf export --run {run.run_id}",
        )
    raise ImgclfError(
        f"Run '{run.run_id}' has no artifact '{path}'.",
        f"There are: {_listed(present)}." if present else "Leave the path out: runs:/ID.",
    )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (" …" if len(names) > _SHOWN else "")
