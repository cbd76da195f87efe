"""The proof must hold for a true export and fail for anything else."""

import dataclasses
import json
import tracemalloc

import numpy as np
import onnx
import pytest
import torch

from imgclf.card import ModelCard, Preprocessing
from imgclf.config import TrainConfig
from imgclf.data.dataset import SelectedImages, from_arrays
from imgclf.errors import ImgclfError
from imgclf.evaluation.inference import predict_logits
from imgclf.exporting.graph import build_onnx, write_onnx
from imgclf.exporting.parity import BATCH_SIZES, compare
from imgclf.models import ImageClassifier, InputShape, NetworkSettings, create_network
from imgclf.pipeline.data import load_and_split
from imgclf.predict import Predictor
from imgclf.training.weights import load_weights
from model_files import write_sealed


@pytest.fixture(scope="module")
def case(trained, exported):
    """The trained model, its test images and labels."""
    config = TrainConfig.from_dict(json.loads((trained.folder / "model/config.json").read_text()))
    dataset, split = load_and_split(config)
    card = Predictor(exported.model).card
    network = create_network(
        config.model, InputShape(1, 8, 8), NetworkSettings(10, config.dropout, "batch")
    )
    model = ImageClassifier(network, card.mean, card.std)
    load_weights(model, trained.folder / "model/weights.safetensors")
    return model, dataset.inputs(split.test), dataset.labels[split.test]


def answers(model, images):
    return predict_logits(model, images, torch.device("cpu"))


def prove(case, path):
    model, images, labels = case
    predictor = Predictor(path)
    temperature = predictor.card.temperature
    reference = answers(model, images)
    return compare(reference, predictor, images, list(images), labels, temperature)


def changed_file(exported, tmp_path, change):
    """Write the exported file with one initializer changed."""
    proto = onnx.load_from_string(exported.model.read_bytes())
    change(proto)
    path = tmp_path / "changed.onnx"
    write_sealed(proto, path)
    return path


def change_weights(proto: onnx.ModelProto, function) -> None:
    largest = max(proto.graph.initializer, key=lambda tensor: np.prod(tensor.dims))
    values = onnx.numpy_helper.to_array(largest)
    largest.CopyFrom(onnx.numpy_helper.from_array(function(values.copy()), largest.name))


def test_a_true_export_is_proved(case, exported):
    parity = prove(case, exported.model)
    assert parity.failures == ()
    assert parity.images == 359
    assert parity.top1_agreement == 1
    assert parity.max_scaled_difference <= 1e-4
    assert parity.batch_sizes == BATCH_SIZES == (1, 2, 7, 256)


def test_the_reference_is_the_trained_model_in_full_precision(case, exported):
    """In float64 the same arithmetic gives what the file gives, within float32's resolution."""
    model, images, _ = case
    with torch.inference_mode():
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).double()
        exact = model.double().network((pixels - model.mean) / model.std).numpy()
    model.float()
    logits, _ = Predictor(exported.model).run(images)
    assert np.abs(logits - exact).max() / np.abs(exact).max() < 1e-5


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(lambda values: values * 1.01, id="scaled by 1%"),
        pytest.param(lambda values: values[::-1].copy(), id="reversed"),
        pytest.param(np.zeros_like, id="zero"),
        pytest.param(lambda values: values * np.nan, id="not a number"),
    ],
)
def test_other_weights_are_found(function, case, exported, tmp_path):
    path = changed_file(exported, tmp_path, lambda proto: change_weights(proto, function))
    parity = prove(case, path)
    assert parity.failures
    with pytest.raises(ImgclfError, match="nothing was exported"):
        parity.require()


def test_a_network_that_answers_zero_proves_nothing(exported, tmp_path, case):
    _, images, labels = case
    silent = ImageClassifier(
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)), [0.0], [1.0]
    )
    for parameter in silent.parameters():
        torch.nn.init.zeros_(parameter)
    path = changed_file(exported, tmp_path, lambda proto: [change_weights(proto, np.zeros_like)])
    parity = compare(answers(silent, images), Predictor(path), images, list(images), labels)
    assert any("too close to zero" in failure for failure in parity.failures)


def test_other_pixels_are_found(case, exported):
    """A predictor that decodes differently from the training is no faithful export."""
    model, images, labels = case
    sources = [np.clip(image.astype(int) + 3, 0, 255).astype(np.uint8) for image in images]
    predictor = Predictor(exported.model)
    temperature = predictor.card.temperature
    reference = answers(model, images)
    assert compare(reference, predictor, images, sources, labels, temperature).failures


class Swapping(Predictor):
    """Answers with the two best logits of every image exchanged."""

    def predict_logits(self, images, batch_size=32):
        logits, probabilities = super().predict_logits(images, batch_size)
        order = np.argsort(-logits, axis=1, kind="stable")
        rows = np.arange(len(logits))
        first, second = logits[rows, order[:, 0]], logits[rows, order[:, 1]]
        logits[rows, order[:, 0]], logits[rows, order[:, 1]] = second, first
        return logits, probabilities


def test_another_answer_is_a_failure_where_the_model_is_sure(case, exported):
    model, images, labels = case
    parity = compare(answers(model, images), Swapping(exported.model), images, list(images), labels)
    assert parity.top1_agreement < 0.1
    assert parity.failures


def test_another_answer_is_a_tie_where_the_model_cannot_decide(case, exported, tmp_path):
    _, images, _ = case
    torch.manual_seed(0)
    dense = torch.nn.Linear(64, 2)
    with torch.no_grad():
        dense.weight[1] = dense.weight[0]
        dense.bias[1] = dense.bias[0] + 1e-6
    undecided = ImageClassifier(torch.nn.Sequential(torch.nn.Flatten(), dense), [80.0], [80.0])
    size = Preprocessing.identity(8, 8, 1)
    card = ModelCard(("a", "b"), size, (80.0,), (80.0,))
    write_onnx(build_onnx(undecided, images[:2]), card, tmp_path / "model.onnx")

    predictor = Swapping(tmp_path / "model.onnx")
    labels = np.zeros(len(images), np.int64)
    parity = compare(answers(undecided, images), predictor, images, list(images), labels)

    assert parity.ties > 300
    assert parity.top1_agreement == 1
    assert parity.reference_accuracy != parity.onnx_accuracy
    assert parity.failures == ()


def test_the_proof_of_a_split_larger_than_memory_holds_a_batch_at_a_time(tmp_path):
    """NumPy tells Python's allocation tracing of its arrays; what is mapped does not count."""
    side, number = 96, 6000
    mapped = np.memmap(tmp_path / "pixels.raw", np.uint8, "w+", shape=(number, side, side, 1))
    generator = np.random.default_rng(0)
    for start in range(0, number, 500):
        mapped[start : start + 500] = generator.integers(0, 256, (500, side, side, 1), np.uint8)
    labels = generator.integers(0, 2, number)
    dataset = dataclasses.replace(
        from_arrays("noise", mapped[:2], labels[:2], ("a", "b")), images=mapped, labels=labels
    )
    selected = SelectedImages(dataset, generator.permutation(number))
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(side * side, 2))
    model = ImageClassifier(network, [80.0], [80.0])
    card = ModelCard(("a", "b"), dataset.preprocessing, (80.0,), (80.0,))
    write_onnx(build_onnx(model, mapped[:2]), card, tmp_path / "model.onnx")
    predictor = Predictor(tmp_path / "model.onnx")

    tracemalloc.start()
    try:
        reference = answers(model, selected)
        parity = compare(reference, predictor, selected, selected, labels[selected.positions])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert (parity.images, parity.from_files, parity.failures) == (number, False, ())
    assert peak < mapped.nbytes / 4


def test_the_figures_say_whether_the_proof_holds(case, exported):
    parity = prove(case, exported.model)
    assert parity.to_dict()["passed"] is True
    failed = dataclasses.replace(parity, failures=("too different",))
    assert json.loads(failed.to_json())["passed"] is False
