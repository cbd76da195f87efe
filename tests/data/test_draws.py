"""The tables of random numbers that augmentations draw: their distributions and independence."""

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import beta, binomtest, chisquare, kstest, spearmanr, uniform
from torch import Tensor

from every_augmentation import EVERYTHING, tables_of
from imgclf.data.augment import Augmentation, Draws

pytestmark = pytest.mark.usefixtures("one_thread")


def windows_of(draws: Draws) -> tuple[Tensor, Tensor]:
    assert draws.top is not None
    assert draws.left is not None
    return draws.top, draws.left


def test_crops_reach_every_offset_equally_often() -> None:
    augmentation = Augmentation(8, 6, True, 2, False)
    padded = augmentation.pad(torch.zeros(20_000, 10, 6, 1, dtype=torch.uint8))
    draws = augmentation.draw(padded, seed=0, epoch=1)
    counts = np.zeros((7, 5), int)  # 10 + 4 - 8 + 1 rows, 6 + 4 - 6 + 1 columns
    np.add.at(counts, tuple(table.numpy() for table in windows_of(draws)), 1)
    assert counts.sum() == 20_000
    # Uniform and independent: each of the 35 pairs about 571 times.
    assert chisquare(counts.ravel()).pvalue > 1e-4


def test_draws_of_one_epoch_tell_nothing_of_the_next() -> None:
    augmentation = Augmentation(4, 4, True, 0, False)
    padded = torch.zeros(20_000, 7, 8, 1, dtype=torch.uint8)
    one, two = (windows_of(augmentation.draw(padded, 0, epoch)) for epoch in (1, 2))
    for first, second, offsets in zip(one, two, (4, 5), strict=True):
        counts = np.zeros((offsets, offsets), int)
        np.add.at(counts, (first.numpy(), second.numpy()), 1)
        assert chisquare(counts.ravel()).pvalue > 1e-4


def test_who_is_mirrored_first_is_independent_of_every_epochs_order() -> None:
    """Both are drawn from the seed; they must not share their random numbers."""
    padded = torch.zeros(10_000, 4, 4, 1, dtype=torch.uint8)
    flips = tables_of(Augmentation(4, 4, False, 0, True).draw(padded, seed=9, epoch=2))["flip"]
    for epoch in range(4):
        for stream in range(4):
            drawn = np.random.default_rng([9, epoch, stream]).random(10_000) < 0.5
            if (epoch, stream) != (0, 2):
                assert 4_700 < (drawn == flips.numpy()).sum() < 5_300


@pytest.mark.parametrize(
    ("augmentation", "tables"),
    [
        (Augmentation(4, 4, True, 0, False), set()),  # there is no room for another window
        (Augmentation(4, 4, True, 0, True), {"flip"}),
        (Augmentation(2, 4, True, 0, False), {"top", "left"}),
        (Augmentation(2, 3, False, 0, False), set()),  # always the centre
    ],
)
def test_nothing_is_drawn_that_changes_nothing(
    augmentation: Augmentation, tables: set[str]
) -> None:
    """Each table costs an operation in every step."""
    padded = torch.zeros(10, 4, 4, 1, dtype=torch.uint8)
    assert tables_of(augmentation.draw(padded, 0, 1)).keys() == tables


@pytest.fixture(scope="module")
def draws() -> Draws:
    return EVERYTHING.draw(torch.zeros(20_000, 20, 20, 1, dtype=torch.uint8), seed=5, epoch=3)


@pytest.mark.parametrize(
    ("table", "column", "distribution"),
    [
        ("degrees", None, uniform(-25, 50)),
        ("hue", None, uniform(-0.2, 0.4)),
        ("colour", 0, uniform(0.6, 0.8)),
        ("colour", 1, uniform(0.6, 0.8)),
        ("colour", 2, uniform(0.6, 0.8)),
    ],
)
def test_strengths_are_uniform_between_their_limits(
    draws: Draws, table: str, column: int | None, distribution: Any
) -> None:
    values = getattr(draws, table)
    values = values if column is None else values[:, column]
    assert values.dtype == torch.float32
    assert kstest(values.numpy(), distribution.cdf).pvalue > 1e-4


def test_shares_of_mixup_follow_their_beta_distribution() -> None:
    augmentation = dataclasses.replace(EVERYTHING, cutmix=0.0)
    drawn = augmentation.draw(torch.zeros(20_000, 20, 20, 1, dtype=torch.uint8), 5, 3)
    assert drawn.mixup is not None
    assert kstest(drawn.mixup.numpy(), beta(0.7, 0.7).cdf).pvalue > 1e-4


def test_half_of_the_images_get_mixup_and_half_cutmix(draws: Draws) -> None:
    assert draws.mixup is not None
    assert draws.cutmix is not None
    is_blended = draws.mixup < 1
    is_pasted = draws.cutmix.any(dim=1)
    assert binomtest(int(is_blended.sum()), 20_000).pvalue > 1e-4
    assert not (is_blended & is_pasted).any()
    assert (is_blended | is_pasted).float().mean() > 0.99  # some boxes have no pixel


def test_no_table_tells_anything_of_another(draws: Draws) -> None:
    """Left out: more columns of one box or window, since these depend on each other."""
    columns = {
        f"{name} {number}": column
        for name, table in tables_of(draws).items()
        for number, column in enumerate(table.reshape(20_000, -1).numpy().T)
        # Of MixUp and CutMix, an image gets one: those two depend on each other.
        if name not in ("left", "window", "cutmix") and not (name == "cutout" and number > 1)
    }
    assert len(columns) == 10
    for one, other in itertools.combinations(columns, 2):
        assert spearmanr(columns[one], columns[other]).pvalue > 1e-5, (one, other)


def test_every_augmentation_has_a_stream_of_random_numbers_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seeds: list[tuple[int, ...]] = []
    default_rng = np.random.default_rng

    def noted(seed: list[int]) -> np.random.Generator:
        seeds.append(tuple(seed))
        return default_rng(seed)

    monkeypatch.setattr(np.random, "default_rng", noted)
    padded = torch.zeros(10, 20, 20, 1, dtype=torch.uint8)
    EVERYTHING.draw(padded, seed=5, epoch=3)
    Augmentation(8, 8, True, 0, False).draw(padded, seed=5, epoch=3)
    assert len(seeds) == len(set(seeds)) == 10
    # The order of the images and dropout have theirs.
    assert not {stream for _, _, stream in seeds} & {0, 3}


@pytest.mark.parametrize(
    "left_out", ["horizontal_flip", "color_jitter", "hue", "rotation", "cutout", "mixup", "cutmix"]
)
def test_an_augmentation_that_is_left_out_changes_no_draw_of_the_others(
    draws: Draws, left_out: str
) -> None:
    plain: dict[str, Any] = {left_out: type(getattr(EVERYTHING, left_out))(0)}
    augmentation = dataclasses.replace(EVERYTHING, **plain)
    fewer = augmentation.draw(torch.zeros(20_000, 20, 20, 1, dtype=torch.uint8), 5, 3)
    expected = tables_of(draws)
    changed = {
        name for name, table in tables_of(fewer).items() if not torch.equal(table, expected[name])
    }
    absent = set(expected) - set(tables_of(fewer))
    # With only one of MixUp and CutMix, every image gets that one.
    affected = {
        "horizontal_flip": (set(), {"flip"}),
        "color_jitter": (set(), {"colour"}),
        "rotation": (set(), {"degrees"}),
        "mixup": ({"cutmix"}, {"mixup"}),
        "cutmix": ({"mixup"}, {"cutmix"}),
    }
    assert (changed, absent) == affected.get(left_out, (set(), {left_out}))


def test_every_table_is_fixed_by_seed_and_epoch(draws: Draws) -> None:
    padded = torch.zeros(20_000, 20, 20, 1, dtype=torch.uint8)
    same, later, other = (
        tables_of(EVERYTHING.draw(padded, seed, epoch)) for seed, epoch in ((5, 3), (5, 4), (6, 3))
    )
    for name, table in tables_of(draws).items():
        assert torch.equal(same[name], table)
        for changed in (later[name], other[name]):
            assert not torch.equal(changed, table)
            first, second = (each.reshape(20_000, -1)[:, 0].numpy() for each in (table, changed))
            if name != "flip":  # the next epoch's is the opposite
                assert spearmanr(first, second).pvalue > 1e-5, name
