"""What the loop tells while it trains, and how it ends."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from imgclf.config import TrainConfig
from imgclf.training import loop
from imgclf.training.loop import (
    EpochEnd,
    NonFiniteLossError,
    Snapshot,
    TrainState,
    train_epochs,
)
from imgclf.training.schedules import learning_rate_at
from small_training import (
    FP32,
    DoubleNetwork,
    Frozen,
    WithBadSteps,
    copied,
    digits_cnn,
    loader_of,
)

pytestmark = pytest.mark.usefixtures("one_thread")


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
@pytest.mark.faults
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
    with pytest.raises(NonFiniteLossError, match="weights diverged") as caught:
        list(train_epochs(state, loader_of(config, 500), config, FP32))
    assert "--learning-rate" in caught.value.hint


@pytest.mark.parametrize("in_front", [False, True])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "muon"])
@pytest.mark.faults
def test_a_step_whose_loss_is_not_finite_leaves_weights_and_statistics_alone(
    optimizer: str, in_front: bool
) -> None:
    """Six steps; the first, the fourth and the fifth are bad ones."""
    values = {"epochs": 1, "batch_size": 50, "max_bad_steps": 2, "ema": True}
    config = TrainConfig.from_dict(values | {"optimizer": optimizer})
    model = WithBadSteps(DoubleNetwork(), {0, 3, 4}, in_front)
    state = TrainState.start(model, config, FP32)
    weights: list[dict[str, Tensor]] = [copied(model)]

    def note() -> bool:
        weights.append(copied(model))
        return False

    (end,) = (
        event
        for event in train_epochs(state, loader_of(config, 300), config, FP32, note)
        if isinstance(event, EpochEnd)
    )
    names = [name for name, tensor in model.state_dict().items() if tensor.is_floating_point()]
    assert any(name.endswith("running_var") for name in names)
    for name in names:
        changed = [not torch.equal(a[name], b[name]) for a, b in itertools.pairwise(weights)]
        assert changed == [False, True, True, False, False, True], name
    # The figures are those of the other steps.
    assert math.isfinite(end.loss)
    for network in (model, state.selected_model):
        assert all(tensor.isfinite().all() for tensor in network.state_dict().values())


@pytest.mark.parametrize(("bad", "first"), [({7, 8, 9}, 7), ({5, 6, 7, 8}, 5), ({17}, 17)])
@pytest.mark.faults
def test_too_many_bad_steps_in_a_row_and_a_bad_end_are_errors(bad: set[int], first: int) -> None:
    config = TrainConfig(epochs=3, batch_size=50, max_bad_steps=2)
    state = TrainState.start(WithBadSteps(DoubleNetwork(), bad), config, FP32)
    loader = loader_of(config, 300)
    with pytest.raises(NonFiniteLossError) as caught:
        list(train_epochs(state, loader, config, FP32))
    assert caught.value.step == first
    state = TrainState.start(WithBadSteps(DoubleNetwork(), {3, 4, 6, 7, 9}), config, FP32)
    list(train_epochs(state, loader, config, FP32))  # never three in a row


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
