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
    return choose_golden_inputs(answer, card, dataset, positions, TOLERANCE).inputs


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


def test_an_answer_near_a_tie_is_no_golden_one():
    pixels = noise(8, 8, 1)
    undecided = {pixels[number].tobytes() for number in (0, 1, 2, 4)}

    def answer(batch):
        ties = [image.tobytes() in undecided for image in batch]
        return np.array([[1.0, 0.99 if tie else 0.0] for tie in ties], np.float32)

    rule = Preprocessing.identity(8, 8, 1)
    found = chosen(pixels, np.repeat([0, 1], 4), 2, answer, rule)
    assert len(found) == 3
    decoded = [to_array(one.image, rule).tobytes() for one in found[:-1]]
    assert not undecided & set(decoded)
