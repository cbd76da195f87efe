"""Numbers from logits and labels."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

# With so many classes or fewer, five guesses would say little.
MOST_CLASSES_WITHOUT_TOP5 = 10


@dataclass(frozen=True)
class ClassMetrics:
    """How good the answers are, class by class.

    Attributes:
        precision: float64 [classes], share of right answers among the predictions of the class; 0
            where it is never predicted.
        recall: float64 [classes], share of the class's images that are found; 0 where it has none.
        f1: float64 [classes], harmonic mean of both; 0 where the class neither occurs nor is
            predicted.
        support: int64 [classes], the class's number of images.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]
    support: NDArray[np.int64]


@dataclass(frozen=True)
class Metrics:
    """How good the answers are.

    Attributes:
        loss: mean cross-entropy, natural logarithm, without label smoothing.
        top5: share of images whose class is among the five with the highest logits; None with ten
            classes or fewer.
        confusion: int64 [classes, classes], rows are true and columns predicted classes.
    """

    loss: float
    top5: float | None
    confusion: NDArray[np.int64]

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return float(np.trace(self.confusion) / self.confusion.sum())

    @property
    def precision(self) -> float:
        """Mean precision of the classes that occur or are predicted, each counting the same."""
        return self._macro(self.per_class.precision)

    @property
    def recall(self) -> float:
        """Mean recall of the classes that occur or are predicted."""
        return self._macro(self.per_class.recall)

    @property
    def f1(self) -> float:
        """Mean F1 of the classes that occur or are predicted."""
        return self._macro(self.per_class.f1)

    @cached_property
    def per_class(self) -> ClassMetrics:
        """Precision, recall, F1 and support of each class."""
        right = np.diag(self.confusion).astype(np.float64)
        support, predicted = self.confusion.sum(axis=1), self.confusion.sum(axis=0)
        return ClassMetrics(
            precision=right / np.maximum(predicted, 1),
            recall=right / np.maximum(support, 1),
            f1=2 * right / np.maximum(support + predicted, 1),
            support=support,
        )

    def scalars(self, split: str) -> dict[str, float]:
        """Return the numbers by their logged names, such as ``val/accuracy``."""
        names = ("loss", "accuracy", "precision", "recall", "f1")
        scalars = {f"{split}/{name}": getattr(self, name) for name in names}
        return scalars if self.top5 is None else scalars | {f"{split}/top5": self.top5}

    def _macro(self, values: NDArray[np.float64]) -> float:
        occurs = self.confusion.sum(axis=0) + self.confusion.sum(axis=1) > 0
        return float(values[occurs].mean())


def softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return probabilities, float64 [n, classes], of logits [n, classes]."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def in_top5(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Tell, bool [n], whose class is among the five highest of logits [n, classes].

    Of equal logits the first class counts as the highest, as ``argmax`` has it: what is right is in
    the top five as well.
    """
    own = logits[np.arange(len(labels)), labels][:, None]
    before = np.arange(logits.shape[1]) < labels[:, None]
    rank = ((logits > own) | ((logits == own) & before)).sum(axis=1)
    return rank < 5


def compute_metrics(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> Metrics:
    """Compare logits [n, classes] with labels, int64 [n], of at least one image.

    All but the loss and the top-5 accuracy derive from one confusion matrix.
    """
    num_classes = logits.shape[1]
    pairs = labels * num_classes + logits.argmax(axis=1)
    confusion = np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)

    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    log_normaliser = np.log(np.exp(shifted).sum(axis=1))
    losses = log_normaliser - shifted[np.arange(len(labels)), labels]
    with_top5 = num_classes > MOST_CLASSES_WITHOUT_TOP5
    return Metrics(
        loss=float(losses.mean()),
        top5=float(in_top5(logits, labels).mean()) if with_top5 else None,
        confusion=confusion.astype(np.int64),
    )
