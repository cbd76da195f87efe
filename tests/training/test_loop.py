import copy
import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor, nn

from imgclf.config import TrainConfig
from imgclf.data.augment import Augmentation
from imgclf.data.loader import TrainLoader
from imgclf.errors import ImgclfError
from imgclf.models import ImageClassifier, InputShape, NetworkSettings, create_network
from imgclf.training import loop
from imgclf.training.device import Compute
from imgclf.training.loop import EpochEnd, Snapshot, TrainState, train_epochs
from imgclf.training.schedules import learning_rate_at

CPU = torch.device("cpu")
FP32 = Compute(CPU, torch.float32, 1, "cpu")
Event = Snapshot | EpochEnd


pytestmark = pytest.mark.usefixtures("one_thread")


def some_digits(number: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    bunch: Any = load_digits()
    images = np.round(bunch.images[:number] * (255 / 16)).astype(np.uint8)
    return images[..., None], bunch.target[:number].astype(np.int64)


def loader_of(config: TrainConfig, number: int) -> TrainLoader:
    augmentation = Augmentation.from_config(config, 8, 8)
    images, labels = some_digits(number)
    return TrainLoader(images, np.arange(number), labels, 10, augmentation, config, CPU)


def digits_cnn(config: TrainConfig) -> nn.Module:
    torch.manual_seed(config.seed)
    settings = NetworkSettings(10, config.dropout, "batch")
    network = create_network("digits-cnn", InputShape(1, 8, 8), settings)
    return ImageClassifier(network, [78.0], [96.0])


class DoubleNetwork(nn.Module):
    """A small network with batch normalisation, in float64: differences are not rounding."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.layers = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 4, 3, stride=2),
            nn.Flatten(),
            nn.Linear(36, 10),
        ).double()

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images.permute(0, 3, 1, 2).double() / 255)


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same_weights(one: nn.Module, other: nn.Module) -> None:
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


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


# Randomness


EVERYTHING_RANDOM = TrainConfig(
    epochs=3, batch_size=50, dropout=0.4, crop_padding=1, horizontal_flip=True, ema=True
)


def trained(config: TrainConfig) -> tuple[TrainState, list[Event]]:
    state = TrainState.start(digits_cnn(config), config, FP32)
    return state, list(train_epochs(state, loader_of(config, 300), config, FP32))


def ends(events: list[Event]) -> list[tuple[int, float, float]]:
    return [(e.epoch, e.loss, e.accuracy) for e in events if isinstance(e, EpochEnd)]


@pytest.fixture(scope="module")
def whole() -> tuple[TrainState, list[Event]]:
    return trained(EVERYTHING_RANDOM)


def test_same_seed_gives_the_same_weights_bit_for_bit(
    whole: tuple[TrainState, list[Event]],
) -> None:
    (one, one_events), (two, two_events) = whole, trained(EVERYTHING_RANDOM)
    assert_same_weights(one.model, two.model)
    assert_same_weights(one.selected_model, two.selected_model)
    assert ends(one_events) == ends(two_events)


def test_another_seed_gives_other_weights(whole: tuple[TrainState, list[Event]]) -> None:
    config = TrainConfig.from_dict({**EVERYTHING_RANDOM.to_dict(), "seed": 1})
    one, two = whole[0], trained(config)[0]
    for (name, weight), other in zip(
        one.model.named_parameters(), two.model.parameters(), strict=True
    ):
        assert not torch.equal(weight, other), name


def test_a_run_in_two_halves_equals_one_that_was_never_stopped(
    whole: tuple[TrainState, list[Event]],
) -> None:
    """Order, augmentation and dropout depend on (seed, epoch) and (seed, step) alone."""
    config = EVERYTHING_RANDOM
    uninterrupted, all_events = whole

    first = TrainState.start(digits_cnn(config), config, FP32)
    for event in train_epochs(first, loader_of(config, 300), config, FP32):
        if isinstance(event, EpochEnd):
            break
    assert (first.epoch, first.step) == (1, 6)

    second = TrainState.start(digits_cnn(config), config, FP32)
    torch.manual_seed(12345)  # a new process has another random state
    assert second.averaged is not None
    assert first.averaged is not None
    second.model.load_state_dict(copied(first.model))
    second.averaged.load_state_dict(copied(first.averaged))
    second.optimizer.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
    second.epoch, second.step = first.epoch, first.step
    events = list(train_epochs(second, loader_of(config, 300), config, FP32))

    assert_same_weights(second.model, uninterrupted.model)
    assert_same_weights(second.selected_model, uninterrupted.selected_model)
    assert ends(events) == ends(all_events)[1:]


class NotesDropout(nn.Module):
    """Notes which of its 64 outputs dropout keeps at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)
        self.kept: list[tuple[bool, ...]] = []

    def forward(self, images: Tensor) -> Tensor:
        mask = nn.functional.dropout(torch.ones(64), 0.5, self.training)
        self.kept.append(tuple((mask > 0).tolist()))
        return self.layer(images.flatten(1).float() / 255)


@pytest.mark.parametrize("seed", [0, 4295, 2**31 - 1])
def test_every_step_of_every_seed_drops_other_units(seed: int) -> None:
    masks = []
    for chosen in (0, 1, seed):
        config = TrainConfig(epochs=2, batch_size=10, seed=chosen)
        network = NotesDropout()
        state = TrainState.start(network, config, FP32)
        list(train_epochs(state, loader_of(config, 100), config, FP32))
        assert len(network.kept) == len(set(network.kept)) == 20
        masks.append(network.kept)
    assert not set(masks[0]) & set(masks[1])
    assert masks[2] == masks[0] if seed == 0 else not set(masks[2]) & set(masks[0])
    share = np.mean(masks)
    assert 0.45 < share < 0.55


@pytest.mark.parametrize("seed", [4295, 8590, 1_000_003, 2**31 - 1])
def test_dropout_of_a_large_seed_never_runs_into_that_of_a_small_one(seed: int) -> None:
    """torch's CPU generator keeps the lowest 32 bits of its seed only."""

    def low_bits(seed: int) -> set[int]:
        return {loop._step_seed(seed, step) % 2**32 for step in range(3_000)}

    # 3,000 of 2**32 each: one in common by chance has a probability of 0.2%.
    assert not low_bits(seed) & (low_bits(0) | low_bits(1))


# What the loop tells


class Frozen(nn.Module):
    """Answers from fixed weights, in float64, and counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layer = nn.Linear(64, 10).double()
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return self.layer(images.flatten(1).double() / 255)


def test_figures_are_means_over_the_images_seen_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_SNAPSHOTS", 0.0)
    config = TrainConfig(epochs=2, batch_size=64, optimizer="sgd", learning_rate=0.0)
    loader = loader_of(config, 300)  # the last batch is smaller: 44
    model = Frozen()
    state = TrainState.start(model, config, FP32)
    events = list(train_epochs(state, loader, config, FP32))
    assert [type(event) for event in events] == ([Snapshot] * 5 + [EpochEnd]) * 2

    weight, bias = (parameter.detach().numpy() for parameter in model.layer.parameters())
    for epoch in (1, 2):
        losses, right = np.empty(0), np.empty(0)
        of_epoch = [event for event in events if event.epoch == epoch]
        for step, ((batch,), event) in enumerate(
            zip(loader.epoch(epoch), of_epoch, strict=False), 1
        ):
            logits = batch.images.numpy().reshape(-1, 64) / 255 @ weight.T + bias
            labels = batch.labels.numpy()
            log_sums = np.log(np.exp(logits).sum(1))
            losses = np.append(losses, log_sums - logits[np.arange(len(labels)), labels])
            right = np.append(right, logits.argmax(1) == labels)
            assert isinstance(event, Snapshot)
            assert event.step_in_epoch == step
            assert event.loss == pytest.approx(losses.mean(), rel=1e-6)
            assert event.accuracy == pytest.approx(right.mean(), rel=1e-6)
            assert event.images_per_second > 0
        end = of_epoch[-1]
        assert len(losses) == 300
        assert end.loss == pytest.approx(losses.mean(), rel=1e-6)
        assert end.accuracy == pytest.approx(right.mean(), rel=1e-6)


def test_the_loss_asks_for_the_probabilities_of_mixed_images() -> None:
    config = TrainConfig(optimizer="sgd", learning_rate=0.0, epochs=1, mixup=1.0, cutmix=1.0)
    loader = loader_of(config, 200)
    model = Frozen()
    state = TrainState.start(model, config, FP32)
    (end,) = (e for e in train_epochs(state, loader, config, FP32) if isinstance(e, EpochEnd))
    weight, bias = (parameter.detach().numpy() for parameter in model.layer.parameters())
    losses = np.empty(0)
    for (batch,) in loader.epoch(1):
        logits = batch.images.numpy().reshape(-1, 64) / 255 @ weight.T + bias
        log_probabilities = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        losses = np.append(losses, -(batch.targets.numpy() * log_probabilities).sum(1))
    assert len(losses) == 200
    assert end.loss == pytest.approx(losses.mean(), rel=1e-6)


def test_epoch_end_tells_the_rate_of_its_last_step() -> None:
    config = TrainConfig(epochs=3, batch_size=64)
    state = TrainState.start(DoubleNetwork(), config, FP32)
    events = train_epochs(state, loader_of(config, 300), config, FP32)
    told = [event.learning_rate for event in events if isinstance(event, EpochEnd)]
    assert told == [learning_rate_at(step, 5, config) for step in (4, 9, 14)]


def test_snapshots_come_at_most_twice_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0

    def tick() -> float:
        nonlocal clock
        clock += 0.06
        return clock

    monkeypatch.setattr(loop.time, "perf_counter", tick)
    config = TrainConfig(epochs=1, batch_size=2)
    state = TrainState.start(Frozen(), config, FP32)
    events = list(train_epochs(state, loader_of(config, 200), config, FP32))
    snapshots = [event for event in events if isinstance(event, Snapshot)]
    assert 100 * 0.06 / 0.6 <= len(snapshots) <= clock / 0.5
    gaps = np.diff([event.step_in_epoch for event in snapshots])
    assert (gaps * 0.06 >= 0.5 - 0.06).all()


# Ends


def test_stop_ends_training_after_the_step_in_progress() -> None:
    config = TrainConfig(epochs=5, batch_size=32)
    model = Frozen()
    state = TrainState.start(model, config, FP32)
    events = list(train_epochs(state, loader_of(config, 200), config, FP32, lambda: True))
    assert (state.step, state.epoch, model.calls) == (1, 0, 1)
    assert not [event for event in events if isinstance(event, EpochEnd)]

    state = TrainState.start(Frozen(), config, FP32)
    steps = train_epochs(state, loader_of(config, 200), config, FP32, stop=lambda: state.step == 10)
    assert len([event for event in steps if isinstance(event, EpochEnd)]) == 1
    assert (state.step, state.epoch) == (10, 1)  # seven steps an epoch


@pytest.mark.parametrize("weight_decay", [0.01, 10.0])
def test_diverging_training_is_an_error_with_a_way_out(weight_decay: float) -> None:
    config = TrainConfig(
        epochs=20,
        optimizer="sgd",
        learning_rate=100.0,
        weight_decay=weight_decay,
        schedule="constant",
        warmup_ratio=0.0,
    )
    state = TrainState.start(digits_cnn(config), config, FP32)
    with pytest.raises(ImgclfError, match="weights diverged") as caught:
        list(train_epochs(state, loader_of(config, 500), config, FP32))
    assert "--learning-rate" in caught.value.hint


def test_batch_may_be_larger_than_the_data() -> None:
    config = TrainConfig(epochs=2, batch_size=1000)
    state = TrainState.start(digits_cnn(config), config, FP32)
    before = copied(state.model)
    events = list(train_epochs(state, loader_of(config, 60), config, FP32))
    assert state.step == 2
    assert [event.epoch for event in events if isinstance(event, EpochEnd)] == [1, 2]
    changed = [
        not torch.equal(tensor, before[name]) for name, tensor in state.model.named_parameters()
    ]
    assert all(changed)


# Precision and layout


def test_bf16_computes_in_bf16_and_keeps_weights_in_fp32() -> None:
    config = TrainConfig(epochs=1, batch_size=50)
    compute = Compute(CPU, torch.bfloat16, 1, "cpu")
    state = TrainState.start(digits_cnn(config), config, compute)
    seen: list[torch.dtype] = []
    state.model.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    events = list(train_epochs(state, loader_of(config, 150), config, compute))
    assert seen == [torch.bfloat16] * 3
    assert all(weight.dtype == torch.float32 for weight in state.model.parameters())
    end = cast(EpochEnd, events[-1])
    assert math.isfinite(end.loss)


def test_fp32_computes_in_fp32() -> None:
    config = TrainConfig(epochs=1, batch_size=50)
    state = TrainState.start(digits_cnn(config), config, FP32)
    seen: list[torch.dtype] = []
    state.model.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    list(train_epochs(state, loader_of(config, 50), config, FP32))
    assert seen == [torch.float32]


def test_loss_scaling_is_for_fp16_only() -> None:
    for dtype, scaled in ((torch.float32, False), (torch.bfloat16, False), (torch.float16, True)):
        compute = Compute(CPU, dtype, 1, "cpu")
        state = TrainState.start(DoubleNetwork(), TrainConfig(), compute)
        assert state.scaler.is_enabled() == scaled


def test_fp16_step_whose_gradients_overflow_changes_neither_weights_nor_average() -> None:
    config = TrainConfig(epochs=8, batch_size=10, ema=True)
    compute = Compute(CPU, torch.float16, 1, "cpu")
    state = TrainState.start(digits_cnn(config), config, compute)
    state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)
    before = copied(state.model)
    loader = loader_of(config, 20)
    list(train_epochs(state, loader, config, compute, stop=lambda: True))
    assert state.averaged is not None
    for name, weight in state.model.named_parameters():
        assert torch.equal(weight, before[name]), name
        assert torch.equal(state.averaged.get_parameter(name), before[name]), name

    list(train_epochs(state, loader, config, compute))  # the scale falls until it fits
    for name, weight in state.model.named_parameters():
        assert not torch.equal(weight, before[name]), name
    for tensor in (*state.model.state_dict().values(), *state.averaged.state_dict().values()):
        assert tensor.isfinite().all()


def test_filters_and_their_average_lie_channels_last() -> None:
    config = TrainConfig(ema=True)
    state = TrainState.start(digits_cnn(config), config, FP32)
    assert state.averaged is not None
    for model in (state.model, state.averaged):
        filters = [weight for weight in model.parameters() if weight.ndim == 4]
        assert filters
        assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in filters)


def test_training_learns_the_digits() -> None:
    config = TrainConfig(epochs=3)
    state = TrainState.start(digits_cnn(config), config, FP32)
    events = list(train_epochs(state, loader_of(config, 1000), config, FP32))
    accuracies = [event.accuracy for event in events if isinstance(event, EpochEnd)]
    assert accuracies[-1] > 0.95
    assert accuracies == sorted(accuracies)
