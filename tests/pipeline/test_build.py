"""What an export's files are made from, worked out again from what MLflow holds of the run."""

import csv
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import softmax
from sklearn.datasets import load_digits

import imgclf
from command_line import imgclf as command
from imgclf.exporting import variants
from imgclf.predict import Predictor


@dataclass(frozen=True)
class Export:
    """An export with an int8 file.

    Attributes:
        folder: of the files.
        printed: by the command.
        calibration: the images that the int8 file was made from, as `quantize_int8` was given them.
        figures: the run's metrics.
        parts: image and label of each part of the split that the run has logged.
    """

    folder: Path
    printed: str
    calibration: NDArray[np.uint8]
    figures: dict[str, float]
    parts: dict[str, tuple[NDArray[np.uint8], NDArray[np.int64]]]

    def logits(self, part: str) -> NDArray[np.float64]:
        images, _ = self.parts[part]
        return Predictor(self.folder / "model.onnx").run(images)[0].astype(np.float64)


@pytest.fixture(scope="module")
def export(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> Export:
    folder, given = tmp_path_factory.mktemp("exports"), []
    quantize = variants.quantize_int8

    def record(fp32: Path, images: NDArray[np.uint8]) -> Any:
        given.append(images.copy())
        return quantize(fp32, images)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(variants, "quantize_int8", record)
        result = command(
            *("export", "--run", trained.run_id, "--exports-dir", folder, "--quantize", "int8")
        )
    assert result.exit_code == 0, result.output
    client = MlflowClient()
    figures = client.get_run(trained.mlflow_run_id).data.metrics
    split = Path(client.download_artifacts(trained.mlflow_run_id, "data/split.csv"))
    (calibration,) = given
    return Export(folder / "digits", result.stdout, calibration, figures, read_parts(split))


def read_parts(split: Path) -> dict[str, tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    bunch: Any = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    parts: dict[str, list[int]] = {}
    with split.open(newline="") as file:
        for row in csv.DictReader(file):
            parts.setdefault(row["split"], []).append(int(row["image"]))
    return {part: (images[rows], bunch.target[rows]) for part, rows in parts.items()}


# --- The temperature


def most_likely_temperature(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """The likelihood is largest where the logit to be expected is the label's, on the average."""
    own = logits[np.arange(len(labels)), labels].mean()

    def excess(inverse: float) -> float:
        return float((softmax(inverse * logits, axis=1) * logits).sum(axis=1).mean() - own)

    root: Any = brentq(excess, 0.1, 10.0)
    return 1 / root


def test_the_temperature_is_the_most_likely_one_on_the_validation_images(export: Export):
    found = {
        part: most_likely_temperature(export.logits(part), export.parts[part][1])
        for part in ("val", "test", "train")
    }
    temperature = Predictor(export.folder / "model.onnx").card.temperature
    assert temperature == pytest.approx(found["val"], rel=1e-3)
    assert temperature == export.figures["export/temperature"]
    # Other images would have given another: this tells them apart.
    assert abs(found["test"] / temperature - 1) > 0.01
    assert abs(found["train"] / temperature - 1) > 0.01


def calibration_error(probabilities: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """Guo et al., equation 3, as it stands there: 15 bins, each with its upper end."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    total = 0.0
    for number in range(15):
        inside = (confidence > number / 15) & (confidence <= (number + 1) / 15)
        if inside.any():
            gap = abs(right[inside].mean() - confidence[inside].mean())
            total += inside.sum() / len(labels) * gap
    return total


def test_the_calibration_errors_in_mlflow_are_of_the_test_images_before_and_after(export: Export):
    images, labels = export.parts["test"]
    logits, probabilities = Predictor(export.folder / "model.onnx").run(images)
    before = calibration_error(softmax(logits.astype(np.float64), axis=1), labels)
    after = calibration_error(probabilities.astype(np.float64), labels)
    assert before != pytest.approx(after, abs=1e-4)
    figures = export.figures
    assert figures["export/test_calibration_error_before"] == pytest.approx(before, abs=1e-5)
    assert figures["export/test_calibration_error"] == pytest.approx(after, abs=1e-5)


# --- int8


def contents(images: NDArray[np.uint8]) -> set[bytes]:
    return {image.tobytes() for image in images}


def test_int8_is_calibrated_on_training_images_of_all_classes_and_on_no_others(export: Export):
    given, (train, labels) = export.calibration, export.parts["train"]
    assert given.dtype == np.uint8
    assert len(contents(given)) == len(given) == 512
    assert contents(given) <= contents(train)
    for part in ("val", "test"):
        assert not contents(given) & contents(export.parts[part][0])
    label_of = {image.tobytes(): label for image, label in zip(train, labels, strict=True)}
    assert {label_of[image] for image in contents(given)} == set(range(10))


def test_size_and_speed_of_int8_are_told_beside_those_of_fp32(export: Export, trained: Any):
    logged = MlflowClient().download_artifacts(trained.mlflow_run_id, "export/int8.json")
    assert Path(logged).read_bytes() == (export.folder / "int8.json").read_bytes()
    figures = json.loads(Path(logged).read_text())
    fp32 = (export.folder / "model.onnx").stat().st_size
    int8 = (export.folder / "model-int8.onnx").stat().st_size
    assert (figures["fp32_size"], figures["size"]) == (fp32, int8)
    lines = dict(re.findall(r"^(model|int8) +(.*)$", export.printed, re.MULTILINE))
    assert lines["model"].endswith(f"({fp32 / 1024:,.0f} KiB)")
    assert f"({int8 / 1024:,.0f} KiB)" in lines["int8"]
    assert figures["speedup"] > 0
    assert lines["int8"].endswith(f"; {figures['speedup']:.2f} times the speed on this CPU")


# --- Golden inputs


def test_classes_without_a_golden_input_are_counted(
    trained: Any,
    export: Export,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    assert "the file carries test images of" not in export.printed
    monkeypatch.setattr("imgclf.exporting.golden._MOST_BYTES", 2000)
    few = imgclf.export(trained.run_id, exports_dir=tmp_path)
    pngs = [one for one in Predictor(few.model).golden.inputs if one.image.startswith(b"\x89PNG")]
    assert 0 < len(pngs) < 10
    assert f"carries test images of {len(pngs)} of 10 classes" in capsys.readouterr().out
