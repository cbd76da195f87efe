"""Brings one journal record to MLflow. Delivering a record twice does no harm."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.tracking.context.registry import resolve_tags

from imgclf.tracking.connection import (
    REFUSED_HINT,
    connect,
    describe,
    find_or_create_experiment,
    is_temporary,
    tracking_uri,
)
from imgclf.tracking.identity import KIND_TAG, RUN_ID_TAG, RunIdentity
from imgclf.tracking.journal import Record
from imgclf.tracking.user_interface import run_url

# MLflow's own limits.
_LONGEST_PARAMETER = 6000
_LONGEST_TAG = 8000
_LONGEST_DIGEST = 36


class UnreachableError(Exception):
    """The record may be taken later."""


class RefusedError(Exception):
    """The record will never be taken; ``hint`` says what a person can do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Destination:
    """An MLflow store as the receiver of one run's records.

    Attributes:
        mlflow_run_id, url: known once the ``run`` record was delivered.
    """

    def __init__(self, identity: RunIdentity, folder: Path) -> None:
        self._identity = identity
        self._folder = folder
        self._present_parameters: set[str] = set()
        self._tried = False
        self.mlflow_run_id: str | None = None
        self.url: str | None = None

    @cached_property
    def _client(self) -> MlflowClient:
        return connect()

    @property
    def _run_id(self) -> str:
        assert self.mlflow_run_id is not None, "the run record comes first"
        return self.mlflow_run_id

    def deliver(self, record: Record) -> None:
        """Send one record.

        Raises:
            UnreachableError: the store is away; try again.
            RefusedError: the store answered that it will not take the record.
        """
        try:
            getattr(self, f"_deliver_{record.kind}")(record, **record.content)
        except Exception as error:  # a store's own library raises what it likes
            if is_temporary(error):
                raise UnreachableError(describe(error)) from error
            raise RefusedError(describe(error), REFUSED_HINT) from error

    def _deliver_run(self, record: Record, **_: Any) -> None:
        """Open the run, or adopt the one that the runner opened."""
        tags = {RUN_ID_TAG: self._identity.run_id, KIND_TAG: self._identity.kind}
        if self._identity.adopted:
            run = self._adopt(tags)
        else:
            run = self._find_own() or self._create(tags, record.time_ms)
        self.mlflow_run_id = run.info.run_id
        self.url = run_url(tracking_uri(), run.info.experiment_id, run.info.run_id)

    def _adopt(self, tags: dict[str, str]) -> Run:
        run = self._client.get_run(self._identity.adopted)
        # The runner has logged what it was given, as text quoted for a shell; logging a parameter
        # again with other text would be an error.
        self._present_parameters = set(run.data.params)
        tag_list = [RunTag(name, value) for name, value in tags.items()]
        self._client.log_batch(run.info.run_id, tags=tag_list)
        if self._identity.name:
            self._client.update_run(run.info.run_id, name=self._identity.name)
        return run

    def _find_own(self) -> Run | None:
        """Find the run that an earlier attempt opened although its answer was lost."""
        if not self._tried:
            self._tried = True
            return None
        experiment_id = find_or_create_experiment(self._client, self._identity.experiment)
        query = f"tags.`{RUN_ID_TAG}` = '{self._identity.run_id}'"
        found = self._client.search_runs([experiment_id], query)
        return found[0] if found else None

    def _create(self, tags: dict[str, str], start_time_ms: int) -> Run:
        return self._client.create_run(
            find_or_create_experiment(self._client, self._identity.experiment),
            start_time=start_time_ms,
            tags=resolve_tags(tags),
            run_name=self._identity.name or None,
        )

    def _deliver_parameters(self, _: Record, values: dict[str, str]) -> None:
        parameters = [
            Param(name, value[:_LONGEST_PARAMETER])
            for name, value in values.items()
            if name not in self._present_parameters
        ]
        self._log_batch(params=parameters)

    def _deliver_tags(self, _: Record, values: dict[str, str]) -> None:
        self._log_batch(tags=[RunTag(name, text[:_LONGEST_TAG]) for name, text in values.items()])

    def _deliver_metrics(
        self, record: Record, values: dict[str, float], step: int, summary: dict[str, float]
    ) -> None:
        time_ms = record.time_ms
        metrics = [Metric(name, value, time_ms, step) for name, value in values.items()]
        metrics += [Metric(name, value, time_ms, 0) for name, value in summary.items()]
        self._log_batch(metrics=metrics)

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
        if local.is_dir():
            self._client.log_artifacts(self._run_id, str(local), target)
        else:
            self._client.log_artifact(self._run_id, str(local), target)

    def _deliver_end(self, record: Record, status: str) -> None:
        self._client.set_terminated(self._run_id, status, end_time=record.time_ms)

    def _log_batch(self, **entities: Any) -> None:
        self._client.log_batch(self._run_id, **entities)
