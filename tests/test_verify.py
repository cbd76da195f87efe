"""A file that answers as it did is verified; whatever was changed in it is found."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from imgclf import preprocess
from imgclf.card import METADATA_KEY, ModelCard
from imgclf.errors import ImgclfError
from imgclf.golden import METADATA_KEY as GOLDEN_KEY
from imgclf.predict import Predictor
from imgclf.verify import describe, replay
from model_files import write_sealed


def metadata_of(proto: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in proto.metadata_props}


def changed(model: Path, tmp_path: Path, change) -> Predictor:
    """Write the model changed by ``change(proto, metadata)`` under a seal of its own."""
    proto = onnx.load(model)
    metadata = metadata_of(proto)
    change(proto, metadata)
    onnx.helper.set_model_props(proto, metadata)
    write_sealed(proto, tmp_path / "model.onnx")
    return Predictor(tmp_path / "model.onnx")


def test_an_export_answers_as_it_did(predictor: Predictor):
    verification = replay(predictor)
    assert verification.failures == ()
    assert verification.max_scaled_difference < verification.scaled_tolerance == 1e-4
    # One PNG of each digit and one JPEG.
    assert verification.inputs == 11
    verification.require("model.onnx")


def test_golden_inputs_are_image_files_of_every_class_and_an_odd_jpeg(predictor: Predictor):
    inputs = predictor.golden.inputs
    images = [preprocess.open_image(one.image) for one in inputs]
    assert [one.image[:4] for one in inputs[:-1]] == [b"\x89PNG"] * 10
    assert inputs[-1].image[:2] == b"\xff\xd8"
    assert {image.size for image in images[:-1]} == {(8, 8)}
    assert images[-1].size == (11, 13)
    assert {one.label for one in inputs} == set(predictor.card.classes)


def swap_labels(proto: onnx.ModelProto, metadata: dict[str, str]) -> None:
    card = ModelCard.from_json(metadata[METADATA_KEY])
    first, second, *others = card.classes
    swapped = dataclasses.replace(card, classes=(second, first, *others))
    metadata[METADATA_KEY] = swapped.to_json()


def change_weights(proto: onnx.ModelProto, metadata: dict[str, str]) -> None:
    largest = max(proto.graph.initializer, key=lambda tensor: np.prod(tensor.dims))
    values = numpy_helper.to_array(largest) * np.float32(1.001)
    largest.CopyFrom(numpy_helper.from_array(values, largest.name))


def double_the_temperature_on_the_card(proto: onnx.ModelProto, metadata: dict[str, str]) -> None:
    card = ModelCard.from_json(metadata[METADATA_KEY])
    metadata[METADATA_KEY] = dataclasses.replace(card, temperature=card.temperature * 2).to_json()


def freeze_the_batch(proto: onnx.ModelProto, metadata: dict[str, str]) -> None:
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2


def make_a_weight_no_number(proto: onnx.ModelProto, metadata: dict[str, str]) -> None:
    largest = max(proto.graph.initializer, key=lambda tensor: np.prod(tensor.dims))
    values = numpy_helper.to_array(largest).copy()
    values.flat[:] = np.nan
    largest.CopyFrom(numpy_helper.from_array(values, largest.name))


def decode_otherwise(proto: onnx.ModelProto, metadata: dict[str, str]) -> None:
    golden = json.loads(metadata[GOLDEN_KEY])
    golden["inputs"][-1]["pixels_sha256"] = "0" * 64
    metadata[GOLDEN_KEY] = json.dumps(golden)


def damage_an_image(proto: onnx.ModelProto, metadata: dict[str, str]) -> None:
    golden = json.loads(metadata[GOLDEN_KEY])
    golden["inputs"][3]["image"] = golden["inputs"][3]["image"][:40]
    metadata[GOLDEN_KEY] = json.dumps(golden)


@pytest.mark.parametrize(
    ("change", "failure"),
    [
        (swap_labels, "golden input 0: '1' instead of '0'"),
        (change_weights, "scaled difference of the logits"),
        (make_a_weight_no_number, "scaled difference of the logits nan"),
        (double_the_temperature_on_the_card, "the probabilities are not the softmax of the logits"),
        (freeze_the_batch, "the batch dimension is frozen to 2"),
        (decode_otherwise, "golden input 10: the image is decoded or resized otherwise"),
        (damage_an_image, "golden input 3: not an image, or damaged at its start"),
    ],
)
def test_a_change_under_a_new_seal_is_found(model: Path, tmp_path: Path, change, failure: str):
    verification = replay(changed(model, tmp_path, change))
    assert any(found.startswith(failure) for found in verification.failures)
    with pytest.raises(ImgclfError, match="does not answer on this machine"):
        verification.require("model.onnx")


def model_line(path: Path) -> str:
    predictor = Predictor(path)
    (line,) = [
        line for line in describe(path, predictor, replay(predictor)) if line.startswith("model")
    ]
    return line


@pytest.mark.parametrize("domains", [[""], ["com.microsoft", ""], ["", "com.microsoft"]])
def test_the_opset_that_is_told_is_the_graphs(model: Path, tmp_path: Path, domains: list[str]):
    """Whatever the card says, and whatever other operators are asked for."""

    def change(proto: onnx.ModelProto, metadata: dict[str, str]) -> None:
        card = ModelCard.from_json(metadata[METADATA_KEY])
        lying = dataclasses.replace(card, provenance={**card.provenance, "opset": "7"})
        metadata[METADATA_KEY] = lying.to_json()
        (own,) = proto.opset_import
        assert own.version == 20
        others = {"": 20, "com.microsoft": 1}
        del proto.opset_import[:]
        proto.opset_import.extend(onnx.helper.make_opsetid(one, others[one]) for one in domains)

    changed(model, tmp_path, change)
    assert ", opset 20; " in model_line(tmp_path / "model.onnx")


def test_a_file_without_golden_inputs_cannot_be_verified(model: Path, tmp_path: Path):
    without = changed(model, tmp_path, lambda _, metadata: metadata.pop(GOLDEN_KEY))
    with pytest.raises(ImgclfError, match="carries no golden inputs"):
        replay(without)


def test_a_change_under_the_old_seal_is_refused_at_once(model: Path, tmp_path: Path):
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ImgclfError, match="has been changed since it was exported"):
        Predictor(path)
