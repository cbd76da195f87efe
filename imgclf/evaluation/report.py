"""The files that an evaluation leaves: tables for programs, pictures for people."""

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgclf.evaluation import figures
from imgclf.evaluation.metrics import Metrics, softmax

SHOWN_MISTAKES = 25


def write_report(
    folder: Path,
    images: NDArray[np.uint8],
    names: Sequence[str],
    labels: NDArray[np.int64],
    logits: NDArray[np.float32],
    classes: Sequence[str],
    metrics: Metrics,
) -> None:
    """Write an evaluation's tables and pictures into a folder.

    Args:
        folder: created where it is missing.
        images: uint8 [n, height, width, channels].
        names: [n] what identifies each image.
        labels: int64 [n].
        logits: float32 [n, classes].
        classes: label names.
        metrics: of these logits.
    """
    folder.mkdir(parents=True, exist_ok=True)
    probabilities = softmax(logits)
    predicted = logits.argmax(axis=1)
    confidence = probabilities.max(axis=1)
    _write_predictions(folder / "predictions.csv", names, labels, predicted, probabilities, classes)
    _write_confusion(folder / "confusion_matrix.csv", metrics.confusion, classes)
    _write_classification_report(folder, labels, predicted, classes)
    picture = figures.confusion_matrix(metrics.confusion, classes)
    figures.save(picture, folder / "confusion_matrix.png")

    wrong = np.flatnonzero(predicted != labels)
    shown = wrong[np.argsort(-confidence[wrong], kind="stable")][:SHOWN_MISTAKES]
    picture = figures.misclassified(
        images[shown],
        labels[shown],
        predicted[shown],
        confidence[shown],
        classes,
        total=len(labels),
        wrong=len(wrong),
    )
    figures.save(picture, folder / "misclassified.png")


def _write_predictions(
    path: Path,
    names: Sequence[str],
    labels: NDArray[np.int64],
    predicted: NDArray[np.int64],
    probabilities: NDArray[np.float64],
    classes: Sequence[str],
) -> None:
    rows = [
        [name, classes[label], classes[guess], str(label == guess).lower(), f"{row[guess]:.6f}"]
        for name, label, guess, row in zip(names, labels, predicted, probabilities, strict=True)
    ]
    write_csv(path, ["image", "label", "predicted", "correct", "confidence"], rows)


def _write_confusion(path: Path, confusion: NDArray[np.int64], classes: Sequence[str]) -> None:
    rows = [[name, *row.tolist()] for name, row in zip(classes, confusion, strict=True)]
    write_csv(path, ["true \\ predicted", *classes], rows)


def write_csv(path: Path, heading: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table; file names that are not UTF-8 are written as Python shows them."""
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(heading)
        writer.writerows(rows)


def _write_classification_report(
    folder: Path,
    labels: NDArray[np.int64],
    predicted: NDArray[np.int64],
    classes: Sequence[str],
) -> None:
    from sklearn.metrics import classification_report

    def report(as_dict: bool) -> object:
        return classification_report(
            labels,
            predicted,
            labels=range(len(classes)),
            target_names=list(classes),
            digits=4,
            zero_division=0,
            output_dict=as_dict,
        )

    (folder / "classification_report.txt").write_text(str(report(False)), encoding="utf-8")
    text = json.dumps(report(True), indent=2, ensure_ascii=False)
    (folder / "classification_report.json").write_text(text + "\n", encoding="utf-8")
