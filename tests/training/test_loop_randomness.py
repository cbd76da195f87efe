"""Order, augmentation and dropout follow from the seed alone."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from imgclf.config import TrainConfig
from imgclf.training import loop
from imgclf.training.loop import EpochEnd, TrainState, train_epochs
from small_training import (
    FP32,
    Event,
    assert_same_weights,
    digits_cnn,
    loader_of,
)

pytestmark = pytest.mark.usefixtures("one_thread")


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
