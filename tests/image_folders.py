"""Folders of images made for tests, and the data sets they are."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imgclf.card import Preprocessing
from imgclf.config import TrainConfig
from imgclf.data.cache import Stored, load_decoded
from imgclf.data.dataset import ImageDataset
from imgclf.data.sources import load_dataset

GENERATOR = np.random.default_rng(0)


def noise(height: int, width: int, channels: int = 3) -> NDArray[np.uint8]:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return GENERATOR.integers(0, 256, shape, dtype=np.uint8)


def write_pixels(path: Path, pixels: NDArray[np.uint8], **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def load_files(
    files: list[Path], cache: Path, wanted: int | Preprocessing = 16
) -> tuple[Stored, int]:
    """Return what the cache gives, and how many files were decoded for it."""
    told = [0]
    stored = load_decoded(files, wanted, cache, "images", lambda done, total: told.append(done))
    return stored, max(told)


def load(root: Path, image_size: int = 0, max_bad_images: float = 0.01) -> ImageDataset:
    config = TrainConfig(dataset=str(root), image_size=image_size, max_bad_images=max_bad_images)
    return load_dataset(config)
