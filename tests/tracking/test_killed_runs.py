"""Programs whose run goes to a real server are killed, their senders too; one's disk is full."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from imgclf.tracking.journal import FINISHED
from imgclf.tracking.sent import read_sent
from imgclf.tracking.sync import sync_runs
from tracking_server import holds_all, is_sent, runs_of, say_end, say_epoch, wait_until

pytestmark = pytest.mark.faults

SPEAKS_AND_WAITS = """
import sys
from pathlib import Path
from imgclf.tracking.identity import create_identity
from imgclf.tracking.tracker import Tracker
from tracking_server import say_beginning, say_epoch

identity = create_identity(Path(sys.argv[1]), "train", "", "outage")
folder = Path(identity.folder)
tracker = Tracker(identity, folder)
say_beginning(tracker, folder)
say_epoch(tracker, 1)
print(folder, flush=True)
sys.stdin.readline()
"""

SPEAKS_UNTIL_THE_DISK_IS_FULL = """
import resource, sys
from pathlib import Path
from imgclf.errors import ImgclfError
from imgclf.tracking.identity import create_identity
from imgclf.tracking.tracker import Tracker
from tracking_server import say_epoch

resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, 9_000))
identity = create_identity(Path(sys.argv[1]), "train", "", "outage")
print(identity.folder, flush=True)
tracker = Tracker(identity, Path(identity.folder))
tracker.wait_until_open()
epoch = 1
while True:
    try:
        say_epoch(tracker, epoch)
    except ImgclfError:
        break
    epoch += 1
"""


@pytest.fixture
def start_script(server, tmp_path) -> "Callable[[str], subprocess.Popen[str]]":
    """Start a program whose run goes to the server."""

    def start(code: str) -> "subprocess.Popen[str]":
        environment = {**os.environ, "MLFLOW_TRACKING_URI": server.address}
        environment["PYTHONPATH"] = os.pathsep.join([*sys.path, str(Path(__file__).parent)])
        return subprocess.Popen(
            [sys.executable, "-c", code, tmp_path / "runs"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    return start


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("with_sender", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_killed_run_ends_as_killed(server, start_script, with_sender):
    """By its sender, and where that was killed too, by whoever sends the rest."""
    process = start_script(SPEAKS_AND_WAITS)
    assert process.stdout is not None
    folder = Path(process.stdout.readline().strip())
    (child,) = psutil.Process(process.pid).children()
    wait_until(lambda: read_sent(folder).delivered > 3)
    if with_sender:
        child.kill()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    wait_until(lambda: not is_alive(child))
    (result,) = sync_runs([folder])
    assert (result.was_dead, result.records > 0) == (with_sender, with_sender)
    run = holds_all(server.client(), folder)
    assert run.info.status == "KILLED"
    assert run.data.tags["imgclf.error"] == "the process was killed"


def kill_sender() -> None:
    """Kill the process that sends what this one says."""
    (sender,) = [
        child
        for child in psutil.Process().children()
        if "imgclf.tracking.sender_process" in child.cmdline()
    ]
    sender.kill()
    wait_until(lambda: not is_alive(sender))


@pytest.mark.slow
def test_what_a_run_says_after_its_sender_was_killed_is_sent_by_another(server, begin):
    """Between two epochs, and once more before the run's end."""
    tracker, folder = begin(server.address)
    say_epoch(tracker, 1)
    kill_sender()
    say_epoch(tracker, 2)
    wait_until(lambda: is_sent(folder))
    kill_sender()
    say_end(tracker, folder)
    assert tracker.finish(FINISHED) == []
    holds_all(server.client(), folder)


@pytest.mark.slow
def test_a_run_that_its_full_disk_does_not_let_end_is_ended_in_mlflow(server, start_script):
    process = start_script(SPEAKS_UNTIL_THE_DISK_IS_FULL)
    output, _ = process.communicate()
    folder = Path(output.strip())
    wait_until(lambda: [run.info.status for run in runs_of(server.client(), folder)] == ["KILLED"])
    (result,) = sync_runs([folder])  # there is room again
    assert result.was_dead
    holds_all(server.client(), folder)
