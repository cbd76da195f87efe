"""Stores that are full, of the wrong kind, or reached by a link; and locks that cannot be had."""

import os
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from mlflow import MlflowClient
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from imgclf.errors import ImgclfError
from imgclf.tracking.connection import connect, describe, lock_name
from imgclf.tracking.destination import UnreachableError
from imgclf.tracking.identity import create_identity
from imgclf.tracking.journal import FINISHED, JOURNAL_FILE, Journal
from imgclf.tracking.outbox import Outbox
from small_disk import python_on_small_disk

pytestmark = pytest.mark.faults

SENDS_TO_A_FULL_DISK = """
import os, sys
from pathlib import Path
from mlflow import MlflowClient
from imgclf.tracking.identity import create_identity
from imgclf.tracking.journal import FINISHED, JOURNAL_FILE, Journal
from imgclf.tracking.sync import sync_runs
from tracking_server import holds_all, num_records, runs_of

disk, home = map(Path, sys.argv[1:])
os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{home}/mlflow.db"
client = MlflowClient()
client.create_experiment("full", artifact_location=disk.as_uri())
identity = create_identity(home / "runs", "train", "", "full")
folder = Path(identity.folder)
(folder / "model").mkdir()
(folder / "model" / "weights.safetensors").write_bytes(os.urandom(300_000))
(folder / "curves.png").write_bytes(os.urandom(100_000))
journal = Journal.create(folder / JOURNAL_FILE)
journal.append("run", identity=identity.to_dict(), source="train.py", resumed=False)
for path, target in (("model", "model"), ("curves.png", "")):
    journal.append("artifact", path=path, artifact_folder=target)
journal.append("metrics", values={"train/loss": 0.5}, step=1, summary={})
journal.append("end", status=FINISHED)
journal.close()

others = disk / "of others"
with others.open("wb") as file:
    for _ in range(460):
        file.write(bytes(1024))
(result,) = sync_runs([folder], tries=1)
print(result.failing)
assert not result.is_unreachable
assert not result.sent.refused
(run,) = runs_of(client, folder)
assert (run.info.status, run.data.metrics) == (FINISHED, {"train/loss": 0.5})
others.unlink()
(result,) = sync_runs([folder])
assert (result.failing, result.records) == ("", 2)
holds_all(client, folder)
"""


@pytest.mark.faults
def test_files_that_a_full_disk_does_not_take_are_held_back_told_and_sent_later(
    tmp_path, monkeypatch
):
    """The store's database has room, the disk for its files has none."""
    (tmp_path / "disk").mkdir()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    told = python_on_small_disk(SENDS_TO_A_FULL_DISK, tmp_path / "disk", 512, tmp_path)
    assert told.count("artifact: No space left on device in MLflow's store: make room") == 2


def outbox_of_a_new_run(runs_dir: Path, *artifacts: str, experiment: str = "") -> Outbox:
    identity = create_identity(runs_dir, "train", "", experiment)
    journal = Journal.create(Path(identity.folder) / JOURNAL_FILE)
    journal.append("run", identity=identity.to_dict(), source="train.py", resumed=False)
    for path in artifacts:
        journal.append("artifact", path=path, artifact_folder="")
    journal.append("end", status=FINISHED)
    journal.close()
    outbox = Outbox(Path(identity.folder))
    outbox.refill()
    return outbox


def test_a_file_of_the_run_that_is_gone_is_refused_for_good(tmp_path, workplace):
    with outbox_of_a_new_run(tmp_path, "gone.png") as outbox:
        while outbox.refill():
            outbox.send_next()
    (problem,) = outbox.sent.problems()
    assert "gone.png" in problem


@pytest.mark.skipif(find_spec("boto3") is not None, reason="S3 could be reached")
def test_files_for_an_object_store_whose_library_is_not_installed_are_waited_for(
    tmp_path, workplace
):
    MlflowClient().create_experiment("objects", artifact_location="s3://bucket/folder")
    with outbox_of_a_new_run(tmp_path, "curves.png", experiment="objects") as outbox:
        (folder,) = tmp_path.iterdir()
        (folder / "curves.png").write_bytes(b"a picture")
        outbox.send_next()
        with pytest.raises(UnreachableError, match="boto3"):
            outbox.send_next()
        assert outbox.hold_back_next()
        while outbox.refill():
            outbox.send_next()
    assert not outbox.sent.refused
    assert ["boto3" in reason for reason in outbox.sent.held_back.values()] == [True]


def test_the_file_store_is_refused_with_a_database_to_take_instead(tmp_path, monkeypatch):
    """MLflow would take a metric that is sent again a second time there."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    for address in (str(tmp_path / "mlruns"), (tmp_path / "mlruns").as_uri()):
        with pytest.raises(ImgclfError, match="file store") as caught:
            connect(address)
        assert "sqlite:///" in caught.value.hint
    assert not (tmp_path / "mlruns").exists()


def test_a_database_has_one_lock_by_whatever_links_it_is_reached(tmp_path):
    (tmp_path / "real folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real folder")
    names = {
        lock_name(f"sqlite:///{tmp_path}/{path}/mlflow.db")
        for path in ("real folder", "real%20folder", "link")
    }
    assert len(names) == 1
    assert lock_name("http://127.0.0.1:5000") == "http://127.0.0.1:5000"


@pytest.mark.faults
def test_a_lock_that_cannot_be_had_is_no_refusal_of_the_run(tmp_path, monkeypatch, workplace):
    outbox = outbox_of_a_new_run(tmp_path)
    with outbox, monkeypatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", "/dev/null")
        patch.setattr(tempfile, "tempdir", "/dev/null")
        with pytest.raises(UnreachableError, match=r"take turns.*TMPDIR"):
            outbox.send_next()
        patch.undo()
        while outbox.refill():
            outbox.send_next()
    assert outbox.sent.mlflow_run_id is not None


def test_what_a_database_says_is_told_without_the_page_of_sql_that_follows():
    with (
        create_engine("sqlite://").connect() as database,
        pytest.raises(OperationalError) as caught,
    ):
        database.execute(text("SELECT * FROM absent"))
    assert describe(caught.value) == "(sqlite3.OperationalError) no such table: absent"
