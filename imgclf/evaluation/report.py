"""The files that an evaluation leaves: tables for programs, pictures for people."""

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from imgclf.evaluation import figures, image_grids
from imgclf.evaluation.classification_report import report_text, report_values
from imgclf.evaluation.drawing import save
from imgclf.evaluation.metrics import Metrics, compute_metrics, in_top5, softmax

SHOWN_MISTAKES = 36
SHOWN_CORRECT = 36
MOST_CORRECT_OF_A_CLASS = 6

PREDICTIONS, PER_CLASS, CONFUSION = "predictions.csv", "per_class.csv", "confusion_matrix.csv"
CONFUSION_PICTURE, PER_CLASS_PICTURE = "confusion_matrix.png", "per_class.png"
CORRECT_PICTURE, MISCLASSIFIED_PICTURE = "correct.png", "misclassified.png"
REPORT_TEXT, REPORT_JSON = "classification_report.txt", "classification_report.json"

SPLIT_TITLES = {"train": "Training", "val": "Validation", "test": "Test", "all": "All"}


@dataclass(frozen=True)
class Evaluation:
    """A model's answers on some labelled images.

    Attributes:
        split: ``train``, ``val``, ``test``, or what else a person calls these images.
        images: uint8 [n, height, width, channels]; at least one.
        names: [n] what identifies each image.
        labels: int64 [n], positions in ``classes``.
        logits: float32 [n, classes].
        classes: class names.
    """

    split: str
    images: NDArray[np.uint8]
    names: Sequence[str]
    labels: NDArray[np.int64]
    logits: NDArray[np.float32]
    classes: Sequence[str]

    @property
    def title(self) -> str:
        """The split's name as a heading."""
        return SPLIT_TITLES.get(self.split, self.split)

    @cached_property
    def metrics(self) -> Metrics:
        """How good the answers are."""
        return compute_metrics(self.logits, self.labels)

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """The class with the highest logit, int64 [n]."""
        return self.logits.argmax(axis=1)

    @cached_property
    def probabilities(self) -> NDArray[np.float64]:
        """Float64 [n, classes]."""
        return softmax(self.logits)

    @cached_property
    def confidence(self) -> NDArray[np.float64]:
        """Probability of the predicted class, float64 [n]."""
        return self.probabilities.max(axis=1)


def write_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Write an evaluation's tables and pictures into a folder, which is created if missing.

    The tables are UTF-8. ``predictions.csv`` has a line for each image; the columns ``label_index``
    and ``predicted_index`` say the classes by their positions, so that they survive
    ``pandas.read_csv``, which takes a class named ``NA`` for a gap and ``01`` for the number 1.
    With ``dtype={"image": str, "label": str, "predicted": str}, keep_default_na=False`` it keeps
    the names too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write_predictions(folder / PREDICTIONS, evaluation)
    _write_per_class(folder / PER_CLASS, evaluation)
    _write_confusion(folder / CONFUSION, evaluation)
    metrics, classes, title = evaluation.metrics, evaluation.classes, evaluation.title
    (folder / REPORT_TEXT).write_text(report_text(metrics, classes), encoding="utf-8")
    report = json.dumps(report_values(metrics, classes), indent=2, ensure_ascii=False)
    (folder / REPORT_JSON).write_text(report + "\n", encoding="utf-8")

    picture = figures.confusion_matrix(
        metrics.confusion, classes, title=f"{title}: confusion matrix"
    )
    save(picture, folder / CONFUSION_PICTURE)
    picture = figures.per_class(metrics.per_class, classes, title=f"{title}: quality by class")
    save(picture, folder / PER_CLASS_PICTURE)
    save(correct_images(evaluation), folder / CORRECT_PICTURE)
    save(confident_mistakes(evaluation), folder / MISCLASSIFIED_PICTURE)


def write_csv(path: Path, heading: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table; file names that are not UTF-8 are written as Python shows them."""
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(heading)
        writer.writerows(rows)


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


def correct_images(evaluation: Evaluation) -> Figure:
    """Draw a few correctly classified images of every class, the same at each call."""
    right = np.flatnonzero(evaluation.predicted == evaluation.labels)
    total, subject = len(evaluation.labels), _subject(evaluation)
    shown = _a_few_of_every_class(right, evaluation.labels)
    heading = f"{len(right):,} of {total:,} {subject} classified correctly"
    if len(shown) < len(right):
        heading += f", {len(shown)} of them at random"
    return image_grids.correct(
        evaluation.images[shown],
        evaluation.labels[shown],
        evaluation.confidence[shown],
        evaluation.classes,
        heading,
    )


def _a_few_of_every_class(
    positions: NDArray[np.int64], labels: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Choose images at random, the same at each call, in the order of their classes.

    With more than SHOWN_CORRECT classes the classes are chosen at random, too.
    """
    generator = np.random.default_rng(0)
    present = generator.permutation(np.unique(labels[positions]))[:SHOWN_CORRECT]
    each = min(MOST_CORRECT_OF_A_CLASS, SHOWN_CORRECT // max(len(present), 1))
    chosen = [
        generator.permutation(positions[labels[positions] == label])[:each]
        for label in np.sort(present)
    ]
    return np.concatenate([np.empty(0, np.int64), *chosen])


def confident_mistakes(evaluation: Evaluation) -> Figure:
    """Draw the misclassified images whose wrong class has the highest probability."""
    wrong = np.flatnonzero(evaluation.predicted != evaluation.labels)
    confidence = evaluation.confidence
    shown = wrong[np.argsort(-confidence[wrong], kind="stable")][:SHOWN_MISTAKES]
    total, subject = len(evaluation.labels), _subject(evaluation)
    if not len(wrong):
        heading = f"All {total:,} {subject} are classified correctly"
    elif len(shown) == len(wrong):
        heading = f"{len(wrong):,} of {total:,} {subject} misclassified, most confident first"
    else:
        heading = (
            f"{len(wrong):,} of {total:,} {subject} misclassified, the {len(shown)} most confident"
        )
    return image_grids.misclassified(
        evaluation.images[shown],
        evaluation.labels[shown],
        evaluation.predicted[shown],
        confidence[shown],
        evaluation.classes,
        heading,
    )


def _subject(evaluation: Evaluation) -> str:
    if evaluation.split in SPLIT_TITLES:
        return f"{evaluation.title.lower()} images"
    return f"images of {evaluation.split}"
