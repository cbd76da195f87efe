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
from imgclf.disk import write_whole
from imgclf.golden import METADATA_KEY as GOLDEN_KEY
from imgclf.golden import GoldenInputs
from imgclf.seal import seal

_OPSET = 20


class _ExportedClassifier(nn.Module):
    """A classifier with the outputs of the graph."""

    def __init__(self, classifier: nn.Module, temperature: float) -> None:
        super().__init__()
        self.classifier = classifier
        self.temperature = temperature

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.classifier(image)
        return logits, torch.softmax(logits / self.temperature, dim=1)


def build_onnx(
    model: nn.Module, example: NDArray[np.uint8], temperature: float = 1.0
) -> onnx.ModelProto:
    """Trace a classifier into a graph with a free batch dimension.

    Args:
        model: an `ImageClassifier` on the CPU, with ordinary (contiguous) memory format:
            channels_last would leave shape arithmetic in the graph.
        example: uint8 [2, height, width, channels]; a batch of 1 could freeze the batch dimension.
        temperature: the logits are divided by it before the softmax.

    Returns:
        a graph with input ``image`` (uint8 [batch, height, width, channels]) and outputs ``logits``
        and ``probabilities`` (float32 [batch, classes]).
    """
    assert len(example) == 2
    exported = _ExportedClassifier(model, temperature).eval()
    with quiet("torch.onnx"):
        program = torch.onnx.export(
            exported,
            (torch.from_numpy(example),),
            dynamo=True,
            input_names=["image"],
            output_names=["logits", "probabilities"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=_OPSET,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    batch = proto.graph.input[0].type.tensor_type.shape.dim[0]
    assert batch.dim_param, f"the batch dimension is frozen to {batch.dim_value}"
    _forget_where(proto.graph)
    return proto


def _forget_where(graph: onnx.GraphProto) -> None:
    """Remove what the exporter notes of each step: the lines of code, with this machine's paths."""
    noted = (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for entry in noted:
        del entry.metadata_props[:]
        entry.doc_string = ""


def write_onnx(
    proto: onnx.ModelProto, card: ModelCard, path: Path, golden: GoldenInputs | None = None
) -> None:
    """Write a graph with its model card and golden inputs into one sealed file.

    The graph is checked by onnx itself.

    Raises:
        ImgclfError: there is no room for it.
    """
    proto.producer_name = "imgclf"
    properties = {METADATA_KEY: card.to_json()}
    if golden is not None:
        properties[GOLDEN_KEY] = golden.to_json()
    onnx.helper.set_model_props(proto, properties)
    onnx.checker.check_model(proto, full_check=True)
    # Fields are written in the order of their numbers: after the metadata there must be none.
    assert not proto.functions
    assert not proto.training_info
    assert not proto.configuration
    write_whole(path, seal(proto.SerializeToString()), "the model")


@contextlib.contextmanager
def quiet(logger_name: str) -> Iterator[None]:
    """Silence the chatter of a library's export; what it raises still passes."""
    logger = logging.getLogger(logger_name)
    level, handlers = logger.level, logger.handlers[:]
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        # A first remark to the root logger gives it a handler of its own.
        logger.handlers[:] = handlers
