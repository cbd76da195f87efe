"""Numbers from logits and labels."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Metrics:
    """How good the answers are.

    Attributes:
        loss: mean cross-entropy, natural logarithm, without label smoothing.
        accuracy: share of right answers.
        precision, recall, f1: means over the classes that occur, each class counting the same; a
            class that is never predicted has precision 0.
        confusion: int64 [classes, classes], rows are true and columns predicted classes.
    """

    loss: float
    accuracy: float
    precision: float
    recall: float
    f1: float
    confusion: NDArray[np.int64]

    def scalars(self, split: str) -> dict[str, float]:
        """Return the numbers by their logged names, such as ``val/accuracy``."""
        names = ("loss", "accuracy", "precision", "recall", "f1")
        return {f"{split}/{name}": getattr(self, name) for name in names}


def softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return probabilities, float64 [n, classes], of logits [n, classes]."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def compute_metrics(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> Metrics:
    """Compare logits [n, classes] with labels, int64 [n].

    All but the loss derive from one confusion matrix.
    """
    num_classes = logits.shape[1]
    predicted = logits.argmax(axis=1)
    pairs = labels * num_classes + predicted
    confusion = np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
    right = np.diag(confusion).astype(np.float64)
    true_counts, predicted_counts = confusion.sum(axis=1), confusion.sum(axis=0)
    precision = right / np.maximum(predicted_counts, 1)
    recall = right / np.maximum(true_counts, 1)
    f1 = 2 * right / np.maximum(true_counts + predicted_counts, 1)
    occurs = true_counts + predicted_counts > 0

    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    log_normaliser = np.log(np.exp(shifted).sum(axis=1))
    losses = log_normaliser - shifted[np.arange(len(labels)), labels]
    return Metrics(
        loss=float(losses.mean()),
        accuracy=float(right.sum() / len(labels)),
        precision=float(precision[occurs].mean()),
        recall=float(recall[occurs].mean()),
        f1=float(f1[occurs].mean()),
        confusion=confusion.astype(np.int64),
    )
