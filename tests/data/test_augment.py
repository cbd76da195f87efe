"""What the augmentations make of images; how they draw their random numbers is in test_draws."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from every_augmentation import EVERYTHING, tables_of
from imgclf.config import TrainConfig
from imgclf.data.augment import Augmentation
from imgclf.data.colour import jitter_colours
from imgclf.data.geometry import resized_crop, rotate
from imgclf.data.mixing import cutout
from imgclf.errors import UsageError

pytestmark = pytest.mark.usefixtures("one_thread")

GENERATOR = np.random.default_rng(0)
SETTINGS = [field.name for field in dataclasses.fields(Augmentation)]


def noise(number: int, height: int, width: int, channels: int) -> NDArray[np.uint8]:
    return GENERATOR.integers(0, 256, (number, height, width, channels), dtype=np.uint8)


def augmented(
    augmentation: Augmentation, images: NDArray[np.uint8], seed: int, epoch: int
) -> NDArray[np.uint8]:
    """All images of an epoch, in their stored order."""
    padded = augmentation.pad(torch.from_numpy(images))
    draws = augmentation.draw(padded, seed, epoch)
    return augmentation.apply(padded, torch.arange(len(images)), draws).numpy()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (6, 9), (9, 6), (1, 12)])
@pytest.mark.parametrize(("border", "room"), [(0, (3, 4)), (2, (0, 0)), (1, (3, 0))])
def test_crops_equal_pillows_crop_of_a_padded_image(
    height: int, width: int, channels: int, border: int, room: tuple[int, int]
) -> None:
    images = noise(20, height + room[0], width + room[1], channels)
    augmentation = Augmentation(height, width, True, border, True)
    padded = augmentation.pad(torch.from_numpy(images))
    draws = augmentation.draw(padded, seed=3, epoch=4)
    tables = tables_of(draws)
    chosen = torch.from_numpy(GENERATOR.permutation(20)[:13])
    result = augmentation.apply(padded, chosen, draws.rows(chosen))
    assert result.dtype == torch.uint8
    for pixels, position in zip(result.numpy(), chosen.tolist(), strict=True):
        mode = images[position] if channels == 3 else images[position, :, :, 0]
        bordered = ImageOps.expand(Image.fromarray(mode), border, fill=0)
        top, left = (int(tables[name][position]) for name in ("top", "left"))
        crop = np.asarray(bordered.crop((left, top, left + width, top + height)))
        expected = np.fliplr(crop) if tables["flip"][position] else crop
        np.testing.assert_array_equal(pixels, expected.reshape(height, width, channels))
    assert 0 < int(tables["flip"].sum()) < 20
    assert len({*tables["top"].tolist()}) > 1 or not (border or room[0])


def test_draws_are_fixed_by_seed_and_epoch() -> None:
    augmentation = Augmentation(8, 8, True, 2, True)
    images = noise(50, 8, 8, 1)
    reference = augmented(augmentation, images, seed=1, epoch=2)
    np.testing.assert_array_equal(augmented(augmentation, images, seed=1, epoch=2), reference)
    assert (augmented(augmentation, images, seed=1, epoch=3) != reference).any()
    assert (augmented(augmentation, images, seed=2, epoch=2) != reference).any()


def test_an_images_draws_do_not_depend_on_its_batch() -> None:
    augmentation = Augmentation(8, 8, True, 2, True)
    images = torch.from_numpy(noise(30, 8, 8, 3))
    padded = augmentation.pad(images)
    draws = augmentation.draw(padded, seed=0, epoch=1)
    together = augmentation.apply(padded, torch.arange(30), draws.rows(torch.arange(30)))
    for position in range(30):
        one = torch.tensor([position])
        alone = augmentation.apply(padded, one, draws.rows(one))
        torch.testing.assert_close(alone[0], together[position], rtol=0, atol=0)


@pytest.mark.parametrize("first", [1, 2, 7])
def test_two_epochs_in_turn_show_each_image_once_each_way(first: int) -> None:
    images = noise(64, 5, 9, 3)
    augmentation = Augmentation(5, 9, True, 0, True)
    one, two = (augmented(augmentation, images, 0, epoch) for epoch in (first, first + 1))
    mirrored = images[:, :, ::-1]
    first_flipped = (one == mirrored).all(axis=(1, 2, 3))
    expected_one = np.where(first_flipped[:, None, None, None], mirrored, images)
    expected_two = np.where(first_flipped[:, None, None, None], images, mirrored)
    np.testing.assert_array_equal(one, expected_one)
    np.testing.assert_array_equal(two, expected_two)
    assert 16 < first_flipped.sum() < 48  # about half in each


def test_no_augmentation_gives_the_stored_centre() -> None:
    images = noise(10, 9, 12, 3)
    result = augmented(Augmentation(5, 8, False, 0, False), images, 0, 1)
    np.testing.assert_array_equal(result, images[:, 2:7, 2:10])
    whole = augmented(Augmentation(9, 12, True, 0, False), images, 0, 1)
    np.testing.assert_array_equal(whole, images)


# Everything at once


def test_a_configuration_reaches_every_augmentation() -> None:
    values: dict[str, Any] = {
        name: getattr(EVERYTHING, name) for name in SETTINGS if name not in ("height", "width")
    }
    assert Augmentation.from_config(TrainConfig(**values), 12, 14) == EVERYTHING
    padded = TrainConfig(random_crop=True, crop_padding=3)
    assert Augmentation.from_config(padded, 5, 6) == Augmentation(5, 6, True, 3, False)


def test_nothing_but_random_windows_is_on_by_default() -> None:
    augmentation = Augmentation.from_config(TrainConfig(), 8, 8)
    assert augmentation == Augmentation(8, 8, True, 0, False)
    tables = tables_of(augmentation.draw(torch.zeros(5, 9, 9, 1, dtype=torch.uint8), 0, 1))
    assert set(tables) == {"top", "left"}


def test_a_square_that_is_larger_than_the_input_is_refused() -> None:
    Augmentation.from_config(TrainConfig(cutout=28), 28, 30)
    with pytest.raises(UsageError) as caught:
        Augmentation.from_config(TrainConfig(cutout=29), 28, 30)
    assert caught.value.message == (
        "--cutout 29 is larger than the network's input of 28x30 pixels."
    )


@pytest.mark.parametrize(
    ("setting", "reads_beyond"),
    [({"random_crop": True}, True), ({"random_resized_crop": 0.5}, True), ({}, False)],
)
def test_windows_are_taken_from_more_than_the_centre(
    setting: dict[str, Any], reads_beyond: bool
) -> None:
    values: dict[str, Any] = {"random_crop": False, **setting}
    config = TrainConfig(**values)
    assert Augmentation.from_config(config, 8, 8).reads_beyond_the_centre == reads_beyond


def test_augmentations_are_done_in_their_order(photographs: NDArray[np.uint8]) -> None:
    """Cut, colours, rotation, Cutout; each from its own table."""
    padded = torch.from_numpy(photographs)
    drawn = EVERYTHING.draw(padded, 0, 1)
    tables = tables_of(drawn)
    chosen = torch.tensor([7, 0, 19, 4])
    rows = {name: table[chosen] for name, table in tables.items()}
    images = resized_crop(
        padded[chosen], rows["top"], rows["left"], rows["window"], rows["flip"], (12, 14)
    )
    images = jitter_colours(images, rows["colour"], rows["hue"])
    images = cutout(rotate(images, rows["degrees"]), rows["cutout"])
    assert torch.equal(EVERYTHING.apply(padded, chosen, drawn.rows(chosen)), images)


def test_an_images_result_does_not_depend_on_its_batch(photographs: NDArray[np.uint8]) -> None:
    """Within three grey levels: sums of float32 may be taken in another order, which can move a
    rounded pixel by one level, and the colours' three factors are up to 1.4 each."""
    padded = torch.from_numpy(photographs)
    drawn = EVERYTHING.draw(padded, 0, 1)
    together = EVERYTHING.apply(padded, torch.arange(20), drawn.rows(torch.arange(20)))
    for position in range(20):
        one = torch.tensor([position])
        alone = EVERYTHING.apply(padded, one, drawn.rows(one))
        assert (alone[0].int() - together[position].int()).abs().max() <= 3


def test_each_image_is_mixed_with_the_one_before_it(photographs: NDArray[np.uint8]) -> None:
    images = torch.from_numpy(photographs[:, :12, :14])
    drawn = EVERYTHING.draw(torch.from_numpy(photographs), 0, 1)
    assert drawn.mixup is not None
    assert drawn.cutmix is not None
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(20) % 7
    mixed, targets = EVERYTHING.mix(images[order], labels[order], drawn.rows(order), 7)
    assert mixed.dtype == torch.uint8
    for position, (image, label) in enumerate(
        zip(order.tolist(), labels[order].tolist(), strict=True)
    ):
        before = int(order[position - 1])
        own, other = photographs[image, :12, :14], photographs[before, :12, :14]
        share = float(drawn.mixup[image])
        if share < 1:
            expected = np.rint(share * own.astype(float) + (1 - share) * other)
            assert np.abs(mixed[position].numpy() - expected).max() <= 1  # float32, ties
        else:
            top, left, bottom, right = drawn.cutmix[image].tolist()
            expected = own.copy()
            expected[top:bottom, left:right] = other[top:bottom, left:right]
            np.testing.assert_array_equal(mixed[position].numpy(), expected)
            share = 1 - (bottom - top) * (right - left) / (12 * 14)
        probabilities = np.zeros(7)
        probabilities[label] += share
        probabilities[before % 7] += 1 - share
        np.testing.assert_allclose(targets[position].numpy(), probabilities, atol=1e-6)


def test_nothing_is_mixed_unless_asked_for(photographs: NDArray[np.uint8]) -> None:
    augmentation = dataclasses.replace(EVERYTHING, mixup=0.0, cutmix=0.0)
    images, labels = torch.from_numpy(photographs), torch.arange(20)
    drawn = augmentation.draw(images, 0, 1)
    mixed, targets = augmentation.mix(images, labels, drawn.rows(torch.arange(20)), 20)
    assert torch.equal(mixed, images)
    assert torch.equal(targets, labels)


def test_a_batch_of_one_is_mixed_with_itself(photographs: NDArray[np.uint8]) -> None:
    images = torch.from_numpy(photographs[:, :12, :14])
    drawn = EVERYTHING.draw(torch.from_numpy(photographs), 0, 1)
    for position in range(20):
        one = torch.tensor([position])
        mixed, targets = EVERYTHING.mix(images[one], torch.tensor([2]), drawn.rows(one), 3)
        assert torch.equal(mixed, images[one])
        torch.testing.assert_close(targets, torch.tensor([[0.0, 0.0, 1.0]]), rtol=0, atol=1e-7)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("stored", [(1, 1), (1, 9), (7, 1), (15, 11)])
@pytest.mark.parametrize("size", [(1, 1), (9, 5)])
def test_every_size_can_be_augmented(
    stored: tuple[int, int], size: tuple[int, int], channels: int
) -> None:
    images = torch.from_numpy(noise(6, *stored, channels))
    before = images.clone()
    augmentation = dataclasses.replace(EVERYTHING, height=size[0], width=size[1], cutout=1)
    drawn = augmentation.draw(images, 0, 1)
    chosen = torch.tensor([5, 0, 2])
    result = augmentation.apply(images, chosen, drawn.rows(chosen))
    result, targets = augmentation.mix(result, chosen, drawn.rows(chosen), 6)
    assert result.dtype == torch.uint8
    assert result.shape == (3, *size, channels)
    assert targets.shape == (3, 6)
    result.zero_()
    assert torch.equal(images, before)
