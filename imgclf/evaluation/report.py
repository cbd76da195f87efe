"""The files that an evaluation leaves: tables for programs, pictures for people."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgclf.disk import write_whole, writing
from imgclf.evaluation.classification_report import report_text, report_values
from imgclf.evaluation.drawing import save
from imgclf.evaluation.evaluation import Evaluation
from imgclf.evaluation.metrics import in_top5
from imgclf.evaluation.pictures import registered_pictures

PREDICTIONS, PER_CLASS, CONFUSION = "predictions.csv", "per_class.csv", "confusion_matrix.csv"
REPORT_TEXT, REPORT_JSON = "classification_report.txt", "classification_report.json"


def write_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Write an evaluation's tables and pictures into a folder, which is created if missing.

    The tables are UTF-8. ``predictions.csv`` has a line for each image; the columns ``label_index``
    and ``predicted_index`` say the classes by their positions, so that they survive
    ``pandas.read_csv``, which takes a class named ``NA`` for a gap and ``01`` for the number 1.
    With ``dtype={"image": str, "label": str, "predicted": str}, keep_default_na=False`` it keeps
    the names too.

    Raises:
        ImgclfError: there is no room for a file; those before it are whole.
    """
    with writing("the evaluation", folder):
        folder.mkdir(parents=True, exist_ok=True)
    _write_predictions(folder / PREDICTIONS, evaluation)
    _write_per_class(folder / PER_CLASS, evaluation)
    _write_confusion(folder / CONFUSION, evaluation)
    metrics, classes = evaluation.metrics, evaluation.classes
    values = json.dumps(report_values(metrics, classes), indent=2, ensure_ascii=False) + "\n"
    for name, text in ((REPORT_TEXT, report_text(metrics, classes)), (REPORT_JSON, values)):
        write_whole(folder / name, text.encode(), "the classification report")

    for name, picture in registered_pictures().items():
        save(picture.draw(evaluation), folder / f"{name}.png")


def write_csv(path: Path, heading: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table; file names that are not UTF-8 are written as Python shows them.

    Raises:
        ImgclfError: it cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(heading)
    writer.writerows(rows)
    write_whole(path, text.getvalue().encode("utf-8", "backslashreplace"), "the table")


def _write_predictions(path: Path, evaluation: Evaluation) -> None:
    classes, labels, predicted = evaluation.classes, evaluation.labels, evaluation.predicted
    columns: dict[str, Sequence[object]] = {
        "image": evaluation.names,
        "label": [classes[label] for label in labels],
        "predicted": [classes[guess] for guess in predicted],
        "correct": _truths(labels == predicted),
        "confidence": _probabilities(evaluation.confidence),
        "label_probability": _probabilities(
            evaluation.probabilities[np.arange(len(labels)), labels]
        ),
        "label_index": labels.tolist(),
        "predicted_index": predicted.tolist(),
    }
    if evaluation.metrics.top5 is not None:
        columns["in_top5"] = _truths(in_top5(evaluation.logits, labels))
    write_csv(path, list(columns), zip(*columns.values(), strict=True))


def _truths(values: NDArray[np.bool_]) -> list[str]:
    return [str(value).lower() for value in values.tolist()]


def _probabilities(values: NDArray[np.float64]) -> list[str]:
    return [f"{value:.6f}" for value in values]


def _write_per_class(path: Path, evaluation: Evaluation) -> None:
    metrics = evaluation.metrics.per_class
    columns = [
        range(len(evaluation.classes)),
        evaluation.classes,
        metrics.precision.tolist(),
        metrics.recall.tolist(),
        metrics.f1.tolist(),
        metrics.support.tolist(),
    ]
    heading = ["class_index", "class", "precision", "recall", "f1", "support"]
    write_csv(path, heading, zip(*columns, strict=True))


def _write_confusion(path: Path, evaluation: Evaluation) -> None:
    classes, confusion = evaluation.classes, evaluation.metrics.confusion
    rows = [[name, *row.tolist()] for name, row in zip(classes, confusion, strict=True)]
    write_csv(path, ["true \\ predicted", *classes], rows)
