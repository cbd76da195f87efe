"""Builds the files of an export, each with its proof."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from imgclf.card import ModelCard
from imgclf.data.dataset import ImageDataset, SelectedImages
from imgclf.data.splits import Split
from imgclf.disk import write_whole, writing
from imgclf.evaluation.calibration import expected_calibration_error, fit_temperature
from imgclf.evaluation.inference import predict_logits
from imgclf.evaluation.metrics import softmax
from imgclf.exporting import graph, parity, variants
from imgclf.exporting.golden import Answer, choose_golden_inputs
from imgclf.exporting.variants import VARIANTS, Variant
from imgclf.golden import GoldenInputs
from imgclf.models import ImageClassifier
from imgclf.predict import Predictor
from imgclf.preprocess import ImageSource, from_array
from imgclf.progress import say
from imgclf.verify import replay

EXPORTED_FILES = MODEL_FILE, PARITY_FILE, EXAMPLE_FILE = "model.onnx", "parity.json", "example.png"
# Where they are asked for.
VARIANT_FILES = tuple(f"model-{kind}.onnx" for kind in VARIANTS) + tuple(
    f"{kind}.json" for kind in VARIANTS
)
TRITON_FOLDER = "triton"
_CALIBRATION_IMAGES = 512


@dataclass(frozen=True)
class Building:
    """What an export's files are made from.

    Attributes:
        model: the selected weights, on the CPU.
        card: with the temperature that was fitted.
        images, split: the data that the model was trained on.
        folder: receives the files.
        test_logits, val_logits: float32 [n, classes], the model's answers; what files are held
            against.
    """

    model: ImageClassifier
    card: ModelCard
    images: ImageDataset
    split: Split
    folder: Path
    test_logits: NDArray[np.float32]
    val_logits: NDArray[np.float32]

    @classmethod
    def start(
        cls,
        model: ImageClassifier,
        card: ModelCard,
        images: ImageDataset,
        split: Split,
        folder: Path,
    ) -> "Building":
        """Let the model answer, and fit the temperature on the validation images."""
        say(f"answering {len(split.test) + len(split.val):,} images with the trained weights")
        none = np.empty((0, len(card.classes)), np.float32)
        logits = {
            part: predict_logits(model, SelectedImages(images, positions), torch.device("cpu"))
            if len(positions)
            else none
            for part, positions in (("test", split.test), ("val", split.val))
        }
        temperature = fit_temperature(logits["val"], images.labels[split.val])
        card = dataclasses.replace(card, temperature=temperature)
        return cls(model, card, images, split, folder, logits["test"], logits["val"])

    def answer(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the trained weights' logits for network inputs."""
        return predict_logits(self.model, pixels, torch.device("cpu"))

    @property
    def example(self) -> NDArray[np.uint8]:
        """Two test images, uint8 [2, height, width, channels], to trace the network with."""
        return np.ascontiguousarray(self.images.inputs(np.resize(self.split.test, 2)))

    def sources(self, positions: NDArray[np.int64]) -> Sequence[ImageSource] | SelectedImages:
        """Return images as a user has them: their files where there are files."""
        if self.images.files:
            return [self.images.files[position] for position in positions]
        return SelectedImages(self.images, positions)


def build_model(building: Building) -> tuple[parity.Parity, dict[str, float]]:
    """Write the file, prove it, and write it again with the proof and the golden inputs in it.

    Returns:
        the proof, and the figures to log.

    Raises:
        ImgclfError: the proof failed.
    """
    path, card, reference = building.folder / MODEL_FILE, building.card, building.test_logits
    test = SelectedImages(building.images, building.split.test)
    labels = building.images.labels[building.split.test]
    say("tracing the network")
    proto = graph.build_onnx(building.model, building.example, card.temperature)
    graph.write_onnx(proto, card, path)
    say(f"comparing the file with the trained model on {len(test):,} test images")
    sources = building.sources(building.split.test)
    proof = parity.compare(reference, Predictor(path), test, sources, labels, card.temperature)
    proof.require()
    card = dataclasses.replace(card, parity=proof.to_dict())
    golden = _golden_inputs(building, building.answer, card, reference, parity.SCALED_TOLERANCE)
    graph.write_onnx(proto, card, path, golden)
    replay(Predictor(path)).require(MODEL_FILE)
    write_whole(building.folder / PARITY_FILE, proof.to_json().encode(), "the proof")
    before, after = softmax(reference), softmax(reference / np.float32(card.temperature))
    figures = {
        "export/max_scaled_difference": proof.max_scaled_difference,
        "export/top1_agreement": proof.top1_agreement,
        "export/temperature": card.temperature,
        "export/test_calibration_error_before": expected_calibration_error(before, labels),
        "export/test_calibration_error": expected_calibration_error(after, labels),
    }
    return proof, figures


def build_variant(building: Building, kind: str) -> Variant:
    """Write a smaller file of the model, and hold it against the trained weights.

    `build_model` comes first; int8 needs validation images.

    Raises:
        ImgclfError: it is not good enough.
    """
    say(f"writing the {kind} file")
    split, folder = building.split, building.folder
    path, fp32 = folder / f"model-{kind}.onnx", folder / MODEL_FILE
    proto = _graph_of_variant(building, kind)
    graph.write_onnx(proto, building.card, path)
    predictor = Predictor(path)
    logits = {
        part: predictor.predict_logits(building.sources(positions))[0]
        for part, positions in (("test", split.test), ("val", split.val))
    }
    labels = building.images.labels
    test = variants.agree(building.test_logits, logits["test"], labels[split.test])
    val = None
    if len(split.val):
        val = variants.agree(building.val_logits, logits["val"], labels[split.val])
    ratio = variants.speedup(predictor, Predictor(fp32), building.images.inputs(split.test[:32]))
    variant = Variant(kind, path, test, val, path.stat().st_size, fp32.stat().st_size, ratio)
    variant.require()
    card = dataclasses.replace(
        building.card,
        parity={**dataclasses.asdict(test), "summary": test.summary},
        provenance={**building.card.provenance, "variant": kind},
    )
    # fp16 must answer as the trained weights do; int8 as it does here.
    answer, expected = building.answer, building.test_logits
    if kind == "int8":
        answer, expected = lambda pixels: predictor.run(pixels)[0], logits["test"]
    golden = _golden_inputs(building, answer, card, expected, variants.GOLDEN_TOLERANCES[kind])
    graph.write_onnx(proto, card, path, golden)
    replay(Predictor(path)).require(path.name)
    variant = dataclasses.replace(variant, size=path.stat().st_size)
    text = json.dumps(variant.to_dict(), indent=2) + "\n"
    write_whole(folder / f"{kind}.json", text.encode(), "the proof")
    return variant


def _graph_of_variant(building: Building, kind: str) -> onnx.ModelProto:
    model, example, temperature = building.model, building.example, building.card.temperature
    if kind == "fp16":
        return graph.build_onnx(variants.half_precision(model), example, temperature)
    train = building.split.train
    spread = np.linspace(0, len(train) - 1, min(_CALIBRATION_IMAGES, len(train))).astype(int)
    images = building.images.inputs(train[spread])
    return variants.quantize_int8(building.folder / MODEL_FILE, images)


def _golden_inputs(
    building: Building,
    answer: Answer,
    card: ModelCard,
    logits: NDArray[np.float32],
    tolerance: float,
) -> GoldenInputs:
    """Choose from the test images, and say where classes have to do without."""
    positions = building.split.test
    golden = choose_golden_inputs(answer, card, building.images, positions, logits, tolerance)
    covered = len(golden.inputs) - 1  # the last is the JPEG, of any class
    if covered < len(card.classes):
        say(
            f"the file carries test images of {covered:,} of {len(card.classes):,} classes: of the"
            " others none fits in, is answered clearly, or is there"
        )
    return golden


def write_example(building: Building) -> str:
    """Write a test image, so that a person has something to predict at once; return its label."""
    position = building.split.test[0]
    path = building.folder / EXAMPLE_FILE
    with writing("the example", path):
        from_array(building.images.images[position]).save(path)
    return building.images.classes[building.images.labels[position]]
