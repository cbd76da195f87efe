from typing import Any

import numpy as np
import pytest
import torch

from imgclf.data.augment import Augmentation
from imgclf.data.loader import TrainLoader

CPU = torch.device("cpu")


def numbered(number: int) -> np.ndarray:
    """Images of two pixels that spell their own position."""
    positions = np.arange(number)
    pixels = np.stack([positions // 256, positions % 256], axis=1)
    return pixels.astype(np.uint8).reshape(number, 1, 2, 1)


def positions_of(images: torch.Tensor) -> list[int]:
    pixels = images.reshape(-1, 2).long()
    return (pixels[:, 0] * 256 + pixels[:, 1]).tolist()


def loader_of(number: int, batch_size: int, seed: int = 0) -> TrainLoader:
    labels = (np.arange(number) * 7 % 5).astype(np.int64)
    plain = Augmentation(1, 2, False, 0, False)
    return TrainLoader(numbered(number), labels, batch_size, plain, seed, CPU, 5)


def order_of(loader: TrainLoader, epoch: int) -> list[int]:
    return [position for batch in loader.epoch(epoch) for position in positions_of(batch.images)]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 8, 64, 1000])
@pytest.mark.parametrize("number", [2, 3, 7, 8, 9, 50, 64, 65, 129, 300])
def test_an_epoch_shows_each_image_once_with_its_own_label(number: int, batch_size: int) -> None:
    loader = loader_of(number, batch_size)
    batches = list(loader.epoch(1))
    assert sorted(order_of(loader, 1)) == list(range(number))
    for batch in batches:
        assert [position * 7 % 5 for position in positions_of(batch.images)] == (
            batch.labels.tolist()
        )
        assert len(batch) == len(batch.images)
    assert len(batches) == loader.steps_per_epoch
    assert loader.num_images == number


@pytest.mark.parametrize(
    ("number", "batch_size", "sizes"),
    [
        (10, 5, [5, 5]),
        (12, 5, [5, 5, 2]),
        (11, 5, [5, 6]),  # batch normalisation cannot train on one image
        (6, 5, [6]),
        (5, 64, [5]),
        (4, 1, [1, 1, 2]),
    ],
)
def test_no_batch_is_left_with_a_single_image(
    number: int, batch_size: int, sizes: list[int]
) -> None:
    assert [len(batch) for batch in loader_of(number, batch_size).epoch(1)] == sizes


def test_order_is_fixed_by_seed_and_epoch() -> None:
    reference = order_of(loader_of(100, 8), 1)
    assert order_of(loader_of(100, 8), 1) == reference
    assert order_of(loader_of(100, 64), 1) == reference  # whatever the batch size
    orders = [
        order_of(loader_of(100, 8, seed), epoch)
        for seed in (0, 1, 2, 2**31 - 1)
        for epoch in (1, 2, 3)
    ]
    assert len({tuple(order) for order in orders}) == 12
    assert all(order != sorted(order) for order in orders)


def test_epochs_can_be_asked_for_in_any_order() -> None:
    """A resumed run begins in the middle."""
    loader = loader_of(100, 8)
    second_alone = order_of(loader_of(100, 8), 2)
    order_of(loader, 1)
    assert order_of(loader, 2) == second_alone


def test_batches_hold_the_epochs_augmented_pixels() -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (50, 7, 9, 3), dtype=np.uint8)
    labels = np.arange(50, dtype=np.int64)
    augmentation = Augmentation(6, 6, True, 1, True)
    loader = TrainLoader(images, labels, 8, augmentation, 4, CPU, 50)
    padded = augmentation.pad(torch.from_numpy(images))
    draws = augmentation.draw(padded, 4, 3)
    for batch in loader.epoch(3):
        expected = augmentation.apply(padded, batch.labels, draws)
        torch.testing.assert_close(batch.images, expected, rtol=0, atol=0)
        assert batch.images.shape[1:] == (6, 6, 3)


@pytest.mark.parametrize("mixing", [{"mixup": 1.0}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 2.0}])
def test_batches_hold_the_probabilities_of_mixed_images(mixing: dict[str, Any]) -> None:
    """Images of one value, 40 times their label: what is seen of a class is in the targets."""
    labels = np.arange(50, dtype=np.int64) % 5
    images = np.broadcast_to((labels * 40).astype(np.uint8)[:, None, None, None], (50, 9, 9, 1))
    augmentation = Augmentation(9, 9, False, 0, False, **mixing)
    loader = TrainLoader(images.copy(), labels, 8, augmentation, 4, CPU, 5)
    for batch in loader.epoch(3):
        assert batch.targets.dtype == torch.float32
        assert batch.targets.shape == (len(batch), 5)
        torch.testing.assert_close(batch.targets.sum(1), torch.ones(len(batch)))
        assert (batch.targets.gather(1, batch.labels[:, None]) > 0).all()
        seen = batch.images.float().mean(dim=(1, 2, 3))
        expected = batch.targets @ (torch.arange(5.0) * 40)
        torch.testing.assert_close(seen, expected, rtol=0, atol=0.501)  # rounded to whole levels
        assert (batch.targets > 0).sum(1).max() == 2


def test_targets_are_the_labels_where_nothing_is_mixed() -> None:
    for batch in loader_of(20, 8).epoch(1):
        assert torch.equal(batch.targets, batch.labels)


def test_training_images_stay_as_they_were() -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 6, 6, 1), dtype=np.uint8)
    before = images.copy()
    augmentation = Augmentation(6, 6, True, 2, True)
    loader = TrainLoader(images, np.zeros(20, np.int64), 8, augmentation, 0, CPU, 2)
    for batch in loader.epoch(1):
        batch.images.zero_()
    np.testing.assert_array_equal(images, before)


def test_batches_can_be_changed_without_changing_the_stored_images() -> None:
    loader = loader_of(20, 8)
    for batch in loader.epoch(1):
        batch.images.zero_()
    assert sorted(order_of(loader, 1)) == list(range(20))
