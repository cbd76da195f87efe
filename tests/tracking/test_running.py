"""Who holds a run, and what becomes of a run whose process was killed."""

import errno
import fcntl
import os
import platform
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgclf.errors import ImgclfError
from imgclf.tracking.journal import JOURNAL_FILE, Journal, read_records
from imgclf.tracking.running import end_dead_run, hold_run, is_running, other_host
from other_process import other_process

HOLDS_A_RUN = """
import sys
from pathlib import Path
from imgclf.tracking.running import hold_run
lock = hold_run(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run's folder whose journal has no end."""
    journal = Journal.create(tmp_path / JOURNAL_FILE)
    journal.append("run", 1_000, host=platform.node())
    journal.append("metrics", 2_000, values={"train/loss": 1.0}, step=1, summary={})
    journal.close()
    return tmp_path


@pytest.fixture
def holder(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process in which the run is in progress."""
    with other_process(HOLDS_A_RUN, folder) as (process, said):
        assert said == "held\n"
        yield process


def kinds(folder: Path) -> list[str]:
    return [record.kind for record in read_records(folder / JOURNAL_FILE)]


def test_a_run_is_in_progress_in_one_process(folder, holder):
    assert is_running(folder)
    with pytest.raises(ImgclfError, match="is in progress in another process"):
        hold_run(folder)
    assert not end_dead_run(folder)
    assert kinds(folder) == ["run", "metrics"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.faults
def test_the_end_of_a_process_however_it_comes_frees_its_run(folder, holder, number):
    holder.send_signal(number)
    holder.wait()
    assert not is_running(folder)
    hold_run(folder).release()


@pytest.mark.faults
def test_a_dead_run_is_ended_as_killed_at_the_time_of_its_last_word_and_once(folder):
    assert end_dead_run(folder)
    assert not end_dead_run(folder)
    *_, tags, end = read_records(folder / JOURNAL_FILE)
    assert (end.kind, end.time_ms, end.content) == ("end", 2_000, {"status": "KILLED"})
    assert (tags.kind, list(tags.content["values"])) == ("tags", ["imgclf.error"])


def test_a_run_that_has_ended_is_left_as_it_is_unless_it_was_resumed_and_killed(folder):
    journal = Journal.resume(folder / JOURNAL_FILE)
    journal.append("end", status="FINISHED")
    journal.close()
    assert not end_dead_run(folder)
    journal = Journal.resume(folder / JOURNAL_FILE)
    journal.append("run", resumed=True)
    journal.close()
    assert end_dead_run(folder)
    assert kinds(folder) == ["run", "metrics", "end", "run", "tags", "end"]


def test_a_run_held_by_this_process_is_in_progress_until_it_is_let_go(folder):
    lock = hold_run(folder)
    assert is_running(folder)
    assert not end_dead_run(folder)
    lock.release()
    assert end_dead_run(folder)


def test_a_journal_without_a_record_is_no_run(tmp_path):
    Journal.create(tmp_path / JOURNAL_FILE).close()
    assert not end_dead_run(tmp_path)
    assert kinds(tmp_path) == []


# --- Hosts and file systems that do not see each other's locks


def test_a_run_of_another_host_is_left_alone_unless_it_is_known_to_be_dead(folder):
    journal = Journal.resume(folder / JOURNAL_FILE)
    journal.append("run", resumed=True, host="elsewhere")
    journal.close()
    assert other_host(folder) == "elsewhere"
    assert not end_dead_run(folder)
    assert kinds(folder) == ["run", "metrics", "run"]
    assert end_dead_run(folder, other_hosts=True)
    assert other_host(folder) == ""
    assert kinds(folder)[-1] == "end"


def test_a_run_that_was_resumed_on_this_host_is_of_this_host(folder):
    journal = Journal.resume(folder / JOURNAL_FILE)
    journal.append("run", resumed=True, host="elsewhere")
    journal.append("run", resumed=True, host=platform.node())
    journal.close()
    assert other_host(folder) == ""
    assert end_dead_run(folder)


@pytest.mark.faults
def test_a_file_system_without_locks_is_said_and_not_taken_for_a_run_in_progress(
    folder, monkeypatch
):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    for function in (hold_run, is_running):
        with pytest.raises(ImgclfError, match="No locks available") as caught:
            function(folder)
        assert "--runs-dir" in caught.value.hint
    assert not end_dead_run(folder)


@pytest.mark.faults
def test_a_folder_that_cannot_be_written_is_said_where_the_run_has_no_end(folder):
    (folder / "running.lock").mkdir()
    for function in (hold_run, is_running):
        with pytest.raises(ImgclfError, match=f"Cannot write in the run's folder '{folder}'"):
            function(folder)
    journal = Journal.resume(folder / JOURNAL_FILE)
    journal.append("end", status="FINISHED")
    journal.close()
    assert not is_running(folder)
