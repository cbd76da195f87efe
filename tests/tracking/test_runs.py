"""The rule by which a run is best, on a real store with runs of every kind."""

import functools
from pathlib import Path

import pytest
from mlflow import MlflowClient

from imgclf.errors import ImgclfError
from imgclf.tracking.identity import (
    DATASET_DIGEST_TAG,
    DATASET_TAG,
    KIND_TAG,
    RUN_ID_TAG,
    SPLIT_DIGEST_TAG,
)
from imgclf.tracking.runs import best_run, find_run, list_runs

_count = iter(range(1000))


@pytest.fixture
def experiment(request, workplace) -> str:
    name = f"{request.node.name}"
    MlflowClient().create_experiment(name)
    return name


def add_run(
    experiment: str,
    val_accuracy: float | None,
    kind: str = "train",
    status: str = "FINISHED",
    dataset: str = "digits",
    data: str = "d1",
    split: str = "s1",
) -> str:
    client = MlflowClient()
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    run_id = f"20260101-000000-{next(_count):04}"
    tags = {
        RUN_ID_TAG: run_id,
        KIND_TAG: kind,
        DATASET_TAG: dataset,
        DATASET_DIGEST_TAG: data,
        SPLIT_DIGEST_TAG: split,
    }
    run = client.create_run(found.experiment_id, tags=tags)
    if val_accuracy is not None:
        client.log_metric(run.info.run_id, "best/val_accuracy", val_accuracy)
    client.log_metric(run.info.run_id, "val/accuracy", 0.1)  # the last epoch's does not count
    if status != "RUNNING":
        client.set_terminated(run.info.run_id, status)
    return run_id


def test_the_best_finished_train_run_wins(experiment):
    add_run(experiment, 0.90)
    best = add_run(experiment, 0.95)
    add_run(experiment, 0.99, status="FAILED")
    add_run(experiment, 0.99, status="RUNNING")
    add_run(experiment, 0.99, status="KILLED")
    add_run(experiment, 0.99, kind="export")
    add_run(experiment, 0.99, kind="evaluate")
    add_run(experiment, None)
    assert best_run(experiment).run_id == best


def test_of_equally_good_runs_the_first_wins(experiment):
    first = add_run(experiment, 0.95)
    add_run(experiment, 0.95)
    assert best_run(experiment).run_id == first


def test_several_data_sets_are_listed_rather_than_compared(experiment):
    first = add_run(experiment, 0.95)
    second = add_run(experiment, 0.60, dataset="photos", data="d2", split="s2")
    with pytest.raises(ImgclfError) as caught:
        best_run(experiment)
    for text in (first, second, "digits", "photos"):
        assert text in caught.value.message
    assert "--dataset" in caught.value.hint
    assert best_run(experiment, dataset="photos").run_id == second


def test_another_split_of_the_same_data_is_not_compared(experiment):
    add_run(experiment, 0.95)
    add_run(experiment, 0.97, split="s2")
    with pytest.raises(ImgclfError, match="cannot be compared"):
        best_run(experiment, dataset="digits")


def test_without_a_run_the_message_says_how_to_train(experiment):
    with pytest.raises(ImgclfError, match="no training run") as caught:
        best_run(experiment)
    assert "imgclf train" in caught.value.hint
    with pytest.raises(ImgclfError, match=f"no experiment .* Did you mean '{experiment}'"):
        best_run(experiment.upper())


def test_runs_without_validation_are_no_candidates(experiment):
    add_run(experiment, None)
    with pytest.raises(ImgclfError, match="finished with a validation accuracy"):
        best_run(experiment)


def test_an_unknown_data_set_lists_the_known_ones(experiment):
    add_run(experiment, 0.9)
    with pytest.raises(ImgclfError, match=r"'photos'.*there are: digits"):
        best_run(experiment, dataset="photos")


def test_more_runs_than_a_page_holds_are_all_listed(experiment, monkeypatch):
    client = MlflowClient()
    search = client.search_runs
    search_by_twos = functools.partial(search, max_results=2)
    monkeypatch.setattr(MlflowClient, "search_runs", lambda _, *a, **k: search_by_twos(*a, **k))
    expected = {add_run(experiment, 0.1 * step) for step in range(5)}
    listed = list_runs(experiment)
    assert {run.run_id for run in listed} == expected
    accuracies = [run.val_accuracy or 0 for run in listed]
    assert accuracies == sorted(accuracies, reverse=True)


def test_a_run_is_found_by_either_id(trained):
    by_own_id = find_run(trained.run_id)
    assert find_run(trained.mlflow_run_id) == by_own_id
    assert by_own_id.epochs == 3
    assert by_own_id.test_accuracy == trained.metrics["test/accuracy"]


@pytest.mark.parametrize("status", ["KILLED", "RUNNING"])
def test_a_run_that_has_not_finished_shows_the_epochs_it_has_come_to(experiment, status):
    client = MlflowClient()
    run_id = add_run(experiment, 0.9, status=status)
    (run,) = list_runs(experiment)
    assert run.epochs == 0, "stopped in the first epoch"
    for epoch in (1, 2, 3):
        client.log_metric(run.mlflow_run_id, "train/loss", 1 / epoch, step=epoch)
    (run,) = list_runs(experiment)
    assert (run.run_id, run.epochs) == (run_id, 3)


@pytest.mark.parametrize("run_id", ["20200101-000000-ffff", "0" * 32, "x' OR '1' = '1", ""])
def test_an_unknown_run_is_a_clear_error(run_id, workplace):
    with pytest.raises(ImgclfError, match="There is no run"):
        find_run(run_id)


def test_a_store_that_is_not_there_is_not_made_by_looking_into_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/absent/mlflow.db")
    with pytest.raises(ImgclfError, match="There is no run 'x': nothing is recorded at sqlite:///"):
        find_run("x")
    with pytest.raises(ImgclfError, match="There is no experiment 'x': nothing is recorded at"):
        list_runs("x")
    assert list_runs() == []
    with pytest.raises(ImgclfError) as caught:
        best_run()
    assert caught.value.hint == "Train one: imgclf train"
    assert list(tmp_path.iterdir()) == []


def test_a_store_is_found_where_its_address_has_options(
    trained, workplace: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{workplace}/mlflow.db?timeout=20")
    assert find_run(trained.run_id).mlflow_run_id == trained.mlflow_run_id


def test_mlflows_own_store_in_a_folder_with_a_space_in_its_name_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "my photos"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    tags = {RUN_ID_TAG: "20260101-000000-here", KIND_TAG: "train"}
    run = MlflowClient().create_run("0", tags=tags)
    assert find_run("20260101-000000-here").mlflow_run_id == run.info.run_id


def test_a_run_of_another_kind_is_refused(experiment):
    run_id = add_run(experiment, 0.9, kind="export")
    with pytest.raises(ImgclfError, match="not a training run"):
        find_run(run_id)
