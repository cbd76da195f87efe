"""A step is the plain algorithm: updates, gradients, averaged weights."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from imgclf.config import TrainConfig
from imgclf.models import ImageClassifier
from imgclf.training.loop import EpochEnd, TrainState, train_epochs
from imgclf.training.schedules import learning_rate_at
from small_training import (
    FP32,
    DoubleNetwork,
    assert_same_weights,
    copied,
    digits_cnn,
    loader_of,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def smoothed_loss(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy with the target ``1 - s + s / classes`` and ``s / classes`` elsewhere."""
    log_probabilities = logits - logits.exp().sum(1, keepdim=True).log()
    targets = torch.full_like(logits, smoothing / logits.shape[1])
    targets[torch.arange(len(labels)), labels] += 1 - smoothing
    return -(targets * log_probabilities).sum(1).mean()


# One update each, written out: (weight, gradient, memory, rate, decay, count) -> new weight.
Update = Callable[[Tensor, Tensor, dict[str, Tensor], float, float, int], Tensor]


def adam(
    weight: Tensor, gradient: Tensor, memory: dict[str, Tensor], rate: float, decay: float, t: int
) -> Tensor:
    gradient = gradient + decay * weight
    memory["m"] = 0.9 * memory.get("m", torch.zeros_like(weight)) + 0.1 * gradient
    memory["v"] = 0.999 * memory.get("v", torch.zeros_like(weight)) + 0.001 * gradient**2
    mean, variance = memory["m"] / (1 - 0.9**t), memory["v"] / (1 - 0.999**t)
    return weight - rate * mean / (variance.sqrt() + 1e-8)


def adamw(
    weight: Tensor, gradient: Tensor, memory: dict[str, Tensor], rate: float, decay: float, t: int
) -> Tensor:
    return adam(weight, gradient, memory, rate, 0.0, t) - rate * decay * weight


def sgd_nesterov(
    weight: Tensor, gradient: Tensor, memory: dict[str, Tensor], rate: float, decay: float, t: int
) -> Tensor:
    gradient = gradient + decay * weight
    memory["v"] = 0.8 * memory.get("v", torch.zeros_like(weight)) + gradient
    return weight - rate * (gradient + 0.8 * memory["v"])


def sgd_momentum(
    weight: Tensor, gradient: Tensor, memory: dict[str, Tensor], rate: float, decay: float, t: int
) -> Tensor:
    gradient = gradient + decay * weight
    memory["v"] = 0.8 * memory.get("v", torch.zeros_like(weight)) + gradient
    return weight - rate * memory["v"]


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize(
    ("options", "update"),
    [
        ({"optimizer": "adam"}, adam),
        ({"optimizer": "adamw"}, adamw),
        ({"optimizer": "sgd", "momentum": 0.8}, sgd_nesterov),
        ({"optimizer": "sgd", "momentum": 0.8, "nesterov": False}, sgd_momentum),
    ],
    ids=["adam", "adamw", "sgd-nesterov", "sgd-momentum"],
)
def test_training_is_the_plain_algorithm(
    options: dict[str, Any], update: Update, smoothing: float
) -> None:
    """Two epochs of four steps, against every formula written out in float64."""
    config = TrainConfig.from_dict(
        {
            **options,
            "epochs": 2,
            "batch_size": 32,
            "learning_rate": 0.02,
            "weight_decay": 0.3,
            "label_smoothing": smoothing,
            "crop_padding": 1,
            "schedule": "cosine",
        }
    )
    loader = loader_of(config, 110)
    reference = DoubleNetwork()
    memories: dict[str, dict[str, Tensor]] = {name: {} for name, _ in reference.named_parameters()}
    step = 0
    for epoch in (1, 2):
        for (batch,) in loader.epoch(epoch):
            loss = smoothed_loss(reference(batch.images), batch.labels, smoothing)
            named = dict(reference.named_parameters())
            gradients = torch.autograd.grad(loss, list(named.values()))
            rate = learning_rate_at(step, 4, config)
            step += 1
            with torch.no_grad():
                for (name, weight), gradient in zip(named.items(), gradients, strict=True):
                    decay = 0.3 if weight.ndim > 1 else 0.0
                    weight.copy_(update(weight, gradient, memories[name], rate, decay, step))
    assert step == 8

    state = TrainState.start(DoubleNetwork(), config, FP32)
    list(train_epochs(state, loader, config, FP32))
    assert (state.epoch, state.step) == (2, 8)
    for name, tensor in state.model.state_dict().items():
        torch.testing.assert_close(tensor, reference.state_dict()[name], rtol=1e-9, atol=1e-11)


# Accumulated, clipped and weighted gradients


def weights_after(**options: object) -> dict[str, Tensor]:
    """Weights in float64 after two epochs, without dropout, augmentation and batch statistics."""
    config = TrainConfig.from_dict({"epochs": 2, "batch_size": 32, "dropout": 0.0, **options})
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).double()
    state = TrainState.start(ImageClassifier(network, [78.0], [96.0]).double(), config, FP32)
    list(train_epochs(state, loader_of(config, 110), config, FP32))
    return copied(state.model)


@pytest.mark.parametrize("options", [{}, {"class_weights": "balanced"}, {"loss": "focal"}])
@pytest.mark.parametrize("together", [2, 3])
def test_accumulated_batches_equal_one_large_batch(
    together: int, options: dict[str, object]
) -> None:
    large = weights_after(batch_size=24 * together, **options)
    small = weights_after(batch_size=24, gradient_accumulation_steps=together, **options)
    unaccumulated = weights_after(batch_size=24, **options)
    for name, tensor in large.items():
        torch.testing.assert_close(small[name], tensor, rtol=1e-9, atol=1e-12)
    name = "network.1.weight"
    assert not torch.allclose(unaccumulated[name], large[name], rtol=1e-3)


def test_gradients_are_scaled_down_to_the_given_norm() -> None:
    """Plain descent at rate 1: a step moves the weights by its gradient."""
    plain = {
        "optimizer": "sgd", "momentum": 0.0, "nesterov": False, "learning_rate": 1.0,
        "weight_decay": 0.0, "schedule": "constant", "warmup_ratio": 0.0, "epochs": 1,
        "batch_size": 200,
    }  # fmt: skip

    def movement(**options: object) -> Tensor:
        started = weights_after(**{**plain, "learning_rate": 0.0})
        ended = weights_after(**plain, **options)
        return torch.cat([(ended[name] - started[name]).flatten() for name in started])

    free = movement()
    norm = free.norm().item()
    clipped = movement(gradient_clip_norm=norm / 3)
    # torch adds 1e-6 to the norm that it divides by.
    torch.testing.assert_close(clipped, free / 3, rtol=1e-5, atol=1e-12)
    torch.testing.assert_close(movement(gradient_clip_norm=norm * 3), free, rtol=0, atol=0)


def test_class_weights_change_what_is_learnt_and_the_default_does_not() -> None:
    assert not torch.equal(
        weights_after(class_weights="balanced")["network.1.weight"],
        weights_after()["network.1.weight"],
    )


# Averaged weights


def test_average_is_taken_after_every_step_and_has_its_own_statistics() -> None:
    config = TrainConfig(epochs=2, batch_size=32, ema=True, ema_decay=0.5)
    state = TrainState.start(DoubleNetwork(), config, FP32)
    assert state.averaged is not None
    expected = copied(state.model)
    steps = 0

    def follow() -> bool:
        """Is called after each step; averages by hand."""
        nonlocal steps
        decay = min(0.5, (1 + steps) / (10 + steps))
        for name, tensor in state.model.state_dict().items():
            if tensor.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * tensor
            else:
                expected[name] = tensor.clone()
        steps += 1
        return False

    list(train_epochs(state, loader_of(config, 200), config, FP32, follow))
    assert steps == 14
    averaged = state.averaged.state_dict()
    for name, tensor in expected.items():
        torch.testing.assert_close(averaged[name], tensor, rtol=1e-10, atol=1e-12)
        if tensor.is_floating_point():
            assert not torch.equal(averaged[name], state.model.state_dict()[name]), name
    assert averaged["layers.1.num_batches_tracked"].item() == 14


def test_averaged_weights_are_the_selected_ones_where_they_are_wanted() -> None:
    with_average = TrainState.start(DoubleNetwork(), TrainConfig(ema=True), FP32)
    assert with_average.selected_model is with_average.averaged
    assert with_average.averaged is not with_average.model
    without = TrainState.start(DoubleNetwork(), TrainConfig(), FP32)
    assert without.averaged is None
    assert without.selected_model is without.model


def test_averaging_does_not_change_what_is_trained() -> None:
    models = []
    for ema in (False, True):
        config = TrainConfig(epochs=1, ema=ema)
        state = TrainState.start(digits_cnn(config), config, FP32)
        list(train_epochs(state, loader_of(config, 200), config, FP32))
        models.append(state.model)
    assert_same_weights(*models)


def test_training_learns_the_digits() -> None:
    config = TrainConfig(epochs=3)
    state = TrainState.start(digits_cnn(config), config, FP32)
    events = list(train_epochs(state, loader_of(config, 1000), config, FP32))
    accuracies = [event.accuracy for event in events if isinstance(event, EpochEnd)]
    assert accuracies[-1] > 0.95
    assert accuracies == sorted(accuracies)
