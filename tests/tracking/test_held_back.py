"""A real server takes all but one record, which must keep none of the others from being sent."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from faulty_proxy import ERROR, NOT_FOUND, PASS
from imgclf.tracking.destination import RefusedError, UnreachableError
from imgclf.tracking.identity import create_identity
from imgclf.tracking.journal import FINISHED, JOURNAL_FILE, KILLED, Journal
from imgclf.tracking.outbox import Outbox
from imgclf.tracking.sent import read_sent
from imgclf.tracking.sync import send_left_over, sync_runs
from tracking_server import holds_all, is_sent, num_records, runs_of, say_end, say_epoch

pytestmark = pytest.mark.faults


@pytest.fixture
def journal(tmp_path, proxy, monkeypatch) -> Iterator[tuple[Journal, Path]]:
    """A journal that begins a run, which goes to the proxy, and its folder."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    identity = create_identity(tmp_path / "runs", "train", "", "held back")
    folder = Path(identity.folder)
    journal = Journal.create(folder / JOURNAL_FILE)
    journal.append("run", identity=identity.to_dict(), source="train.py", resumed=False)
    yield journal, folder
    journal.close()


def send_what_is_taken(folder: Path) -> None:
    """Send a run; hold back what the server does not take."""
    with Outbox(folder) as outbox:
        while outbox.refill():
            try:
                outbox.send_next()
            except UnreachableError:
                assert outbox.hold_back_next()


def append_epochs(journal: Journal, epochs: range) -> None:
    for epoch in epochs:
        values = {"train/loss": 1 / epoch, f"only/{epoch}": 1.0}
        journal.append("metrics", values=values, step=epoch, summary={"best/epoch": epoch})


def test_a_file_that_the_server_never_takes_is_held_back_told_and_sent_later(proxy, server, begin):
    tracker, folder = begin(proxy.address)
    proxy.fault = lambda path: ERROR if path.endswith("poison.bin") else PASS
    (folder / "poison.bin").write_bytes(b"poison")
    tracker.artifact("poison.bin")
    say_epoch(tracker, 1)
    say_end(tracker, folder)
    (problem,) = tracker.finish(FINISHED)
    assert problem.startswith(f"1 of {num_records(folder)} records (artifact: ")
    assert "500" in problem
    assert f"imgclf sync --runs-dir {folder.parent} {folder.name}" in problem
    (run,) = runs_of(server.client(), folder)
    assert run.info.status == FINISHED
    assert run.data.metrics["test/accuracy"] == 0.875
    assert not is_sent(folder)

    (result,) = sync_runs([folder], tries=1)
    assert (result.records, result.is_unreachable) == (0, False)
    assert result.failing.startswith("artifact: ")
    proxy.fault = lambda _: PASS
    (result,) = sync_runs([folder])
    assert (result.records, result.failing) == (1, "")
    assert is_sent(folder)
    run = holds_all(server.client(), folder)
    assert "imgclf.probe" not in run.data.tags


def test_of_a_batch_of_metrics_one_record_is_held_back(proxy, server, journal):
    writer, folder = journal
    append_epochs(writer, range(1, 30))
    writer.append("end", status=FINISHED)
    proxy.poison = b"only/17"
    send_what_is_taken(folder)
    assert list(read_sent(folder).held_back) == ["17"]
    (run,) = runs_of(server.client(), folder)
    assert run.info.status == FINISHED
    history = server.client().get_metric_history(run.info.run_id, "train/loss")
    assert [point.step for point in history] == [step for step in range(1, 30) if step != 17]
    proxy.poison = b""
    (result,) = sync_runs([folder])
    assert (result.records, result.failing) == (1, "")
    run = holds_all(server.client(), folder)
    assert run.data.metrics["best/epoch"] == 29


def test_a_store_that_refuses_one_record_gets_the_others(server, journal):
    writer, folder = journal
    append_epochs(writer, range(1, 2))
    bad = {"no/such:name?": 1.0, "train/loss": 2.0}
    writer.append("metrics", values=bad, step=2, summary={})
    append_epochs(writer, range(3, 4))
    writer.append("end", status=FINISHED)
    (result,) = sync_runs([folder])
    (problem,) = result.sent.problems()
    assert problem.startswith("metrics: ")
    assert "no/such:name?" in problem
    client = server.client()
    (run,) = runs_of(client, folder)
    assert run.info.status == FINISHED
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [point.step for point in history] == [1, 3]


def test_tags_that_were_held_back_do_not_replace_later_ones(proxy, server, journal):
    writer, folder = journal
    writer.append("tags", values={"a": "poison", "b": "old", "imgclf.error": "killed"})
    writer.append("tags", values={"b": "new"})
    writer.append("end", status=KILLED)
    writer.append("run", identity={}, source="train.py", resumed=True)
    writer.append("end", status=FINISHED)
    proxy.poison = b"poison"
    send_what_is_taken(folder)
    assert list(read_sent(folder).held_back) == ["1"]
    proxy.poison = b""
    (result,) = sync_runs([folder])
    assert (result.records, result.failing) == (1, "")
    (run,) = runs_of(server.client(), folder)
    tags = {name: run.data.tags.get(name) for name in ("a", "b", "imgclf.error")}
    assert tags == {"a": "poison", "b": "new", "imgclf.error": None}
    assert run.info.status == FINISHED


def test_a_server_that_takes_nothing_lets_nothing_be_held_back(proxy, journal):
    writer, folder = journal
    append_epochs(writer, range(1, 3))
    with Outbox(folder) as outbox:
        outbox.refill()
        outbox.send_next()
        proxy.fault = lambda _: ERROR
        with pytest.raises(UnreachableError):
            outbox.send_next()
        assert not outbox.hold_back_next()
    assert (read_sent(folder).delivered, read_sent(folder).held_back) == (1, {})


def test_a_server_that_is_back_gets_the_record_at_once(proxy, server, journal):
    writer, folder = journal
    append_epochs(writer, range(1, 3))
    writer.append("end", status=FINISHED)
    with Outbox(folder) as outbox:
        outbox.refill()
        outbox.send_next()
        proxy.fault = lambda _: ERROR
        with pytest.raises(UnreachableError):
            outbox.send_next()
        proxy.fault = lambda _: PASS
        assert outbox.hold_back_next()
    assert (read_sent(folder).delivered, read_sent(folder).held_back) == (3, {})
    (result,) = sync_runs([folder])
    assert (result.records, result.failing) == (1, "")
    holds_all(server.client(), folder)


def test_a_next_run_sends_what_is_left_behind_a_record_that_is_never_taken(proxy, server, journal):
    writer, folder = journal
    append_epochs(writer, range(1, 4))
    writer.append("end", status=FINISHED)
    proxy.poison = b"only/2"
    for _ in range(2):
        for _ in send_left_over(folder.parent, folder.parent / "own"):
            pass
        assert list(read_sent(folder).held_back) == ["2"]
    proxy.poison = b""
    for _ in send_left_over(folder.parent, folder.parent / "own"):
        pass
    holds_all(server.client(), folder)


@pytest.mark.parametrize("part", ["/artifacts/", "log-batch"])
def test_a_proxy_that_does_not_find_the_server_for_a_while_costs_no_record(
    part, proxy, server, journal
):
    """It answers with a page of its own and 404, as where MLflow is being started anew."""
    writer, folder = journal
    (folder / "samples.png").write_bytes(b"picture")
    writer.append("artifact", path="samples.png", artifact_folder="")
    append_epochs(writer, range(1, 4))
    writer.append("end", status=FINISHED)
    proxy.fault = lambda path: NOT_FOUND if part in path else PASS
    (result,) = sync_runs([folder], tries=1)
    assert "404" in result.failing
    assert (result.is_unreachable, result.sent.refused) == (False, {})
    proxy.fault = lambda _: PASS
    (result,) = sync_runs([folder])
    assert result.failing == ""
    holds_all(server.client(), folder)


def test_an_address_that_is_wrong_at_first_is_told_and_one_behind_an_outage_waited_for(
    proxy, journal
):
    _, folder = journal
    with Outbox(folder) as outbox:
        outbox.refill()
        proxy.fault = lambda _: NOT_FOUND
        with pytest.raises(RefusedError, match="404"):
            outbox.send_next()
        for fault in (ERROR, NOT_FOUND):
            proxy.fault = lambda _, fault=fault: fault
            with pytest.raises(UnreachableError):
                outbox.send_next()
