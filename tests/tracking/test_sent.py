from pathlib import Path

import pytest

from imgclf.tracking.journal import JOURNAL_FILE, Journal
from imgclf.tracking.sent import Sent, has_unsent, read_sent, write_sent


def test_what_was_sent_is_read_again(tmp_path):
    sent = Sent("sqlite:////ä.db", "a1", "http://127.0.0.1/#/a1", 7, {"tags: too long": 2})
    write_sent(tmp_path, sent)
    assert read_sent(tmp_path) == sent
    assert [path.name for path in tmp_path.iterdir()] == ["sent.json"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "[" * 100_000,
        '{"other": 1}',
        '{"tracking_uri": 1}',
        '{"mlflow_run_id": []}',
        '{"delivered": "7"}',
        '{"delivered": -7}',
        '{"refused": ["tags"]}',
        '{"refused": {"tags": "twice"}}',
        '{"held_back": {"seven": "tags"}}',
        '{"held_back": {"7": {}}}',
    ],
    ids=range(13),
)
def test_a_damaged_note_stands_for_nothing_sent(tmp_path: Path, text: str):
    (tmp_path / "sent.json").write_text(text)
    assert read_sent(tmp_path) == Sent()


def test_what_was_refused_is_told_with_how_often():
    sent = Sent(refused={"tags: too long": 1, "metrics: no such run": 3})
    assert sent.problems() == ("tags: too long", "metrics: no such run (3 times)")


def test_a_run_has_unsent_records_until_the_last_was_delivered(tmp_path):
    journal = Journal.create(tmp_path / JOURNAL_FILE)
    assert not has_unsent(tmp_path)
    journal.append("run")
    journal.append("end", status="FINISHED")
    journal.close()
    for delivered in range(3):
        write_sent(tmp_path, Sent(delivered=delivered))
        assert has_unsent(tmp_path) == (delivered < 2)
