import numpy as np
import pytest
import torch
from torch import nn

from imgclf.errors import UsageError
from imgclf.models import (
    ImageClassifier,
    InputShape,
    NetworkSettings,
    create_network,
    designed_norm_layer,
    network_names,
)
from imgclf.models.whitening import WhiteningConvolution

# Recorded, so that a change of architecture does not go unnoticed.
PARAMETERS = {
    "digits-cnn": {InputShape(1, 8, 8): 98_026, InputShape(3, 32, 32): 175_402},
    "small-cnn": {
        InputShape(1, 8, 8): 65_834,
        InputShape(3, 32, 32): 1_175_786,
        InputShape(3, 128, 128): 2_356_458,
    },
    # 28 pixels: 64 * 6 * 6 positions before the dense layers.
    "mnist-cnn": {InputShape(1, 28, 28): 320 + 18_496 + (2304 * 128 + 128) + 1290},
    # 28 pixels: 70 * 3 * 3 positions, as published.
    "fashion-cnn": {InputShape(1, 28, 28): 520 + 14_766 + 29_050 + (630 * 512 + 512) + 5130},
    # 32 pixels: 64 * 8 * 8 positions.
    "cifar10-cnn": {InputShape(3, 32, 32): 896 + 18_496 + (4096 * 512 + 512) + 5130},
    # 269,722 as published (0.27M), and two projections with their normalisation.
    "resnet20": {InputShape(3, 32, 32): 269_722 + (16 * 32 + 64) + (32 * 64 + 128)},
    # 28 pixels: 32 * 5 * 5 positions.
    "fast-cnn": {InputShape(1, 28, 28): 624 + 6_944 + (800 * 256 + 256) + 2570},
    "speed-cnn-16": {InputShape(1, 28, 28): 124_530},
    "speed-cnn-32": {InputShape(1, 28, 28): 493_234},
    # 1.97 million as published.
    "speed-cnn-64": {InputShape(3, 32, 32): 1_972_802},
    "speed-resnet": {InputShape(3, 32, 32): 12_721_218},
}


pytestmark = pytest.mark.usefixtures("one_thread")


def build(
    name: str,
    shape: InputShape,
    num_classes: int = 10,
    dropout: float = 0.1,
    norm_layer: str | None = None,
) -> nn.Module:
    norm_layer = norm_layer or designed_norm_layer(name)
    return create_network(name, shape, NetworkSettings(num_classes, dropout, norm_layer))


def smallest_size(name: str) -> int:
    for size in range(1, 65):
        try:
            build(name, InputShape(3, size, size), 2)
        except UsageError:
            continue
        return size
    raise AssertionError(f"{name} reads nothing of at most 64 pixels")


def classifier(
    name: str, shape: InputShape, num_classes: int = 10, norm_layer: str | None = None
) -> ImageClassifier:
    torch.manual_seed(0)
    network = build(name, shape, num_classes, norm_layer=norm_layer)
    return ImageClassifier(network, [100.0] * shape.channels, [50.0] * shape.channels)


@pytest.mark.parametrize("num_classes", [2, 100])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", ["smallest", (8, 8), (28, 28), (32, 48), (97, 97), (128, 128)])
@pytest.mark.parametrize("name", network_names())
def test_every_network_learns_from_every_kind_of_image(
    name: str, size: tuple[int, int] | str, channels: int, num_classes: int
) -> None:
    smallest = smallest_size(name)
    height, width = size if isinstance(size, tuple) else (smallest, smallest)
    height, width = max(height, smallest), max(width, smallest)
    model = classifier(name, InputShape(channels, height, width), num_classes)
    images = torch.randint(0, 256, (2, height, width, channels), dtype=torch.uint8)
    logits = model(images)
    assert logits.shape == (2, num_classes)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()
    with torch.no_grad():  # residual blocks begin as their shortcuts, and would pass nothing on
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=1e-3)
    nn.functional.cross_entropy(model(images), torch.tensor([0, 1])).backward()
    for parameter_name, parameter in model.named_parameters():
        if not parameter.requires_grad:  # a whitening convolution's
            continue
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.any(), parameter_name


@pytest.mark.parametrize("name", network_names())
def test_every_network_answers_any_number_of_images_alike(name: str) -> None:
    model = classifier(name, InputShape(3, 32, 32)).eval()
    images = torch.randint(0, 256, (5, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        together = model(images)
        alone = torch.cat([model(image[None]) for image in images])
    assert together.std(0).min() > 0  # it looks at the image
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", network_names())
def test_images_that_are_too_small_are_an_error_that_says_what_fits(name: str) -> None:
    size = smallest_size(name)
    for height, width in ((size - 1, size), (size, size - 1)):
        with pytest.raises(UsageError, match=f"{size}x{size} pixels or more, not {height}x{width}"):
            build(name, InputShape(1, height, width), 2)


def test_numbers_of_parameters_are_the_recorded_ones() -> None:
    counted = {
        name: {
            shape: sum(weight.numel() for weight in classifier(name, shape).parameters())
            for shape in PARAMETERS.get(name, {InputShape(3, 32, 32): 0})
        }
        for name in network_names()
    }
    assert counted == PARAMETERS


@pytest.mark.parametrize("norm_layer", ["batch", "none"])
@pytest.mark.parametrize("name", network_names())
def test_every_network_can_be_had_with_and_without_batch_normalisation(
    name: str, norm_layer: str
) -> None:
    shape = InputShape(3, 32, 32)
    model = classifier(name, shape, norm_layer=norm_layer)
    convolutions = [
        part
        for part in model.modules()
        if isinstance(part, nn.Conv2d) and not isinstance(part, WhiteningConvolution)
    ]
    norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
    assert len(norms) == (len(convolutions) if norm_layer == "batch" else 0)
    # A bias in front of the normalisation would have no effect.
    assert all((part.bias is None) == bool(norms) for part in convolutions)
    if norm_layer == designed_norm_layer(name):
        assert set(model.state_dict()) == set(classifier(name, shape).state_dict())
    images = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    spread = model(images).std().item()
    assert 1e-3 < spread < 10  # the signal neither dies nor explodes on its way


@pytest.mark.parametrize(
    ("size", "positions"), [(9, 1), (28, 3), (32, 3), (64, 7), (96, 6), (128, 8), (224, 7)]
)
def test_speed_networks_see_large_images_at_a_bounded_resolution(size: int, positions: int) -> None:
    network = build("speed-cnn-16", InputShape(3, size, size))
    seen: list[torch.Size] = []
    pool = next(part for part in network.modules() if isinstance(part, nn.AdaptiveMaxPool2d))
    pool.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape))
    network(torch.zeros(2, 3, size, size))
    assert seen == [torch.Size([2, 64, positions, positions])]


@pytest.mark.parametrize(("size", "positions"), [(32, 8), (64, 16), (96, 12), (224, 14)])
def test_resnet_sees_large_images_at_a_bounded_resolution(size: int, positions: int) -> None:
    network = build("resnet20", InputShape(3, size, size))
    seen: list[torch.Size] = []
    pool = next(part for part in network.modules() if isinstance(part, nn.AdaptiveAvgPool2d))
    pool.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape))
    network(torch.zeros(2, 3, size, size))
    assert seen == [torch.Size([2, 64, positions, positions])]


@pytest.mark.parametrize("name", network_names())
def test_fresh_weights_are_drawn_from_the_seed(name: str) -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        network = build(name, InputShape(1, 12, 12))
        return torch.cat([weight.detach().flatten() for weight in network.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize("name", network_names())
def test_dropout_is_the_one_asked_for_and_acts_in_training_only(name: str) -> None:
    shape = InputShape(1, 12, 12)
    network = build(name, shape, dropout=0.37)
    rates = [module.p for module in network.modules() if isinstance(module, nn.Dropout)]
    assert set(rates) == {0.37}
    pixels = torch.randn(4, *shape)
    network.eval()
    assert torch.equal(network(pixels), network(pixels))
    network.train()
    assert not torch.equal(network(pixels), network(pixels))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_normalisation_is_pixel_minus_mean_over_deviation(dtype: torch.dtype) -> None:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (4, 5, 7, 3))
    mean, std = [123.675, 0.5, 200.25], [58.395, 1.0, 77.125]
    model = ImageClassifier(nn.Identity(), mean, std)
    normalised = model(torch.from_numpy(pixels).to(dtype))
    by_hand = (pixels.astype(np.float64) - mean) / std
    assert normalised.dtype == torch.float32
    np.testing.assert_allclose(
        normalised.numpy(), by_hand.transpose(0, 3, 1, 2), rtol=1e-6, atol=1e-6
    )


def test_normalisation_is_saved_with_the_model() -> None:
    model = ImageClassifier(nn.Identity(), [1.0, 2.0, 3.0], [4.0, 5.0, 6.0])
    assert {name: tensor.flatten().tolist() for name, tensor in model.state_dict().items()} == {
        "mean": [1.0, 2.0, 3.0],
        "std": [4.0, 5.0, 6.0],
    }
    assert not list(model.parameters())  # and never trained


class Layout(nn.Module):
    """Notes the strides of what it is given."""

    strides: tuple[int, ...] = ()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        self.strides = pixels.stride()
        return pixels


def test_pixels_reach_the_network_channels_last() -> None:
    layout = Layout()
    ImageClassifier(layout, [0.0] * 3, [1.0] * 3)(torch.zeros(2, 5, 7, 3, dtype=torch.uint8))
    assert layout.strides == (105, 1, 21, 3)
