import gc
import threading
import tracemalloc
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from numpy.typing import NDArray

from imgclf.config import TrainConfig
from imgclf.data import dataset as dataset_module
from imgclf.data import loader as loader_module
from imgclf.data.augment import Augmentation
from imgclf.data.dataset import images_at_a_time
from imgclf.data.loader import Batch, TrainLoader

CPU = torch.device("cpu")


def numbered(number: int) -> np.ndarray:
    """Images of two pixels that spell their own position."""
    positions = np.arange(number)
    pixels = np.stack([positions // 256, positions % 256], axis=1)
    return pixels.astype(np.uint8).reshape(number, 1, 2, 1)


def positions_of(images: torch.Tensor) -> list[int]:
    pixels = images.reshape(-1, 2).long()
    return (pixels[:, 0] * 256 + pixels[:, 1]).tolist()


def loader_of(number: int, batch_size: int, seed: int = 0, **options: object) -> TrainLoader:
    labels = (np.arange(number) * 7 % 5).astype(np.int64)
    return loader_with(labels, batch_size=batch_size, seed=seed, **options)


def loader_with(labels: NDArray[np.int64], **options: object) -> TrainLoader:
    config = TrainConfig.from_dict({"random_crop": False, **options})
    plain = Augmentation.from_config(config, 1, 2)
    return TrainLoader(numbered(len(labels)), np.arange(len(labels)), labels, 5, plain, config, CPU)


def batches_of(loader: TrainLoader, epoch: int) -> list[Batch]:
    return [batch for step in loader.epoch(epoch) for batch in step]


def order_of(loader: TrainLoader, epoch: int) -> list[int]:
    return [p for batch in batches_of(loader, epoch) for p in positions_of(batch.images)]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 8, 64, 1000])
@pytest.mark.parametrize("number", [2, 3, 7, 8, 9, 50, 64, 65, 129, 300])
def test_an_epoch_shows_each_image_once_with_its_own_label(number: int, batch_size: int) -> None:
    loader = loader_of(number, batch_size)
    batches = batches_of(loader, 1)
    assert sorted(order_of(loader, 1)) == list(range(number))
    for batch in batches:
        assert [position * 7 % 5 for position in positions_of(batch.images)] == (
            batch.labels.tolist()
        )
        assert len(batch) == len(batch.images)
        assert torch.equal(batch.targets, batch.labels)
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
    loader = loader_of(number, batch_size)
    assert [len(batch) for batch in batches_of(loader, 1)] == sizes
    assert loader.batch_size == sizes[0]


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
    config = TrainConfig(batch_size=8, seed=4, crop_padding=1, horizontal_flip=True)
    augmentation = Augmentation.from_config(config, 6, 6)
    loader = TrainLoader(images, np.arange(50), labels, 50, augmentation, config, CPU)
    padded = augmentation.pad(torch.from_numpy(images))
    draws = augmentation.draw(padded, 4, 3)
    for batch in batches_of(loader, 3):
        expected = augmentation.apply(padded, batch.labels, draws.rows(batch.labels))
        torch.testing.assert_close(batch.images, expected, rtol=0, atol=0)
        assert batch.images.shape[1:] == (6, 6, 3)


def test_more_images_than_are_brought_to_the_device_at_a_time_keep_their_places(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dataset_module, "_BYTES_AT_A_TIME", 8192)
    number = 2 * images_at_a_time(numbered(1)) + 3
    assert number == 8195
    chosen = np.random.default_rng(0).permutation(number)[: number - 5]
    labels = np.arange(number, dtype=np.int64)
    config = TrainConfig(batch_size=1000)
    # Of each padded image the centre is taken: the border is cut off again.
    augmentation = Augmentation(1, 2, random_crop=False, crop_padding=1, horizontal_flip=False)
    images = numbered(number)
    loader = TrainLoader(images, chosen, labels, number, augmentation, config, CPU, resident=True)
    batches = batches_of(loader, 1)
    for batch in batches:
        assert positions_of(batch.images) == batch.labels.tolist()
    assert sorted(torch.cat([batch.labels for batch in batches]).tolist()) == sorted(chosen)


@pytest.mark.parametrize("mixing", [{"mixup": 1.0}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 2.0}])
def test_batches_hold_the_probabilities_of_mixed_images(mixing: dict[str, Any]) -> None:
    """Images of one value, 40 times their label: what is seen of a class is in the targets."""
    labels = np.arange(50, dtype=np.int64) % 5
    images = np.broadcast_to((labels * 40).astype(np.uint8)[:, None, None, None], (50, 9, 9, 1))
    config = TrainConfig.from_dict({"batch_size": 8, "random_crop": False, **mixing})
    augmentation = Augmentation.from_config(config, 9, 9)
    loader = TrainLoader(images.copy(), np.arange(50), labels, 5, augmentation, config, CPU)
    for batch in batches_of(loader, 3):
        assert batch.targets.dtype == torch.float32
        assert batch.targets.shape == (len(batch), 5)
        torch.testing.assert_close(batch.targets.sum(1), torch.ones(len(batch)))
        assert (batch.targets.gather(1, batch.labels[:, None]) > 0).all()
        seen = batch.images.float().mean(dim=(1, 2, 3))
        expected = batch.targets @ (torch.arange(5.0) * 40)
        torch.testing.assert_close(seen, expected, rtol=0, atol=0.501)  # rounded to whole levels
        assert (batch.targets > 0).sum(1).max() == 2


def test_targets_are_the_labels_where_nothing_is_mixed() -> None:
    for batch in batches_of(loader_of(20, 8), 1):
        assert torch.equal(batch.targets, batch.labels)


def test_training_images_stay_as_they_were() -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 6, 6, 1), dtype=np.uint8)
    before = images.copy()
    config = TrainConfig(batch_size=8, crop_padding=2, horizontal_flip=True)
    augmentation = Augmentation.from_config(config, 6, 6)
    loader = TrainLoader(
        images, np.arange(20), np.zeros(20, np.int64), 1, augmentation, config, CPU
    )
    for batch in batches_of(loader, 1):
        batch.images.zero_()
    np.testing.assert_array_equal(images, before)


def test_batches_can_be_changed_without_changing_the_stored_images() -> None:
    loader = loader_of(20, 8)
    for batch in batches_of(loader, 1):
        batch.images.zero_()
    assert sorted(order_of(loader, 1)) == list(range(20))


# Gradient accumulation


@pytest.mark.parametrize(
    ("number", "together", "steps"),
    [(40, 1, [1] * 5), (40, 2, [2, 2, 1]), (40, 5, [5]), (40, 9, [5]), (45, 2, [2, 2, 2])],
)
def test_steps_take_so_many_batches_together(number: int, together: int, steps: list[int]) -> None:
    loader = loader_of(number, 8, gradient_accumulation_steps=together)
    assert [len(batches) for batches in loader.epoch(1)] == steps
    assert loader.steps_per_epoch == len(steps)
    assert order_of(loader, 1) == order_of(loader_of(number, 8), 1)


# Imbalance

UNEVEN = np.array([0] * 70 + [3] * 20 + [4] * 7 + [1] * 3, np.int64)


def test_class_counts_hold_absent_classes_too() -> None:
    assert loader_with(UNEVEN).class_counts.tolist() == [70, 3, 0, 20, 7]


def test_balanced_sampling_shows_every_class_as_often_as_any_other() -> None:
    loader = loader_with(UNEVEN, balanced_sampling=True)
    for epoch in (1, 2, 3):
        order = order_of(loader, epoch)
        labels = [label for batch in batches_of(loader, epoch) for label in batch.labels.tolist()]
        assert labels == UNEVEN[order].tolist()
        assert np.bincount(labels).tolist() == [25, 25, 0, 25, 25]
        # Within a class, every image comes equally often.
        times = np.bincount(order, minlength=100)
        for label in (0, 1, 3, 4):
            of_class = times[label == UNEVEN]
            assert of_class.max() - of_class.min() <= 1


def test_balanced_sampling_shows_all_images_of_a_large_class_over_the_epochs() -> None:
    loader = loader_with(UNEVEN, balanced_sampling=True)
    seen = {position for epoch in range(1, 20) for position in order_of(loader, epoch)}
    assert seen == set(range(100))


def test_balanced_order_mixes_the_classes() -> None:
    loader = loader_with(np.sort(np.arange(500) % 2), balanced_sampling=True, batch_size=50)
    shares = [batch.labels.float().mean().item() for batch in batches_of(loader, 1)]
    assert all(0.2 < share < 0.8 for share in shares)


def test_balanced_order_is_fixed_by_seed_and_epoch() -> None:
    def orders(seed: int) -> list[list[int]]:
        loader = loader_with(UNEVEN, balanced_sampling=True, seed=seed)
        return [order_of(loader, epoch) for epoch in (1, 2)]

    assert orders(0) == orders(0)
    assert len({tuple(order) for seed in (0, 1) for order in orders(seed)}) == 4


def test_shares_that_do_not_divide_evenly_differ_by_one() -> None:
    labels = np.array([0, 0, 0, 0, 1, 2, 2, 2, 2, 2, 2], np.int64)
    loader = loader_with(labels, balanced_sampling=True)
    counts = np.bincount(labels[order_of(loader, 1)])
    assert sorted(counts.tolist()) == [3, 4, 4]


def test_an_image_that_is_shown_again_is_augmented_anew() -> None:
    """One image of the small class fills half of an epoch: its windows differ."""
    images = np.random.default_rng(0).integers(0, 256, (60, 12, 12, 1), dtype=np.uint8)
    labels = (np.arange(60) == 7).astype(np.int64)
    config = TrainConfig(balanced_sampling=True, batch_size=16)
    augmentation = Augmentation.from_config(config, 8, 8)
    loader = TrainLoader(images, np.arange(60), labels, 2, augmentation, config, CPU)
    shown = torch.cat([batch.images[batch.labels == 1] for batch in batches_of(loader, 1)])
    assert len(shown) == 30
    assert len({image.numpy().tobytes() for image in shown}) > 15  # of 25 windows


# Memory


def test_images_live_on_the_device_where_half_of_its_memory_holds_them() -> None:
    assert loader_module._fits(2**20, CPU)
    assert not loader_module._fits(psutil.virtual_memory().total, CPU)


def test_half_of_what_a_container_leaves_is_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader_module, "memory_within_limit", lambda _: 2 * 2**30)
    assert loader_module._fits(2**30, CPU)
    assert not loader_module._fits(2**30 + 1, CPU)


def test_large_images_are_brought_to_the_device_a_few_at_a_time() -> None:
    one = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    images, labels = np.broadcast_to(one, (64, 512, 512, 3)), np.zeros(64, np.int64)
    plain = Augmentation(512, 512, False, 0, False)
    tracemalloc.start()
    try:
        loader = TrainLoader(images, np.arange(64), labels, 1, plain, TrainConfig(), CPU, True)
        # NumPy's memory: torch's, where all of them come to lie, does not count here.
        assert tracemalloc.get_traced_memory()[1] < 16e6  # together they take 50 MB
    finally:
        tracemalloc.stop()
    ((batch,),) = loader.epoch(1)
    assert torch.equal(batch.images, torch.from_numpy(images.copy()))


def test_an_epoch_that_is_left_early_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    images = np.zeros((64, 6, 6, 1), np.uint8)
    config = TrainConfig(batch_size=4)
    augmentation = Augmentation.from_config(config, 6, 6)
    labels = np.zeros(64, np.int64)
    loader = TrainLoader(
        images, np.arange(64), labels, 1, augmentation, config, CPU, resident=False
    )
    steps = loader.epoch(1)
    next(steps)
    steps.close()  # type: ignore
    gc.collect()
    assert threading.active_count() == before


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("together", [1, 3])
def test_an_epoch_may_begin_at_any_step(together: int, resident: bool) -> None:
    """With what it would have shown there anyway: order, draws, mixed labels."""
    config = TrainConfig(
        batch_size=7, gradient_accumulation_steps=together, crop_padding=1, mixup=0.5, cutout=1
    )
    augmentation = Augmentation.from_config(config, 1, 2)
    labels = np.arange(100) % 5
    loader = TrainLoader(
        numbered(100), np.arange(100), labels, 5, augmentation, config, CPU, resident
    )
    whole = list(loader.epoch(2))
    for first in (0, 1, len(whole) - 1, len(whole)):
        steps = list(loader.epoch(2, first))
        assert len(steps) == len(whole) - first
        for some, all_of in zip(steps, whole[first:], strict=True):
            for one, other in zip(some, all_of, strict=True):
                assert torch.equal(one.images, other.images)
                assert torch.equal(one.targets, other.targets)


def test_it_tells_which_images_a_step_sees() -> None:
    labels = np.arange(50) % 5
    config = TrainConfig(random_crop=False, batch_size=6, gradient_accumulation_steps=2)
    plain = Augmentation.from_config(config, 1, 2)
    chosen = np.arange(0, 50, 2)
    loader = TrainLoader(numbered(50), chosen, labels, 5, plain, config, CPU)
    for number, batches in enumerate(loader.epoch(3)):
        seen = [position for batch in batches for position in positions_of(batch.images)]
        assert loader.positions(3, number).tolist() == seen
