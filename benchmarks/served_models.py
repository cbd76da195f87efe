"""Model files and image files for benchmarks of prediction and serving.

Real networks with untrained weights, which cost as much to run as trained ones, and JPEG files of
parts of two photographs that come with scikit-learn.
"""

from dataclasses import dataclass
from io import BytesIO
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
from imgclf.models.registry import designed_norm_layer

NUM_CLASSES = 10


@dataclass(frozen=True)
class Served:
    """A network and the files that it is asked about.

    Attributes:
        network: its name.
        size: height and width of its input in pixels.
        channels: of its input.
        file_size: width and height of the image files in pixels.
    """

    network: str
    size: int
    channels: int
    file_size: tuple[int, int]

    def __str__(self) -> str:
        width, height = self.file_size
        return f"{self.network} at {self.size}x{self.size}, JPEG of {width}x{height}"


# A small image, where the protocol costs most; a photograph, with a light and a heavier network.
SERVED = (
    Served("mnist-cnn", 28, 1, (28, 28)),
    Served("resnet20", 224, 3, (500, 375)),
    Served("small-cnn", 224, 3, (500, 375)),
)


def write_model(served: Served, path: Path) -> ModelCard:
    """Write an export of an untrained network, and return its card."""
    size, channels = served.size, served.channels
    torch.manual_seed(0)
    settings = NetworkSettings(NUM_CLASSES, 0.0, designed_norm_layer(served.network))
    network = create_network(served.network, InputShape(channels, size, size), settings)
    model = ImageClassifier(network, [127.5] * channels, [64.0] * channels).eval()
    pixels = inputs(2 * NUM_CLASSES, served)
    classes = tuple(f"class {number}" for number in range(NUM_CLASSES))
    card = ModelCard(
        classes, Preprocessing.identity(size, size, channels), (127.5,) * channels,
        (64.0,) * channels, provenance={"dataset": "benchmark", "model": served.network},
    )  # fmt: skip
    positions = np.arange(len(pixels))
    dataset = from_arrays("benchmark", pixels, positions % NUM_CLASSES, classes)

    def answer(batch: np.ndarray) -> np.ndarray:
        return predict_logits(model, batch, torch.device("cpu"))

    golden = choose_golden_inputs(answer, card, dataset, positions, answer(pixels), 1e-4)
    write_onnx(build_onnx(model, pixels[:2]), card, path, golden)
    return card


def inputs(number: int, served: Served) -> np.ndarray:
    """Return images as the network reads them, uint8 [number, size, size, channels]."""
    images = _photographs(number, (served.size, served.size), served.channels)
    shape = (number, served.size, served.size, served.channels)
    return np.stack([np.asarray(image) for image in images]).reshape(shape)


def write_jpegs(number: int, served: Served, folder: Path) -> list[Path]:
    """Write image files of the kind that the network is asked about."""
    paths = []
    for position, image in enumerate(_photographs(number, served.file_size, served.channels)):
        file = BytesIO()
        image.save(file, "JPEG", quality=90)
        paths.append(folder / f"{position:03}.jpg")
        paths[-1].write_bytes(file.getvalue())
    return paths


def _photographs(number: int, size: tuple[int, int], channels: int) -> list[Image.Image]:
    """Cut parts out of two photographs of 640x427; never enlarged, so their detail is real."""
    from sklearn.datasets import load_sample_image

    generator = np.random.default_rng(0)
    wholes = [Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
    largest = min(wholes[0].width / size[0], wholes[0].height / size[1])
    images = []
    for position in range(number):
        whole, scale = wholes[position % 2], generator.uniform(max(1, largest / 2), largest)
        width, height = scale * size[0], scale * size[1]
        left = generator.uniform(0, whole.width - width)
        top = generator.uniform(0, whole.height - height)
        box = (left, top, left + width, top + height)
        part = whole.resize(size, Image.Resampling.BICUBIC, box)
        images.append(part.convert("L" if channels == 1 else "RGB"))
    return images
