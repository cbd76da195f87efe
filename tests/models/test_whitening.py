from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn.functional import conv2d

from imgclf.config import TrainConfig
from imgclf.data.dataset import from_arrays
from imgclf.data.splits import split_dataset
from imgclf.models.whitening import WhiteningConvolution
from imgclf.pipeline.train import create_model

pytestmark = pytest.mark.usefixtures("one_thread")


def digits(count: int = 500) -> torch.Tensor:
    bunch: Any = load_digits()
    images = torch.from_numpy(bunch.images[:count]).float()[:, None]
    return (images - images.mean()) / images.std()


@pytest.mark.parametrize("kernel_size", [2, 3])
def test_outputs_are_uncorrelated_and_of_one_size(kernel_size: int) -> None:
    images = digits()
    layer = WhiteningConvolution(1, kernel_size)
    layer.fit(images)
    outputs = conv2d(images, layer.weight).permute(1, 0, 2, 3).flatten(1).double().numpy()
    half = len(outputs) // 2
    covariance = np.cov(outputs[:half])
    np.testing.assert_allclose(covariance, np.eye(half), atol=0.03)
    np.testing.assert_allclose(outputs[half:], -outputs[:half], atol=1e-5)


def test_components_that_do_not_vary_are_not_blown_up() -> None:
    images = torch.zeros(10, 3, 8, 8)
    images[:, 0] = torch.randn(10, 8, 8, generator=torch.Generator().manual_seed(0))
    layer = WhiteningConvolution(3, 2)
    layer.fit(images)
    assert layer.weight.isfinite().all()
    assert layer.weight.flatten(1).norm(dim=1).max() < 5e-4**-0.5 + 0.1


def test_training_begins_with_filters_that_whiten_the_training_images() -> None:
    bunch: Any = load_digits()
    images = np.kron(bunch.images * 15, np.ones((2, 2))).astype(np.uint8)[..., None]
    dataset = from_arrays("large digits", images, bunch.target, tuple("0123456789"))
    split = split_dataset(dataset, 0.1, 0.2, seed=0)
    config = TrainConfig(model="speed-cnn-16", norm_layer="batch")
    model = create_model(config, dataset, split)
    first = next(part for part in model.modules() if isinstance(part, WhiteningConvolution))
    pixels = torch.from_numpy(images[split.train]).permute(0, 3, 1, 2).float()
    outputs = conv2d((pixels - model.mean) / model.std, first.weight)
    covariance = np.cov(outputs.permute(1, 0, 2, 3).flatten(1).double().numpy()[:4])
    np.testing.assert_allclose(covariance, np.eye(4), atol=0.05)


def test_only_the_bias_is_learned() -> None:
    layer = WhiteningConvolution(3, 2)
    assert [name for name, weight in layer.named_parameters() if weight.requires_grad] == ["bias"]
