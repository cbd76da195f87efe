import json

import pytest

from imgclf.tracking.journal import Journal


def test_every_record_is_on_disk_when_append_returns(tmp_path):
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    for step in range(3):
        journal.append("metrics", values={"loss": 0.1 * step}, step=step)
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert [line["sequence"] for line in lines] == list(range(step + 1))
        assert lines[-1]["content"] == {"values": {"loss": 0.1 * step}, "step": step}
    journal.close()


def test_a_journal_is_never_overwritten(tmp_path):
    Journal(tmp_path / "journal.jsonl").close()
    with pytest.raises(FileExistsError):
        Journal(tmp_path / "journal.jsonl")
