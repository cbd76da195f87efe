"""The proof that an exported file answers as the trained model does, image file to probability."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgclf.data.dataset import SelectedImages
from imgclf.errors import ImgclfError
from imgclf.evaluation.metrics import softmax
from imgclf.predict import Predictor
from imgclf.preprocess import ImageSource

SCALED_TOLERANCE = 1e-4
PROBABILITY_TOLERANCE = 1e-4
BATCH_SIZES = (1, 2, 7, 256)
# Outputs near zero would agree within any tolerance: such a comparison proves nothing.
MINIMUM_SCALE = 0.01


@dataclass(frozen=True)
class Parity:
    """What the comparison over the whole test split found.

    Attributes:
        images: how many were compared.
        from_files: whether they were read from their stored files.
        max_scaled_difference: max |logits - reference| / max |reference|, over all batch sizes.
        reference_scale: max |reference|.
        max_probability_difference: max |probabilities - softmax(reference)|.
        top1_agreement: share of images with the same answer; ties count as agreement.
        ties: images whose answers differ while both logits are equal within tolerance.
        reference_accuracy, onnx_accuracy: on the split's labels.
        batch_sizes: what the file was run with.
        failures: what is wrong, in words; empty where the proof holds.
    """

    images: int
    from_files: bool
    max_scaled_difference: float
    reference_scale: float
    max_probability_difference: float
    top1_agreement: float
    ties: int
    reference_accuracy: float
    onnx_accuracy: float
    batch_sizes: tuple[int, ...]
    failures: tuple[str, ...]

    @property
    def summary(self) -> str:
        """The figures of a proof that holds, in words."""
        stored = "stored files" if self.from_files else "stored pixels"
        return (
            f"{self.images:,} images from {stored}: same answers, logits within"
            f" {self.max_scaled_difference:.1e}, accuracy {self.onnx_accuracy:.2%} ="
            f" {self.reference_accuracy:.2%}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the figures with the tolerances they are held against."""
        return {
            **dataclasses.asdict(self),
            "summary": self.summary,
            "passed": not self.failures,
            "scaled_tolerance": SCALED_TOLERANCE,
            "probability_tolerance": PROBABILITY_TOLERANCE,
        }

    def to_json(self) -> str:
        """Return `to_dict` as indented JSON."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def require(self) -> None:
        """Raise `ImgclfError` unless the proof holds."""
        if self.reference_scale < MINIMUM_SCALE:
            raise ImgclfError(
                f"The model has hardly learnt anything: its largest logit is"
                f" {self.reference_scale:.2g}, and comparing outputs near zero proves nothing."
                " Nothing was exported.",
                "Train for more steps: more --epochs, or a smaller --batch-size.",
            )
        if self.failures:
            raise ImgclfError(
                "The ONNX file does not answer as the trained model does; nothing was exported:\n"
                + "\n".join(f"  {failure}" for failure in self.failures),
                "Please report this with the versions of torch, onnx and onnxruntime.",
            )


def compare(
    reference: NDArray[np.float32],
    predictor: Predictor,
    inputs: NDArray[np.uint8] | SelectedImages,
    sources: Sequence[ImageSource] | SelectedImages,
    labels: NDArray[np.int64],
    temperature: float = 1.0,
) -> Parity:
    """Compare a file with the model it was made from, a batch of images at a time.

    Args:
        reference: float32 [n, classes], logits of the selected weights for ``inputs``, computed in
            fp32 and evaluation mode on the CPU.
        predictor: holds the exported file.
        inputs: uint8 [n, height, width, channels], what the model was tested on.
        sources: [n] the same images as a user has them: their files where there are files.
        labels: int64 [n].
        temperature: the reference's logits are divided by it before the softmax.
    """
    logits, probabilities = predictor.predict_logits(sources)
    scale = float(np.abs(reference).max())
    expected_probabilities = softmax(reference / np.float32(temperature))
    differences = [np.abs(logits - reference).max()]
    probability_differences = [np.abs(probabilities - expected_probabilities).max()]
    for batch_size in BATCH_SIZES:
        chosen = np.resize(np.arange(len(inputs)), batch_size)
        some_logits, some_probabilities = predictor.run(np.ascontiguousarray(inputs[chosen]))
        differences.append(np.abs(some_logits - reference[chosen]).max())
        probability_differences.append(
            np.abs(some_probabilities - expected_probabilities[chosen]).max()
        )
    # Unlike max(), np.max hands a value that is not a number on.
    difference = float(np.max(differences))

    expected, answers = reference.argmax(axis=1), logits.argmax(axis=1)
    differs = np.flatnonzero(expected != answers)
    gaps = reference[differs, expected[differs]] - reference[differs, answers[differs]]
    ties = int((gaps <= 2 * SCALED_TOLERANCE * scale).sum())
    parity = Parity(
        images=len(inputs),
        from_files=not isinstance(next(iter(sources)), np.ndarray),
        max_scaled_difference=difference / scale if scale else 0.0,
        reference_scale=scale,
        max_probability_difference=float(np.max(probability_differences)),
        top1_agreement=1 - (len(differs) - ties) / len(inputs),
        ties=ties,
        reference_accuracy=float((expected == labels).mean()),
        onnx_accuracy=float((answers == labels).mean()),
        batch_sizes=BATCH_SIZES,
        failures=(),
    )
    return dataclasses.replace(parity, failures=_failures(parity))


def _failures(parity: Parity) -> tuple[str, ...]:
    checks = {
        f"the logits are too close to zero to prove anything (max {parity.reference_scale:.3g},"
        f" needed {MINIMUM_SCALE})": parity.reference_scale >= MINIMUM_SCALE,
        f"scaled difference of the logits {parity.max_scaled_difference:.3g}, allowed"
        f" {SCALED_TOLERANCE:.0e}": parity.max_scaled_difference <= SCALED_TOLERANCE,
        f"difference of the probabilities {parity.max_probability_difference:.3g}, allowed"
        f" {PROBABILITY_TOLERANCE:.0e}": parity.max_probability_difference <= PROBABILITY_TOLERANCE,
        f"top-1 agreement {parity.top1_agreement:.4%}, needed 100%": parity.top1_agreement == 1,
        # Only an answer that differs by a tie may move the accuracy.
        f"accuracy {parity.onnx_accuracy:.4%}, of the trained model"
        f" {parity.reference_accuracy:.4%}": abs(parity.onnx_accuracy - parity.reference_accuracy)
        * parity.images
        <= parity.ties + 0.5,
    }
    return tuple(text for text, holds in checks.items() if not holds)
