"""The process that brings records to MLflow: what becomes of it when something ends."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from imgclf.tracking.identity import create_identity
from imgclf.tracking.sender import Delivery, Sender
from imgclf.tracking.tracker import FINISHED, KILLED, Tracker

STARTS_A_SENDER_AND_IS_KILLED = """
import os, signal
from imgclf.tracking.sender import Sender
sender = Sender()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines that run tests may be slow."""
    monkeypatch.setattr("imgclf.tracking.tracker.OPENING_SECONDS", 300.0)


def senders() -> list[psutil.Process]:
    return [
        process
        for process in psutil.Process().children()
        if "imgclf.tracking.sender_process" in process.cmdline()
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tracking_uri": "sqlite:///ä.db", "mlflow_run_id": "1", "url": "http://127.0.0.1/#/1"},
        {"refusal": ("no\nsuch store", "hint"), "problems": ("one", "two"), "failing": "away"},
    ],
)
def test_what_the_process_tells_is_one_line_that_can_be_read_again(changes):
    delivery = replace(Delivery(), **changes)
    line = delivery.to_json()
    assert line.count(b"\n") == 1
    assert Delivery.from_json(line) == delivery


def test_a_process_that_has_nothing_to_send_ends_with_the_context():
    with Sender():
        (process,) = senders()
    assert not process.is_running()


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


def test_a_signal_to_all_processes_of_a_job_does_not_silence_the_run(workplace, tmp_path):
    identity = create_identity(tmp_path, "train", "", "signalled")
    tracker = Tracker(identity, Path(identity.folder))
    tracker.wait_until_open()
    (process,) = senders()
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(process.pid, number)
    assert tracker.finish(KILLED) == []
    assert not process.is_running()
    assert MlflowClient().get_run(tracker.mlflow_run_id or "").info.status == "KILLED"


def test_a_process_that_was_killed_is_told_and_the_journal_is_whole(workplace, tmp_path):
    identity = create_identity(tmp_path, "train", "", "killed sender")
    tracker = Tracker(identity, Path(identity.folder))
    tracker.wait_until_open()
    (process,) = senders()
    process.kill()
    while process.is_running():
        time.sleep(0.01)
    tracker.metrics({"train/loss": 0.25}, step=1)
    (problem,) = tracker.finish(FINISHED)
    assert problem == "the process that sends to MLflow was ended by SIGKILL"
    journal = (Path(identity.folder) / "journal.jsonl").read_text()
    assert '"train/loss": 0.25' in journal
    assert journal.splitlines()[-1].count('"end"') == 1


def test_the_run_is_open_after_the_wait_and_names_its_program(workplace, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/train.py", "--epochs", "3"])
    identity = create_identity(tmp_path, "train", "", "opened")
    tracker = Tracker(identity, Path(identity.folder))
    tracker.wait_until_open()
    run = MlflowClient().get_run(tracker.mlflow_run_id or "")
    assert run.info.status == "RUNNING"
    assert run.data.tags["mlflow.source.name"] == "/somewhere/train.py"
    assert tracker.tracking_uri == f"sqlite:///{workplace}/mlflow.db"
    assert tracker.finish(FINISHED) == []
