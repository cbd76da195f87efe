"""Image files made for tests: of every kind that Pillow writes, and some that it cannot write."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imgclf.card import Preprocessing

Pixels = NDArray[np.uint8]
HEIGHT, WIDTH = 24, 40
COLOUR = Preprocessing.identity(HEIGHT, WIDTH, 3)
GREY = Preprocessing.identity(HEIGHT, WIDTH, 1)


def textured_photo() -> Pixels:
    """Smooth areas, an edge and fine texture, different in every channel and corner."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    planes = [x * 6.0, y * 9.0 + 20 * np.sin(x / 3), 255 - x * y / 4.0]
    noise = np.random.default_rng(0).normal(0, 6, (HEIGHT, WIDTH, 3))
    pixels = np.stack(planes, axis=-1) + noise
    pixels[:8, :12] = (250, 30, 10)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def encode(image: Image.Image | Pixels, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(
    width: int, height: int, bits: int, colour: int, rows: bytes = b"", extra: bytes = b""
) -> bytes:
    """A PNG file written by hand: kinds that Pillow cannot write, and lies about the size."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + extra
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
