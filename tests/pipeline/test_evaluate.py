"""Evaluations of real models on real images, against the predictor and scikit-learn."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from mlflow import MlflowClient
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import accuracy_score, f1_score, log_loss

import imgclf
from imgclf.config import TrainConfig
from imgclf.data.cache import list_entries
from imgclf.data.sources import decoded_folder
from imgclf.errors import ImgclfError, UsageError
from imgclf.pipeline.run_page import stage_times
from imgclf.pipeline.trained import load_trained_model
from imgclf.tracking.runs import best_run, list_runs


@pytest.fixture
def evaluate(exported, tmp_path):
    """Evaluate the shared export, with the run's files in a folder of the test."""

    def evaluate_with(model="", **options) -> imgclf.EvaluationResult:
        if "run" not in options and not model:
            model = exported.model
        return imgclf.evaluate(model, runs_dir=tmp_path / "runs", **options)

    return evaluate_with


@pytest.fixture(scope="module")
def photos(digit_files, tmp_path_factory) -> Path:
    """The digits 3 and 1 alone, in colour and of many sizes, as other cameras would give them."""
    root = tmp_path_factory.mktemp("photos")
    for position, path in enumerate(sorted([*digit_files.glob("1/*"), *digit_files.glob("3/*")])):
        (root / path.parent.name).mkdir(exist_ok=True)
        size = (16 + position % 5, 20 + position % 3)
        with Image.open(path) as image:
            image.convert("RGB").resize(size).save(root / path.parent.name / f"{path.stem}.png")
    return root


def runs_of_kind(kind: str) -> int:
    return len(MlflowClient().search_runs(["0"], f"tags.`imgclf.kind` = '{kind}'"))


def test_on_its_own_test_split_a_model_repeats_the_figures_of_its_training(
    evaluate, exported, trained
):
    by_run = evaluate(run=trained.run_id, dataset="digits", split="test")
    by_file = evaluate(dataset="digits", split="test")
    for result in (by_run, by_file):
        assert result.images == 359
        assert result.note == ""
        for name, value in result.metrics.items():
            assert value == pytest.approx(trained.metrics[name], abs=1e-6), name
    table = pandas.read_csv(by_file.folder / "predictions.csv", dtype=str)
    original = pandas.read_csv(trained.folder / "test" / "predictions.csv", dtype=str)
    assert (table[["image", "label", "predicted"]] == original[table.columns[:3]]).all(axis=None)


@pytest.fixture(scope="module")
def weights_run(workplace, tmp_path_factory) -> imgclf.TrainResult:
    """A run without an exported model, whose images were dealt out by another seed."""
    folder = str(tmp_path_factory.mktemp("weights"))
    return imgclf.train(TrainConfig(epochs=1, split_seed=5, experiment="weights", runs_dir=folder))


def test_a_run_that_was_not_exported_answers_with_its_weights(evaluate, weights_run):
    trained = weights_run
    result = evaluate(run=trained.run_id, dataset="digits", split="test")
    assert result.note == "", "the split is dealt out as the run dealt it"
    for name, value in result.metrics.items():
        assert value == pytest.approx(trained.metrics[name], abs=1e-6), name
    run = MlflowClient().get_run(result.mlflow_run_id or "")
    assert run.data.tags["imgclf.training_run"] == trained.mlflow_run_id


def test_other_images_are_read_as_the_predictor_reads_them_and_classes_match_by_name(
    evaluate, exported, photos
):
    result = evaluate(dataset=str(photos))
    assert (result.split, result.images) == ("all", 80)
    answers = imgclf.Predictor(exported.model)([photos])
    labels = [Path(answer.image).parent.name for answer in answers]
    guesses = [answer.label for answer in answers]
    assert result.metrics["all/accuracy"] == pytest.approx(accuracy_score(labels, guesses))
    macro = f1_score(labels, guesses, average="macro")
    assert result.metrics["all/f1"] == pytest.approx(macro)
    assert result.metrics["all/accuracy"] > 0.8
    assert result.note == ""
    table = pandas.read_csv(result.folder / "predictions.csv", dtype=str)
    assert table["label"].tolist() == labels
    assert table["predicted"].tolist() == guesses


def mean_logits(
    answer: Callable[[NDArray[np.uint8]], NDArray[np.float32]], images: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """`flip-shift` by hand: of the image half, of each shifted copy a quarter, with mirrors."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    copies = {0.5: [images], 0.25: [padded[:, :-2, :-2], padded[:, 2:, 2:]]}
    logits = np.zeros((len(images), 10), np.float32)
    for weight, arrays in copies.items():
        for array in arrays:
            for view in (array, np.flip(array, axis=2)):
                logits += np.float32(weight / 2) * answer(np.ascontiguousarray(view))
    return logits


def test_with_test_time_augmentation_the_mean_over_changed_copies_is_measured(
    evaluate, exported, digit_files
):
    """Files of 8x8 pixels: the arrays that the predictor reads are those of the files."""
    paths = sorted(digit_files.glob("*/*.png"))
    images = np.stack([np.asarray(Image.open(path)) for path in paths])[..., None]
    labels = np.array([int(path.parent.name) for path in paths])
    predictor = imgclf.Predictor(exported.model)
    logits = mean_logits(lambda batch: predictor.run(batch)[0], images)

    result = evaluate(dataset=str(digit_files), tta="flip-shift")
    assert result.tta == "flip-shift"
    accuracy = accuracy_score(labels, logits.argmax(1))
    assert result.metrics["all/accuracy"] == pytest.approx(accuracy)
    probabilities = torch.softmax(torch.from_numpy(logits).double(), 1).numpy()
    loss = log_loss(labels, probabilities, labels=range(10))
    assert result.metrics["all/loss"] == pytest.approx(loss, rel=1e-5)
    table = pandas.read_csv(result.folder / "predictions.csv")
    # The loss is of the logits; what a person reads as confidence is calibrated.
    temperature = predictor.card.temperature
    assert temperature != 1
    calibrated = torch.softmax(torch.from_numpy(logits).double() / temperature, 1).numpy()
    np.testing.assert_allclose(table["confidence"], calibrated.max(axis=1), atol=1e-6)

    plain = evaluate(dataset=str(digit_files))
    assert plain.metrics["all/loss"] != pytest.approx(loss, rel=1e-3)
    for evaluated, named in ((result, True), (plain, False)):
        run = MlflowClient().get_run(evaluated.mlflow_run_id or "")
        assert run.data.params["tta"] == ("flip-shift" if named else "none")
        page = (evaluated.folder / "report.html").read_text(encoding="utf-8")
        assert ("Test-time augmentation" in page) == named


def test_weights_that_were_not_exported_answer_mirror_images_too(evaluate, weights_run):
    trained = load_trained_model(weights_run.folder / "model")
    bunch: Any = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    with torch.no_grad():
        views = (torch.from_numpy(view.copy()) for view in (images, np.flip(images, axis=2)))
        logits = torch.stack([trained.model.eval()(view) for view in views]).mean(0)
    result = evaluate(run=weights_run.run_id, dataset="digits", split="all", tta="flip")
    assert result.metrics["all/loss"] == pytest.approx(
        log_loss(bunch.target, torch.softmax(logits.double(), 1).numpy()), rel=1e-5
    )


def test_image_files_are_decoded_once_whatever_the_size_of_the_models_input(
    evaluate, photos, tmp_path, monkeypatch
):
    opened = []

    def count(file, *arguments, **options):
        if "formats" in options:  # as imgclf.preprocess opens images
            opened.append(file)
        return open_image(file, *arguments, **options)

    open_image = Image.open
    monkeypatch.setattr(Image, "open", count)
    root = shutil.copytree(photos, tmp_path / "copied")
    first = evaluate(dataset=str(root))
    assert len(opened) == first.images == 80
    again = evaluate(dataset=str(root))
    assert len(opened) == 80
    assert again.metrics == first.metrics


def test_a_folder_that_was_trained_on_is_not_decoded_again(digit_files, tmp_path):
    config = TrainConfig(epochs=1, dataset=str(digit_files), runs_dir=str(tmp_path / "runs"))
    trained = imgclf.train(config)
    entries = list_entries(decoded_folder(""))
    result = imgclf.evaluate(
        run=trained.run_id, dataset=str(digit_files), split="test", runs_dir=tmp_path / "runs"
    )
    assert result.metrics["test/accuracy"] == pytest.approx(trained.metrics["test/accuracy"])
    assert list_entries(decoded_folder("")) == entries


def test_the_training_images_are_told_from_new_ones(evaluate):
    for split in ("", "train", "val"):
        result = evaluate(dataset="digits", split=split)
        assert "trained on this data" in result.note
        page = (result.folder / "report.html").read_text(encoding="utf-8")
        assert result.note in page
    assert set(result.metrics) == {
        f"val/{name}" for name in ("loss", "accuracy", "precision", "recall", "f1")
    }


def test_a_test_split_that_the_data_gives_is_the_one_evaluated(evaluate, photos, tmp_path):
    rows = ["path,label,split"]
    for position, path in enumerate(sorted(photos.glob("*/*.png"))):
        rows.append(f"{path},{path.parent.name},{'test' if position % 4 == 0 else 'train'}")
    table = tmp_path / "photos.csv"
    table.write_text("\n".join(rows))
    result = evaluate(dataset=str(table))
    assert (result.split, result.images) == ("test", 20)


def test_an_evaluation_is_recorded_and_never_competes_with_training(
    evaluate, exported, photos, tmp_path
):
    listed, best = list_runs(), best_run(dataset="digits")
    result = evaluate(
        f"runs:/{exported.run.run_id}",
        dataset=str(photos),
        run_name="photos",
        output_dir=tmp_path / "out" / "here",
    )
    client = MlflowClient()
    run = client.get_run(result.mlflow_run_id or "")
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "photos"
    assert run.data.params["split"] == "all"
    assert run.data.params["dataset"] == str(photos)
    assert run.data.metrics["all/accuracy"] == result.metrics["all/accuracy"]
    stages = ("time/data_seconds", "time/evaluation_seconds")
    page = (result.folder / "report.html").read_text(encoding="utf-8")
    assert stage_times({name: run.data.metrics[name] for name in stages}) in page
    assert "system/process_memory_usage_megabytes" in run.data.metrics
    tags = run.data.tags
    assert tags["imgclf.kind"] == "evaluate"
    assert tags["imgclf.training_run"] == exported.run.mlflow_run_id
    version = client.get_model_version(exported.registration.name, exported.registration.version)
    assert tags["imgclf.sha256"] == version.tags["imgclf.sha256"]
    assert run.inputs is not None
    (data,) = [item.dataset for item in run.inputs.dataset_inputs]
    assert data.digest == tags["imgclf.dataset_digest"][:36]
    stored = {Path(item.path).name for item in client.list_artifacts(run.info.run_id, "all")}
    assert stored == {path.name for path in (tmp_path / "out" / "here").iterdir()}
    assert "confusion_matrix.png" in stored
    assert list_runs() == listed
    assert best_run(dataset="digits") == best


def test_a_class_that_the_model_does_not_know_is_named(evaluate, photos, tmp_path):
    root = tmp_path / "more"
    shutil.copytree(photos, root)
    (root / "1").rename(root / "one")
    before = runs_of_kind("evaluate")
    with pytest.raises(ImgclfError, match=r"does not know .* 'one'") as caught:
        evaluate(dataset=str(root))
    assert "It knows: 0, 1, 2" in caught.value.hint
    assert runs_of_kind("evaluate") == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "tset"}, "--split 'tset' is unknown. Did you mean 'test'"),
        ({"tta": "flips"}, "--tta 'flips' is unknown. Did you mean 'flip'"),
        ({"run": "20200101-000000-ffff", "model": "model.onnx"}, "either --model or --run"),
        ({"model": "", "run": None}, "either --model or --run"),
        ({"dataset": "nowhere"}, "no data set, folder or CSV file"),
    ],
)
def test_a_mistake_records_nothing(exported, options, message, tmp_path):
    before = runs_of_kind("evaluate")
    given: dict[str, Any] = {"model": exported.model, "dataset": "digits", **options}
    with pytest.raises(UsageError, match=message):
        imgclf.evaluate(**given, runs_dir=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
    assert runs_of_kind("evaluate") == before


def test_a_folder_without_images_and_a_place_that_cannot_be_written_are_clear_errors(
    evaluate, photos, tmp_path
):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImgclfError, match="has no images"):
        evaluate(dataset=str(tmp_path / "empty"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ImgclfError, match="Cannot write to the folder") as caught:
        evaluate(dataset=str(photos), output_dir=tmp_path / "file")
    assert "--output-dir" in caught.value.hint


def test_an_evaluation_that_breaks_off_is_recorded_as_failed(evaluate, photos, tmp_path):
    (tmp_path / "out" / "predictions.csv" / "predictions.csv").mkdir(parents=True)
    with pytest.raises(ImgclfError, match=r"Cannot write .*predictions\.csv"):
        evaluate(dataset=str(photos), output_dir=tmp_path / "out", experiment="breaks off")
    client = MlflowClient()
    experiment = client.get_experiment_by_name("breaks off")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FAILED"
    assert "predictions.csv" in run.data.tags["imgclf.error"]


def test_a_link_in_the_output_folder_leads_nowhere(evaluate, photos, tmp_path):
    out, precious = tmp_path / "out", tmp_path / "precious"
    out.mkdir()
    precious.write_text("years of work")
    (out / "predictions.csv").symlink_to(precious)
    result = evaluate(dataset=str(photos), output_dir=out)
    assert precious.read_text() == "years of work"
    assert len((out / "predictions.csv").read_text().splitlines()) == 1 + result.images


def test_unreadable_images_are_left_out_up_to_a_share(evaluate, photos, tmp_path):
    root = shutil.copytree(photos, tmp_path / "damaged")
    damaged = next(root.glob("1/*.png"))
    damaged.write_bytes(b"no image")
    with pytest.raises(ImgclfError, match="cannot be read"):
        evaluate(dataset=str(root))
    result = evaluate(dataset=str(root), max_bad_images=0.1)
    assert result.images == 79
    page = (result.folder / "report.html").read_text(encoding="utf-8")
    assert f"unreadable: {damaged.relative_to(root).as_posix()}: " in page
    assert np.isfinite(list(result.metrics.values())).all()
