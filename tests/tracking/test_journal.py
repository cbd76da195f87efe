import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imgclf.errors import ImgclfError
from imgclf.tracking.journal import (
    KILLED,
    Journal,
    JournalReader,
    Record,
    last_record,
    read_records,
)
from small_disk import files_up_to


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


def write_journal(path: Path, count: int) -> None:
    journal = Journal.create(path)
    for step in range(count):
        journal.append("metrics", values={"train/loss": 0.1 * step}, step=step, summary={})
    journal.close()


def test_every_record_is_on_disk_when_append_returns(path):
    journal = Journal.create(path)
    for step in range(3):
        journal.append("metrics", values={"loss": 0.1 * step}, step=step)
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert [line["sequence"] for line in lines] == list(range(step + 1))
        assert lines[-1]["content"] == {"values": {"loss": 0.1 * step}, "step": step}
    journal.close()


def test_a_journal_is_never_overwritten(path):
    Journal.create(path).close()
    with pytest.raises(FileExistsError):
        Journal.create(path)


def test_what_was_appended_is_read_again_from_any_record_on(path):
    journal = Journal.create(path)
    appended = [journal.append("tags", values={"name": "ä\n" * n}) for n in range(5)]
    journal.close()
    assert list(read_records(path)) == appended
    assert list(read_records(path, 3)) == appended[3:]
    assert list(read_records(path, 5)) == []


@pytest.mark.parametrize("length", [0, 1, 3000, 5000, 70_000])
def test_the_last_record_is_found_whatever_its_length(path, length):
    journal = Journal.create(path)
    assert last_record(path) is None
    for number in range(3):
        appended = journal.append("tags", values={"name": str(number) * length})
        assert last_record(path) == appended
    journal.close()


@pytest.mark.parametrize("torn", ["{", '{"sequence": 3, "time_ms"', "\0" * 700, "x" * 10_000])
@pytest.mark.faults
def test_a_torn_last_line_is_no_record_and_is_cut_off_when_the_run_is_resumed(path, torn):
    write_journal(path, 3)
    whole = path.read_text()
    with path.open("a") as file:
        file.write(torn)

    assert [record.sequence for record in read_records(path)] == [0, 1, 2]
    last = last_record(path)
    assert last is not None
    assert last.sequence == 2
    journal = Journal.resume(path)
    assert path.read_text() == whole
    assert journal.append("end", status="FINISHED").sequence == 3
    journal.close()
    assert [record.kind for record in read_records(path)] == ["metrics"] * 3 + ["end"]


@pytest.mark.faults
def test_a_journal_of_nothing_but_a_torn_line_is_begun_again(path):
    path.write_text('{"seq')
    journal = Journal.resume(path)
    assert journal.append("run").sequence == 0
    journal.close()
    assert len(list(read_records(path))) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: [lines[0], "no record", lines[2]],
        lambda lines: [lines[0], lines[2]],
        lambda lines: [lines[0], lines[1], lines[1], lines[2]],
        lambda lines: [lines[0], '{"sequence": 1}', lines[2]],
        lambda lines: [lines[0], "[1]", lines[2]],
        lambda lines: [lines[0], "[" * 100_000, lines[2]],
        lambda lines: [lines[0], lines[1].replace("1", '"1"', 1), lines[2]],
        lambda lines: [lines[0], lines[1].replace("metrics", "end"), lines[2]],
        lambda lines: [lines[0], lines[1].replace("{}", "[]"), lines[2]],
    ],
    ids=[
        "garbage",
        "a line is missing",
        "a line stands twice",
        "half a record",
        "a list",
        "too deep",
        "a number as text",
        "an end without a status",
        "a list of figures",
    ],
)
@pytest.mark.faults
def test_a_damaged_middle_is_refused_and_said_with_the_file(path, damage):
    write_journal(path, 3)
    path.write_text("\n".join(damage(path.read_text().splitlines())) + "\n")
    with pytest.raises(ImgclfError, match=r"journal\.jsonl' is damaged"):
        list(read_records(path))


def test_a_journal_that_is_not_there_is_said(path):
    for read in (last_record, lambda path: list(read_records(path)), Journal.resume):
        with pytest.raises(ImgclfError, match="Cannot read the journal"):
            read(path)


@pytest.mark.faults
def test_a_full_disk_is_said_and_leaves_the_journal_whole(path):
    journal = Journal.create(path)
    journal.append("run")
    before = path.read_bytes()
    with files_up_to(len(before) + 20), pytest.raises(ImgclfError, match="Cannot write") as caught:
        journal.append("tags", values={"name": "text" * 20})
    assert "Make room" in caught.value.hint
    assert path.read_bytes() == before
    # There is room again: the next record stands where the lost one would have.
    assert journal.append("end", status="FAILED").sequence == 1
    journal.close()
    assert [record.kind for record in read_records(path)] == ["run", "end"]


# --- A signal inside a call


@pytest.mark.faults
def test_a_signal_between_write_and_count_leaves_a_record_that_the_next_one_follows(
    path, monkeypatch
):
    """Python runs a signal's handler right after the call that it came in."""
    fsync = os.fsync

    def then_ctrl_c(descriptor: int) -> None:
        fsync(descriptor)
        raise KeyboardInterrupt

    journal = Journal.create(path)
    journal.append("run")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", then_ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            journal.append("tags", values={"name": "interrupted"})
    (_, read_meanwhile) = read_records(path)
    assert journal.append("end", status=KILLED).sequence == 2
    assert journal.length == 3
    journal.close()
    records = list(read_records(path))
    assert [record.kind for record in records] == ["run", "tags", "end"]
    assert records[1] == read_meanwhile


WRITES_WHILE_SIGNALS_COME = """
import random, signal, sys
from pathlib import Path
from imgclf.tracking.journal import Journal

signal.signal(signal.SIGALRM, signal.default_int_handler)
journal = Journal.create(Path(sys.argv[1]))
journal.append("run")
for _ in range(300):
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 3e-3))
        while True:
            journal.append("tags", values={"name": "x" * 3000})
    except KeyboardInterrupt:
        pass
journal.append("end", status="KILLED")
"""


@pytest.mark.faults
def test_signals_at_any_moment_leave_a_journal_that_can_be_read(path):
    subprocess.run([sys.executable, "-c", WRITES_WHILE_SIGNALS_COME, path], check=True)
    assert list(read_records(path))[-1].kind == "end"


@pytest.mark.parametrize("garbage", [b'{"sequence": 1, "time', b"\0" * 5000])
@pytest.mark.faults
def test_a_part_of_a_record_that_could_not_be_cut_off_is_cut_off_before_the_next(path, garbage):
    """A full disk may refuse that, too; and a signal may come after a part of a line."""
    journal = Journal.create(path)
    journal.append("run")
    journal._file.write(garbage)
    assert journal.append("end", status=KILLED).sequence == 1
    journal.close()
    assert [record.kind for record in read_records(path)] == ["run", "end"]


# --- A clock that is put back


@pytest.mark.faults
def test_times_never_go_back_although_the_clock_does(path, monkeypatch):
    hour = 3_600_000_000_000
    clock = iter([10 * hour, 9 * hour, 9 * hour, 8 * hour, 11 * hour])
    monkeypatch.setattr(time, "time_ns", lambda: next(clock))
    journal = Journal.create(path)
    journal.append("run")
    journal.append("tags", values={})
    journal.append("tags", values={})
    journal.close()
    journal = Journal.resume(path)
    journal.append("tags", values={})
    journal.append("tags", values={})
    journal.append("tags", 5, values={})  # the end of a dead run, at a time that is given
    journal.close()
    first, later = 10 * hour // 1_000_000, 11 * hour // 1_000_000
    times = [record.time_ms for record in read_records(path)]
    assert times == [first, first + 1, first + 2, first + 3, later, later]


# --- Reading on


def test_what_was_read_is_not_read_again(path):
    """A run of a week has a long journal, which is looked into after each record."""
    write_journal(path, 3)
    reader = JournalReader(path)
    assert [record.sequence for record in reader.new_records()] == [0, 1, 2]
    length = path.stat().st_size
    with path.open("r+b") as file:
        file.write(b"?" * (length - 1) + b"\n")
    assert list(reader.new_records()) == []
    with path.open("ab") as file:
        file.write(b'{"sequence": 3, "time_ms": 1, "kind": "run", ')
    assert list(reader.new_records()) == []
    with path.open("ab") as file:
        file.write(b'"content": {}}\n')
    assert list(reader.new_records()) == [Record(3, 1, "run", {})]
