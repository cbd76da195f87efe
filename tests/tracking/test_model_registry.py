import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from imgclf.predict import Predictor
from imgclf.tracking.model_registry import register_export, registered_name
from imgclf.tracking.runs import find_run
from model_files import write_sealed


@pytest.fixture
def register(exported, request):
    """Register the shared export as if it came from another run; a model name for each test."""
    run = dataclasses.replace(find_run(exported.run.run_id), dataset=request.node.name[:40])
    card = Predictor(exported.model).card
    example = np.zeros((2, 8, 8, 1), np.uint8)

    def register_as(file: Path = exported.model, **changes):
        changed = dataclasses.replace(run, **changes)
        return register_export(changed, file, card, example)

    return register_as


@pytest.fixture
def another_file(exported, tmp_path):
    """Files of the same model whose bytes differ, so that each is a version of its own."""
    import onnx

    proto = onnx.load_from_string(exported.model.read_bytes())

    def write(name: str) -> Path:
        proto.doc_string = name
        path = tmp_path / f"{name}.onnx"
        write_sealed(proto, path)
        return path

    return write


def test_only_a_better_version_becomes_champion(register, another_file):
    first = register(val_accuracy=0.9)
    worse = register(another_file("worse"), val_accuracy=0.8)
    equal = register(another_file("equal"), val_accuracy=0.9)
    better = register(another_file("better"), val_accuracy=0.95)
    assert [r.is_champion for r in (first, worse, equal, better)] == [True, False, False, True]
    champion = MlflowClient().get_model_version_by_alias(first.name, "champion")
    assert str(champion.version) == better.version


@pytest.mark.parametrize("change", ["dataset_digest", "split_digest"])
def test_the_alias_does_not_move_to_other_data_or_another_split(change, register, another_file):
    register(val_accuracy=0.5)
    other = register(another_file("other"), val_accuracy=0.99, **{change: "another"})
    assert not other.is_champion
    assert "other data or another split" in other.reason


def test_a_run_without_validation_never_becomes_champion(register):
    registration = register(val_accuracy=None)
    assert not registration.is_champion
    with pytest.raises(MlflowException):
        MlflowClient().get_model_version_by_alias(registration.name, "champion")


def test_the_same_file_is_registered_once(register):
    assert register().version == register().version


@pytest.mark.faults
def test_a_model_that_was_logged_but_not_registered_is_registered_and_logged_once(
    register, another_file, exported
):
    """An export may be interrupted between the two."""
    client, file = MlflowClient(), another_file("interrupted")
    first = register(file)
    client.delete_model_version(first.name, first.version)
    second = register(file)
    assert second.version != first.version
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    experiment_id = client.get_run(exported.run.mlflow_run_id).info.experiment_id
    logged = client.search_logged_models([experiment_id], f"tags.`imgclf.sha256` = '{sha256}'")
    assert len(logged) == 1
    registered = client.get_model_version(second.name, second.version)
    assert registered.run_id == exported.run.mlflow_run_id
    assert registered.tags["imgclf.sha256"] == sha256


def test_the_registered_model_answers_as_the_file(exported):
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    images = np.round(bunch.images[:5] * (255 / 16)).astype(np.uint8)[..., None]
    model = mlflow.pyfunc.load_model(f"models:/{exported.registration.name}@champion")
    answer: Any = model.predict({"image": images})
    logits, probabilities = Predictor(exported.model).run(images)
    np.testing.assert_array_equal(answer["logits"], logits)
    np.testing.assert_array_equal(answer["probabilities"], probabilities)
    assert model.metadata.run_id == exported.run.mlflow_run_id


def test_forbidden_characters_do_not_reach_the_registry():
    assert registered_name("my.photos/2024: a") == "imgclf-my-photos-2024- a"
    assert registered_name("cats\\dogs") == "imgclf-cats-dogs"
