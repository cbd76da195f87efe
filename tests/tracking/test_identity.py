"""Who a run is: where it belongs, although shells and folders differ, and how it is found again."""

import mlflow
import pytest
from mlflow import MlflowClient

from command_line import imgclf
from imgclf.errors import ImgclfError
from imgclf.tracking.identity import create_identity, find_run_folder, read_identity
from imgclf.tracking.sent import read_sent
from tracking_server import holds_all, write_run


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
        ("sqlite:///mlflow.db", "sqlite:///{here}/mlflow.db"),
        ("postgresql://host/mlflow", "postgresql://host/mlflow"),
    ],
)
def test_the_store_of_a_run_is_kept_so_that_another_folder_finds_it(
    uri, expected, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    identity = create_identity(tmp_path, "train", "", "")
    assert identity.tracking_uri == expected.format(here=tmp_path)


@pytest.mark.parametrize("used_before", [False, True])
def test_the_default_store_of_a_run_is_the_one_that_mlflow_takes_in_its_folder(
    used_before, tmp_path, monkeypatch
):
    """So that it is found from another folder, although nothing has been sent yet."""
    place = tmp_path / "with a space, ä"
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    if used_before:  # MLflow's file store
        (place / "mlruns" / "0").mkdir(parents=True)
        (place / "mlruns" / "0" / "meta.yaml").write_text("")
    identity = create_identity(tmp_path, "train", "", "")
    assert identity.tracking_uri == mlflow.get_tracking_uri()


def test_the_experiment_of_a_run_is_kept_so_that_another_shell_finds_it(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "7")
    by_id = create_identity(tmp_path, "train", "", "")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "named")
    by_name = create_identity(tmp_path, "train", "", "")
    given = create_identity(tmp_path, "train", "", "given")
    kept = [(run.experiment, run.experiment_id) for run in (by_id, by_name, given)]
    assert kept == [("", "7"), ("named", ""), ("given", "")]


def test_a_run_is_found_by_either_id(runs_dir):
    folder, other = write_run(runs_dir, ended=True), write_run(runs_dir, ended=True)
    assert imgclf("sync", folder.name, "--runs-dir", runs_dir).exit_code == 0
    mlflow_run_id = read_sent(folder).mlflow_run_id
    assert find_run_folder(runs_dir, folder.name) == folder
    assert find_run_folder(runs_dir, mlflow_run_id or "") == folder
    for wrong in ("", "x", folder.name[:-1] + "z"):
        with pytest.raises(ImgclfError, match=f"There is no run '{wrong}'") as caught:
            find_run_folder(runs_dir, wrong)
        assert other.name in caught.value.hint
    assert "Did you mean" in caught.value.message


def test_an_adopted_run_is_found_by_mlflows_id_before_mlflow_was_reached(runs_dir, monkeypatch):
    with monkeypatch.context() as runner:
        runner.setenv("MLFLOW_RUN_ID", "f" * 32)
        folder = write_run(runs_dir, ended=True)
    assert find_run_folder(runs_dir, "f" * 32) == folder


def test_a_folder_that_has_moved_is_read_where_it_is(runs_dir, tmp_path):
    folder = write_run(runs_dir, ended=True)
    moved = tmp_path / "elsewhere" / folder.name
    moved.parent.mkdir()
    folder.rename(moved)
    assert read_identity(moved).folder == str(moved)
    assert imgclf("sync", "--runs-dir", moved.parent).exit_code == 0
    holds_all(MlflowClient(), moved)
