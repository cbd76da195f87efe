import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import log_softmax
from scipy.special import softmax as scipy_softmax
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)

from imgclf.evaluation.metrics import compute_metrics, in_top5, softmax

GENERATOR = np.random.default_rng(0)


def random_case(
    number: int, num_classes: int, scale: float = 2.0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits that are right about half of the time."""
    labels = GENERATOR.integers(0, num_classes, number)
    logits = GENERATOR.normal(size=(number, num_classes)).astype(np.float32)
    logits[np.arange(number), labels] += 1.5
    return logits * np.float32(scale), labels


def never(logits: NDArray[np.float32], label: int) -> NDArray[np.float32]:
    """Keep a class from being predicted."""
    changed = logits.copy()
    changed[:, label] = logits.min() - 1
    return changed


def cases() -> dict[str, tuple[NDArray[np.float32], NDArray[np.int64]]]:
    logits, labels = random_case(300, 5)
    few, few_labels = random_case(4, 10)
    huge = np.where(GENERATOR.random((50, 4)) < 0.5, 1e4, -1e4).astype(np.float32)
    return {
        "two classes": random_case(200, 2),
        "many classes": random_case(1000, 40),
        "class never predicted": (never(logits, 2), labels),
        "class absent from the labels": (logits, np.where(labels == 2, 1, labels)),
        "class absent from both": (never(logits, 2), np.where(labels == 2, 1, labels)),
        "last class absent from both": (never(logits, 4), np.where(labels == 4, 1, labels)),
        "all labels one class": (logits, np.zeros_like(labels)),
        "all predictions one class": (logits + np.array([99, 0, 0, 0, 0], np.float32), labels),
        "all right": (np.eye(5, dtype=np.float32)[labels] * 9, labels),
        "all wrong": (-np.eye(5, dtype=np.float32)[labels] * 9, labels),
        "more classes than images": (few, few_labels),
        "one image": random_case(1, 3),
        "huge logits": (huge, GENERATOR.integers(0, 4, 50)),
        "ties": (np.zeros((20, 3), np.float32), GENERATOR.integers(0, 3, 20)),
    }


CASES = cases()


@pytest.mark.parametrize("case", CASES)
def test_numbers_are_scikit_learns(case: str) -> None:
    logits, labels = CASES[case]
    num_classes = logits.shape[1]
    predicted = logits.argmax(axis=1)
    metrics = compute_metrics(logits, labels)
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, predicted, average="macro", zero_division=0
    )
    assert metrics.precision == pytest.approx(precision, rel=1e-12)
    assert metrics.recall == pytest.approx(recall, rel=1e-12)
    assert metrics.f1 == pytest.approx(f1, rel=1e-12)
    assert metrics.accuracy == pytest.approx(accuracy_score(labels, predicted), rel=1e-12)
    expected = confusion_matrix(labels, predicted, labels=range(num_classes))
    np.testing.assert_array_equal(metrics.confusion, expected)
    assert metrics.confusion.dtype == np.int64


@pytest.mark.parametrize("case", CASES)
def test_numbers_of_each_class_are_scikit_learns(case: str) -> None:
    logits, labels = CASES[case]
    per_class = compute_metrics(logits, labels).per_class
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, logits.argmax(axis=1), labels=range(logits.shape[1]), zero_division=0
    )
    np.testing.assert_allclose(per_class.precision, precision, rtol=1e-12)
    np.testing.assert_allclose(per_class.recall, recall, rtol=1e-12)
    np.testing.assert_allclose(per_class.f1, f1, rtol=1e-12)
    np.testing.assert_array_equal(per_class.support, support)


@pytest.mark.parametrize("num_classes", [11, 40])
def test_top5_is_scikit_learns(num_classes: int) -> None:
    logits, labels = random_case(500, num_classes)
    top5 = compute_metrics(logits, labels).top5
    expected = top_k_accuracy_score(labels, logits, k=5, labels=range(num_classes))
    assert top5 == pytest.approx(expected, rel=1e-12)
    assert 0.2 < expected < 1


def test_ten_classes_have_no_top5() -> None:
    metrics = compute_metrics(*random_case(50, 10))
    assert metrics.top5 is None
    assert "test/top5" not in metrics.scalars("test")


def test_of_equal_logits_the_first_classes_are_the_top_five() -> None:
    labels = np.arange(12)
    assert in_top5(np.zeros((12, 12), np.float32), labels).tolist() == [True] * 5 + [False] * 7


@pytest.mark.parametrize("case", CASES)
def test_loss_is_the_mean_cross_entropy(case: str) -> None:
    logits, labels = CASES[case]
    log_probabilities = log_softmax(logits.astype(np.float64), axis=1)
    expected = -log_probabilities[np.arange(len(labels)), labels].mean()
    assert compute_metrics(logits, labels).loss == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("case", ["two classes", "many classes", "class absent from both"])
def test_loss_is_scikit_learns(case: str) -> None:
    """Of probabilities above 2e-16: it clips the others."""
    logits, labels = CASES[case]
    probabilities = scipy_softmax(logits.astype(np.float64), axis=1)
    expected = log_loss(labels, probabilities, labels=range(logits.shape[1]))
    assert compute_metrics(logits, labels).loss == pytest.approx(expected, rel=1e-12)


def test_huge_logits_have_their_true_loss() -> None:
    logits = np.array([[1e4, -1e4], [1e4, -1e4]], np.float32)
    assert compute_metrics(logits, np.array([0, 0])).loss == 0
    assert compute_metrics(logits, np.array([0, 1])).loss == pytest.approx(1e4)
    largest = np.array([[3e38, -3e38]], np.float32)
    assert math.isfinite(compute_metrics(largest, np.array([1])).loss)


def test_rows_of_the_confusion_matrix_are_true_classes() -> None:
    logits = np.array([[0, 1, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    metrics = compute_metrics(logits, np.array([0, 1, 2]))
    assert metrics.confusion.tolist() == [[0, 1, 0], [0, 1, 0], [0, 0, 1]]


def test_scalars_have_the_logged_names() -> None:
    metrics = compute_metrics(*random_case(100, 11))
    assert metrics.scalars("val") == {
        "val/loss": metrics.loss,
        "val/accuracy": metrics.accuracy,
        "val/precision": metrics.precision,
        "val/recall": metrics.recall,
        "val/f1": metrics.f1,
        "val/top5": metrics.top5,
    }


@pytest.mark.parametrize("case", CASES)
def test_softmax_is_scipys(case: str) -> None:
    logits, _ = CASES[case]
    probabilities = softmax(logits)
    assert probabilities.dtype == np.float64
    expected = scipy_softmax(logits.astype(np.float64), axis=1)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-12)
