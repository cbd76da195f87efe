"""A model's answers on labelled images, and what follows from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from imgclf.data.dataset import SelectedImages
from imgclf.evaluation.metrics import Metrics, compute_metrics, softmax

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
        temperature: logits are divided by it before the softmax, as the model's card says.
    """

    split: str
    images: NDArray[np.uint8] | SelectedImages
    names: Sequence[str]
    labels: NDArray[np.int64]
    logits: NDArray[np.float32]
    classes: Sequence[str]
    temperature: float = 1.0

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
        return softmax(self.logits / np.float32(self.temperature))

    @cached_property
    def confidence(self) -> NDArray[np.float64]:
        """Probability of the predicted class, float64 [n]."""
        return self.probabilities.max(axis=1)
