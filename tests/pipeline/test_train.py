"""Whole runs, in one process, on real images."""

import json
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from mlflow import MlflowClient
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

import imgclf
from imgclf.config import TrainConfig
from imgclf.data.dataset import from_arrays
from imgclf.data.splits import split_dataset
from imgclf.errors import ImgclfError, UsageError
from imgclf.pipeline.train import create_model
from imgclf.tracking.journal import JOURNAL_FILE, read_records
from imgclf.tracking.tracker import Tracker


def quick(tmp_path: Path, **values) -> TrainConfig:
    return TrainConfig.from_dict({"epochs": 1, "runs_dir": str(tmp_path / "runs"), **values})


def weights(result: imgclf.TrainResult) -> bytes:
    return (result.folder / "model" / "weights.safetensors").read_bytes()


def test_the_logged_test_metrics_are_those_of_the_logged_predictions(trained):
    table = pandas.read_csv(trained.folder / "test" / "predictions.csv", dtype=str)
    assert len(table) == 359
    expected = accuracy_score(table["label"], table["predicted"])
    assert trained.metrics["test/accuracy"] == pytest.approx(expected, abs=1e-12)
    macro = f1_score(table["label"], table["predicted"], average="macro")
    assert trained.metrics["test/f1"] == pytest.approx(macro, abs=1e-12)
    counts = pandas.read_csv(trained.folder / "test" / "confusion_matrix.csv", index_col=0)
    assert (counts.to_numpy() == confusion_matrix(table["label"], table["predicted"])).all()
    split = pandas.read_csv(trained.folder / "split.csv", dtype=str)
    assert set(table["image"]) == set(split.loc[split["split"] == "test", "image"])


def test_mlflow_holds_what_the_run_says_it_came_to(trained):
    client = MlflowClient()
    run = client.get_run(trained.mlflow_run_id)
    assert {name: run.data.metrics[name] for name in trained.metrics} == trained.metrics
    history = client.get_metric_history(trained.mlflow_run_id, "val/accuracy")
    assert max(point.value for point in history) == run.data.metrics["best/val_accuracy"]
    assert run.info.run_name == "shared"
    config = json.loads((trained.folder / "model" / "config.json").read_text())
    logged = {name: run.data.params[name] for name in config}
    assert logged == {name: str(value) for name, value in config.items()}
    assert "auto" not in logged.values()


def test_the_machine_is_sampled_from_the_start_of_the_run_to_its_end(trained):
    client = MlflowClient()
    name = "system/process_memory_usage_megabytes"
    history = client.get_metric_history(trained.mlflow_run_id, name)
    assert [point.step for point in history] == list(range(len(history)))
    assert len(history) >= 2
    (tested,) = client.get_metric_history(trained.mlflow_run_id, "test/accuracy")
    assert history[0].timestamp < tested.timestamp <= history[-1].timestamp


def test_stages_and_epochs_are_timed(trained):
    run = MlflowClient().get_run(trained.mlflow_run_id)
    stages = {
        name: run.data.metrics[f"time/{name}_seconds"] for name in ("data", "train", "evaluation")
    }
    assert min(stages.values()) > 0
    end = run.info.end_time
    assert end is not None
    # Loading comes before the run is opened.
    assert stages["train"] + stages["evaluation"] <= (end - run.info.start_time) / 1000
    epochs = MlflowClient().get_metric_history(trained.mlflow_run_id, "epoch_seconds")
    assert [point.step for point in epochs] == [1, 2, 3]
    assert min(point.value for point in epochs) > 0
    assert sum(point.value for point in epochs) <= stages["train"]


def test_from_the_data_on_the_disk_to_the_last_epoch_no_second_is_left_out(tmp_path, monkeypatch):
    """Neither the first batch's picture nor the wait for MLflow, which is made longer here."""
    wait_until_open, opened = Tracker.wait_until_open, []

    def slow_to_open(tracker: Tracker) -> None:
        wait_until_open(tracker)
        time.sleep(0.5)
        opened.append(time.time())

    monkeypatch.setattr(Tracker, "wait_until_open", slow_to_open)
    result = imgclf.train(quick(tmp_path, epochs=2))
    data, train = (result.timings[f"time/{name}_seconds"] for name in ("data", "train"))
    records = list(read_records(result.folder / JOURNAL_FILE))
    epochs = [
        record.content["values"]["epoch_seconds"]
        for record in records
        if "epoch_seconds" in record.content.get("values", {})
    ]
    assert len(epochs) == 2
    (picture,) = (record for record in records if record.content.get("path") == "samples.png")
    assert train >= opened[0] - picture.time_ms / 1000 + sum(epochs)
    assert data + train >= opened[0] - records[0].time_ms / 1000 + sum(epochs)


def test_without_validation_the_last_epoch_is_kept_and_never_becomes_champion(tmp_path):
    result = imgclf.train(quick(tmp_path, epochs=2, val_fraction=0.0, experiment="no validation"))
    assert result.best_epoch == 2
    assert "best/val_accuracy" not in result.metrics
    exported = imgclf.export(result.run_id, exports_dir=tmp_path / "exports")
    assert not exported.registration.is_champion
    with pytest.raises(ImgclfError):
        imgclf.export(experiment="no validation", exports_dir=tmp_path / "exports")


def test_early_stopping_ends_the_run_before_its_last_epoch(tmp_path):
    config = quick(tmp_path, epochs=50, learning_rate=1e-8, early_stopping_patience=2)
    result = imgclf.train(config)
    run = MlflowClient().get_run(result.mlflow_run_id or "")
    epochs = int(run.data.tags["imgclf.epochs"])
    assert epochs < 50
    accuracies = [
        point.value for point in MlflowClient().get_metric_history(run.info.run_id, "val/accuracy")
    ]
    assert len(accuracies) == epochs
    assert max(accuracies[-2:]) <= max(accuracies[:-2])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dataset": "nowhere"}, "no data set, folder or CSV file"),
        ({"image_size": 32}, "has a size of its own"),
        ({"device": "mps" if torch.cuda.is_available() else "cuda"}, "not available"),
    ],
)
def test_a_mistake_starts_nothing(values, message, tmp_path):
    before = len(MlflowClient().search_runs(["0"]))
    with pytest.raises(UsageError, match=message):
        imgclf.train(quick(tmp_path, **values))
    assert not (tmp_path / "runs").exists()
    assert len(MlflowClient().search_runs(["0"])) == before


def test_a_folder_of_images_is_trained_exported_from_its_files_and_predicted(digit_files, tmp_path):
    config = quick(tmp_path, epochs=8, dataset=str(digit_files), experiment="files")
    result = imgclf.train(config)
    assert result.metrics["test/accuracy"] > 0.9
    exported = imgclf.export(experiment="files", exports_dir=tmp_path / "exports")
    assert exported.parity.from_files
    assert exported.parity.images == 32
    predictions = imgclf.Predictor(exported.model)([digit_files])
    right = [Path(answer.image).parent.name == answer.label for answer in predictions]
    assert len(right) == 160
    assert sum(right) > 150


def test_large_images_are_looked_over_for_their_mean_a_few_at_a_time():
    images = np.random.default_rng(0).integers(0, 256, (128, 256, 256, 3), dtype=np.uint8)
    labels = np.arange(128) % 2
    dataset = from_arrays("noise", images, labels, ("a", "b"))
    split = split_dataset(dataset, 0.0, 0.5, seed=0)
    config = TrainConfig(model="small-cnn", norm_layer="batch", val_fraction=0.0)
    tracemalloc.start()
    try:
        model = create_model(config, dataset, split)
        # Gathered and counted all together, the 64 images would take 50 MB.
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    pixels = images[split.train].reshape(-1, 3)
    np.testing.assert_allclose(model.mean.flatten(), pixels.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(model.std.flatten(), pixels.std(axis=0), rtol=1e-6)
