"""Images that the tests of data share."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from image_folders import noise, write_pixels


@pytest.fixture(scope="session")
def photographs() -> NDArray[np.uint8]:
    """Parts of two photographs, 20 of 37x45 pixels in colour."""
    from sklearn.datasets import load_sample_image

    generator = np.random.default_rng(0)
    parts = []
    for name in ("china.jpg", "flower.jpg"):
        whole = load_sample_image(name)
        for top, left in zip(
            generator.integers(0, 390, 10), generator.integers(0, 595, 10), strict=True
        ):
            parts.append(whole[top : top + 37, left : left + 45])
    return np.stack(parts)


@pytest.fixture(params=[1, 3], ids=["grey", "colour"])
def grey_or_colour(
    request: pytest.FixtureRequest, photographs: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """The photographs, or their green as grey images."""
    return photographs if request.param == 3 else photographs[..., 1:2].copy()


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Two classes of three small colour images."""
    root = tmp_path / "tiny"
    for label in ("cat", "dog"):
        for number in range(3):
            write_pixels(root / label / f"{number}.png", noise(12, 10))
    return root


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Twelve files of colour images of several sizes."""
    for number in range(12):
        write_pixels(tmp_path / "images" / f"{number:02}.png", noise(20 + number, 30))
    return sorted((tmp_path / "images").iterdir())
