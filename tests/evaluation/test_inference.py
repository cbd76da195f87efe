import copy

import numpy as np
import psutil
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from imgclf.evaluation.inference import predict_logits
from imgclf.models import ImageClassifier, InputShape, NetworkSettings, create_network

CPU = torch.device("cpu")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


def model() -> nn.Module:
    """Batch normalisation with statistics of its own, dropout, in training mode."""
    torch.manual_seed(0)
    network = create_network("digits-cnn", InputShape(3, 12, 10), NetworkSettings(5, 0.5, "batch"))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2.0)
    classifier = ImageClassifier(network, [110.0, 120.0, 130.0], [50.0, 60.0, 70.0])
    return classifier.to(memory_format=torch.channels_last).train()


def images(number: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (number, 12, 10, 3), dtype=np.uint8)


def reference(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The same answers, computed in float64."""
    exact = copy.deepcopy(model()).eval().double()
    assert isinstance(exact, ImageClassifier)
    with torch.no_grad():
        normalised = (
            torch.from_numpy(pixels).permute(0, 3, 1, 2).double() - exact.mean
        ) / exact.std
        return exact.network(normalised).numpy()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
@pytest.mark.parametrize("batch_size", [1, 7, 20, 512])
def test_answers_are_those_of_evaluation_mode_whatever_the_batch_size(
    batch_size: int, device: str
) -> None:
    pixels, where = images(20), torch.device(device)
    logits = predict_logits(model().to(where), pixels, where, batch_size)
    assert logits.shape == (20, 5)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, reference(pixels), rtol=1e-5, atol=1e-5)


def test_weights_and_statistics_stay_as_they_were() -> None:
    classifier = model()
    predict_logits(classifier, images(30), CPU, 8)
    assert not classifier.training
    for name, tensor in model().state_dict().items():
        assert torch.equal(classifier.state_dict()[name], tensor), name
    assert all(weight.grad is None for weight in classifier.parameters())


def test_model_can_be_trained_afterwards() -> None:
    classifier = model()
    predict_logits(classifier, images(4), CPU)
    classifier.train()
    classifier(torch.from_numpy(images(4))).sum().backward()
    assert all(weight.grad is not None for weight in classifier.parameters())


def test_views_of_larger_images_are_read_rightly() -> None:
    """Validation images are the centre of what is stored."""
    stored = np.random.default_rng(1).integers(0, 256, (6, 16, 14, 3), dtype=np.uint8)
    centre = stored[:, 2:14, 2:12]
    assert not centre.flags.c_contiguous
    logits = predict_logits(model(), centre, CPU)
    np.testing.assert_array_equal(logits, predict_logits(model(), centre.copy(), CPU))


def test_memory_does_not_grow_with_the_number_of_images() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(32 * 32 * 3, 10))
    classifier = ImageClassifier(network, [110.0, 120.0, 130.0], [50.0, 60.0, 70.0])
    one = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    predict_logits(classifier, np.broadcast_to(one, (2000, 32, 32, 3)), CPU)
    before = psutil.Process().memory_info().rss
    logits = predict_logits(classifier, np.broadcast_to(one, (40_000, 32, 32, 3)), CPU)
    # As float32, the images would take 491 MB.
    assert psutil.Process().memory_info().rss - before < 100e6
    np.testing.assert_allclose(logits, np.broadcast_to(logits[0], (40_000, 10)), rtol=1e-4)


@pytest.mark.parametrize(
    ("side", "sizes"),
    [(8, [512, 88]), (128, [512, 88]), (256, [128] * 4 + [88]), (512, [32] * 18 + [24])],
)
def test_large_images_are_answered_few_at_a_time(side: int, sizes: list[int]) -> None:
    """Else a network that can be trained on them has no memory to be evaluated in."""
    seen: list[int] = []

    class Noting(nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            seen.append(len(pixels))
            return pixels[:, 0, 0].float()

    pixel = np.array([1, 2, 3], np.uint8)
    logits = predict_logits(Noting(), np.broadcast_to(pixel, (600, side, side, 3)), CPU)
    np.testing.assert_array_equal(logits, np.broadcast_to(pixel, (600, 3)))
    assert seen == sizes
