"""Golden inputs fit their room, are decided clearly, and are what an image file must become."""

import io

import numpy as np
import pytest
from PIL import Image

from imgclf.card import ModelCard, Preprocessing
from imgclf.data.dataset import from_arrays
from imgclf.exporting.golden import choose_golden_inputs
from imgclf.preprocess import to_array

TOLERANCE = 1e-2


def noise(number: int, size: int, channels: int):
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (number, size, size, channels), np.uint8)


def chosen(pixels, labels, classes, answer, rule: Preprocessing):
    names = tuple(f"c{number}" for number in range(classes))
    values = (1.0,) * rule.channels
    dataset = from_arrays("noise", pixels, labels, names)
    card = ModelCard(names, rule, values, values)
    positions = np.arange(len(pixels))
    logits = answer(np.stack([to_array(image, rule) for image in pixels]))
    return choose_golden_inputs(answer, card, dataset, positions, logits, TOLERANCE).inputs


def by_mean(classes: int):
    """A model whose answer is a tenth of the mean pixel: sure wherever it is asked."""

    def answer(batch):
        logits = np.zeros((len(batch), classes), np.float32)
        logits[np.arange(len(batch)), (batch.mean(axis=(1, 2, 3)) / 10).astype(int) % classes] = 5
        return logits

    return answer


def test_one_image_of_each_class_that_has_any_and_a_jpeg():
    labels = np.repeat([0, 2], 10)
    found = chosen(noise(20, 9, 3), labels, 3, by_mean(3), Preprocessing.identity(9, 9, 3))
    kinds = [Image.open(io.BytesIO(one.image)).format for one in found]
    assert kinds == ["PNG", "PNG", "JPEG"]


def test_images_are_stored_as_large_as_they_must_be_to_become_the_input():
    rule = Preprocessing(16, 16, 1, 20, 20)
    pixels = noise(4, 20, 1)
    found = chosen(pixels, np.zeros(4, int), 2, by_mean(2), rule)
    inputs = [to_array(one.image, rule) for one in found]
    assert any((inputs[0] == image[2:18, 2:18]).all() for image in pixels)
    jpeg = Image.open(io.BytesIO(found[-1].image))
    # Odd sides, to be turned upright first.
    assert jpeg.size == (31, 25)
    assert inputs[-1].shape == (16, 16, 1)


@pytest.mark.parametrize("classes", [100, 2000])
def test_they_stay_within_their_room_however_many_classes_there_are(classes: int):
    labels = np.arange(classes)
    rule = Preprocessing.identity(32, 32, 3)
    found = chosen(noise(classes, 32, 3), labels, classes, by_mean(classes), rule)
    assert 1 < len(found) < classes
    assert sum(len(one.image) for one in found) <= 256 * 1024 * 1.1


def test_an_image_larger_than_the_room_is_left_out():
    rule = Preprocessing.identity(400, 400, 3)
    found = chosen(noise(2, 400, 3), np.array([0, 1]), 2, by_mean(2), rule)
    assert len(found) == 1


def are_sure(found) -> bool:
    """Whether twice the difference that is allowed where they are replayed turns no answer over."""
    logits = np.array([one.logits for one in found])
    first, second = -np.sort(-logits, axis=1)[:, :2].T
    return bool((first - second > 2 * TOLERANCE * np.abs(logits).max()).all())


RULE = Preprocessing.identity(8, 8, 1)


def plain(brightness: list[int]):
    """Images of one colour each, which a JPEG keeps."""
    return np.array(brightness, np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2)


def by_brightness(darkest_sure: int):
    """A model that is undecided between two classes where an image is dark."""

    def answer(batch):
        sure = batch.mean(axis=(1, 2, 3)) >= darkest_sure
        return np.array([[1.0, 0.0 if one else 0.99] for one in sure], np.float32)

    return answer


def test_an_answer_near_a_tie_is_no_golden_one():
    undecided = [10, 20, 30]
    pixels = plain([*undecided, 200, *undecided, 210])
    found = chosen(pixels, np.repeat([0, 1], 4), 2, by_brightness(100), RULE)
    assert are_sure(found)
    means = [to_array(one.image, RULE).mean() for one in found[:-1]]
    assert means == [200, 210]
    assert to_array(found[-1].image, RULE).mean() == pytest.approx(200, abs=2)


def test_a_class_whose_first_images_are_near_ties_has_a_golden_one_all_the_same():
    pixels = plain([200] * 4 + [10] * 30 + [220])
    labels = np.array([0] * 4 + [1] * 31)
    found = chosen(pixels, labels, 2, by_brightness(100), RULE)
    assert [to_array(one.image, RULE).mean() for one in found[:-1]] == [200, 220]


def test_what_is_near_a_tie_is_measured_by_the_largest_logit_of_all():
    """Differences are, where the images are replayed: a later image can allow larger ones."""

    def answer(batch):
        bright = batch.mean(axis=(1, 2, 3)) >= 100
        return np.array([[0.0, 100.0] if one else [1.0, 0.0] for one in bright], np.float32)

    found = chosen(plain([10] * 4 + [200] * 4), np.repeat([0, 1], 4), 2, answer, RULE)
    assert are_sure(found)
    assert [one.label for one in found] == ["c1", "c1"]


def test_where_all_are_near_ties_the_surest_jpeg_is_carried_alone():
    def answer(batch):
        return np.array([[1.0, 1 - image.mean() / 255 / 100] for image in batch], np.float32)

    brightness = list(range(10, 250, 4))
    found = chosen(plain(brightness), np.repeat([0, 1], 30), 2, answer, RULE)
    assert [Image.open(io.BytesIO(one.image)).format for one in found] == ["JPEG"]
    # Of sixteen from all parts of the split, the last is the brightest.
    assert to_array(found[0].image, RULE).mean() == pytest.approx(brightness[-1], abs=2)
