"""An export is proved, or it does not exist."""

import json
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient
from PIL import Image

import imgclf
from imgclf.config import TrainConfig
from imgclf.errors import ImgclfError


@pytest.fixture(scope="module")
def file_run(digit_files, tmp_path_factory):
    """A run on a folder that a test may move or change: (folder, result)."""
    root = tmp_path_factory.mktemp("files") / "photos"
    shutil.copytree(digit_files, root)
    runs_dir = str(tmp_path_factory.mktemp("runs"))
    return root, imgclf.train(TrainConfig(epochs=2, dataset=str(root), runs_dir=runs_dir))


def test_an_export_is_one_file_with_its_proof_and_an_example(exported):
    assert sorted(path.name for path in exported.folder.iterdir()) == [
        "example.png",
        "model.onnx",
        "parity.json",
    ]
    figures = json.loads((exported.folder / "parity.json").read_text())
    assert figures["passed"] is True
    assert figures["images"] == 359
    (answer,) = imgclf.Predictor(exported.model)([exported.folder / "example.png"])
    assert answer.label == exported.example_label
    logged = MlflowClient().list_artifacts(exported.run.mlflow_run_id, "export")
    assert {Path(item.path).name for item in logged} == {"example.png", "model.onnx", "parity.json"}


def test_a_failed_proof_leaves_nothing_behind(trained, tmp_path, monkeypatch):
    """No float32 export agrees to the last bit: with no tolerance at all, every proof fails."""
    monkeypatch.setattr("imgclf.exporting.parity.SCALED_TOLERANCE", 0.0)
    versions = MlflowClient().search_model_versions("name = 'imgclf-digits'")
    with pytest.raises(ImgclfError, match="scaled difference"):
        imgclf.export(trained.run_id, exports_dir=tmp_path / "exports", name="failed")
    assert list((tmp_path / "exports").iterdir()) == []
    assert MlflowClient().search_model_versions("name = 'imgclf-digits'") == versions


def test_exporting_again_replaces_the_folder_and_registers_nothing_new(trained, tmp_path):
    first = imgclf.export(trained.run_id, exports_dir=tmp_path)
    again = imgclf.export(trained.run_id, exports_dir=tmp_path)
    assert first.registration.version == again.registration.version
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]


def test_a_folder_with_something_else_in_it_is_not_replaced(trained, tmp_path):
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "thesis.txt").write_text("years of work")
    with pytest.raises(ImgclfError, match="holds something else"):
        imgclf.export(trained.run_id, exports_dir=tmp_path)
    assert (tmp_path / "digits" / "thesis.txt").read_text() == "years of work"


def test_data_that_has_moved_is_found_by_its_new_place(file_run, tmp_path):
    root, result = file_run
    moved = root.rename(tmp_path / "photos")
    try:
        with pytest.raises(ImgclfError, match="no data set, folder or CSV file"):
            imgclf.export(result.run_id, exports_dir=tmp_path / "exports")
        exported = imgclf.export(
            result.run_id, dataset=str(moved), exports_dir=tmp_path / "exports"
        )
        assert exported.parity.from_files
    finally:
        moved.rename(root)


def test_changed_data_is_refused(file_run, tmp_path):
    root, result = file_run
    path = next(root.glob("0/*.png"))
    original = path.read_bytes()
    Image.new("L", (8, 8), 7).save(path)
    try:
        with pytest.raises(ImgclfError, match=r"not what run .* was trained on"):
            imgclf.export(result.run_id, exports_dir=tmp_path / "exports")
    finally:
        path.write_bytes(original)
    assert not (tmp_path / "exports").exists()


def test_a_run_that_has_not_finished_has_no_model(workplace, tmp_path):
    client = MlflowClient()
    run = client.create_run("0", tags={"imgclf.kind": "train", "imgclf.run_id": "2026-x"})
    with pytest.raises(ImgclfError, match="no model to export"):
        imgclf.export(run.info.run_id, exports_dir=tmp_path)
    client.delete_run(run.info.run_id)
