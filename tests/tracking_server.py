"""A real MLflow server that can be killed, stopped and started again, and what it must hold."""

import os
import platform
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from mlflow import MlflowClient
from mlflow.entities import Run

from imgclf.tracking.identity import create_identity
from imgclf.tracking.journal import JOURNAL_FILE, Journal, Record, last_record, read_records
from imgclf.tracking.sent import has_unsent
from imgclf.tracking.tracker import Tracker

# Machines that run tests may be slow.
PATIENCE = 180.0


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class TrackingServer:
    """``mlflow server`` with a database and an artifact store in a folder, always on one port.

    It shows another database where it is given one, as ``mlflow ui`` does.
    """

    def __init__(self, folder: Path, tracking_uri: str = "") -> None:
        self._folder = folder
        self._tracking_uri = tracking_uri or f"sqlite:///{folder}/server.db"
        self.log = folder / "server.log"
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.address = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        environment = {key: value for key, value in os.environ.items() if "MLFLOW" not in key}
        # Its jobs would start seven more processes, and tracking needs none of them.
        environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
        folder = self._folder
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"),
                    *("--workers", "1", "--port", str(self._port)),
                    *("--backend-store-uri", self._tracking_uri),
                    *("--artifacts-destination", str(folder / "artifacts")),
                ],
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_until(self._answers)

    @property
    def lives(self) -> bool:
        """Whether there is a process, be it stopped."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def stop(self) -> None:
        """Let it hang: it takes connections and answers none."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def client(self) -> MlflowClient:
        return MlflowClient(tracking_uri=self.address)

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.address}/health", timeout=5).ok
        except requests.RequestException:
            return False

    def _signal(self, number: int) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, number)


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            pytest.fail("it did not come to pass")
        time.sleep(0.1)


def is_sent(folder: Path) -> bool:
    return not has_unsent(folder)


def runs_of(client: MlflowClient, folder: Path) -> list[Run]:
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    return client.search_runs(ids, f"tags.`imgclf.run_id` = '{folder.name}'")


def num_records(folder: Path) -> int:
    last = last_record(folder / JOURNAL_FILE)
    assert last is not None
    return last.sequence + 1


def say_beginning(tracker: Tracker, folder: Path) -> None:
    """Say what a training says before its first epoch."""
    (folder / "samples.png").write_bytes(bytes(range(256)) * 40)
    (folder / "data").mkdir(exist_ok=True)
    for name in ("split.json", "scan.json"):
        (folder / "data" / name).write_text(f'{{"file": "{name}"}}')
    tracker.parameters({f"parameter_{number}": number / 7 for number in range(45)})
    tracker.tags({"imgclf.dataset": "digits", "device": "cpu"})
    tracker.dataset("digits", "abc123", "training", "sklearn", {"images": 1797})
    tracker.artifact("samples.png")
    tracker.artifact("data", "data")


def say_epoch(tracker: Tracker, epoch: int) -> None:
    values = {"train/loss": 1 / epoch, "val/accuracy": 1 - 1 / epoch, "lr": 0.003}
    tracker.metrics(values, epoch, {"best/val_accuracy": 1 - 1 / epoch, "best/epoch": epoch})


def say_end(tracker: Tracker, folder: Path) -> None:
    """Say what a training says after its last epoch."""
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / "weights.safetensors").write_bytes(os.urandom(300_000))
    tracker.artifact("model", "model")
    tracker.metrics({}, 0, {"test/accuracy": 0.875})
    tracker.tags({"imgclf.epochs": "9"})


def write_run(runs_dir: Path, ended: bool, host: str = platform.node()) -> Path:
    """Write the journal of a run that nobody has sent."""
    identity = create_identity(runs_dir, "train", "", "")
    folder = Path(identity.folder)
    (folder / "samples.png").write_bytes(b"picture")
    journal = Journal.create(folder / JOURNAL_FILE)
    begun = {"identity": identity.to_dict(), "source": "train.py", "resumed": False}
    journal.append("run", **begun, host=host)
    journal.append("parameters", values={"epochs": "3"})
    journal.append("artifact", path="samples.png", artifact_folder="")
    journal.append("metrics", values={"train/loss": 0.5}, step=1, summary={"best/epoch": 1})
    if ended:
        journal.append("end", status="FINISHED")
    journal.close()
    return folder


def holds_all(client: MlflowClient, folder: Path) -> Run:
    """Compare a store with a run's journal: nothing is missing, nothing is there twice."""
    records = list(read_records(folder / JOURNAL_FILE))
    (run,) = runs_of(client, folder)
    assert run.info.status == records[-1].content["status"]
    assert run.info.end_time == records[-1].time_ms
    assert run.info.start_time == records[0].time_ms
    parameters = {k: v for record in of(records, "parameters") for k, v in values(record).items()}
    assert run.data.params == parameters
    tags = {k: v for record in of(records, "tags") for k, v in values(record).items()}
    assert tags.items() <= run.data.tags.items()
    datasets = [record.content["name"] for record in of(records, "dataset")]
    assert run.inputs is not None
    assert [item.dataset.name for item in run.inputs.dataset_inputs] == datasets
    points = Counter(
        (name, step, record.time_ms, value)
        for record in of(records, "metrics")
        for part, step in (("values", record.content["step"]), ("summary", 0))
        for name, value in record.content[part].items()
    )
    stored = Counter(
        (point.key, point.step, point.timestamp, point.value)
        for name in {name for name, *_ in points}
        for point in client.get_metric_history(run.info.run_id, name)
    )
    assert stored == points
    _holds_artifacts(client, run.info.run_id, folder, records)
    return run


def of(records: list[Record], kind: str) -> list[Record]:
    return [record for record in records if record.kind == kind]


def values(record: Record) -> dict[str, str]:
    return record.content["values"]


def _holds_artifacts(
    client: MlflowClient, run_id: str, folder: Path, records: list[Record]
) -> None:
    expected: dict[str, bytes] = {}
    for record in of(records, "artifact"):
        local, target = folder / record.content["path"], record.content["artifact_folder"]
        for path in [local] if local.is_file() else local.rglob("*"):
            base = local.parent if local.is_file() else local
            expected[str(Path(target, path.relative_to(base)))] = path.read_bytes()
    stored: dict[str, bytes] = {}
    for item in _all_artifacts(client, run_id, ""):
        stored[item] = Path(client.download_artifacts(run_id, item)).read_bytes()
    assert stored == expected


def _all_artifacts(client: MlflowClient, run_id: str, path: str) -> list[str]:
    found: list[str] = []
    for item in client.list_artifacts(run_id, path):
        found += _all_artifacts(client, run_id, item.path) if item.is_dir else [item.path]
    return found
