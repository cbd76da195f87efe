"""Large images of 16 bits or with transparency: the same pixels as in one go, in little memory."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from imgclf.preprocess import open_image

MIB = 2**20
# More than is converted at once: in both directions, in one row, in one column.
SIZES = [(700, 900), (300_001, 1), (1, 300_001), (200_000, 3)]


def noise(width: int, height: int, *shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, *shape), np.uint8)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_16_bits_are_rounded_to_8_alike_in_every_part(mode: str, size: tuple[int, int]):
    generator = np.random.default_rng(0)
    shape = size[::-1]
    if mode == "I":
        values = generator.integers(-70_000, 140_000, shape).astype(np.int32)
        values.flat[:4] = (-(2**31), 2**31 - 1, 65_536, -1)
        image = Image.fromarray(values)
    else:
        order = ">" if mode == "I;16B" else "<"
        values = generator.integers(0, 65_536, shape).astype(f"{order}u2")
        image = Image.frombytes(mode, size, values.tobytes())
    exact = np.clip(values.astype(np.float64), 0, 65_535) * 255 / 65_535
    np.testing.assert_array_equal(np.asarray(open_image(image)), np.rint(exact))


def transparent(kind: str, size: tuple[int, int]) -> Image.Image:
    """An image of each kind that Pillow holds transparency in."""
    if kind in ("RGBA", "LA"):
        return Image.fromarray(noise(*size, 4)).convert(kind)
    image = Image.fromarray(noise(*size))
    if kind in ("L", "RGB", "1"):
        image = image.convert(kind)
        image.info["transparency"] = (7, 7, 7) if kind == "RGB" else 0
        return image
    image.putpalette(bytes(noise(256, 3)))
    if kind == "PA":
        return image.convert("PA")
    image.info["transparency"] = 7 if kind == "P, one colour" else bytes(range(256))
    return image


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["RGBA", "LA", "PA", "P, one colour", "P, many", "L", "RGB", "1"])
def test_transparency_lies_over_white_alike_in_every_part(kind: str, size: tuple[int, int]):
    image = transparent(kind, size)
    assert image.has_transparency_data
    white = Image.new("RGBA", size, "white")
    expected = Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    np.testing.assert_array_equal(np.asarray(open_image(image)), np.asarray(expected))


# In a process of its own: what others have freed there would be used again, and be no growth.
MEASURE = """
import sys
from pathlib import Path
from imgclf.preprocess import open_image

def reading(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))

small, large = sys.argv[1:]
open_image(small)  # imports
# Linux forgets the highest reading so far.
Path("/proc/self/clear_refs").write_text("5")
before = reading("VmRSS")
image = open_image(large)
print(reading("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="tells not how large a process has been")
@pytest.mark.parametrize(("mode", "bytes_per_pixel"), [("I;16", 2 + 1), ("RGBA", 4 + 4)])
def test_a_large_file_takes_no_more_memory_than_its_pixels_and_the_result(
    mode: str, bytes_per_pixel: int, tmp_path: Path
):
    width = height = 4096
    rows = Image.fromarray(noise(width, 64, 4))
    image = Image.new(mode, (width, height))
    for top in range(0, height, 64):
        image.paste(rows if mode == "RGBA" else rows.convert("L").convert(mode), (0, top))
    small, large = tmp_path / "small.tiff", tmp_path / "large.tiff"
    rows.convert(mode).save(small)
    image.save(large)
    command = [sys.executable, "-c", MEASURE, str(small), str(large)]
    grown = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    needed = width * height * bytes_per_pixel / MIB
    assert needed / 2 < grown < needed + 24
