"""The ONNX graph: raw pixels in, logits and probabilities out, the model card inside."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from imgclf.card import METADATA_KEY, ModelCard

OPSET = 20


class _ExportedClassifier(nn.Module):
    """A classifier with the outputs of the graph."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.classifier(image)
        return logits, torch.softmax(logits, dim=1)


def build_onnx(model: nn.Module, example: NDArray[np.uint8]) -> onnx.ModelProto:
    """Trace a classifier into a graph with a free batch dimension.

    Args:
        model: an `ImageClassifier` on the CPU, with ordinary (contiguous) memory format:
            channels_last would leave shape arithmetic in the graph.
        example: uint8 [2, height, width, channels]; a batch of 1 could freeze the batch dimension.

    Returns:
        a graph with input ``image`` (uint8 [batch, height, width, channels]) and outputs ``logits``
        and ``probabilities`` (float32 [batch, classes]).
    """
    assert len(example) == 2
    exported = _ExportedClassifier(model).eval()
    with _quiet():
        program = torch.onnx.export(
            exported,
            (torch.from_numpy(example),),
            dynamo=True,
            input_names=["image"],
            output_names=["logits", "probabilities"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    batch = proto.graph.input[0].type.tensor_type.shape.dim[0]
    assert batch.dim_param, f"the batch dimension is frozen to {batch.dim_value}"
    return proto


def write_onnx(proto: onnx.ModelProto, card: ModelCard, path: Path) -> None:
    """Write a graph with its model card into one file, checked by onnx itself."""
    proto.producer_name = "imgclf"
    onnx.helper.set_model_props(proto, {METADATA_KEY: card.to_json()})
    onnx.checker.check_model(proto, full_check=True)
    path.write_bytes(proto.SerializeToString())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's chatter; what it raises still passes."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
