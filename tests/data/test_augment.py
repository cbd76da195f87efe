import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from scipy.stats import chisquare

from imgclf.data.augment import Augmentation

GENERATOR = np.random.default_rng(0)


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
    chosen = torch.from_numpy(GENERATOR.permutation(20)[:13])
    result = augmentation.apply(padded, chosen, draws)
    assert result.dtype == torch.uint8
    for pixels, position in zip(result.numpy(), chosen.tolist(), strict=True):
        mode = images[position] if channels == 3 else images[position, :, :, 0]
        bordered = ImageOps.expand(Image.fromarray(mode), border, fill=0)
        top, left = int(draws.top[position]), int(draws.left[position])
        crop = np.asarray(bordered.crop((left, top, left + width, top + height)))
        expected = np.fliplr(crop) if draws.flip[position] else crop
        np.testing.assert_array_equal(pixels, expected.reshape(height, width, channels))
    assert 0 < int(draws.flip.sum()) < 20
    assert len({*draws.top.tolist()}) > 1 or not (border or room[0])


def test_crops_reach_every_offset_equally_often() -> None:
    augmentation = Augmentation(8, 6, True, 2, False)
    padded = augmentation.pad(torch.zeros(20_000, 10, 6, 1, dtype=torch.uint8))
    draws = augmentation.draw(padded, seed=0, epoch=1)
    counts = np.zeros((7, 5), int)  # 10 + 4 - 8 + 1 rows, 6 + 4 - 6 + 1 columns
    np.add.at(counts, (draws.top.numpy(), draws.left.numpy()), 1)
    assert counts.sum() == 20_000
    # Uniform and independent: each of the 35 pairs about 571 times.
    assert chisquare(counts.ravel()).pvalue > 1e-4


def test_draws_of_one_epoch_tell_nothing_of_the_next() -> None:
    augmentation = Augmentation(4, 4, True, 0, False)
    padded = torch.zeros(20_000, 7, 8, 1, dtype=torch.uint8)
    one, two = (augmentation.draw(padded, 0, epoch) for epoch in (1, 2))
    for first, second, offsets in ((one.top, two.top, 4), (one.left, two.left, 5)):
        counts = np.zeros((offsets, offsets), int)
        np.add.at(counts, (first.numpy(), second.numpy()), 1)
        assert chisquare(counts.ravel()).pvalue > 1e-4


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
    together = augmentation.apply(padded, torch.arange(30), draws)
    for position in range(30):
        alone = augmentation.apply(padded, torch.tensor([position]), draws)
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


def test_who_is_mirrored_first_is_independent_of_every_epochs_order() -> None:
    """Both are drawn from the seed; they must not share their random numbers."""
    padded = torch.zeros(10_000, 4, 4, 1, dtype=torch.uint8)
    flips = Augmentation(4, 4, False, 0, True).draw(padded, seed=9, epoch=2).flip.numpy()
    for epoch in range(4):
        for stream in range(4):
            drawn = np.random.default_rng([9, epoch, stream]).random(10_000) < 0.5
            if (epoch, stream) != (0, 2):
                assert 4_700 < (drawn == flips).sum() < 5_300


def test_no_augmentation_gives_the_stored_centre() -> None:
    images = noise(10, 9, 12, 3)
    result = augmented(Augmentation(5, 8, False, 0, False), images, 0, 1)
    np.testing.assert_array_equal(result, images[:, 2:7, 2:10])
    whole = augmented(Augmentation(9, 12, True, 0, False), images, 0, 1)
    np.testing.assert_array_equal(whole, images)
