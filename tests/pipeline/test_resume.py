"""A run that is killed with SIGKILL and goes on ends as one that was never stopped, bit for bit."""

import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from imgclf.tracking.identity import RUN_ID_TAG
from imgclf.tracking.journal import FINISHED, JOURNAL_FILE, last_record, read_records, run_folders
from imgclf.tracking.sent import read_sent
from imgclf.tracking.sync import sync_runs

pytestmark = pytest.mark.faults

VALUES = {
    "epochs": 4,
    "batch_size": 50,
    "ema": True,
    "crop_padding": 1,
    "threads": 1,
    "checkpoint_minutes": 0.001,
}
TIMINGS = ("images_per_second", "step_milliseconds", "epoch_seconds")


class Trainings:
    """A process that starts trainings, and kills them."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("killed_training.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def run(
        self,
        runs_dir: Path,
        moment: str = "never",
        count: int = 1,
        seconds: float = 0.0,
        resume: str = "",
    ) -> int:
        """Train, and return the exit status: -9 where it was killed."""
        order = {
            "moment": moment,
            "count": count,
            "seconds": seconds,
            "resume": resume,
            "values": VALUES | {"runs_dir": str(runs_dir)},
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module")
def trainings() -> Iterator[Trainings]:
    trainings = Trainings()
    yield trainings
    trainings.close()


@pytest.fixture(scope="module")
def undisturbed(trainings: Trainings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs_dir = tmp_path_factory.mktemp("undisturbed")
    assert trainings.run(runs_dir) == 0
    return only_run(runs_dir)


def only_run(runs_dir: Path) -> Path:
    (folder,) = run_folders(runs_dir)
    return folder


def in_mlflow(folder: Path) -> dict[str, Any]:
    """All that MLflow holds of a run, except times and what the machine did."""
    client = MlflowClient()
    run_id = read_sent(folder).mlflow_run_id
    assert run_id is not None
    run = client.get_run(run_id)
    metrics = {
        name: sorted((point.step, point.value) for point in client.get_metric_history(run_id, name))
        for name in run.data.metrics
        if not name.startswith(("system/", "time/")) and name not in TIMINGS
    }
    tags = {name: value for name, value in run.data.tags.items() if name.startswith("imgclf.")}
    del tags[RUN_ID_TAG]
    tags.pop("imgclf.error", None)
    assert run.inputs is not None
    inputs = [(one.dataset.name, one.dataset.digest) for one in run.inputs.dataset_inputs]
    return {
        "status": run.info.status,
        "metrics": metrics,
        "parameters": {k: v for k, v in run.data.params.items() if k != "runs_dir"},
        "tags": tags,
        "inputs": sorted(inputs),
        "artifacts": sorted(artifacts(client, run_id)),
    }


def artifacts(client: MlflowClient, run_id: str, path: str = "") -> Iterator[str]:
    for entry in client.list_artifacts(run_id, path):
        if entry.is_dir:
            yield from artifacts(client, run_id, entry.path)
        else:
            yield entry.path


def assert_equal_runs(folder: Path, undisturbed: Path) -> None:
    weights = "model/weights.safetensors"
    assert (folder / weights).read_bytes() == (undisturbed / weights).read_bytes()
    ours, theirs = in_mlflow(folder), in_mlflow(undisturbed)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert value == theirs[name], name
    assert ours["status"] == "FINISHED"
    # None twice, and none lacking.
    steps = [step for step, _ in ours["metrics"]["train/loss"]]
    assert steps == [1, 2, 3, 4]


MOMENTS = [("half of a checkpoint", 3)]
MORE_MOMENTS = [
    ("half of a record", 6),
    ("step", 30),
    ("before a checkpoint has its name", 2),
    ("between checkpoint and journal", 1),
    ("best weights", 2),
    ("validation", 1),
    ("evaluation at the end", 2),
    ("sending the rest", 1),
]


@pytest.mark.parametrize("moments", [MOMENTS, pytest.param(MORE_MOMENTS, marks=pytest.mark.slow)])
def test_a_run_that_is_killed_again_and_again_ends_as_if_it_never_was(
    moments: list[tuple[str, int]], trainings: Trainings, undisturbed: Path, tmp_path: Path
) -> None:
    run = ""
    for moment, count in moments:
        assert trainings.run(tmp_path, moment, count, resume=run) == -signal.SIGKILL, moment
        run = only_run(tmp_path).name
    assert trainings.run(tmp_path, resume=run) == 0
    assert_equal_runs(only_run(tmp_path), undisturbed)


def has_finished(folder: Path) -> bool:
    last = last_record(folder / JOURNAL_FILE)
    return last is not None and last.content.get("status") == FINISHED


def seconds_between_first_and_last_record(folder: Path) -> float:
    times = [record.time_ms for record in read_records(folder / JOURNAL_FILE)]
    return (times[-1] - times[0]) / 1000


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_a_run_that_is_killed_at_any_moment_ends_as_if_it_never_was(
    seed: int, trainings: Trainings, undisturbed: Path, tmp_path: Path
) -> None:
    """At random moments, until one process comes to the end: whatever it is at."""
    chance, longest = random.Random(seed), seconds_between_first_and_last_record(undisturbed)
    status = trainings.run(tmp_path, seconds=chance.uniform(0.1, 0.9) * longest)
    while status == -signal.SIGKILL:
        # Where the machine has become busier, none would come to its end without more time.
        longest *= 1.25
        # A run exists from its journal's first record on.
        run = only_run(tmp_path).name if run_folders(tmp_path) else ""
        if run and has_finished(only_run(tmp_path)):
            # It was killed while the rest was sent: there is nothing to train any more.
            assert [result.failing for result in sync_runs([only_run(tmp_path)])] == [""]
            status = 0
            break
        status = trainings.run(tmp_path, seconds=chance.uniform(0.1, 1) * longest, resume=run)
    assert status == 0
    assert_equal_runs(only_run(tmp_path), undisturbed)
