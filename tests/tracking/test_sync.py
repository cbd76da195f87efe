"""``imgclf sync`` and what other commands do for dead runs, on a real store; and resumed runs."""

import itertools
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from command_line import imgclf
from imgclf.errors import ImgclfError
from imgclf.tracking import brief_requests, sender
from imgclf.tracking.identity import RunIdentity, create_identity, read_identity
from imgclf.tracking.journal import FAILED, FINISHED, JOURNAL_FILE, KILLED, Journal, read_records
from imgclf.tracking.outbox import Outbox
from imgclf.tracking.running import hold_run
from imgclf.tracking.sent import read_sent
from imgclf.tracking.sync import pauses
from imgclf.tracking.tracker import Tracker
from tracking_server import holds_all, say_beginning, say_end, say_epoch, write_run


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imgclf.tracking.tracker.OPENING_SECONDS", 300.0)


def begin(runs_dir: Path, experiment: str = "sync") -> tuple[RunIdentity, Path, Tracker]:
    identity = create_identity(runs_dir, "train", "", experiment)
    folder = Path(identity.folder)
    tracker = Tracker(identity, folder)
    say_beginning(tracker, folder)
    say_epoch(tracker, 1)
    return identity, folder, tracker


# --- imgclf sync


def test_what_was_never_sent_is_sent_once(runs_dir):
    folder = write_run(runs_dir, ended=True)
    first = imgclf("sync", "--runs-dir", runs_dir)
    assert first.exit_code == 0, first.output
    assert first.output.startswith(f"{folder.name}  sent 5 records to sqlite:///")
    run = holds_all(MlflowClient(), folder)
    assert run.data.tags["mlflow.source.name"] == "train.py"
    again = imgclf("sync", "--runs-dir", runs_dir)
    assert (again.exit_code, again.output) == (0, "everything is sent\n")
    named = imgclf("sync", folder.name, "--runs-dir", runs_dir)
    assert named.output == f"{folder.name}  everything is sent\n"
    holds_all(MlflowClient(), folder)


@pytest.mark.faults
def test_a_dead_run_is_ended_and_one_in_progress_is_left_alone(runs_dir):
    dead, living = write_run(runs_dir, ended=False), write_run(runs_dir, ended=False)
    lock = hold_run(living)
    result = imgclf("sync", "--runs-dir", runs_dir)
    assert result.exit_code == 0, result.output
    assert "its process was killed: ended as KILLED; sent 6 records" in result.output
    assert living.name not in result.output
    assert holds_all(MlflowClient(), dead).info.status == "KILLED"
    assert read_sent(living).delivered == 0
    named = imgclf("sync", living.name, "--runs-dir", runs_dir)
    assert named.output == f"{living.name}  is in progress, and left alone\n"
    lock.release()


@pytest.mark.faults
def test_sending_all_again_makes_nothing_twice(runs_dir):
    """The note of what was sent is lost, as with a folder that was copied from elsewhere."""
    folder = write_run(runs_dir, ended=True)
    assert imgclf("sync", "--runs-dir", runs_dir).exit_code == 0
    (folder / "sent.json").unlink()
    again = imgclf("sync", "--runs-dir", runs_dir)
    assert "sent 5 records" in again.output
    holds_all(MlflowClient(), folder)


def test_an_end_that_another_process_has_sent_is_known_until_the_run_is_resumed(runs_dir):
    """A sender that is killed right after the end is replaced by one that has nothing to send."""
    folder = write_run(runs_dir, ended=True)
    assert imgclf("sync", "--runs-dir", runs_dir).exit_code == 0
    with Outbox(folder) as outbox:
        assert (outbox.refill(), outbox.ended) == (0, True)
    journal = Journal.resume(folder / JOURNAL_FILE)
    journal.append("run", identity={}, source="train.py", resumed=True)
    journal.close()
    with Outbox(folder) as outbox:
        assert (outbox.refill(), outbox.ended) == (1, False)


def test_a_run_goes_to_its_own_store_whatever_the_shell_says(runs_dir, tmp_path, monkeypatch):
    own = f"sqlite:///{tmp_path}/own.db"
    with monkeypatch.context() as shell:
        shell.setenv("MLFLOW_TRACKING_URI", own)
        folder = write_run(runs_dir, ended=True)
    result = imgclf("sync", "--runs-dir", runs_dir)
    assert f"sent 5 records to {own}, the run's own store, in place of" in result.output
    holds_all(MlflowClient(tracking_uri=own), folder)
    assert read_sent(folder).tracking_uri == own


def test_a_store_that_cannot_be_used_is_said_with_exit_code_1(runs_dir, monkeypatch):
    with monkeypatch.context() as shell:
        shell.setenv("MLFLOW_TRACKING_URI", "nonsense://somewhere")
        folder = write_run(runs_dir, ended=True)
    result = imgclf("sync", "--runs-dir", runs_dir)
    assert result.exit_code == 1
    assert result.output.startswith(f"{folder.name}  not sent: MLflow refused the run: ")
    assert "nonsense" in result.output


@pytest.mark.faults
def test_a_damaged_journal_does_not_keep_other_runs_from_being_sent(runs_dir):
    damaged, folder = write_run(runs_dir, ended=True), write_run(runs_dir, ended=True)
    (damaged / JOURNAL_FILE).write_text("no record\n")
    result = imgclf("sync", "--runs-dir", runs_dir)
    assert result.exit_code == 1
    assert f"{damaged.name}  not sent: The journal" in result.output
    assert f"{folder.name}  sent 5 records" in result.output


def test_without_anything_to_send_mlflow_is_not_imported(tmp_path):
    code = (
        "import sys\n"
        "from imgclf.cli import main\n"
        "main(['sync'], prog_name='imgclf', standalone_mode=False)\n"
        "print(sorted({'mlflow', 'torch', 'numpy'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout == "there are no runs in runs\n[]\n", done.stderr


@pytest.mark.faults
def test_listing_runs_ends_dead_ones_and_names_a_damaged_one_beside_its_answer(runs_dir):
    damaged, folder = write_run(runs_dir, ended=True), write_run(runs_dir, ended=False)
    (damaged / JOURNAL_FILE).write_text("[" * 100_000 + "\n")
    result = imgclf("runs", "--json", "--runs-dir", runs_dir)
    assert result.exit_code == 0, result.output
    said = dict(line.split("  ", 1) for line in result.stderr.splitlines())
    assert said[damaged.name].startswith("not sent: The journal")
    assert said[folder.name].startswith("its process was killed: ended as KILLED")
    listed = {run["run_id"]: run["status"] for run in json.loads(result.stdout)}
    assert listed[folder.name] == "KILLED"
    assert folder.name not in imgclf("runs", "--json", "--runs-dir", runs_dir).stderr


def test_an_export_ends_dead_runs_of_its_folder_first(runs_dir):
    folder = write_run(runs_dir, ended=False)
    result = imgclf("export", "--run", "none", "--runs-dir", runs_dir)
    assert result.exit_code != 0
    assert f"{folder.name}  its process was killed: ended as KILLED" in result.stderr


AS_ANOTHER_HOST = """
import socket, sys
socket.sethostname("elsewhere")
from imgclf.cli import main
main(sys.argv[1:], prog_name="imgclf")
"""


@pytest.mark.faults
def test_another_host_ends_no_run_whose_lock_it_does_not_see(runs_dir):
    """In place of a folder that two machines share without sharing its locks."""
    folder = write_run(runs_dir, ended=False)
    before = (folder / JOURNAL_FILE).read_bytes()
    command = ["unshare", "--map-root-user", "--uts", sys.executable, "-c", AS_ANOTHER_HOST]
    done = subprocess.run(
        [*command, "sync", "--runs-dir", runs_dir], capture_output=True, text=True
    )
    if "unshare" in done.stderr:
        pytest.skip("this machine gives nobody another name")
    assert done.returncode == 0, done.stderr
    assert f"was last in progress on host '{platform.node()}'" in done.stdout
    assert f"imgclf sync --runs-dir {runs_dir} --other-hosts {folder.name}" in done.stdout
    assert (folder / JOURNAL_FILE).read_bytes() == before
    assert read_sent(folder).delivered == 0


def test_a_killed_run_of_another_host_is_ended_by_whoever_knows(runs_dir):
    folder = write_run(runs_dir, ended=False, host="elsewhere")
    assert imgclf("runs", "--runs-dir", runs_dir).stderr == ""
    result = imgclf("sync", "--runs-dir", runs_dir, "--other-hosts", folder.name)
    assert "its process was killed: ended as KILLED; sent 6 records" in result.output
    assert holds_all(MlflowClient(), folder).info.status == "KILLED"


def test_a_run_goes_to_the_store_of_the_folder_that_it_was_begun_in(
    runs_dir, tmp_path, monkeypatch
):
    """Although its process and its sender died before anything was sent."""
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    for place in (here, elsewhere):
        place.mkdir()
    monkeypatch.chdir(here)
    folder = write_run(runs_dir, ended=True)
    monkeypatch.chdir(elsewhere)
    result = imgclf("sync", "--runs-dir", runs_dir)
    assert f"sent 5 records to sqlite:///{here}/mlflow.db" in result.output
    holds_all(MlflowClient(tracking_uri=f"sqlite:///{here}/mlflow.db"), folder)
    assert not (elsewhere / "mlflow.db").exists()


@pytest.mark.faults
def test_the_last_figures_that_were_said_are_the_last_in_mlflow_although_the_clock_went_back(
    runs_dir, monkeypatch
):
    """Of figures of one step MLflow takes that with the latest time for the last one."""
    clock = itertools.count(1_800_000_000_000_000_000, -3_600_000_000_000)
    identity = create_identity(runs_dir, "train", "", "")
    with monkeypatch.context() as patch:
        patch.setattr(time, "time_ns", lambda: next(clock))
        journal = Journal.create(Path(identity.folder) / JOURNAL_FILE)
        journal.append("run", identity=identity.to_dict(), source="", resumed=False)
        for best in (0.5, 0.7, 0.6):
            journal.append("metrics", values={}, step=0, summary={"best/val_accuracy": best})
        journal.append("end", status="FINISHED")
        journal.close()
    assert imgclf("sync", "--runs-dir", runs_dir).exit_code == 0
    run = holds_all(MlflowClient(), Path(identity.folder))
    assert run.data.metrics["best/val_accuracy"] == 0.6


# --- How often and how long a server is asked


def test_pauses_double_up_to_half_a_minute_and_differ_from_client_to_client():
    longest = [1, 2, 4, 8, 16, 30, 30, 30]
    drawn = [list(itertools.islice(pauses(), len(longest))) for _ in range(50)]
    for each in zip(*drawn, longest, strict=True):
        *seconds, most = each
        assert most / 2 <= min(seconds) < max(seconds) <= most


def test_requests_are_brief_for_a_while_unless_a_person_has_said_how_long(monkeypatch):
    retries, timeout = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"
    before = os.environ[retries]
    monkeypatch.setenv(timeout, "77")
    with brief_requests():
        assert (os.environ[retries], os.environ[timeout]) == ("0", "77")
    assert (os.environ[retries], os.environ[timeout]) == (before, "77")


# --- A resumed run


def test_a_resumed_run_goes_on_in_mlflow_and_says_nothing_twice(runs_dir):
    identity, folder, tracker = begin(runs_dir)
    say_epoch(tracker, 2)
    tracker.tags({"imgclf.error": "KeyboardInterrupt"})
    assert tracker.finish(KILLED) == []
    killed = holds_all(MlflowClient(), folder)

    tracker = Tracker(identity, folder, resumed=True)
    tracker.wait_until_open()
    run = MlflowClient().get_run(killed.info.run_id)
    assert run.info.status == "RUNNING"
    assert "imgclf.error" not in run.data.tags
    say_beginning(tracker, folder)
    for epoch in range(1, 4):  # from a checkpoint before the last epoch that was recorded
        say_epoch(tracker, epoch)
    say_end(tracker, folder)
    assert tracker.finish(FINISHED) == []

    records = list(read_records(folder / JOURNAL_FILE))
    epochs = [
        record.content["step"]
        for record in records
        if record.kind == "metrics" and "train/loss" in record.content["values"]
    ]
    assert epochs == [1, 2, 3]
    assert [record.kind for record in records].count("parameters") == 1
    assert [record.kind for record in records].count("dataset") == 1
    samples = [
        record.content["step"]
        for record in records
        if record.kind == "metrics" and any("system/" in name for name in record.content["values"])
    ]
    assert samples == list(range(len(samples)))
    client = MlflowClient()
    assert tracker.mlflow_run_id == killed.info.run_id
    run = client.get_run(killed.info.run_id)
    assert (run.info.status, run.info.end_time) == ("FINISHED", records[-1].time_ms)
    assert [point.step for point in client.get_metric_history(run.info.run_id, "lr")] == [1, 2, 3]


def test_figures_of_the_whole_run_are_said_when_they_change_resumed_or_not(runs_dir):
    histories = []
    for is_resumed in (False, True):
        identity, folder, tracker = begin(runs_dir)
        for epoch, accuracy in ((2, 0.5), (3, 0.5), (4, 0.7), (5, 0.5)):
            if epoch == 3 and is_resumed:
                assert tracker.finish(KILLED) == []
                tracker = Tracker(identity, folder, resumed=True)
            tracker.metrics({"train/loss": 0.1}, epoch, {"best/val_accuracy": accuracy})
        tracker.metrics({}, 0, {"best/val_accuracy": 0.5})
        assert tracker.finish(FINISHED) == []
        run = holds_all(MlflowClient(), folder)
        history = MlflowClient().get_metric_history(run.info.run_id, "best/val_accuracy")
        histories.append(sorted(point.value for point in history))
    assert histories == [[0.0, 0.5, 0.5, 0.7]] * 2  # up from 0.5 and back


def test_a_run_resumed_before_it_was_sent_sends_what_came_first_and_fails_honestly(runs_dir):
    folder = write_run(runs_dir, ended=False)
    tracker = Tracker(read_identity(folder), folder, resumed=True)
    tracker.wait_until_open()
    tracker.tags({"imgclf.error": "ValueError: again"})
    assert tracker.finish(FAILED) == []
    run = holds_all(MlflowClient(), folder)
    assert run.data.tags["imgclf.error"] == "ValueError: again"


def test_a_run_in_progress_cannot_be_resumed(runs_dir):
    identity, folder, tracker = begin(runs_dir)
    with pytest.raises(ImgclfError, match="is in progress"):
        Tracker(identity, folder, resumed=True)
    assert tracker.finish(FINISHED) == []
    sender.stop_kept_senders()
