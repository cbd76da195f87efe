"""How far probabilities can be believed: expected calibration error, and the temperature.

After Guo et al., On Calibration of Modern Neural Networks, arXiv:1706.04599.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

_LIMITS = (0.1, 10.0)


def fit_temperature(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Return what to divide logits by for the likelihood of the labels to be largest.

    Args:
        logits: float32 [n, classes], on images that the network was not trained on.
        labels: int64 [n].

    Returns:
        from 0.1 to 10; 1 where no answer or every answer is wrong: the likelihood has no maximum
        then.
    """
    wrong = logits.argmax(axis=1) != labels
    if not wrong.any() or wrong.all():
        return 1.0
    rows = np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        scaled = logits.astype(np.float64) / np.exp(log_temperature)
        return -float(log_softmax(scaled, axis=1)[rows, labels].mean())

    # Convex in the temperature's inverse, so that there is one minimum.
    found = minimize_scalar(loss, bounds=np.log(_LIMITS), method="bounded")
    return float(np.exp(found.x))


def expected_calibration_error(
    probabilities: NDArray[np.floating], labels: NDArray[np.int64], bins: int = 15
) -> float:
    """Return how far confidence and accuracy lie apart, 0 to 1, averaged over images.

    Args:
        probabilities: [n, classes].
        labels: int64 [n].
        bins: of equal width, by the probability of the answer.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    # A bin holds its upper end, as in the paper.
    numbers = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(numbers, right - confidence.astype(np.float64), minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))
