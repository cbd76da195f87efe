"""Brings journal records to MLflow. Delivering a record twice does no harm."""

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags

from imgclf.errors import ImgclfError
from imgclf.tracking.connection import (
    DEFAULT_EXPERIMENT,
    REFUSED_HINT,
    connect,
    describe,
    find_or_create_experiment,
    is_answered_by_another,
    is_denied,
    is_temporary,
)
from imgclf.tracking.identity import ERROR_TAG, KIND_TAG, RUN_ID_TAG, RunIdentity
from imgclf.tracking.journal import Record
from imgclf.tracking.user_interface import run_url

# MLflow's own limits.
MOST_METRICS = 1000
_LONGEST_PARAMETER = 6000
_LONGEST_TAG = 8000
_LONGEST_DIGEST = 36
# A server may pass an uploaded file on to a store of its own before it answers.
_SLOWEST_UPLOAD_BYTES_PER_SECOND = 1e6
_TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
_PROBE_TAG = "imgclf.probe"


class UnreachableError(Exception):
    """The record may be taken later."""


class RefusedError(Exception):
    """The record will never be taken; ``hint`` says what a person can do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Destination:
    """An MLflow store as the receiver of one run's records.

    Args:
        identity: who the run is and where it belongs; its folder is where artifacts are read.
        tracking_uri: of the store.
        mlflow_run_id, url: of the run, where it is open already.

    Attributes:
        mlflow_run_id, url: known once the ``run`` record was delivered.
    """

    def __init__(
        self, identity: RunIdentity, tracking_uri: str, mlflow_run_id: str | None, url: str | None
    ) -> None:
        self._identity = identity
        self._folder = Path(identity.folder)
        self._tracking_uri = tracking_uri
        self.mlflow_run_id = mlflow_run_id
        self.url = url
        self._was_away = False

    @cached_property
    def _client(self) -> MlflowClient:
        return connect(self._tracking_uri)

    @property
    def _run_id(self) -> str:
        assert self.mlflow_run_id is not None, "the run record comes first"
        return self.mlflow_run_id

    def deliver(self, records: Sequence[Record]) -> None:
        """Send one record, or several of the kind metrics that come to `MOST_METRICS` at most.

        Raises:
            UnreachableError: the store is away; try again.
            RefusedError: the store answered that it will not take the records.
        """
        kind = records[0].kind
        try:
            if kind == "metrics":
                self._deliver_metrics(records)
            else:
                (record,) = records
                getattr(self, f"_deliver_{kind}")(record, **record.content)
        except Exception as error:  # a store's own library raises what it likes
            if is_temporary(error) or self._may_be_mended(error, kind):
                self._was_away = True
                raise UnreachableError(describe(error)) from error
            if isinstance(error, ImgclfError):
                raise RefusedError(error.message, error.hint) from error
            raise RefusedError(describe(error), REFUSED_HINT) from error

    def _may_be_mended(self, error: Exception, kind: str) -> bool:
        """Tell whether a person may give a right, or a proxy find MLflow again, meanwhile.

        A right or an address that is wrong at first is told at once; after that it is waited for.
        So is all that the library of an object store says, which raises errors of its own, or that
        it is not installed.
        """
        if kind == "artifact" and not isinstance(error, MlflowException | OSError | ImgclfError):
            return True
        if kind == "run" and not self._was_away:
            return False
        return is_denied(error) or is_answered_by_another(error)

    def takes_tags(self) -> bool:
        """Tell whether the store takes a tag of the run at present; it is removed again."""
        try:
            self._client.set_tag(self._run_id, _PROBE_TAG, str(time.time_ns()))
            self._client.delete_tag(self._run_id, _PROBE_TAG)
        except Exception:  # noqa: BLE001 - a store's own library raises what it likes
            return False
        return True

    def _deliver_run(self, record: Record, source: str, resumed: bool, **_: Any) -> None:
        """Open the run, adopt the one that the runner opened, or open again one that had ended."""
        if self.mlflow_run_id:
            run = self._client.get_run(self.mlflow_run_id)
        elif self._identity.adopted:
            run = self._adopt()
        else:
            # An earlier attempt may have opened it although its answer was lost.
            run = next(iter(self._find_own()), None) or self._create(source, record.time_ms)
        self.mlflow_run_id = run.info.run_id
        self.url = run_url(self._tracking_uri, run.info.experiment_id, run.info.run_id)
        if resumed:
            self._client.update_run(run.info.run_id, "RUNNING")
            if ERROR_TAG in run.data.tags:
                self._client.delete_tag(run.info.run_id, ERROR_TAG)

    @property
    def _own_tags(self) -> dict[str, str]:
        return {RUN_ID_TAG: self._identity.run_id, KIND_TAG: self._identity.kind}

    def _adopt(self) -> Run:
        run = self._client.get_run(self._identity.adopted)
        tags = [RunTag(name, value) for name, value in self._own_tags.items()]
        self._client.log_batch(run.info.run_id, tags=tags)
        if self._identity.name:
            self._client.update_run(run.info.run_id, name=self._identity.name)
        return run

    def _find_own(self) -> list[Run]:
        """Return the runs that carry our id."""
        query = f"tags.`{RUN_ID_TAG}` = '{self._identity.run_id}'"
        return self._client.search_runs([self._experiment_id], query)

    @cached_property
    def _experiment_id(self) -> str:
        return self._identity.experiment_id or find_or_create_experiment(
            self._client, self._identity.experiment or DEFAULT_EXPERIMENT
        )

    def _create(self, source: str, start_time_ms: int) -> Run:
        tags = self._own_tags | ({"mlflow.source.name": source} if source else {})
        return self._client.create_run(
            self._experiment_id,
            start_time=start_time_ms,
            tags=resolve_tags(tags),
            run_name=self._identity.name or None,
        )

    def _deliver_parameters(self, _: Record, values: dict[str, str]) -> None:
        # The runner has logged what it was given, as text quoted for a shell; logging a parameter
        # again with other text would be an error.
        adopted = self._run_id == self._identity.adopted
        present = self._client.get_run(self._run_id).data.params if adopted else {}
        parameters = [
            Param(name, value[:_LONGEST_PARAMETER])
            for name, value in values.items()
            if name not in present
        ]
        self._log_batch(params=parameters)

    def _deliver_tags(self, _: Record, values: dict[str, str]) -> None:
        self._log_batch(tags=[RunTag(name, text[:_LONGEST_TAG]) for name, text in values.items()])

    def _deliver_metrics(self, records: Sequence[Record]) -> None:
        """Send metrics in one batch, each with its own time; those of the run go to step 0."""
        self._log_batch(
            metrics=[
                Metric(name, value, record.time_ms, step)
                for record in records
                for part, step in (("values", record.content["step"]), ("summary", 0))
                for name, value in record.content[part].items()
            ]
        )

    def _deliver_dataset(
        self,
        _: Record,
        name: str,
        digest: str,
        context: str,
        source: str,
        profile: dict[str, Any],
    ) -> None:
        dataset = Dataset(
            name=name,
            digest=digest[:_LONGEST_DIGEST],
            source_type="local",
            source=json.dumps({"uri": source}),
            profile=json.dumps(profile),
        )
        tag = InputTag("mlflow.data.context", context)
        self._client.log_inputs(self._run_id, datasets=[DatasetInput(dataset, [tag])])

    def _deliver_artifact(self, _: Record, path: str, artifact_folder: str) -> None:
        local, target = self._folder / path, artifact_folder or None
        with _time_to_upload(local):
            if local.is_dir():
                self._client.log_artifacts(self._run_id, str(local), target)
            else:
                self._client.log_artifact(self._run_id, str(local), target)

    def _deliver_end(self, record: Record, status: str) -> None:
        if not self._identity.adopted:
            self._remove_twins()
        self._client.set_terminated(self._run_id, status, end_time=record.time_ms)

    def _remove_twins(self) -> None:
        """Remove empty runs with our id: a server that hangs may open a run twice, the first late.

        What was asked of it for the first time is done when it goes on, after it was asked again.
        """
        for run in self._find_own():
            is_empty = not run.data.metrics and not run.data.params
            if run.info.run_id != self._run_id and is_empty:
                self._client.delete_run(run.info.run_id)

    def _log_batch(self, **entities: Any) -> None:
        self._client.log_batch(self._run_id, **entities)


def num_metrics(record: Record) -> int:
    """Return how many metrics a record of the kind metrics holds."""
    return len(record.content["values"]) + len(record.content["summary"])


@contextmanager
def _time_to_upload(path: Path) -> Iterator[None]:
    """Give MLflow more time for an answer while a large file is sent."""
    files = [path, *path.rglob("*")]
    largest = max(file.stat().st_size for file in files)
    before = os.environ[_TIMEOUT]
    os.environ[_TIMEOUT] = str(int(before) + int(largest / _SLOWEST_UPLOAD_BYTES_PER_SECOND))
    try:
        yield
    finally:
        os.environ[_TIMEOUT] = before
