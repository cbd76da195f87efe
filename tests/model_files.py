"""Model files made for tests."""

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from imgclf.card import METADATA_KEY, ModelCard
from imgclf.seal import seal


def blank_model(card: ModelCard, bias: NDArray[np.float32]) -> onnx.ModelProto:
    """A model as `imgclf export` writes it, which answers ``bias`` whatever it is shown."""
    rule, number = card.preprocessing, len(card.classes)
    weights = np.zeros((rule.height * rule.width * rule.channels, number), np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["pixels"], ["flat"]),
            helper.make_node("Gemm", ["flat", "weights", "bias"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
        ],
        "blank",
        [
            helper.make_tensor_value_info(
                "image", TensorProto.UINT8, ["batch", rule.height, rule.width, rule.channels]
            )
        ],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", number])
            for name in ("logits", "probabilities")
        ],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, {METADATA_KEY: card.to_json()})
    return model


def write_sealed(model: onnx.ModelProto, path: Path) -> None:
    """Write a model under a seal of its own, as who changes a file on purpose would."""
    kept = [entry for entry in model.metadata_props if entry.key != "imgclf.sha256"]
    helper.set_model_props(model, {entry.key: entry.value for entry in kept})
    path.write_bytes(seal(model.SerializeToString()))


def unsealed(content: bytes) -> bytes:
    """Return a sealed file without its last record."""
    return content[: -len(seal(b""))]
