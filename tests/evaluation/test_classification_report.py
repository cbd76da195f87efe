import json

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import classification_report, f1_score

from imgclf.evaluation.classification_report import report_text, report_values
from imgclf.evaluation.metrics import compute_metrics

CLASSES = ("cat", "dog", "bird")


def case(number: int, num_classes: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    generator = np.random.default_rng(number)
    labels = generator.integers(0, num_classes, number)
    logits = generator.normal(size=(number, num_classes)).astype(np.float32)
    logits[np.arange(number), labels] += 1
    return logits, labels


@pytest.mark.parametrize(
    "classes", [CLASSES, ("a", "b", "a rather long name of a class"), tuple("0123456789")]
)
def test_the_table_is_scikit_learns(classes: tuple[str, ...]) -> None:
    logits, labels = case(200, len(classes))
    expected = classification_report(
        labels, logits.argmax(1), target_names=list(classes), digits=4, zero_division=0
    )
    assert report_text(compute_metrics(logits, labels), classes) == expected


def test_the_values_are_scikit_learns() -> None:
    logits, labels = case(120, 3)
    expected = classification_report(
        labels, logits.argmax(1), target_names=list(CLASSES), output_dict=True, zero_division=0
    )
    assert isinstance(expected, dict)
    values = json.loads(json.dumps(report_values(compute_metrics(logits, labels), CLASSES)))
    assert values["accuracy"] == pytest.approx(expected["accuracy"], rel=1e-12)
    for name in ("macro avg", "weighted avg"):
        assert values[name] == pytest.approx(expected[name], rel=1e-12)
    assert list(values["classes"]) == list(CLASSES)
    for name in CLASSES:
        assert values["classes"][name] == pytest.approx(expected[name], rel=1e-12)


def test_a_class_may_be_named_as_an_average_is() -> None:
    classes = ("accuracy", "macro avg", "classes")
    logits, labels = case(60, 3)
    metrics = compute_metrics(logits, labels)
    named = json.loads(json.dumps(report_values(metrics, classes)))
    plain = json.loads(json.dumps(report_values(metrics, CLASSES)))
    assert list(named["classes"].values()) == list(plain["classes"].values())
    assert named["accuracy"] == metrics.accuracy
    assert named["macro avg"] == plain["macro avg"]


def test_a_class_without_images_is_listed_and_left_out_of_the_averages() -> None:
    logits, _ = case(30, 3)
    logits[:, 2] = -9
    labels = np.arange(30, dtype=np.int64) % 2
    metrics = compute_metrics(logits, labels)
    values = json.loads(json.dumps(report_values(metrics, CLASSES)))
    assert values["classes"]["bird"]["support"] == 0
    expected = f1_score(labels, logits.argmax(1), average="macro")
    assert values["macro avg"]["f1-score"] == pytest.approx(expected, rel=1e-12)
    text = report_text(metrics, CLASSES)
    assert f"{expected:.4f}" in next(line for line in text.splitlines() if "macro" in line)
    assert "bird" in text


def test_names_cannot_tear_the_table() -> None:
    classes = ("line\nbreak", "tab\tand \u2028 separator", "\u202eright to left")
    lines = report_text(compute_metrics(*case(30, 3)), classes).splitlines()
    assert len(lines) == 9
    for line, name in zip(lines[2:5], (r"line\nbreak", r"tab\tand", r"\u202eright"), strict=True):
        assert name in line
        assert len(line) == len(lines[0])
