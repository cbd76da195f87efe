"""The pictures of an evaluation: a picture is one registered function."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from imgclf.evaluation import figures, image_grids
from imgclf.evaluation.drawing import house_style
from imgclf.evaluation.evaluation import SPLIT_TITLES, Evaluation

SHOWN_MISTAKES = 36
SHOWN_CORRECT = 36
MOST_CORRECT_OF_A_CLASS = 6


class Picture(NamedTuple):
    """A kind of picture: what stands below it, and the function that draws it."""

    caption: str
    draw: Callable[[Evaluation], Figure]


_PICTURES: dict[str, Picture] = {}


def picture(
    caption: str,
) -> Callable[[Callable[[Evaluation], Figure]], Callable[[Evaluation], Figure]]:
    """Draw a function's picture in every evaluation, as ``<its name>.png`` and in ``report.html``.

    Args:
        caption: says what is to be seen, to people who cannot see it too.
    """

    def add(draw: Callable[[Evaluation], Figure]) -> Callable[[Evaluation], Figure]:
        styled, name = house_style(draw), draw.__name__
        assert name not in _PICTURES, f"there is a picture '{name}' already"
        _PICTURES[name] = Picture(caption, styled)
        return styled

    return add


def registered_pictures() -> dict[str, Picture]:
    """Return the pictures by name, in the order in which they are shown."""
    return dict(_PICTURES)


@picture("Rows are true classes, columns predicted ones; colours show the share of the true class.")
def confusion_matrix(evaluation: Evaluation) -> Figure:
    """Draw the confusion matrix."""
    title = f"{evaluation.title}: confusion matrix"
    return figures.confusion_matrix(evaluation.metrics.confusion, evaluation.classes, title=title)


@picture("Precision, recall and F1 of each class.")
def per_class(evaluation: Evaluation) -> Figure:
    """Draw the quality of each class as bars."""
    title = f"{evaluation.title}: quality by class"
    return figures.per_class(evaluation.metrics.per_class, evaluation.classes, title=title)


@picture("True class → predicted class and its probability; the most confident mistakes first.")
def misclassified(evaluation: Evaluation) -> Figure:
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


@picture("A few of each class, with the probability of the class.")
def correct(evaluation: Evaluation) -> Figure:
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


def _subject(evaluation: Evaluation) -> str:
    if evaluation.split in SPLIT_TITLES:
        return f"{evaluation.title.lower()} images"
    return f"images of {evaluation.split}"
