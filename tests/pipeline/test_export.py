"""An export is proved, or it does not exist."""

import json
import os
import shutil
from pathlib import Path

import onnx
import pytest
from mlflow import MlflowClient
from PIL import Image

import imgclf
from imgclf.card import METADATA_KEY
from imgclf.config import TrainConfig
from imgclf.errors import ImgclfError, UsageError
from imgclf.pipeline.export import _replace_folder
from model_files import write_sealed
from small_disk import files_up_to


@pytest.fixture(scope="module")
def file_run(digit_files, tmp_path_factory):
    """A run on a folder that a test may move or change: (folder, result)."""
    root = tmp_path_factory.mktemp("files") / "photos"
    shutil.copytree(digit_files, root)
    # Other runs of the session are of all these images.
    sorted(root.rglob("*.png"))[-1].unlink()
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
    run = MlflowClient().get_run(exported.run.mlflow_run_id)
    assert run.data.metrics["time/export_seconds"] > 0
    logged = MlflowClient().list_artifacts(exported.run.mlflow_run_id, "export")
    names = {Path(item.path).name for item in logged}
    assert names >= {"example.png", "model.onnx", "parity.json"}  # other tests export it, too


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


@pytest.mark.parametrize("with_export", [True, False])
def test_a_folder_with_a_persons_file_in_it_is_not_replaced(trained, tmp_path, with_export):
    if with_export:
        imgclf.export(trained.run_id, exports_dir=tmp_path)
    (tmp_path / "digits").mkdir(exist_ok=True)
    (tmp_path / "digits" / "thesis.txt").write_text("years of work")
    with pytest.raises(ImgclfError, match="no export of this data set"):
        imgclf.export(trained.run_id, exports_dir=tmp_path)
    assert (tmp_path / "digits" / "thesis.txt").read_text() == "years of work"


def test_an_export_of_other_data_with_the_same_classes_is_not_replaced(trained, tmp_path):
    present = imgclf.export(trained.run_id, exports_dir=tmp_path)
    proto = onnx.load_from_string(present.model.read_bytes())
    (entry,) = [entry for entry in proto.metadata_props if entry.key == METADATA_KEY]
    entry.value = entry.value.replace(present.run.dataset_digest, "0" * 64)
    write_sealed(proto, present.model)
    with pytest.raises(ImgclfError, match="no export of this data set"):
        imgclf.export(trained.run_id, exports_dir=tmp_path)


@pytest.mark.faults
def test_an_older_export_is_put_back_where_the_new_one_cannot_take_its_place(
    trained, tmp_path, monkeypatch
):
    present = imgclf.export(trained.run_id, exports_dir=tmp_path)
    before = present.model.read_bytes()
    rename, calls = os.rename, []

    def fail_the_second_time(source, target):
        calls.append(source)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail_the_second_time)
    with pytest.raises(ImgclfError, match=r"Cannot write the export .*No space left.* are free"):
        imgclf.export(trained.run_id, exports_dir=tmp_path)
    assert present.model.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]


@pytest.mark.parametrize("rename", [1, 2])
@pytest.mark.faults
def test_ctrl_c_between_the_folders_leaves_a_whole_export(rename, tmp_path, monkeypatch):
    """It comes when the old one is out of the way, or when the new one is in its place."""
    built, target = tmp_path / "workspace" / "export", tmp_path / "digits"
    for folder in (built, target):
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_text(folder.name)
    really, calls = os.rename, []

    def interrupted(source, destination):
        really(source, destination)
        calls.append(source)
        if len(calls) == rename:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _replace_folder(built, target)
    assert (target / "model.onnx").read_text() == ("digits" if rename == 1 else "export")


@pytest.mark.faults
def test_a_full_disk_is_told_and_the_older_export_stays(trained, tmp_path):
    present = imgclf.export(trained.run_id, exports_dir=tmp_path)
    before = present.model.read_bytes()
    full = r"Cannot write the model .*too large\. Up to .* are needed; .* are free"
    with files_up_to(len(before) - 1), pytest.raises(ImgclfError, match=full):
        imgclf.export(trained.run_id, exports_dir=tmp_path)
    assert present.model.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]


def test_a_link_to_an_export_is_replaced_and_what_it_leads_to_stays(trained, tmp_path):
    elsewhere = imgclf.export(trained.run_id, exports_dir=tmp_path / "elsewhere")
    exports = tmp_path / "exports"
    exports.mkdir()
    (exports / "digits").symlink_to(elsewhere.folder)
    result = imgclf.export(trained.run_id, exports_dir=exports)
    assert not result.folder.is_symlink()
    assert elsewhere.model.read_bytes() == result.model.read_bytes()
    assert [path.name for path in exports.iterdir()] == ["digits"]


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "..", "a/b"])
def test_a_name_cannot_lead_out_of_the_exports_folder(trained, tmp_path, name):
    with pytest.raises(UsageError, match="no folder's name"):
        imgclf.export(trained.run_id, exports_dir=tmp_path / "exports", name=name)
    assert list(tmp_path.iterdir()) == []


def test_an_exports_folder_that_cannot_be_written_is_found_before_the_proof(trained, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ImgclfError, match="Cannot write to"):
        imgclf.export(trained.run_id, exports_dir=tmp_path / "file")


def test_a_run_and_a_choice_among_runs_exclude_each_other(trained, tmp_path):
    with pytest.raises(UsageError, match="--run names one run"):
        imgclf.export(trained.run_id, exports_dir=tmp_path, dataset="digits")
    with pytest.raises(UsageError, match="--run names one run"):
        imgclf.export(trained.run_id, exports_dir=tmp_path, experiment="Default")
    with pytest.raises(ImgclfError, match="There is no run ''"):
        imgclf.export("", exports_dir=tmp_path)


def test_data_that_has_moved_is_found_by_its_content(file_run, tmp_path):
    root, result = file_run
    moved = root.rename(tmp_path / "holiday")
    try:
        with pytest.raises(ImgclfError, match="were at") as caught:
            imgclf.export(result.run_id, exports_dir=tmp_path / "exports")
        assert "--dataset FOLDER" in caught.value.hint
        exported = imgclf.export(dataset=str(moved), exports_dir=tmp_path / "exports")
        assert exported.run.run_id == result.run_id
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
    assert list((tmp_path / "exports").iterdir()) == []


def test_a_run_that_has_not_finished_has_no_model(workplace, tmp_path):
    client = MlflowClient()
    run = client.create_run("0", tags={"imgclf.kind": "train", "imgclf.run_id": "2026-x"})
    with pytest.raises(ImgclfError, match="no trained model"):
        imgclf.export(run.info.run_id, exports_dir=tmp_path)
    client.delete_run(run.info.run_id)


def test_a_run_outlives_the_recipe_file_that_it_came_from(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("epochs: 1\nlearning_rate: 3e-3\nhorizontal_flip: false\n")
    values = {"recipe": str(recipe), "runs_dir": str(tmp_path / "runs"), "dropout": 0.2}
    result = imgclf.train(imgclf.TrainConfig.from_dict(values))
    recipe.unlink()
    exported = imgclf.export(result.run_id, exports_dir=tmp_path / "exports")
    assert exported.run.run_id == result.run_id
    tags = MlflowClient().get_run(result.mlflow_run_id or "").data.tags
    assert set(json.loads(tags["imgclf.recipe_overrides"])) == {"dropout", "runs_dir"}
