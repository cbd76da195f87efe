"""Smaller files of the same model: int8 for CPUs, fp16 for GPUs, each with a proof of its own."""

import copy
import dataclasses
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

from imgclf.disk import writing
from imgclf.errors import ImgclfError
from imgclf.exporting.graph import quiet
from imgclf.models import ImageClassifier
from imgclf.predict import Predictor

VARIANTS = {
    "int8": "8-bit integers, a quarter of the size, for CPUs",
    "fp16": "16-bit floating point, half of the size, for GPUs",
}
# int8: the accuracy on the validation split may fall by so much, or by one image.
INT8_ACCURACY_LOSS = 0.003
FP16_SCALED_TOLERANCE = 5e-3
FP16_TOP1_AGREEMENT = 0.999
# What a replay on another machine may differ by: of fp16 from the reference, of int8 from the
# file's own answers, where a rounding may fall the other way.
GOLDEN_TOLERANCES = {"int8": 0.05, "fp16": 2 * FP16_SCALED_TOLERANCE}
_TIMED_BATCH, _TIMED_SECONDS = 32, 0.5


@dataclass(frozen=True)
class Agreement:
    """How a variant's answers compare with the trained model's.

    Attributes:
        images: how many were compared, from their stored files where there are files.
        top1_agreement: share of images with the same answer.
        max_scaled_difference: max |logits - reference| / max |reference|.
        reference_accuracy, accuracy: of the trained model and of the variant.
    """

    images: int
    top1_agreement: float
    max_scaled_difference: float
    reference_accuracy: float
    accuracy: float

    @property
    def summary(self) -> str:
        """The figures in words."""
        return (
            f"{self.top1_agreement:.2%} of {self.images:,} images have the trained model's"
            f" answer, accuracy {self.accuracy:.2%} beside {self.reference_accuracy:.2%}"
        )

    def failure(self, kind: str) -> str:
        """Say what a variant lacks on these images; empty where it is good enough."""
        if kind == "fp16":
            agrees = self.top1_agreement >= FP16_TOP1_AGREEMENT
            if agrees and self.max_scaled_difference <= FP16_SCALED_TOLERANCE:
                return ""
            return (
                f"it has the trained model's answer for {self.top1_agreement:.3%} of the images"
                f" (needed {FP16_TOP1_AGREEMENT:.1%}), with logits within"
                f" {self.max_scaled_difference:.1e} (allowed {FP16_SCALED_TOLERANCE:.0e})"
            )
        lost_images = round((self.reference_accuracy - self.accuracy) * self.images)
        if lost_images <= max(1, INT8_ACCURACY_LOSS * self.images):
            return ""
        return (
            f"its accuracy is {self.accuracy:.2%}, that of the trained model"
            f" {self.reference_accuracy:.2%} (a loss of {INT8_ACCURACY_LOSS:.1%} or of one image is"
            " allowed)"
        )


@dataclass(frozen=True)
class Variant:
    """A smaller file of a model.

    Attributes:
        kind: one of `VARIANTS`.
        path: the file.
        test: on the test split.
        val: on the validation split; None where there is none.
        size, fp32_size: of the files, in bytes.
        speedup: images a second over those of the fp32 file, on this machine's CPU, in batches of
            32.
    """

    kind: str
    path: Path
    test: Agreement
    val: Agreement | None
    size: int
    fp32_size: int
    speedup: float

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON-ready values."""
        return {**dataclasses.asdict(self), "path": self.path.name}

    def require(self) -> None:
        """Raise `ImgclfError` unless the variant is as good as it must be."""
        # The test split chooses nothing: fp16 is held against the trained model, not the labels.
        figures = self.test if self.kind == "fp16" else self.val
        assert figures is not None
        if failure := figures.failure(self.kind):
            raise ImgclfError(
                f"The {self.kind} file is not good enough: {failure}. Nothing was exported.",
                f"Export without {self.kind}.",
            )


class _HalfPrecision(nn.Module):
    """A network in fp16 behind fp32 pixels and in front of fp32 logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).half()

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.half()).float()


def half_precision(model: ImageClassifier) -> ImageClassifier:
    """Return a copy that computes in fp16 between its normalisation and its logits."""
    mean, std = model.mean.flatten().tolist(), model.std.flatten().tolist()
    return ImageClassifier(_HalfPrecision(model.network), mean, std).eval()


def quantize_int8(fp32: Path, images: NDArray[np.uint8]) -> onnx.ModelProto:
    """Return a graph whose convolutions and products compute with 8-bit integers.

    Static quantisation in QDQ form: activations unsigned, weights signed and per channel. Weights
    keep 7 bits: on processors without VNNI two products of 8 bits overflow their sum, and a file is
    exported for more machines than this one.

    Args:
        fp32: the proved file.
        images: uint8 [n, height, width, channels], of the training split: activations get the
            ranges that they have on these. At least 300, unless there are fewer.
    """
    needed = 2 * fp32.stat().st_size
    # The quantiser remarks on tensors through the root logger.
    with (
        tempfile.TemporaryDirectory() as folder,
        writing("what the int8 file is made from", Path(folder), needed),
        quiet(""),
    ):
        prepared, quantized = Path(folder) / "prepared.onnx", Path(folder) / "quantized.onnx"
        quant_pre_process(fp32, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            quantized,
            _CalibrationImages(images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=_behind(onnx.load(prepared), "logits"),
            # Logits in 256 steps would tie.
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]},
        )
        return onnx.load(quantized)


def _behind(proto: onnx.ModelProto, value: str) -> list[str]:
    """Return the nodes that compute with a value, directly or not."""
    values, nodes = {value}, []
    for node in proto.graph.node:  # they stand in the order of computation
        if values & set(node.input):
            values |= set(node.output)
            nodes.append(node.name)
    return nodes


class _CalibrationImages(CalibrationDataReader):
    """Feeds images to the quantiser, a batch at a time."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        starts = range(0, len(images), _TIMED_BATCH)
        self._batches: Iterator[dict[str, NDArray[np.uint8]]] = iter(
            {"image": np.ascontiguousarray(images[start : start + _TIMED_BATCH])}
            for start in starts
        )

    def get_next(self) -> Any:
        """Return the next batch as an input of the graph; None at the end."""
        return next(self._batches, None)


def agree(
    reference: NDArray[np.float32], logits: NDArray[np.float32], labels: NDArray[np.int64]
) -> Agreement:
    """Compare a variant's answers with the trained model's.

    Args:
        reference: float32 [n, classes], the trained model's logits.
        logits: float32 [n, classes], the variant's, from images as a user has them.
        labels: int64 [n].
    """
    expected, answers = reference.argmax(axis=1), logits.argmax(axis=1)
    return Agreement(
        images=len(labels),
        top1_agreement=float((expected == answers).mean()),
        max_scaled_difference=float(np.abs(logits - reference).max() / np.abs(reference).max()),
        reference_accuracy=float((expected == labels).mean()),
        accuracy=float((answers == labels).mean()),
    )


def speedup(variant: Predictor, fp32: Predictor, images: NDArray[np.uint8]) -> float:
    """Return how many times the images a second of fp32 a variant answers; the two take turns."""
    batch = np.ascontiguousarray(images[np.resize(np.arange(len(images)), _TIMED_BATCH)])
    ratios = []
    end = time.perf_counter() + _TIMED_SECONDS
    while time.perf_counter() < end or len(ratios) < 3:
        seconds = []
        for predictor in (fp32, variant):
            start = time.perf_counter()
            predictor.run(batch)
            seconds.append(time.perf_counter() - start)
        ratios.append(seconds[0] / seconds[1])
    return float(np.median(ratios))
