"""The process that brings records to MLflow: what becomes of it when something ends."""

import errno
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from imgclf.errors import ImgclfError
from imgclf.tracking import sender
from imgclf.tracking.identity import create_identity
from imgclf.tracking.journal import FAILED, FINISHED, JOURNAL_FILE, KILLED, read_records
from imgclf.tracking.sender import Delivery
from imgclf.tracking.tracker import Tracker

STARTS_A_SENDER_AND_IS_KILLED = """
import os, signal
from imgclf.tracking.sender import prepare_sender
prepare_sender()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True, scope="module")
def _no_process_of_other_files() -> None:
    sender.stop_kept_senders()


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines that run tests may be slow."""
    monkeypatch.setattr("imgclf.tracking.tracker.OPENING_SECONDS", 300.0)


@pytest.fixture
def own_processes() -> Iterator[None]:
    """Let a test start processes of its own; others use one that a test before has left."""
    sender.stop_kept_senders()
    yield
    sender.stop_kept_senders()


def senders() -> list[psutil.Process]:
    return [
        process
        for process in psutil.Process().children()
        if "imgclf.tracking.sender_process" in process.cmdline()
    ]


def open_run(runs_dir: Path, experiment: str) -> tuple[Tracker, psutil.Process]:
    """Begin a run that MLflow has opened; give the process that sends as well."""
    identity = create_identity(runs_dir, "train", "", experiment)
    tracker = Tracker(identity, Path(identity.folder))
    tracker.wait_until_open()
    (process,) = senders()
    return tracker, process


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tracking_uri": "sqlite:///ä.db", "mlflow_run_id": "1", "url": "http://127.0.0.1/#/1"},
        {"is_open": True, "delivered": 7, "ended": True},
        {"refusal": ("no\nsuch store", "hint"), "problems": ("one", "two"), "failing": "away"},
    ],
)
def test_what_the_process_tells_is_one_line_that_can_be_read_again(changes):
    delivery = replace(Delivery(), **changes)
    line = delivery.to_json()
    assert line.count(b"\n") == 1
    assert Delivery.from_json(line) == delivery


STARTS_A_SENDER_AND_ENDS = """
import psutil
from imgclf.tracking.sender import prepare_sender
prepare_sender()
(process,) = psutil.Process().children()
print(process.pid)
"""


def test_a_process_that_has_nothing_to_send_ends_with_the_program(tmp_path: Path):
    command = [sys.executable, "-c", STARTS_A_SENDER_AND_ENDS]
    done = subprocess.run(command, cwd=tmp_path, stdout=subprocess.PIPE, check=True)
    assert not psutil.pid_exists(int(done.stdout))


def test_runs_share_a_process_while_nothing_changes_for_it(
    own_processes, workplace, tmp_path, monkeypatch
):
    sent = []
    for name in ("first", "second", "other experiment"):
        if name == "other experiment":
            monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "other")
        identity = create_identity(tmp_path, "train", name, "" if "other" in name else "shared")
        tracker = Tracker(identity, Path(identity.folder))
        tracker.wait_until_open()
        processes = {process.pid for process in senders()}
        tracker.metrics({"train/loss": len(name)}, step=1)
        assert tracker.finish(FINISHED) == []
        sent.append((processes, MlflowClient().get_run(tracker.mlflow_run_id or "")))
    (first, run), (second, again), (third, other) = sent
    assert first == second < third
    for name, found in (("first", run), ("second", again), ("other experiment", other)):
        assert found.info.run_name == name
        assert found.info.status == "FINISHED"
        assert found.data.metrics["train/loss"] == len(name)
    assert run.info.experiment_id == again.info.experiment_id != other.info.experiment_id


@pytest.mark.slow
def test_a_kept_process_ends_after_a_while(own_processes, workplace, tmp_path, monkeypatch):
    monkeypatch.setattr("imgclf.tracking.sender._KEPT_SECONDS", 0.1)
    identity = create_identity(tmp_path, "train", "", "kept")
    tracker = Tracker(identity, Path(identity.folder))
    (process,) = senders()
    assert tracker.finish(FINISHED) == []
    process.wait(timeout=60)


@pytest.mark.slow
def test_a_run_after_a_refused_one_is_sent(workplace, tmp_path):
    """MLflow opens no run in an experiment that was deleted."""
    client = MlflowClient()
    client.delete_experiment(client.create_experiment("deleted"))
    refused = create_identity(tmp_path, "train", "", "deleted")
    tracker = Tracker(refused, Path(refused.folder))
    with pytest.raises(ImgclfError, match="MLflow refused the run"):
        tracker.wait_until_open()
    assert tracker.finish(FAILED) != []
    taken = create_identity(tmp_path, "train", "", "not deleted")
    tracker = Tracker(taken, Path(taken.folder))
    tracker.wait_until_open()
    assert tracker.finish(FINISHED) == []


@pytest.mark.faults
def test_the_process_ends_when_the_one_that_started_it_is_killed(tmp_path: Path):
    before = {process.pid for process in psutil.process_iter()}
    done = subprocess.run([sys.executable, "-c", STARTS_A_SENDER_AND_IS_KILLED], cwd=tmp_path)
    assert done.returncode == -signal.SIGKILL
    for process in psutil.process_iter():
        try:
            if process.pid not in before and "imgclf.tracking.sender_process" in process.cmdline():
                process.wait(timeout=60)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue


@pytest.mark.faults
def test_a_signal_to_all_processes_of_a_job_does_not_silence_the_run(workplace, tmp_path):
    tracker, process = open_run(tmp_path, "signalled")
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        os.kill(process.pid, number)
    assert tracker.finish(KILLED) == []
    assert MlflowClient().get_run(tracker.mlflow_run_id or "").info.status == "KILLED"


@pytest.mark.faults
def test_a_process_that_has_stopped_does_not_stop_training(workplace, tmp_path):
    """What it is told then goes into a pipe that nobody reads."""
    tracker, process = open_run(tmp_path, "stopped")
    process.suspend()
    for step in range(1_000):
        tracker.metrics({"train/loss": 1.0}, step=step)
    process.resume()
    assert tracker.finish(FINISHED) == []
    history = MlflowClient().get_metric_history(tracker.mlflow_run_id or "", "train/loss")
    assert sorted(point.step for point in history) == list(range(1_000))


def begin_and_kill_the_sender(runs_dir: Path, experiment: str) -> Tracker:
    """Begin a run; its sender is gone after it has opened it."""
    tracker, process = open_run(runs_dir, experiment)
    process.kill()
    while process.is_running():
        time.sleep(0.01)
    return tracker


@pytest.mark.faults
def test_a_killed_process_that_there_is_no_time_to_replace_is_told(
    workplace, tmp_path, monkeypatch
):
    monkeypatch.setattr("imgclf.tracking.sender._SECONDS_BEFORE_STARTS", (600.0,))
    tracker = begin_and_kill_the_sender(tmp_path, "killed sender")
    tracker.metrics({"train/loss": 0.25}, step=1)
    (problem,) = tracker.finish(KILLED, seconds=1)
    assert "(the process that sends to MLflow was ended by SIGKILL)" in problem
    assert "imgclf sync" in problem
    (folder,) = tmp_path.iterdir()
    journal = (folder / "journal.jsonl").read_text()
    assert '"train/loss": 0.25' in journal
    assert journal.splitlines()[-1].count('"end"') == 1


@pytest.mark.faults
def test_a_replaced_process_that_cannot_work_does_not_end_the_run(workplace, tmp_path, monkeypatch):
    monkeypatch.setattr("imgclf.tracking.sender._SECONDS_BEFORE_STARTS", (0.0,))
    tracker = begin_and_kill_the_sender(tmp_path / "runs", "replaced sender")
    (tmp_path / "mlflow.py").write_text("raise ImportError('half of it is missing')")
    monkeypatch.syspath_prepend(tmp_path)
    tracker.metrics({"train/loss": 0.25}, step=1)
    (problem,) = tracker.finish(FINISHED)
    assert "(the process that sends to MLflow ended with 1: MLflow cannot be used" in problem
    assert "half of it is missing" in problem


def test_the_run_is_open_after_the_wait_and_names_its_program(
    own_processes, workplace, tmp_path, monkeypatch
):
    monkeypatch.setattr(sys, "argv", ["/somewhere/train.py", "--epochs", "3"])
    identity = create_identity(tmp_path, "train", "", "opened")
    tracker = Tracker(identity, Path(identity.folder))
    tracker.wait_until_open()
    run = MlflowClient().get_run(tracker.mlflow_run_id or "")
    assert run.info.status == "RUNNING"
    assert run.data.tags["mlflow.source.name"] == "/somewhere/train.py"
    assert tracker.tracking_uri == f"sqlite:///{workplace}/mlflow.db"
    begun = next(read_records(Path(identity.folder) / JOURNAL_FILE))
    assert begun.content["host"] == platform.node()
    assert tracker.finish(FINISHED) == []


@pytest.mark.parametrize(
    ("error", "message", "hint"),
    [
        (
            "ImportError('half of it is missing')",
            "MLflow cannot be used: half of it is missing",
            "Reinstall mlflow.",
        ),
        ("ImgclfError('Cannot write.', 'Make room.')", "Cannot write.", "Make room."),
    ],
)
def test_why_mlflow_cannot_be_used_is_told_with_what_to_do(
    error, message, hint, tmp_path, monkeypatch
):
    program = f"from imgclf.errors import ImgclfError\nraise {error}\n"
    (tmp_path / "mlflow.py").write_text(program)
    monkeypatch.syspath_prepend(tmp_path)
    identity = create_identity(tmp_path, "train", "", "")
    tracker = Tracker(identity, Path(identity.folder))
    with pytest.raises(ImgclfError) as caught:
        tracker.wait_until_open()
    assert (caught.value.message, caught.value.hint) == (message, hint)
    (problem,) = tracker.finish(FAILED)
    assert f"({message} {hint})" in problem
    assert "SIG" not in problem


@pytest.mark.slow
@pytest.mark.faults
def test_where_no_process_can_be_started_any_more_the_run_goes_on(workplace, tmp_path, monkeypatch):
    monkeypatch.setattr("imgclf.tracking.sender._SECONDS_BEFORE_STARTS", (0.0, 0.1))
    tracker = begin_and_kill_the_sender(tmp_path, "no memory")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(subprocess, "Popen", refuse)
    tracker.metrics({"train/loss": 0.25}, step=1)
    (problem,) = tracker.finish(FINISHED)
    assert "(Cannot start a process for MLflow: Cannot allocate memory.)" in problem


@pytest.mark.faults
def test_a_sender_that_ends_at_once_each_time_is_given_up_and_told(
    own_processes, workplace, tmp_path, monkeypatch
):
    """A program may end a process in ways that leave no code."""
    monkeypatch.setattr("imgclf.tracking.sender._SECONDS_BEFORE_STARTS", (0.0, 0.1))
    command = [sys.executable, "-c", "import sys\nsys.stdin.readline()\n"]
    popen, starts = subprocess.Popen, []

    def start(*_: object, **__: object) -> "subprocess.Popen[bytes]":
        starts.append(popen(command, stdin=-1, stdout=-1))
        return starts[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    identity = create_identity(tmp_path, "train", "", "given up")
    tracker = Tracker(identity, Path(identity.folder))
    (problem,) = tracker.finish(FINISHED)
    assert "(the process that sends to MLflow ended too early)" in problem
    assert "imgclf sync" in problem
    assert [process.returncode for process in starts] == [0, 0, 0]
