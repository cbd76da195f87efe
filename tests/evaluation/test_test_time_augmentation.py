from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_sample_images
from torch.nn.functional import pad

from imgclf.evaluation.inference import predict_logits
from imgclf.evaluation.test_time_augmentation import KINDS, augmented_logits
from imgclf.models import ImageClassifier, InputShape, NetworkSettings, create_network

Pixels = NDArray[np.uint8]
CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def photos() -> Pixels:
    """Parts of two photographs, 1,100 of 10x12 pixels."""
    parts = []
    for image in load_sample_images()["images"]:
        for row, column in np.random.default_rng(0).integers(0, 400, (550, 2)):
            parts.append(image[row : row + 10, column : column + 12])
    return np.stack(parts)


@pytest.fixture(scope="module")
def answer() -> Callable[[Pixels], NDArray[np.float32]]:
    """A network that sees where things are: its last layer reads every position."""
    torch.manual_seed(0)
    network = create_network("digits-cnn", InputShape(3, 10, 12), NetworkSettings(5, 0.0, "none"))
    model = ImageClassifier(network, [110.0, 120.0, 130.0], [50.0, 60.0, 70.0])
    return lambda images: predict_logits(model, images, CPU)


def by_hand(
    answer: Callable[[Pixels], NDArray[np.float32]], images: Pixels, kind: str
) -> NDArray[np.float64]:
    """As the paper has it: pad by reflection, cut out, mirror; in float64."""

    def logits(tensor: torch.Tensor) -> NDArray[np.float64]:
        pixels = tensor.permute(0, 2, 3, 1).to(torch.uint8).numpy()
        return answer(np.ascontiguousarray(pixels)).astype(np.float64)

    def of_pair(tensor: torch.Tensor) -> NDArray[np.float64]:
        if "flip" not in kind:
            return logits(tensor)
        return 0.5 * logits(tensor) + 0.5 * logits(tensor.flip(-1))

    tensor = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    if "shift" not in kind:
        return of_pair(tensor)
    padded = pad(tensor, (1, 1, 1, 1), "reflect")
    moved = of_pair(padded[:, :, :10, :12]) + of_pair(padded[:, :, 2:, 2:])
    return 0.5 * of_pair(tensor) + 0.25 * moved


@pytest.mark.parametrize("kind", ["flip", "shift", "flip-shift"])
def test_logits_are_the_weighted_mean_over_the_changed_copies(kind, answer, photos):
    expected = by_hand(answer, photos, kind)
    logits = augmented_logits(answer, photos, kind)
    assert (logits.shape, logits.dtype) == ((1100, 5), np.float32)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
    plain = answer(photos)
    assert np.abs(expected - plain).max() > 0.01 * np.abs(plain).max()


def test_without_augmentation_the_answers_are_the_models_own_bit_for_bit(photos, answer):
    for number in (1, 7, 1000):
        images = photos[:number]
        np.testing.assert_array_equal(augmented_logits(answer, images, "none"), answer(images))


def test_an_image_and_its_mirror_image_get_the_same_answer(photos, answer):
    logits = augmented_logits(answer, photos[:50], "flip")
    mirrored = augmented_logits(answer, photos[:50, :, ::-1], "flip")
    np.testing.assert_allclose(logits, mirrored, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_images_are_left_as_they_were(kind, photos, answer):
    before = photos.copy()
    augmented_logits(answer, photos[:20], kind)
    np.testing.assert_array_equal(photos, before)
