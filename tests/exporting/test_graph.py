from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from imgclf.card import METADATA_KEY, ModelCard, Preprocessing
from imgclf.exporting.graph import build_onnx, write_onnx
from imgclf.models import (
    ImageClassifier,
    InputShape,
    NetworkSettings,
    create_network,
    designed_norm_layer,
    network_names,
)


@pytest.mark.parametrize("name", network_names())
@pytest.mark.parametrize(
    "shape",
    [InputShape(1, 12, 12), pytest.param(InputShape(3, 20, 33), marks=pytest.mark.slow)],
)
def test_every_network_keeps_a_free_batch_dimension(name, shape, tmp_path):
    torch.manual_seed(0)
    network = create_network(name, shape, NetworkSettings(5, 0.5, designed_norm_layer(name)))
    model = ImageClassifier(network, [100.0] * shape.channels, [50.0] * shape.channels).eval()
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (300, shape.height, shape.width, shape.channels), np.uint8)
    proto = build_onnx(model, images[:2])
    size = Preprocessing.identity(shape.height, shape.width, shape.channels)
    card = ModelCard(("a", "b", "c", "d", "e"), size, model_mean(model), model_mean(model))
    write_onnx(proto, card, tmp_path / "model.onnx")

    assert list(tmp_path.iterdir()) == [tmp_path / "model.onnx"], "one file"
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (image,) = session.get_inputs()
    assert (image.name, image.type) == ("image", "tensor(uint8)")
    assert image.shape[1:] == [shape.height, shape.width, shape.channels]
    assert isinstance(image.shape[0], str)
    assert [output.name for output in session.get_outputs()] == ["logits", "probabilities"]
    with torch.inference_mode():
        expected = model(torch.from_numpy(images)).numpy()
    for count in (1, 2, 7, 300):
        outputs: list[Any] = list(session.run(None, {"image": images[:count]}))
        np.testing.assert_allclose(outputs[0], expected[:count], atol=1e-4)
        np.testing.assert_allclose(outputs[1].sum(axis=1), 1, atol=1e-5)


def model_mean(model: ImageClassifier) -> tuple[float, ...]:
    return tuple(model.mean.flatten().tolist())


def test_the_file_carries_its_card_and_nothing_outside_the_onnx_standard(exported):
    proto = onnx.load_from_string(exported.model.read_bytes())
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    card = ModelCard.from_json(metadata[METADATA_KEY])
    assert card.classes == tuple("0123456789")
    assert card.provenance["run_id"] == exported.run.run_id
    assert card.provenance["mlflow_run_id"] == exported.run.mlflow_run_id
    assert card.parity["passed"] is True
    assert card.metrics["test/accuracy"] == exported.run.test_accuracy
    assert {node.domain for node in proto.graph.node} <= {"", "ai.onnx"}
    assert not any(tensor.external_data for tensor in proto.graph.initializer)


def test_no_path_of_the_machine_that_exported_it_is_in_the_file(exported):
    content = exported.model.read_bytes()
    package = Path(build_onnx.__code__.co_filename).parents[2]
    for path in (package, Path(torch.__file__).parents[1], Path.cwd()):
        assert str(path).encode() not in content
    assert b".py" not in content


def test_the_temperature_scales_the_probabilities_and_not_the_logits(tmp_path):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
    model = ImageClassifier(network, [100.0], [50.0])
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 1), np.uint8)
    names = ("a", "b", "c")
    card = ModelCard(names, Preprocessing.identity(4, 4, 1), (100.0,), (50.0,), temperature=2.5)
    write_onnx(build_onnx(model, images[:2], 2.5), card, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    outputs: list[Any] = list(session.run(None, {"image": images}))
    with torch.inference_mode():
        expected = model(torch.from_numpy(images)).double()
    np.testing.assert_allclose(outputs[0], expected.numpy(), atol=1e-5)
    probabilities = torch.softmax(expected / 2.5, dim=1).numpy()
    np.testing.assert_allclose(outputs[1], probabilities, atol=1e-6)
