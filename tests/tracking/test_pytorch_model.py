"""The PyTorch model in MLflow: whoever loads it gets the trained network's answers."""

from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelStatus

import imgclf
from imgclf.evaluation.inference import predict_logits
from imgclf.pipeline.trained import load_trained_model
from imgclf.tracking.pytorch_model import log_pytorch_model
from imgclf.tracking.runs import find_run


def pytorch_models(mlflow_run_id: str) -> list[LoggedModel]:
    client = MlflowClient()
    experiment_id = client.get_run(mlflow_run_id).info.experiment_id
    found = client.search_logged_models([experiment_id], f"source_run_id = '{mlflow_run_id}'")
    return [model for model in found if model.name == "pytorch"]


@pytest.fixture
def logged(exported) -> LoggedModel:
    (model,) = pytorch_models(exported.run.mlflow_run_id)
    return model


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    return np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]


@pytest.fixture(scope="module")
def expected(trained, images) -> np.ndarray:
    model = load_trained_model(trained.folder / "model").model
    return predict_logits(model, images, torch.device("cpu"))


@pytest.mark.parametrize("batch", [1, 2, 7, 1797])
def test_it_answers_as_the_trained_network_without_pickles(
    logged, images, expected, batch, monkeypatch
):
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    network = mlflow.pytorch.load_model(logged.model_uri)
    with torch.no_grad():
        answer = network(torch.from_numpy(images[:batch])).numpy()
    np.testing.assert_allclose(answer, expected[:batch], atol=1e-5)
    generic: Any = mlflow.pyfunc.load_model(logged.model_uri).predict(images[:batch])
    np.testing.assert_allclose(generic, expected[:batch], atol=1e-5)


def test_it_names_what_it_needs_and_where_it_comes_from(logged, exported):
    assert logged.source_run_id == exported.run.mlflow_run_id
    requirements = mlflow.pyfunc.get_model_dependencies(logged.model_uri)
    with open(requirements) as file:
        names = {line.partition("==")[0].strip() for line in file}
    assert names == {"mlflow", "numpy", "torch"}
    signature = mlflow.models.get_model_info(logged.model_uri).signature
    assert signature is not None
    assert signature.inputs.input_types() == [np.dtype(np.uint8)]


def test_exporting_again_logs_no_second_one(exported, tmp_path):
    before = pytorch_models(exported.run.mlflow_run_id)
    imgclf.export(exported.run.run_id, exports_dir=tmp_path)
    assert [model.model_id for model in pytorch_models(exported.run.mlflow_run_id)] == [
        model.model_id for model in before
    ]


def test_an_export_that_was_interrupted_leaves_no_half_of_a_model(
    logged, trained, exported, images
):
    """Killed while it uploads, MLflow keeps a model that is pending for ever."""
    client, run = MlflowClient(), find_run(trained.run_id)
    half = client.create_logged_model(
        logged.experiment_id,
        name="pytorch",
        source_run_id=run.mlflow_run_id,
        tags={"imgclf.sha256": "of half a model"},
    )
    model = load_trained_model(trained.folder / "model")
    for _ in range(2):
        log_pytorch_model(run, model.model, model.card, images[:2], "of half a model")
    found = pytorch_models(run.mlflow_run_id)
    (whole,) = [each for each in found if each.tags["imgclf.sha256"] == "of half a model"]
    assert whole.model_id != half.model_id
    assert whole.status == LoggedModelStatus.READY
    client.delete_logged_model(whole.model_id)
