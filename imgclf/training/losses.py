"""Training losses by name: a loss is one registered function."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    log_softmax,
)

from imgclf.config import TrainConfig

_FOCUS = 2.0

# Takes logits [batch, classes], targets (int64 [batch] or probabilities [batch, classes]), class
# weights (float32 [classes] or None) and label smoothing; returns one loss per image, [batch].
LossFunction = Callable[[Tensor, Tensor, Tensor | None, float], Tensor]
_LOSSES: dict[str, LossFunction] = {}


def register(loss: LossFunction) -> LossFunction:
    """Make a loss known by its function's name, with hyphens for underscores."""
    name = loss.__name__.strip("_").replace("_", "-")
    assert name not in _LOSSES, f"there is a loss '{name}' already"
    _LOSSES[name] = loss
    return loss


def loss_names() -> tuple[str, ...]:
    """Return the names of the registered losses."""
    return tuple(_LOSSES)


def create_loss(config: TrainConfig, class_counts: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the loss of a configuration, from logits and targets to the mean over the images.

    Weighted losses are divided by the number of images, not by the sum of their weights: the
    gradient of two small batches is then the gradient of one large batch.

    Args:
        config: gives ``loss``, ``label_smoothing`` and ``class_weights``.
        class_counts: int64 [classes], training images of each class, on the device.
    """
    weights = balanced_weights(class_counts) if config.class_weights == "balanced" else None
    loss = _LOSSES[config.loss]

    def mean_loss(logits: Tensor, targets: Tensor) -> Tensor:
        # Half precision ends at the logits.
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return loss(logits, targets, weights, config.label_smoothing).mean()

    return mean_loss


def balanced_weights(class_counts: Tensor) -> Tensor:
    """Return weights inverse to the counts, whose mean over all images is 1 (as scikit-learn's).

    Args:
        class_counts: int64 [classes]; classes without images count as absent.

    Returns:
        float32 [classes].
    """
    present = class_counts > 0
    return class_counts.sum() / (present.sum() * class_counts.clamp(min=1).float())


@register
def _cross_entropy(
    logits: Tensor, targets: Tensor, weights: Tensor | None, smoothing: float
) -> Tensor:
    weights = None if weights is None else weights.to(logits.dtype)
    return cross_entropy(logits, targets, weights, label_smoothing=smoothing, reduction="none")


@register
def _focal(logits: Tensor, targets: Tensor, weights: Tensor | None, smoothing: float) -> Tensor:
    """Lin et al., Focal Loss for Dense Object Detection, arXiv:1708.02002, over a softmax."""
    log_probabilities = log_softmax(logits, dim=1)
    focus = (1 - log_probabilities.exp()) ** _FOCUS
    targets = as_probabilities(targets, logits, smoothing)
    terms = targets * focus * log_probabilities
    return -(terms if weights is None else terms * weights).sum(dim=1)


@register
def _binary_cross_entropy(
    logits: Tensor, targets: Tensor, weights: Tensor | None, smoothing: float
) -> Tensor:
    """Sum over the classes' yes-or-no questions (Wightman et al., ResNet strikes back, 2110.00476).

    An image's weight is its class's.
    """
    targets = as_probabilities(targets, logits, smoothing)
    losses = binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(dim=1)
    return losses if weights is None else losses * (targets @ weights.to(targets.dtype))


def as_probabilities(targets: Tensor, logits: Tensor, smoothing: float) -> Tensor:
    """Return smoothed probabilities of the classes, of the logits' shape and dtype.

    Args:
        targets: int64 [batch], or probabilities [batch, classes].
        logits: [batch, classes].
        smoothing: share that is spread evenly over all classes.
    """
    num_classes = logits.shape[1]
    if targets.ndim == 1:
        # Not one_hot: on a CPU it reads the smallest and the largest label each time.
        targets = torch.zeros_like(logits).scatter_(1, targets[:, None], 1)
    return torch.lerp(targets.to(logits.dtype), torch.full_like(logits, 1 / num_classes), smoothing)
