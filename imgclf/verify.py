"""A model file proves itself: its golden inputs are replayed on this machine."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import PIL
from numpy.typing import NDArray

from imgclf.errors import BadImageError, ImgclfError
from imgclf.predict import Predictor
from imgclf.preprocess import to_array

# Between float32 logits and the probabilities computed from them in float64.
_PROBABILITY_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Verification:
    """What the replay of a model's golden inputs found.

    Attributes:
        inputs: how many images were replayed.
        max_scaled_difference: max |logits - expected| / max |expected|.
        scaled_tolerance: what was allowed.
        failures: what is wrong, in words; empty where the model answers as it did.
    """

    inputs: int
    max_scaled_difference: float
    scaled_tolerance: float
    failures: tuple[str, ...]

    def require(self, name: str) -> None:
        """Raise `ImgclfError` unless all answers are the expected ones."""
        if self.failures:
            raise ImgclfError(
                f"'{name}' does not answer on this machine as it did when it was exported:\n"
                + "\n".join(f"  {failure}" for failure in self.failures),
                "Install the versions of onnxruntime and Pillow that it was exported with, or"
                " export it again on a machine like this one.",
            )


def replay(predictor: Predictor) -> Verification:
    """Let a model answer its golden inputs, one at a time and all at once.

    Raises:
        ImgclfError: the file carries none, or they cannot be read; or the model cannot be run.
    """
    golden = predictor.golden
    failures = []
    decoded: dict[int, NDArray[np.uint8]] = {}
    for number, one in enumerate(golden.inputs):
        try:
            pixels = to_array(one.image, predictor.card.preprocessing)
        except BadImageError as error:
            failures.append(f"golden input {number}: {error.message}")
            continue
        decoded[number] = pixels
        if hashlib.sha256(pixels.tobytes()).hexdigest() != one.pixels_sha256:
            failures.append(f"golden input {number}: the image is decoded or resized otherwise")
    expected = np.array([golden.inputs[number].logits for number in decoded])
    labels = [golden.inputs[number].label for number in decoded]
    difference = 0.0
    if predictor.batch_size is not None:
        failures.append(f"the batch dimension is frozen to {predictor.batch_size}")
        decoded = {}
    for size in {1, len(decoded)} if decoded else ():
        logits, probabilities = _run(predictor, list(decoded.values()), size)
        # Unlike max(), np.maximum hands a value that is not a number on.
        largest = np.abs(logits - expected).max() / np.abs(expected).max()
        difference = float(np.maximum(difference, largest))
        failures += _wrong_answers(predictor, list(decoded), labels, logits, probabilities)
    if not difference <= golden.scaled_tolerance:
        failures.append(
            f"scaled difference of the logits {difference:.3g}, allowed"
            f" {golden.scaled_tolerance:.3g}"
        )
    unique = tuple(dict.fromkeys(failures))
    return Verification(len(golden.inputs), difference, golden.scaled_tolerance, unique)


def describe(path: Path, predictor: Predictor, verification: Verification) -> list[str]:
    """Say in lines what a file is, where it comes from, and what its replay found."""
    card = predictor.card
    known = card.provenance.get
    batch = "any batch size" if predictor.batch_size is None else f"batch {predictor.batch_size}"
    smaller = f" in {known('variant')}" if known("variant") else ""
    calibrated = f"; probabilities at temperature {card.temperature:.3g}"
    lines = {
        "verified": f"{verification.inputs} golden inputs, from image file to probabilities: same"
        f" answers, logits within {verification.max_scaled_difference:.1e} (allowed"
        f" {verification.scaled_tolerance:.0e})",
        "file": f"{path.name}, {path.stat().st_size / 1024:,.0f} KiB, SHA-256 {predictor.sha256}",
        "model": f"{known('model', 'unknown')}{smaller} on {known('dataset', 'unknown')}:"
        f" {len(card.classes)} classes, {card.preprocessing}, {batch}, opset"
        f" {_opset(path.read_bytes()) or 'unknown'}{calibrated}",
        "runs on": f"{', '.join(predictor.providers)}; onnxruntime {onnxruntime.__version__},"
        f" Pillow {PIL.__version__}",
        "from": f"run {known('run_id', 'unknown')} of imgclf {known('imgclf', 'unknown')}, torch"
        f" {known('torch', 'unknown')}; data {known('dataset_digest', 'unknown')[:12]}",
    }
    if "summary" in card.parity:
        lines["proof"] = f"{card.parity['summary']}"
    return [f"{title:<9} {text}" for title, text in lines.items()]


def _opset(model: bytes) -> int | None:
    """Return the version of ONNX's own operators that a serialised ``ModelProto`` asks for.

    The package onnx is no part of the predictor: the message is read without its schema.
    """
    from google.protobuf.empty_pb2 import Empty
    from google.protobuf.unknown_fields import UnknownFieldSet

    def fields(message: bytes) -> list[tuple[int, Any]]:
        found = UnknownFieldSet(Empty.FromString(message))
        return [(field.field_number, field.data) for field in found]

    # ModelProto.opset_import (8), each with a domain (1), or none for ONNX's, and a version (2).
    imports = [dict(fields(value)) for number, value in fields(model) if number == 8]
    return next((one.get(2) for one in imports if one.get(1, b"") in (b"", b"ai.onnx")), None)


def _run(
    predictor: Predictor, images: list[NDArray[np.uint8]], size: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    starts = range(0, len(images), size)
    answers = [predictor.run(np.stack(images[start : start + size])) for start in starts]
    logits, probabilities = zip(*answers, strict=True)
    return np.concatenate(logits), np.concatenate(probabilities)


def _wrong_answers(
    predictor: Predictor,
    numbers: list[int],
    labels: list[str],
    logits: NDArray[np.float32],
    probabilities: NDArray[np.float32],
) -> list[str]:
    """Compare labels, and probabilities with the softmax of the logits."""
    answers = [predictor.card.classes[position] for position in logits.argmax(axis=1)]
    wrong = [
        f"golden input {number}: '{answer}' instead of '{label}'"
        for number, answer, label in zip(numbers, answers, labels, strict=True)
        if answer != label
    ]
    shifted = (logits - logits.max(axis=1, keepdims=True)) / predictor.card.temperature
    exponentials = np.exp(shifted.astype(np.float64))
    softmax = exponentials / exponentials.sum(axis=1, keepdims=True)
    if not np.abs(probabilities - softmax).max() <= _PROBABILITY_TOLERANCE:
        wrong.append("the probabilities are not the softmax of the logits")
    return wrong
