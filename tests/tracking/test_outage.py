"""A real tracking server is killed, hangs, is slow and full of errors while a run speaks to it."""

import itertools
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from faulty_proxy import ERROR, LOSE_ANSWER, PASS
from imgclf.tracking.journal import FINISHED, JOURNAL_FILE, KILLED
from imgclf.tracking.sent import read_sent
from imgclf.tracking.sync import sync_runs
from imgclf.tracking.tracker import Tracker
from tracking_server import (
    TrackingServer,
    free_port,
    holds_all,
    is_sent,
    num_records,
    runs_of,
    say_end,
    say_epoch,
    wait_until,
)

pytestmark = pytest.mark.faults


def sync(folder: Path) -> int:
    """Send what is left; return how many records that was."""
    (result,) = sync_runs([folder])
    assert not result.failing
    return result.records


def say_epochs(tracker: Tracker, epochs: range) -> None:
    for epoch in epochs:
        say_epoch(tracker, epoch)


def test_a_server_that_is_killed_and_comes_back_holds_the_whole_run(server, begin):
    tracker, folder = begin(server.address)
    say_epoch(tracker, 1)
    wait_until(lambda: is_sent(folder))
    server.kill()
    say_epochs(tracker, range(2, 40))  # nobody can have answered when they are said
    server.start()
    say_end(tracker, folder)
    assert tracker.finish(FINISHED) == []
    holds_all(server.client(), folder)


@pytest.mark.slow
def test_a_run_that_ends_waits_for_a_hanging_server_no_longer_than_it_may(server, begin):
    """It is told to MLflow in the background as soon as the server goes on."""
    tracker, folder = begin(server.address)
    wait_until(lambda: is_sent(folder))
    server.stop()
    try:
        say_epochs(tracker, range(1, 20))
        say_end(tracker, folder)
        (not_sent,) = tracker.finish(KILLED, seconds=3)
        left = num_records(folder) - read_sent(folder).delivered
        assert not_sent.startswith(f"{left} of {num_records(folder)} records (it takes longer")
        assert f"imgclf sync --runs-dir {folder.parent} {folder.name}" in not_sent
    finally:
        server.go_on()
    wait_until(lambda: is_sent(folder))
    holds_all(server.client(), folder)
    assert sync(folder) == 0


@pytest.mark.slow
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
    wait_until(lambda: len(runs_of(server.client(), folder)) == 2)
    say_end(tracker, folder)
    assert tracker.finish(FINISHED) == []
    holds_all(server.client(), folder)


@pytest.mark.slow
def test_a_server_that_is_absent_from_the_start_gets_the_run_later(begin, tmp_path, impatient):
    """It comes up at the address at which the run looked for it."""
    absent = TrackingServer(tmp_path)
    tracker, folder = begin(absent.address)
    say_epochs(tracker, range(1, 4))
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_slow_server_holds_up_neither_training_nor_its_end_for_ever(proxy, server, begin):
    def delay(_: str) -> str:
        time.sleep(2)
        return PASS

    tracker, folder = begin(proxy.address)
    wait_until(lambda: is_sent(folder))
    proxy.fault = delay
    before = len(proxy.requests)
    say_epochs(tracker, range(1, 200))
    say_end(tracker, folder)
    assert tracker.finish(FINISHED) == []
    # A request for each of the 199 epochs would take minutes: what has gathered goes together.
    assert len(proxy.requests) - before < 40
    holds_all(server.client(), folder)


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_two_that_sync_at_once_send_everything_once(server, begin, proxy, impatient):
    proxy.fault = lambda path: PASS if "experiments" in path else ERROR
    tracker, folder = begin(proxy.address)
    say_epochs(tracker, range(1, 30))
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


def test_an_address_where_nobody_listens_is_told_and_the_wait_for_it_before(begin, impatient):
    tracker, folder = begin(f"http://127.0.0.1:{free_port()}")
    say_epoch(tracker, 1)
    said: list[str] = []
    (not_sent,) = tracker.finish(FINISHED, say=said.append)
    assert "the tracking server does not answer" in not_sent
    (line,) = said
    assert re.fullmatch(r"sending the rest to MLflow, \d+ seconds at most", line)
    assert '"train/loss": 1.0' in (folder / JOURNAL_FILE).read_text()
