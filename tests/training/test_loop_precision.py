"""Dtypes and layout of what is computed and of what is kept."""

import math
from typing import cast

import pytest
import torch

from imgclf.config import TrainConfig
from imgclf.training.device import Compute
from imgclf.training.loop import EpochEnd, TrainState, train_epochs
from small_training import (
    CPU,
    FP32,
    DoubleNetwork,
    copied,
    digits_cnn,
    loader_of,
)

pytestmark = pytest.mark.usefixtures("one_thread")


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


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_fp16_step_whose_gradients_overflow_changes_neither_weights_nor_average(
    optimizer: str,
) -> None:
    config = TrainConfig(epochs=8, batch_size=10, ema=True, optimizer=optimizer)
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
