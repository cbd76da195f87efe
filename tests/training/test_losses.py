import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import expit, log_softmax, softmax
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor

from imgclf.config import TrainConfig
from imgclf.recipes import LOSSES
from imgclf.training.losses import balanced_weights, create_loss, loss_names

GENERATOR = np.random.default_rng(0)
COUNTS = np.array([50, 10, 5, 35])
LOGITS = GENERATOR.normal(0, 3, (12, 4))
LABELS = GENERATOR.integers(0, 4, 12)
# As MixUp leaves them: the shares of two classes.
MIXED = 0.7 * np.eye(4)[LABELS] + 0.3 * np.eye(4)[np.roll(LABELS, 1)]


def loss_of(
    logits: NDArray[np.float64], targets: NDArray[np.generic], **options: object
) -> tuple[float, Tensor]:
    """The loss and its gradient for the logits."""
    tensor = torch.tensor(logits, requires_grad=True)
    config = TrainConfig.from_dict(options)
    loss = create_loss(config, torch.from_numpy(COUNTS))(tensor, torch.tensor(targets))
    (gradient,) = torch.autograd.grad(loss, tensor)
    return loss.item(), gradient


def smoothed(targets: NDArray[np.generic], smoothing: float) -> NDArray[np.float64]:
    probabilities = np.eye(4)[targets] if targets.ndim == 1 else targets.astype(np.float64)
    return (1 - smoothing) * probabilities + smoothing / 4


def weights_of(options: dict[str, object]) -> NDArray[np.float64]:
    if options.get("class_weights") != "balanced":
        return np.ones(4)
    labels = np.repeat(np.arange(4), COUNTS)
    return compute_class_weight("balanced", classes=np.arange(4), y=labels)


EVERY_OPTION = [
    {},
    {"label_smoothing": 0.1},
    {"class_weights": "balanced"},
    {"class_weights": "balanced", "label_smoothing": 0.2},
]


def test_every_name_has_a_loss() -> None:
    assert set(loss_names()) == set(LOSSES)


@pytest.mark.parametrize("targets", [LABELS, MIXED], ids=["labels", "mixed"])
@pytest.mark.parametrize("options", EVERY_OPTION, ids=str)
def test_cross_entropy_is_the_textbooks(
    options: dict[str, object], targets: NDArray[np.generic]
) -> None:
    share = smoothed(targets, float(str(options.get("label_smoothing", 0.0))))
    terms = share * weights_of(options) * log_softmax(LOGITS, axis=1)
    ours, _ = loss_of(LOGITS, targets, **options)
    assert ours == pytest.approx(-terms.sum(1).mean(), rel=1e-6)
    if not options and targets is LABELS:
        assert ours == pytest.approx(
            log_loss(LABELS, softmax(LOGITS, axis=1), labels=range(4)), rel=1e-9
        )


@pytest.mark.parametrize("targets", [LABELS, MIXED], ids=["labels", "mixed"])
@pytest.mark.parametrize("options", EVERY_OPTION, ids=str)
def test_focal_loss_counts_what_is_right_already_less(
    options: dict[str, object], targets: NDArray[np.generic]
) -> None:
    share = smoothed(targets, float(str(options.get("label_smoothing", 0.0))))
    probabilities = softmax(LOGITS, axis=1)
    terms = share * weights_of(options) * (1 - probabilities) ** 2 * np.log(probabilities)
    ours, _ = loss_of(LOGITS, targets, loss="focal", **options)
    assert ours == pytest.approx(-terms.sum(1).mean(), rel=1e-6)


@pytest.mark.parametrize("targets", [LABELS, MIXED], ids=["labels", "mixed"])
@pytest.mark.parametrize("options", EVERY_OPTION, ids=str)
def test_binary_cross_entropy_asks_one_question_for_each_class(
    options: dict[str, object], targets: NDArray[np.generic]
) -> None:
    share = smoothed(targets, float(str(options.get("label_smoothing", 0.0))))
    yes, no = np.log(expit(LOGITS)), np.log(expit(-LOGITS))
    losses = -(share * yes + (1 - share) * no).sum(1) * (share @ weights_of(options))
    ours, _ = loss_of(LOGITS, targets, loss="binary-cross-entropy", **options)
    assert ours == pytest.approx(losses.mean(), rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_are_finite_and_fall_along_their_gradient_at_extreme_logits(loss: str) -> None:
    for scale in (1e-4, 1.0, 1e3):
        logits = LOGITS * scale
        value, gradient = loss_of(logits, LABELS, loss=loss)
        assert np.isfinite(value)
        assert gradient.isfinite().all()
        lower, _ = loss_of(logits - 1e-3 * gradient.numpy(), LABELS, loss=loss)
        assert lower < value or not gradient.any()


def test_balanced_weights_are_scikit_learns() -> None:
    labels = np.repeat(np.arange(4), COUNTS)
    expected = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    ours = balanced_weights(torch.from_numpy(COUNTS))
    assert ours.dtype == torch.float32
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-6)
    # Over all images they are 1 on average: the learning rate means what it meant.
    assert (ours.numpy() * COUNTS).sum() / COUNTS.sum() == pytest.approx(1)


def test_class_without_training_images_leaves_the_others_weights_alone() -> None:
    ours = balanced_weights(torch.tensor([30, 0, 10])).tolist()
    assert (ours[0], ours[2]) == pytest.approx((40 / (2 * 30), 40 / (2 * 10)))
    assert np.isfinite(ours[1])


@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_ends_at_the_logits(loss: str) -> None:
    config = TrainConfig(loss=loss, class_weights="balanced", label_smoothing=0.1)
    logits = torch.tensor(LOGITS).to(torch.bfloat16)
    labels = torch.from_numpy(LABELS)
    value = create_loss(config, torch.from_numpy(COUNTS))(logits, labels)
    assert value.dtype == torch.float32
    exact = create_loss(config, torch.from_numpy(COUNTS))(logits.float(), labels)
    assert value.item() == exact.item()
