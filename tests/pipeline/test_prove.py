"""The proof again, on any labelled images: it holds for the run's own export and for no other."""

import json
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from onnx import numpy_helper
from safetensors.numpy import load_file, save_file

import imgclf as package
from command_line import imgclf
from imgclf.card import METADATA_KEY
from imgclf.errors import ImgclfError
from imgclf.pipeline.prove import prove
from imgclf.predict import Predictor
from model_files import write_sealed


@pytest.fixture
def photos(digit_files: Path, tmp_path: Path) -> Path:
    """160 real digits of four classes as image files, to be changed."""
    return shutil.copytree(digit_files, tmp_path / "photos")


@pytest.fixture
def changed(model: Path, tmp_path: Path) -> Callable[[Callable[[Any], None]], Predictor]:
    """Gives the exported file with a change that its maker has sealed."""

    def apply(change: Callable[[Any], None]) -> Predictor:
        proto = onnx.load_from_string(model.read_bytes())
        change(proto)
        write_sealed(proto, tmp_path / "changed.onnx")
        return Predictor(tmp_path / "changed.onnx")

    return apply


def change_card(proto: Any, name: str, value: Any) -> None:
    (entry,) = [entry for entry in proto.metadata_props if entry.key == METADATA_KEY]
    entry.value = json.dumps({**json.loads(entry.value), name: value})


@pytest.fixture
def change_weights(exported: Any) -> Iterator[Callable[[Callable[[Path], None]], None]]:
    """Changes the weights in the run's artifacts; they are put back."""
    run_id = exported.run.mlflow_run_id
    path = Path(download_artifacts(f"runs:/{run_id}/model/weights.safetensors"))
    before = path.read_bytes()

    def apply(change: Callable[[Path], Any]) -> None:
        change(path)
        MlflowClient().log_artifact(run_id, str(path), "model")

    yield apply
    apply(lambda path: path.write_bytes(before))


# --- What holds


def test_it_reads_the_image_files_and_counts_on_their_labels(
    predictor: Predictor, photos: Path, tmp_path: Path
):
    proof = prove(predictor, str(photos), str(tmp_path))
    answers = predictor([photos])
    accuracy = np.mean([answer.label == Path(answer.image).parent.name for answer in answers])
    assert proof.summary.startswith("160 images from stored files: same answers, logits within")
    assert proof.summary.endswith(f"accuracy {accuracy:.2%} = {accuracy:.2%}")
    # By its digest other data than the model's own, and it gives no test split.
    assert (proof.split, proof.note) == ("all", "")


def test_wrong_labels_lower_both_accuracies_and_prove_the_same(
    predictor: Predictor, photos: Path, tmp_path: Path
):
    (photos / "0").rename(photos / "x")
    (photos / "1").rename(photos / "0")
    (photos / "x").rename(photos / "1")
    answers = predictor([photos])
    accuracy = np.mean([answer.label == Path(answer.image).parent.name for answer in answers])
    assert accuracy < 0.6
    summary = prove(predictor, str(photos), str(tmp_path)).summary
    assert summary.endswith(f"accuracy {accuracy:.2%} = {accuracy:.2%}")


def test_a_given_test_split_of_other_data_is_what_is_compared(
    predictor: Predictor, photos: Path, tmp_path: Path
):
    for part, names in (("train", "01"), ("test", "0123")):
        for name in names:
            (tmp_path / "parts" / part).mkdir(parents=True, exist_ok=True)
            shutil.copytree(photos / name, tmp_path / "parts" / part / name)
    proof = prove(predictor, str(tmp_path / "parts"), str(tmp_path))
    assert proof.split == "test"
    assert proof.summary.startswith("160 images")


# --- The data that the model was trained on


@pytest.fixture(scope="module")
def of_photos(digit_files: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder with a split of its own options, and the export of a run on it."""
    folder = tmp_path_factory.mktemp("trained")
    photos = shutil.copytree(digit_files, folder / "photos")
    config = package.TrainConfig(
        epochs=1,
        dataset=str(photos),
        test_fraction=0.3,
        split_seed=7,
        runs_dir=str(folder / "runs"),
    )
    run = package.train(config)
    return photos, package.export(run.run_id, exports_dir=folder / "exports")


def test_of_its_own_data_only_the_test_split_of_the_training_is_compared(of_photos: Any):
    photos, export = of_photos
    proof = prove(Predictor(export.model), str(photos), "")
    assert (proof.split, proof.note) == ("test", "")
    assert proof.summary == export.parity.summary
    assert export.parity.images == 4 * 12  # 0.3 of 40 of each class


def test_where_that_split_cannot_be_made_again_the_figures_come_with_a_warning(
    of_photos: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    photos, export = of_photos
    proto = onnx.load_from_string(export.model.read_bytes())
    provenance = {**Predictor(export.model).card.provenance, "split_digest": "0" * 64}
    change_card(proto, "provenance", provenance)
    write_sealed(proto, tmp_path / "model.onnx")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    result = imgclf("verify", tmp_path / "model.onnx", "--dataset", photos)
    assert result.exit_code == 0, result.output
    assert "these images are not its test split" in result.stderr
    assert list((tmp_path / "here").iterdir()) == []


# --- Images that prove nothing


def test_classes_that_the_model_does_not_know_are_named(
    predictor: Predictor, photos: Path, tmp_path: Path
):
    (photos / "0").rename(photos / "trouser")
    with pytest.raises(ImgclfError, match=r"does not know 1 of the data's classes.* 'trouser'"):
        prove(predictor, str(photos), str(tmp_path))


def test_a_folder_without_images_is_refused(predictor: Predictor, tmp_path: Path):
    (tmp_path / "photos" / "0").mkdir(parents=True)
    with pytest.raises(ImgclfError, match="has no images"):
        prove(predictor, str(tmp_path / "photos"), str(tmp_path))


def test_images_that_cannot_be_read_are_named(predictor: Predictor, photos: Path, tmp_path: Path):
    for path in sorted((photos / "2").iterdir())[:2]:
        path.write_bytes(b"no image")
    with pytest.raises(ImgclfError, match=r"2 of 160 images .* cannot be read"):
        prove(predictor, str(photos), str(tmp_path))


def test_a_data_set_that_there_is_not_is_refused(predictor: Predictor, tmp_path: Path):
    with pytest.raises(ImgclfError, match="no data set, folder or CSV file named 'mnits'"):
        prove(predictor, "mnits", str(tmp_path))


# --- Files that are not what the weights are


def test_an_image_file_that_is_not_what_the_weights_are_shown_fails(
    predictor: Predictor, photos: Path, tmp_path: Path
):
    """The weights read the decoded images that are kept, the model the files themselves."""
    prove(predictor, str(photos), str(tmp_path))
    (kept,) = tmp_path.glob("decoded/*/pixels.raw")
    pixels = np.memmap(kept, np.uint8, "r+", shape=(160, 8, 8, 1))
    pixels[93] = pixels[93].transpose(1, 0, 2)
    pixels.flush()
    with pytest.raises(ImgclfError, match=r"does not answer as the weights of run .* difference"):
        prove(predictor, str(photos), str(tmp_path))


def test_a_file_whose_weights_were_changed_fails(changed: Any, photos: Path, tmp_path: Path):
    def change(proto: Any) -> None:
        largest = max(proto.graph.initializer, key=lambda one: len(one.raw_data))
        values = numpy_helper.to_array(largest) * np.float32(1.01)
        largest.CopyFrom(numpy_helper.from_array(values, largest.name))

    with pytest.raises(ImgclfError, match=r"does not answer as the weights .* scaled difference"):
        prove(changed(change), str(photos), str(tmp_path))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("classes", [str(digit) for digit in reversed(range(10))]),
        (
            "preprocessing",
            {"height": 8, "width": 8, "channels": 1, "resize_height": 9, "resize_width": 9},
        ),
    ],
)
def test_a_file_whose_card_was_changed_fails(changed: Any, tmp_path: Path, name: str, value: Any):
    other = changed(lambda proto: change_card(proto, name, value))
    with pytest.raises(ImgclfError, match="classes or its input are not those of run"):
        prove(other, "digits", str(tmp_path))


def test_a_file_at_another_temperature_fails(changed: Any, photos: Path, tmp_path: Path):
    other = changed(lambda proto: change_card(proto, "temperature", 3.0))
    with pytest.raises(ImgclfError, match="difference of the probabilities"):
        prove(other, str(photos), str(tmp_path))


# --- Weights that cannot be had


def test_other_weights_in_the_store_fail_and_the_command_says_so(
    model: Path, photos: Path, change_weights: Any, tmp_path: Path
):
    def change(path: Path) -> None:
        tensors = load_file(path)
        name = max(tensors, key=lambda one: tensors[one].size)
        save_file({**tensors, name: tensors[name] * np.float32(1.01)}, path)

    change_weights(change)
    result = imgclf("verify", model, "--dataset", photos, "--data-dir", tmp_path)
    assert result.exit_code == 1
    assert "Error: The model does not answer as the weights of run" in result.stderr
    assert "golden inputs" in result.stdout
    assert "proved" not in result.stdout


def test_damaged_weights_in_the_store_are_refused(
    predictor: Predictor, change_weights: Any, tmp_path: Path
):
    change_weights(lambda path: path.write_bytes(path.read_bytes()[:-100]))
    with pytest.raises(ImgclfError, match=r"weights in .* cannot be used"):
        prove(predictor, "digits", str(tmp_path))


def test_a_model_that_names_no_run_is_refused(changed: Any, tmp_path: Path):
    other = changed(lambda proto: change_card(proto, "provenance", {}))
    with pytest.raises(ImgclfError, match="does not say which run"):
        prove(other, "digits", str(tmp_path))


def test_a_run_that_was_deleted_is_missed_with_the_way_to_where_it_may_be(
    exported: Any, predictor: Predictor, tmp_path: Path
):
    run_id = exported.run.mlflow_run_id
    MlflowClient().delete_run(run_id)
    try:
        with pytest.raises(
            ImgclfError, match=f"cannot be had: There is no run '{run_id}'"
        ) as caught:
            prove(predictor, "digits", str(tmp_path))
    finally:
        MlflowClient().restore_run(run_id)
    assert "MLFLOW_TRACKING_URI" in caught.value.hint


def test_where_nothing_was_ever_recorded_no_store_is_made(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "a new folder").mkdir()
    monkeypatch.chdir(tmp_path / "a new folder")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    result = imgclf("verify", model, "--dataset", "digits")
    assert result.exit_code == 1
    assert "nothing is recorded at sqlite:///" in result.stderr
    assert "Set MLFLOW_TRACKING_URI" in result.stderr
    assert [path.name for path in tmp_path.rglob("*")] == ["a new folder"]


def test_a_store_that_cannot_be_reached_is_named(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with socket.socket() as unused:  # bound, and nobody listens
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        with pytest.raises(ImgclfError, match=f"The MLflow store at {address} failed") as caught:
            prove(predictor, "digits", str(tmp_path))
    assert "MLFLOW_TRACKING_URI" in caught.value.hint
