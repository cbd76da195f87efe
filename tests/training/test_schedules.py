import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR, StepLR

from imgclf.config import TrainConfig
from imgclf.recipes import SCHEDULES
from imgclf.training.schedules import learning_rate_at, schedule_names

WARMUPS = [0.0, 0.05, 0.2, 0.3, 0.5, 0.9]
TOTALS = [1, 2, 3, 5, 9, 10, 37, 230, 1001]


def rates(total_steps: int, **options: object) -> list[float]:
    """The rates of a run of so many epochs of one step each."""
    config = TrainConfig.from_dict({"epochs": total_steps, **options})
    return [learning_rate_at(step, 1, config) for step in range(total_steps)]


@pytest.mark.parametrize(
    ("total", "warmup"),
    # PyTorch divides by zero where the warm-up is one step: see the next test.
    [(total, warmup) for total in TOTALS for warmup in WARMUPS if (total + 1) * warmup != 1],
)
def test_one_cycle_is_pytorchs_without_its_last_step(total: int, warmup: float) -> None:
    """PyTorch spends the last step at 1/250,000 of the rate; ours ends before."""
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = OneCycleLR(
        optimizer, max_lr=0.37, total_steps=total + 1, pct_start=warmup, cycle_momentum=False
    )
    expected = [optimizer.param_groups[0]["lr"]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the optimiser takes no steps here
        for _ in range(total - 1):
            scheduler.step()
            expected.append(optimizer.param_groups[0]["lr"])
    ours = rates(total, schedule="one-cycle", learning_rate=0.37, warmup_ratio=warmup)
    assert ours == pytest.approx(expected, rel=1e-12, abs=0)


def test_one_cycle_with_a_warm_up_of_one_step_begins_at_the_peak() -> None:
    ours = rates(4, schedule="one-cycle", learning_rate=0.5, warmup_ratio=0.2)
    assert ours[0] == 0.5
    assert ours == sorted(ours, reverse=True)


@pytest.mark.parametrize("warmup", WARMUPS)
@pytest.mark.parametrize("total", TOTALS)
def test_cosine_rises_linearly_and_falls_along_half_a_cosine(total: int, warmup: float) -> None:
    ours = rates(total, schedule="cosine", learning_rate=0.37, warmup_ratio=warmup)
    rising = math.floor(warmup * total)
    for step, rate in enumerate(ours):
        if step < rising:
            expected = 0.37 * (step + 1) / rising
        else:
            angle = math.pi * (step - rising) / (total - rising)
            expected = 0.37 * math.cos(angle / 2) ** 2  # the same curve, written otherwise
        assert rate == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("warmup", WARMUPS)
@pytest.mark.parametrize("total", TOTALS)
def test_linear_rises_and_falls_along_straight_lines(total: int, warmup: float) -> None:
    ours = rates(total, schedule="linear", learning_rate=0.37, warmup_ratio=warmup)
    rising = math.floor(warmup * total)
    corners = [0, rising, total], [0.37 * (rising == 0), 0.37, 0.0]
    # A step rises to the corner that lies behind it, and falls from the one that lies before it.
    at = [step + 1 if step < rising else step for step in range(total)]
    assert ours == pytest.approx(np.interp(at, *corners), rel=1e-9)


@pytest.mark.parametrize("warmup", WARMUPS)
@pytest.mark.parametrize("total", TOTALS)
def test_constant_rises_linearly_and_stays(total: int, warmup: float) -> None:
    ours = rates(total, schedule="constant", learning_rate=0.37, warmup_ratio=warmup)
    rising = math.floor(warmup * total)
    expected = [0.37 * min((step + 1) / rising if rising else 1, 1) for step in range(total)]
    assert ours == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear", "one-cycle"])
@pytest.mark.parametrize("warmup", WARMUPS)
@pytest.mark.parametrize("total", TOTALS)
def test_every_step_learns_and_none_beyond_the_peak(
    total: int, warmup: float, schedule: str
) -> None:
    ours = rates(total, schedule=schedule, learning_rate=0.1, warmup_ratio=warmup)
    assert min(ours) > 0
    assert max(ours) <= 0.1
    if total * warmup >= 2 and schedule != "one-cycle":
        assert max(ours) == 0.1


@pytest.mark.parametrize("total", [1, 2, 3])
def test_a_run_of_few_steps_learns_at_all_of_them(total: int) -> None:
    assert min(rates(total, schedule="one-cycle", learning_rate=1.0, warmup_ratio=0.2)) > 0.04


@pytest.mark.parametrize(("step_epochs", "factor"), [(1, 0.5), (3, 0.1), (30, 0.1), (4, 0.0)])
@pytest.mark.parametrize("steps_per_epoch", [1, 7])
def test_step_schedule_is_pytorchs(step_epochs: int, factor: float, steps_per_epoch: int) -> None:
    config = TrainConfig(
        epochs=10,
        schedule="step",
        learning_rate=0.37,
        warmup_ratio=0.0,
        step_epochs=step_epochs,
        step_factor=factor,
    )
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=0.37)
    scheduler = StepLR(optimizer, step_epochs, factor)
    for epoch in range(10):
        expected = optimizer.param_groups[0]["lr"]
        for step in range(epoch * steps_per_epoch, (epoch + 1) * steps_per_epoch):
            ours = learning_rate_at(step, steps_per_epoch, config)
            assert ours == pytest.approx(expected, rel=1e-12)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(
    ("epochs", "drops_after"), [(1, []), (3, [1, 2]), (9, [3, 6]), (10, [4, 8]), (90, [30, 60])]
)
def test_step_schedule_drops_twice_by_default(epochs: int, drops_after: list[int]) -> None:
    ours = rates(epochs, schedule="step", learning_rate=1.0, warmup_ratio=0.0)
    drops = [epoch for epoch in range(1, epochs) if ours[epoch] != ours[epoch - 1]]
    assert drops == drops_after
    assert ours[-1] == pytest.approx(0.1 ** len(drops_after))


def test_step_schedule_rises_first_where_a_warm_up_is_wanted() -> None:
    config = TrainConfig(epochs=4, schedule="step", learning_rate=1.0, warmup_ratio=0.25)
    ours = [learning_rate_at(step, 4, config) for step in range(16)]
    assert ours[:4] == [0.25, 0.5, 0.75, 1.0]
    assert ours[4:8] == [1.0] * 4
    assert ours[8:] == pytest.approx([0.1] * 8)


def test_every_name_has_a_schedule() -> None:
    assert set(schedule_names()) == set(SCHEDULES)
