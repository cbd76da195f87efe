"""A real tracking server is killed, hangs, is slow and full of errors while a run speaks to it."""

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from mlflow.entities import Run

from faulty_proxy import ERROR, LOSE_ANSWER, PASS, FaultyProxy
from imgclf.tracking import sender
from imgclf.tracking.identity import create_identity
from imgclf.tracking.journal import JOURNAL_FILE, last_record
from imgclf.tracking.sent import has_unsent, read_sent
from imgclf.tracking.sync import sync_runs
from imgclf.tracking.tracker import FINISHED, KILLED, Tracker
from tracking_server import (
    TrackingServer,
    free_port,
    holds_all,
    say_beginning,
    say_end,
    say_epoch,
    wait_until,
)

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


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    server = TrackingServer(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.go_on()
    server.kill()


@pytest.fixture
def proxy(server) -> Iterator[FaultyProxy]:
    proxy = FaultyProxy(server.address)
    yield proxy
    proxy.close()


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imgclf.tracking.tracker.OPENING_SECONDS", 300.0)
    sender.stop_kept_senders()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a run give its server up a second after its end."""
    monkeypatch.setattr("imgclf.tracking.tracker.PATIENCE_SECONDS", 1.0)


@pytest.fixture
def begin(tmp_path, monkeypatch) -> Callable[[str], tuple[Tracker, Path]]:
    """Begin a run that goes to a server, and say what comes before its first epoch."""

    def begin_at(address: str) -> tuple[Tracker, Path]:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        identity = create_identity(tmp_path / "runs", "train", "", "outage")
        folder = Path(identity.folder)
        tracker = Tracker(identity, folder)
        say_beginning(tracker, folder)
        tracker.wait_until_open()
        return tracker, folder

    return begin_at


def is_sent(folder: Path) -> bool:
    return not has_unsent(folder)


def runs_of(server: TrackingServer, folder: Path) -> list[Run]:
    client = server.client()
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    return client.search_runs(ids, f"tags.`imgclf.run_id` = '{folder.name}'")


def num_records(folder: Path) -> int:
    last = last_record(folder / JOURNAL_FILE)
    assert last is not None
    return last.sequence + 1


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def sync(folder: Path) -> int:
    """Send what is left; return how many records that was."""
    (result,) = sync_runs([folder])
    assert not result.failing
    return result.records


def seconds_to_say(tracker: Tracker, epochs: range) -> float:
    start = time.monotonic()
    for epoch in epochs:
        say_epoch(tracker, epoch)
    return time.monotonic() - start


def test_a_server_that_is_killed_and_comes_back_holds_the_whole_run(server, begin):
    tracker, folder = begin(server.address)
    say_epoch(tracker, 1)
    wait_until(lambda: is_sent(folder))
    server.kill()
    # Far less than one request takes to fail would be a wait for the server.
    assert seconds_to_say(tracker, range(2, 40)) < 5
    server.start()
    say_end(tracker, folder)
    assert tracker.finish(FINISHED) == []
    holds_all(server.client(), folder)


def test_a_run_that_ends_waits_for_a_hanging_server_no_longer_than_it_may(server, begin):
    """It is told to MLflow in the background as soon as the server goes on."""
    tracker, folder = begin(server.address)
    wait_until(lambda: is_sent(folder))
    server.stop()
    try:
        assert seconds_to_say(tracker, range(1, 20)) < 5
        say_end(tracker, folder)
        start = time.monotonic()
        (not_sent,) = tracker.finish(KILLED, seconds=3)
        assert time.monotonic() - start < 10
        left = num_records(folder) - read_sent(folder).delivered
        assert not_sent.startswith(f"{left} of {num_records(folder)} records (it takes longer")
        assert f"imgclf sync --runs-dir {folder.parent} {folder.name}" in not_sent
    finally:
        server.go_on()
    wait_until(lambda: is_sent(folder))
    holds_all(server.client(), folder)
    assert sync(folder) == 0


def test_a_run_that_a_hanging_server_opens_twice_is_there_once_at_its_end(
    proxy, server, begin, monkeypatch
):
    """What a server was asked while it hung is done when it goes on, after it was asked again."""
    creations = itertools.count()

    def hold_first_creation(path: str) -> str:
        if path.endswith("runs/create") and next(creations) == 0:
            time.sleep(6)
        return PASS

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    proxy.fault = hold_first_creation
    tracker, folder = begin(proxy.address)
    say_epoch(tracker, 1)
    wait_until(lambda: len(runs_of(server, folder)) == 2)
    say_end(tracker, folder)
    assert tracker.finish(FINISHED) == []
    holds_all(server.client(), folder)


def test_a_server_that_is_absent_from_the_start_gets_the_run_later(begin, tmp_path, impatient):
    """It comes up at the address at which the run looked for it."""
    absent = TrackingServer(tmp_path)
    tracker, folder = begin(absent.address)
    seconds_to_say(tracker, range(1, 4))
    say_end(tracker, folder)
    (not_sent,) = tracker.finish(FINISHED)
    assert "does not answer" in not_sent
    (result,) = sync_runs([folder])
    assert result.is_unreachable
    assert result.records == 0
    absent.start()
    try:
        assert sync(folder) == num_records(folder)
        holds_all(absent.client(), folder)
        (result,) = sync_runs([folder])
        assert result.records == 0
        holds_all(absent.client(), folder)
    finally:
        absent.kill()


def test_a_server_full_of_errors_gets_every_record_once(proxy, server, begin):
    numbers, chance = itertools.count(), random.Random(0)

    def fail_often(_: str) -> str:
        return ERROR if next(numbers) < 4 or chance.random() < 0.3 else PASS

    tracker, folder = begin(proxy.address)
    wait_until(lambda: is_sent(folder))
    proxy.fault = fail_often
    for epoch in range(1, 6):
        say_epoch(tracker, epoch)
        wait_until(lambda: is_sent(folder))
    say_end(tracker, folder)
    assert tracker.finish(FINISHED) == []
    holds_all(server.client(), folder)


def test_answers_that_get_lost_make_nothing_twice(proxy, server, begin):
    """Each request is done once without an answer, then asked again."""
    done: set[str] = set()

    def lose_first(path: str) -> str:
        if path in done or "artifacts/" in path:
            return PASS
        done.add(path)
        return LOSE_ANSWER

    proxy.fault = lose_first
    tracker, folder = begin(proxy.address)
    say_epoch(tracker, 1)
    done.clear()
    say_epoch(tracker, 2)
    say_end(tracker, folder)
    assert tracker.finish(FINISHED) == []
    assert sum(path.endswith("runs/create") for path in proxy.requests) == 1
    holds_all(server.client(), folder)


def test_a_slow_server_holds_up_neither_training_nor_its_end_for_ever(proxy, server, begin):
    def delay(_: str) -> str:
        time.sleep(2)
        return PASS

    tracker, folder = begin(proxy.address)
    wait_until(lambda: is_sent(folder))
    proxy.fault = delay
    before = len(proxy.requests)
    assert seconds_to_say(tracker, range(1, 200)) < 10
    say_end(tracker, folder)
    assert tracker.finish(FINISHED) == []
    # A request for each of the 199 epochs would take minutes: what has gathered goes together.
    assert len(proxy.requests) - before < 40
    holds_all(server.client(), folder)


def test_a_large_file_goes_through_a_server_that_passes_it_on_slowly(
    proxy, server, begin, monkeypatch
):
    def delay_uploads(path: str) -> str:
        if path.endswith("large.bin"):
            time.sleep(6)
        return PASS

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "4")
    proxy.fault = delay_uploads
    tracker, folder = begin(proxy.address)
    (folder / "large.bin").write_bytes(os.urandom(20_000_000))
    tracker.artifact("large.bin")
    assert tracker.finish(FINISHED) == []
    assert sum(path.endswith("large.bin") for path in proxy.requests) == 1
    holds_all(server.client(), folder)


def test_a_next_run_sends_what_an_outage_has_left_and_its_own_first(server, begin, impatient):
    server.stop()
    tracker, left = begin(server.address)
    say_epoch(tracker, 1)
    assert tracker.finish(FINISHED) != []
    server.go_on()
    tracker, folder = begin(server.address)
    say_epoch(tracker, 1)
    wait_until(lambda: is_sent(left))
    assert tracker.finish(FINISHED) == []
    for each in (left, folder):
        holds_all(server.client(), each)


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


@pytest.mark.parametrize("with_sender", [False, True])
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


def test_a_run_that_its_full_disk_does_not_let_end_is_ended_in_mlflow(server, start_script):
    process = start_script(SPEAKS_UNTIL_THE_DISK_IS_FULL)
    output, _ = process.communicate()
    folder = Path(output.strip())
    wait_until(lambda: [run.info.status for run in runs_of(server, folder)] == ["KILLED"])
    (result,) = sync_runs([folder])  # there is room again
    assert result.was_dead
    holds_all(server.client(), folder)


def test_two_that_sync_at_once_send_everything_once(server, begin, proxy, impatient):
    proxy.fault = lambda path: PASS if "experiments" in path else ERROR
    tracker, folder = begin(proxy.address)
    seconds_to_say(tracker, range(1, 30))
    say_end(tracker, folder)
    assert tracker.finish(FINISHED) != []
    proxy.fault = lambda _: PASS
    command = [sys.executable, "-m", "imgclf", "sync", "--runs-dir", folder.parent]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    whole = f"sent {num_records(folder)} records"
    assert sum(whole in answer for answer in answers) == 1
    holds_all(server.client(), folder)


def test_a_store_that_refuses_one_record_gets_the_others(server, begin):
    tracker, folder = begin(server.address)
    say_epoch(tracker, 1)
    tracker.metrics({"no/such:name?": 1.0, "train/loss": 2.0}, 2)
    say_epoch(tracker, 3)
    (problem,) = tracker.finish(FINISHED)
    assert problem.startswith("metrics: ")
    assert "no/such:name?" in problem
    client = server.client()
    run = client.get_run(tracker.mlflow_run_id or "")
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "lr")
    assert [point.step for point in history] == [1, 3]
    assert read_sent(folder).problems() == (problem,)


def test_an_address_where_nobody_listens_is_told_within_seconds(begin, impatient):
    tracker, _ = begin(f"http://127.0.0.1:{free_port()}")
    start = time.monotonic()
    (not_sent,) = tracker.finish(FINISHED)
    assert time.monotonic() - start < 10
    assert "does not answer" in not_sent
