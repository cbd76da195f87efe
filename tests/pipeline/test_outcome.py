"""What a finished run leaves to look at."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from PIL import Image
from sklearn.metrics import accuracy_score

import imgclf
from imgclf.config import TrainConfig
from imgclf.pipeline.run_page import parameters, stage_times

EVALUATION_FILES = {
    "classification_report.json",
    "classification_report.txt",
    "confusion_matrix.csv",
    "confusion_matrix.png",
    "correct.png",
    "misclassified.png",
    "per_class.csv",
    "per_class.png",
    "predictions.csv",
}


def metric_records(result: imgclf.TrainResult) -> list[dict]:
    """What the run said of its epochs and of its end, without what depends on the machine."""
    lines = (result.folder / "journal.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    contents = [record["content"] for record in records if record["kind"] == "metrics"]
    timed = ("system/", "time/", "images_per_second", "step_milliseconds", "epoch_seconds")
    for content in contents:
        for kind in ("values", "summary"):
            kept = {n: value for n, value in content[kind].items() if not n.startswith(timed)}
            content[kind] = kept
    return [content for content in contents if content["values"] or content["summary"]]


@pytest.fixture(scope="module")
def tracked(workplace: Path) -> imgclf.TrainResult:
    """The shared run again, with the test split looked at in every epoch."""
    return imgclf.train(TrainConfig(epochs=3, track_test=True))


def test_tracking_the_test_split_changes_nothing_else(trained, tracked):
    weights = Path("model/weights.safetensors")
    assert (trained.folder / weights).read_bytes() == (tracked.folder / weights).read_bytes()
    assert trained.metrics == tracked.metrics
    assert trained.best_epoch == tracked.best_epoch
    records = metric_records(tracked)
    curve = [record["values"].pop("epoch/test_accuracy", None) for record in records]
    assert records == metric_records(trained)
    assert curve[3:] == [None]
    assert curve[tracked.best_epoch - 1] == tracked.metrics["test/accuracy"]
    for name in ("test/predictions.csv", "val/predictions.csv"):
        assert (trained.folder / name).read_bytes() == (tracked.folder / name).read_bytes()


def test_mlflow_keeps_the_curve_and_the_summary_of_the_test_split(tracked):
    client = MlflowClient()
    curve = client.get_metric_history(tracked.mlflow_run_id, "epoch/test_accuracy")
    assert [point.step for point in curve] == [1, 2, 3]
    (summary,) = client.get_metric_history(tracked.mlflow_run_id, "test/accuracy")
    assert (summary.step, summary.value) == (0, tracked.metrics["test/accuracy"])


def test_mlflow_receives_all_there_is_to_look_at(trained):
    client = MlflowClient()
    top = {item.path for item in client.list_artifacts(trained.mlflow_run_id)}
    assert {"samples.png", "curves.png", "report.html", "test", "val"} <= top
    for split in ("test", "val"):
        stored = client.list_artifacts(trained.mlflow_run_id, split)
        assert {item.path for item in stored} == {f"{split}/{name}" for name in EVALUATION_FILES}


def test_validation_files_are_those_of_the_selected_weights(trained):
    table = pd.read_csv(trained.folder / "val" / "predictions.csv", dtype={"label": str})
    accuracy = accuracy_score(table["label_index"], table["predicted_index"])
    assert accuracy == pytest.approx(trained.metrics["best/val_accuracy"], abs=1e-12)
    split = pd.read_csv(trained.folder / "split.csv", dtype=str)
    assert set(table["image"].astype(str)) == set(split.loc[split["split"] == "val", "image"])


def test_without_validation_images_there_is_no_validation_folder(tmp_path):
    config = TrainConfig(epochs=1, val_fraction=0.0, runs_dir=str(tmp_path))
    result = imgclf.train(config)
    assert not (result.folder / "val").exists()
    text = (result.folder / "report.html").read_text(encoding="utf-8")
    assert "Last epoch" in text
    assert "Validation accuracy" not in text


def test_the_page_tells_the_run_and_stays_small(trained):
    path = trained.folder / "report.html"
    assert path.stat().st_size < 3_000_000
    text = path.read_text(encoding="utf-8")
    run = MlflowClient().get_run(trained.mlflow_run_id)
    expected = [trained.run_id, "shared", "digits-cnn", f"{trained.metrics['test/accuracy']:.2%}"]
    expected += [f"{trained.metrics['best/val_accuracy']:.2%}", f"{trained.best_epoch} of 3"]
    expected += [run.data.tags["device.name"], f"torch {run.data.tags['version.torch']}"]
    stages = [f"time/{name}_seconds" for name in ("data", "train", "evaluation")]
    expected += [stage_times({name: run.data.metrics[name] for name in stages})]
    expected += [run.data.tags["git.commit"]] if "git.commit" in run.data.tags else []
    for words in expected:
        assert words in text, words
    for name in TrainConfig().to_dict():
        assert f"<code>--{name.replace('_', '-')}</code>" in text


def test_a_labelled_sample_is_there_before_the_first_epoch_is_over(trained):
    lines = (trained.folder / "journal.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    told = [record["content"].get("path", record["kind"]) for record in records]
    epochs = [i for i, record in enumerate(records) if "train/loss" in str(record["content"])]
    assert told.index("samples.png") < epochs[0]
    with Image.open(trained.folder / "samples.png") as picture:
        assert min(picture.size) > 1000  # 36 images in rows of 6
        assert np.asarray(picture.convert("L")).std() > 50  # bright on black


def test_parameters_say_who_chose_them():
    config = TrainConfig.from_dict(
        {"recipe": "mnist-cnn", "batch_size": 128, "schedule": "one-cycle", "ema": True}
    )
    told = {item.name: item for item in parameters(config, config.overridden())}
    assert (told["--batch-size"].value, told["--batch-size"].origin) == ("128", "run")
    assert (told["--ema"].value, told["--ema"].default) == ("true", "false")
    assert told["--optimizer"].origin == "recipe"  # adam, and by default adamw
    assert told["--schedule"].origin == "run"  # the default, against the recipe
    assert told["--seed"].origin == "default"
    assert told["--recipe"].origin == "run"
    assert told["--device"].origin == "default"  # whatever auto came to
    assert len(told) == len(config.to_dict())


def test_long_stages_are_told_in_hours_minutes_and_seconds():
    timings = {"time/data_seconds": 59.9, "time/train_seconds": 3725.4}
    assert stage_times(timings) == "data 59.9 s, train 1:02:05"
    assert stage_times({"time/evaluation_seconds": 59.96}) == "evaluation 0:01:00"
