import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.special import softmax
from sklearn.metrics import precision_recall_fscore_support

from imgclf.evaluation.metrics import compute_metrics
from imgclf.evaluation.report import write_report

CLASSES = ("cat", "dog", "bird")
FILES = {
    "predictions.csv",
    "confusion_matrix.csv",
    "confusion_matrix.png",
    "classification_report.txt",
    "classification_report.json",
    "misclassified.png",
}


def case(number: int, num_classes: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    generator = np.random.default_rng(number)
    labels = generator.integers(0, num_classes, number)
    logits = generator.normal(size=(number, num_classes)).astype(np.float32)
    logits[np.arange(number), labels] += 1
    return logits, labels


def report(
    folder: Path,
    logits: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: tuple[str, ...] = CLASSES,
    names: list[str] | None = None,
    channels: int = 3,
) -> None:
    images = np.random.default_rng(0).integers(
        0, 256, (len(labels), 9, 7, channels), dtype=np.uint8
    )
    names = names or [f"{classes[label]}/{n}.png" for n, label in enumerate(labels)]
    write_report(folder, images, names, labels, logits, classes, compute_metrics(logits, labels))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "created" / "test"
    report(folder, *case(120, 3))
    return folder


def predictions(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "predictions.csv", dtype={"label": str, "predicted": str})


def test_every_file_is_there_and_pictures_are_pictures(written: Path) -> None:
    assert {path.name for path in written.iterdir()} == FILES
    for name in ("confusion_matrix.png", "misclassified.png"):
        with Image.open(written / name) as image:
            image.load()
            assert min(image.size) > 200
            assert len(image.convert("RGB").getcolors(2**24) or ()) > 10  # not blank


def test_predictions_hold_one_line_for_each_image(written: Path) -> None:
    logits, labels = case(120, 3)
    table = predictions(written)
    assert list(table.columns) == ["image", "label", "predicted", "correct", "confidence"]
    assert table["label"].tolist() == [CLASSES[label] for label in labels]
    assert table["predicted"].tolist() == [CLASSES[guess] for guess in logits.argmax(1)]
    assert table["image"].tolist() == [f"{CLASSES[x]}/{n}.png" for n, x in enumerate(labels)]
    expected = softmax(logits.astype(np.float64), axis=1).max(axis=1)
    np.testing.assert_allclose(table["confidence"], expected, rtol=0, atol=5.1e-7)


def test_predictions_sum_up_to_the_metrics(written: Path) -> None:
    metrics = compute_metrics(*case(120, 3))
    table = predictions(written)
    assert table["correct"].dtype == bool
    assert table["correct"].mean() == pytest.approx(metrics.accuracy, rel=1e-12)
    counts = pd.crosstab(table["label"], table["predicted"]).loc[list(CLASSES), list(CLASSES)]
    np.testing.assert_array_equal(counts, metrics.confusion)


def test_confusion_table_is_the_metrics(written: Path) -> None:
    table = pd.read_csv(written / "confusion_matrix.csv", index_col=0)
    assert (*table.index,) == (*table.columns,) == CLASSES
    np.testing.assert_array_equal(table, compute_metrics(*case(120, 3)).confusion)


def test_classification_report_is_scikit_learns(written: Path) -> None:
    logits, labels = case(120, 3)
    values = json.loads((written / "classification_report.json").read_text(encoding="utf-8"))
    expected: Any = precision_recall_fscore_support(labels, logits.argmax(1), zero_division=0)
    for row, name in zip(np.transpose(expected), CLASSES, strict=True):
        told = [values[name][key] for key in ("precision", "recall", "f1-score", "support")]
        assert told == pytest.approx(row.tolist(), rel=1e-12)
    metrics = compute_metrics(logits, labels)
    assert values["accuracy"] == pytest.approx(metrics.accuracy, rel=1e-12)
    assert values["macro avg"]["f1-score"] == pytest.approx(metrics.f1, rel=1e-12)
    text = (written / "classification_report.txt").read_text(encoding="utf-8")
    assert f"{expected[0][1]:.4f}" in next(line for line in text.splitlines() if "dog" in line)


AWKWARD = (
    'quo"te, comma',
    "line\nbreak",
    "carriage\rreturn",
    "=1+1",
    "ß 犬 🐕",
    " blanks ",
    "a\tb;c'd",
    "macro",
    "1.0",
)


def test_awkward_class_names_survive(tmp_path: Path) -> None:
    logits, labels = case(200, len(AWKWARD))
    report(tmp_path, logits, labels, AWKWARD)
    with (tmp_path / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == [AWKWARD[label] for label in labels]
    assert [row["predicted"] for row in rows] == [AWKWARD[guess] for guess in logits.argmax(1)]
    table = pd.read_csv(tmp_path / "confusion_matrix.csv", index_col=0)
    assert tuple(table.columns) == AWKWARD
    np.testing.assert_array_equal(table, compute_metrics(logits, labels).confusion)


def test_names_that_are_not_utf8_are_written_as_python_shows_them(tmp_path: Path) -> None:
    logits, labels = case(5, 3)
    names = [f"cat/caf\udce9-{number}.png" for number in range(5)]
    report(tmp_path, logits, labels, names=names)
    assert predictions(tmp_path)["image"].tolist() == [
        f"cat/caf\\udce9-{number}.png" for number in range(5)
    ]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("right", [True, False], ids=["no mistakes", "all mistakes"])
def test_no_mistakes_and_nothing_but_mistakes(right: bool, channels: int, tmp_path: Path) -> None:
    labels = np.arange(40, dtype=np.int64) % 3
    logits = np.eye(3, dtype=np.float32)[labels if right else (labels + 1) % 3]
    report(tmp_path, logits, labels, channels=channels)
    assert {path.name for path in tmp_path.iterdir()} == FILES
    assert predictions(tmp_path)["correct"].tolist() == [right] * 40


def test_class_absent_from_the_test_images_is_listed(tmp_path: Path) -> None:
    logits, _ = case(30, 3)
    logits[:, 2] = -9
    report(tmp_path, logits, np.arange(30, dtype=np.int64) % 2)
    values = json.loads((tmp_path / "classification_report.json").read_text(encoding="utf-8"))
    assert values["bird"]["support"] == 0
    table = pd.read_csv(tmp_path / "confusion_matrix.csv", index_col=0)
    assert np.asarray(table)[2].tolist() == [0, 0, 0]
