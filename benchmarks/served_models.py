"""Model files for benchmarks of prediction and serving: real networks, untrained weights."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from imgclf.card import ModelCard, Preprocessing
from imgclf.data.dataset import from_arrays
from imgclf.evaluation.inference import predict_logits
from imgclf.exporting.golden import choose_golden_inputs
from imgclf.exporting.graph import build_onnx, write_onnx
from imgclf.models import ImageClassifier, InputShape, NetworkSettings, create_network

# Input size -> network and channels.
NETWORKS = {28: ("mnist-cnn", 1), 224: ("resnet20", 3)}


def write_model(size: int, path: Path) -> None:
    """Write an export of an untrained network for images of a size."""
    name, channels = NETWORKS[size]
    torch.manual_seed(0)
    norm_layer = "none" if name == "mnist-cnn" else "batch"
    network = create_network(
        name, InputShape(channels, size, size), NetworkSettings(10, 0.0, norm_layer)
    )
    model = ImageClassifier(network, [127.5] * channels, [64.0] * channels).eval()
    images = photographs(20, size)
    pixels = np.stack(
        [np.asarray(image.convert("L" if channels == 1 else "RGB")) for image in images]
    )
    pixels = pixels.reshape(20, size, size, channels)
    classes = tuple(f"class {number}" for number in range(10))
    card = ModelCard(
        classes, Preprocessing.identity(size, size, channels), (127.5,) * channels,
        (64.0,) * channels, provenance={"dataset": "benchmark", "model": name},
    )  # fmt: skip
    dataset = from_arrays("benchmark", pixels, np.arange(20) % 10, classes)

    def answer(batch: np.ndarray) -> np.ndarray:
        return predict_logits(model, batch, torch.device("cpu"))

    golden = choose_golden_inputs(answer, card, dataset, np.arange(20), 1e-4)
    write_onnx(build_onnx(model, pixels[:2]), card, path, golden)


def photographs(number: int, size: int) -> list[Image.Image]:
    """Cut parts of two photographs, resized to a size."""
    from sklearn.datasets import load_sample_image

    generator = np.random.default_rng(0)
    wholes = [Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
    parts = []
    for index in range(number):
        side = int(generator.integers(200, 400))
        left, top = int(generator.integers(0, 640 - side)), int(generator.integers(0, 427 - side))
        part = wholes[index % 2].crop((left, top, left + side, top + side))
        parts.append(part.resize((size, size), Image.Resampling.BICUBIC))
    return parts
