"""The InferenceService that KServe is given: its fields, and that it points at what is synced."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from imgclf.pipeline.export import TRITON_FOLDER

SERVICE = Path(__file__).parents[2] / "mlflow_project" / "kserve" / "inference-service.yaml"
# Of the classes V1beta1InferenceService, ...Spec, V1beta1PredictorSpec (those that scale),
# V1beta1ModelSpec and V1beta1ModelFormat in kserve 0.21.0; the package brings a hundred others.
FIELDS = {
    "": {"apiVersion", "kind", "metadata", "spec"},
    "spec": {"canary", "explainer", "predictor", "tracing", "transformer"},
    "spec.predictor": {
        "canaryTrafficPercent", "containerConcurrency", "maxReplicas", "minReplicas", "model",
        "scaleMetric", "scaleMetricType", "scaleTarget", "timeout",
    },
    "spec.predictor.model": {
        "args", "env", "modelFormat", "name", "protocolVersion", "resources", "runtime",
        "runtimeVersion", "storage", "storageUri",
    },
    "spec.predictor.model.modelFormat": {"name", "version"},
    "spec.predictor.model.resources": {"claims", "limits", "requests"},
}  # fmt: skip


@pytest.fixture(scope="module")
def service() -> Any:
    return yaml.safe_load(SERVICE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", FIELDS)
def test_every_field_is_one_that_kserve_knows(service: Any, path: str):
    part = service
    for name in path.split(".") if path else ():
        part = part[name]
    assert part
    assert set(part) <= FIELDS[path]


def test_it_runs_triton_by_the_protocol_that_the_client_speaks(service: Any):
    assert (service["apiVersion"], service["kind"]) == (
        "serving.kserve.io/v1beta1",
        "InferenceService",
    )
    model = service["spec"]["predictor"]["model"]
    assert model["modelFormat"] == {"name": "triton"}
    assert model["protocolVersion"] == "v2"


def test_it_reads_the_folder_that_the_file_says_to_sync(service: Any):
    source, target = re.findall(r"s3 sync (\S+) (\S+)", SERVICE.read_text(encoding="utf-8"))[0]
    assert Path(source).name == TRITON_FOLDER
    assert service["spec"]["predictor"]["model"]["storageUri"] == target
