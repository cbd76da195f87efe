import json
from pathlib import Path

import pytest

from imgclf.errors import ImgclfError
from imgclf.tracking.journal import Journal, last_record, read_records
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
    ],
    ids=["garbage", "a line is missing", "a line stands twice", "half a record", "a list"],
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
