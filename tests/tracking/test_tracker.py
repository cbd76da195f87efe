"""What a run says arrives in a real MLflow server, through a real HTTP connection."""

import json
import threading
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

import imgclf
from faulty_proxy import ERROR, PASS
from imgclf.config import TrainConfig
from imgclf.errors import ImgclfError, UsageError
from imgclf.tracking.destination import Destination
from imgclf.tracking.identity import create_identity
from imgclf.tracking.journal import FAILED, FINISHED, JOURNAL_FILE, Journal, read_records
from imgclf.tracking.runs import list_runs
from imgclf.tracking.sync import sync_runs
from imgclf.tracking.tracker import Tracker
from small_disk import files_up_to
from tracking_server import holds_all, is_sent, runs_of, wait_until


@pytest.fixture
def tracking_uri(monkeypatch: pytest.MonkeyPatch):
    """Point MLflow somewhere for one test."""

    def point(uri: str) -> MlflowClient:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert mlflow.get_tracking_uri() == uri
        return MlflowClient()

    return point


def test_a_whole_run_arrives_on_a_server(server, tracking_uri, tmp_path):
    client = tracking_uri(server.address)
    config = TrainConfig(epochs=2, experiment="over http", runs_dir=str(tmp_path / "runs"))

    result = imgclf.train(config)

    assert result.not_sent == ()
    assert result.url is not None
    assert result.url.startswith(f"{server.address}/#/experiments/")
    run = client.get_run(result.mlflow_run_id or "")
    assert run.info.status == "FINISHED"
    assert client.get_experiment(run.info.experiment_id).name == "over http"
    for name in ("train/loss", "val/f1", "lr", "images_per_second", "epoch_seconds"):
        history = client.get_metric_history(run.info.run_id, name)
        assert [point.step for point in history] == [1, 2], name
    assert run.data.params["batch_size"] == "64"
    assert run.data.params["model"] == "digits-cnn"
    assert run.data.tags["imgclf.run_id"] == result.run_id
    assert run.data.tags["imgclf.kind"] == "train"
    inputs = {item.dataset.name: item.dataset.digest for item in run.inputs.dataset_inputs}
    assert inputs == {
        "digits": run.data.tags["imgclf.dataset_digest"][:36],
        "digits-split": run.data.tags["imgclf.split_digest"][:36],
    }
    stored = {item.path for item in client.list_artifacts(run.info.run_id, "test")}
    assert {"test/confusion_matrix.png", "test/predictions.csv"} <= stored
    assert {item.path for item in client.list_artifacts(run.info.run_id, "model")} == {
        "model/card.json",
        "model/config.json",
        "model/weights.safetensors",
    }


def test_an_export_reaches_the_server_and_its_registry(server, tracking_uri, tmp_path):
    client = tracking_uri(server.address)
    result = imgclf.train(
        TrainConfig(epochs=1, experiment="exported", runs_dir=str(tmp_path / "runs"))
    )

    exported = imgclf.export(experiment="exported", exports_dir=tmp_path / "exports")

    assert exported.run.run_id == result.run_id
    champion = client.get_model_version_by_alias("imgclf-digits", "champion")
    assert champion.run_id == result.mlflow_run_id
    path = mlflow.artifacts.download_artifacts(f"models:/{champion.name}/{champion.version}")
    assert (Path(path) / "model.onnx").is_file()


def test_what_several_threads_say_at_once_is_kept_in_one_order_and_arrives(workplace, tmp_path):
    identity = create_identity(tmp_path, "train", "", "several threads")
    tracker = Tracker(identity, Path(identity.folder))

    def speak(name: str) -> None:
        for step in range(25):
            tracker.metrics({name: float(step)}, step=step)

    names = [f"thread/{number}" for number in range(4)]
    threads = [threading.Thread(target=speak, args=[name]) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tracker.finish(FINISHED) == []

    lines = (Path(identity.folder) / "journal.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["sequence"] for record in records] == list(range(len(records)))
    assert records[-1]["kind"] == "end", "nothing is said after the end"
    client = MlflowClient()
    for name in names:
        history = client.get_metric_history(tracker.mlflow_run_id or "", name)
        assert sorted(point.step for point in history) == list(range(25))


@pytest.mark.faults
def test_a_server_that_comes_back_and_refuses_the_run_does_not_end_training(
    proxy, server, tracking_uri, tmp_path
):
    client = server.client()
    experiment_id = client.create_experiment("deleted meanwhile")
    client.delete_experiment(experiment_id)

    def is_away(_: str) -> str:
        journals = [path.read_text() for path in tmp_path.glob(f"*/{JOURNAL_FILE}")]
        return PASS if any("train/loss" in journal for journal in journals) else ERROR

    proxy.fault = is_away
    tracking_uri(proxy.address)
    config = TrainConfig(
        epochs=2, batch_size=512, experiment="deleted meanwhile", runs_dir=str(tmp_path)
    )
    result = imgclf.train(config)

    (problem,) = result.not_sent
    assert "MLflow refused the run" in problem
    assert f"'imgclf sync --runs-dir {tmp_path} {result.run_id}' sends them" in problem
    client.restore_experiment(experiment_id)
    (sent,) = sync_runs([result.folder])
    assert sent.failing == ""
    assert holds_all(client, result.folder).info.status == FINISHED


def test_a_wrong_tracking_address_ends_the_run_with_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr("imgclf.tracking.tracker.OPENING_SECONDS", 300.0)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://somewhere")
    with pytest.raises(ImgclfError, match="nonsense") as caught:
        imgclf.train(TrainConfig(epochs=1, runs_dir=str(tmp_path)))
    assert "MLFLOW_TRACKING_URI" in caught.value.hint
    (journal,) = tmp_path.glob("*/journal.jsonl")
    assert "train/loss" not in journal.read_text(), "no epoch was trained for nothing"


@pytest.mark.faults
def test_a_full_disk_is_told_at_once_and_the_run_ends_as_failed(workplace, tmp_path):
    identity = create_identity(tmp_path, "train", "", "full disk")
    tracker = Tracker(identity, Path(identity.folder))
    tracker.wait_until_open()
    journal = Path(identity.folder) / JOURNAL_FILE
    with files_up_to(journal.stat().st_size), pytest.raises(ImgclfError, match="Cannot write"):
        tracker.metrics({"train/loss": 1.0}, step=1)
    assert tracker.finish(FAILED) == []
    run = MlflowClient().get_run(tracker.mlflow_run_id or "")
    assert run.info.status == "FAILED"
    assert "train/loss" not in run.data.metrics


@pytest.mark.slow
def test_a_store_whose_library_is_missing_is_no_finished_run(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "mysql+nothing://localhost/x")
    with pytest.raises(ImgclfError, match="MLflow refused the run"):
        imgclf.train(TrainConfig(epochs=1, runs_dir=str(tmp_path)))
    with pytest.raises(ImgclfError, match="The MLflow store at"):
        list_runs()


@pytest.mark.faults
def test_a_run_is_opened_once_although_the_answer_was_lost(tmp_path, workplace):
    identity = create_identity(tmp_path, "train", "", "")
    journal = Journal.create(Path(identity.folder) / JOURNAL_FILE)
    record = journal.append("run", identity=identity.to_dict(), source="", resumed=False)
    opened = []
    for _ in range(2):
        destination = Destination(identity, mlflow.get_tracking_uri(), None, None)
        destination.deliver([record])
        opened.append(destination.mlflow_run_id)
    assert opened[0] == opened[1]
    found = MlflowClient().search_runs(["0"], f"tags.`imgclf.run_id` = '{identity.run_id}'")
    assert [run.info.run_id for run in found] == opened[:1]
    MlflowClient().delete_run(found[0].info.run_id)


@pytest.mark.parametrize("epochs", [pytest.param("1", marks=pytest.mark.slow), "'1'"])
def test_the_runners_run_is_adopted_and_its_parameters_are_left_alone(
    epochs, tracking_uri, tmp_path, monkeypatch, workplace
):
    client = tracking_uri(f"sqlite:///{workplace}/mlflow.db")
    opened = client.create_run(client.create_experiment(f"by the runner {epochs}"))
    client.log_param(opened.info.run_id, "epochs", epochs)
    monkeypatch.setenv("MLFLOW_RUN_ID", opened.info.run_id)

    result = imgclf.train(TrainConfig(epochs=1, runs_dir=str(tmp_path)))

    assert result.mlflow_run_id == opened.info.run_id
    run = client.get_run(opened.info.run_id)
    assert run.info.experiment_id == opened.info.experiment_id
    assert run.info.status == "FINISHED"
    assert run.data.params["epochs"] == epochs
    assert run.data.params["batch_size"] == "64"
    assert result.not_sent == ()


def test_a_failed_run_is_recorded_as_failed(tmp_path, workplace):
    config = TrainConfig(
        epochs=1,
        optimizer="sgd",
        learning_rate=100.0,
        weight_decay=10.0,
        experiment="fails",
        runs_dir=str(tmp_path),
    )
    with pytest.raises(ImgclfError, match="diverged"):
        imgclf.train(config)
    client = MlflowClient()
    experiment = client.get_experiment_by_name("fails")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FAILED"
    assert "diverged" in run.data.tags["imgclf.error"]
    assert run.data.metrics["system/process_memory_usage_megabytes"] > 0
    assert "imgclf-system" not in {thread.name for thread in threading.enumerate()}


def test_a_runs_folder_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ImgclfError, match="Cannot create the run's folder"):
        imgclf.train(TrainConfig(epochs=1, runs_dir=str(tmp_path / "file")))


def test_the_runner_alone_chooses_the_experiment_of_its_run(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    with pytest.raises(UsageError, match="in an experiment already"):
        imgclf.train(TrainConfig(epochs=1, experiment="mine", runs_dir=str(tmp_path)))


def test_a_run_whose_end_does_not_fit_on_the_disk_is_ended_while_its_process_lives(
    tracking_uri, workplace, tmp_path
):
    client = tracking_uri(f"sqlite:///{workplace}/mlflow.db")
    identity = create_identity(tmp_path / "runs", "train", "", "full at the end")
    folder = Path(identity.folder)
    tracker = Tracker(identity, folder)
    tracker.wait_until_open()
    journal = folder / JOURNAL_FILE
    with files_up_to(journal.stat().st_size), pytest.raises(ImgclfError, match="Cannot write"):
        tracker.finish(FINISHED)
    wait_until(lambda: list(read_records(journal))[-1].content == {"status": "KILLED"})
    wait_until(lambda: is_sent(folder))
    (run,) = runs_of(client, folder)
    assert run.info.status == "KILLED"
