"""Chooses the golden inputs of an export: real test images, with the trained model's answers."""

import hashlib
import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imgclf.card import ModelCard
from imgclf.data.dataset import ImageDataset
from imgclf.golden import GoldenInput, GoldenInputs
from imgclf.preprocess import to_array

_MOST_BYTES = 256 * 1024
# Of each class, the image that is smallest as a file, among so many.
_CANDIDATES = 8
# EXIF: the file's rows are the image's columns, from right to left.
_ORIENTATION, _ROTATED = 0x0112, 6


def choose_golden_inputs(
    answer: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    card: ModelCard,
    images: ImageDataset,
    positions: NDArray[np.int64],
    scaled_tolerance: float,
) -> GoldenInputs:
    """Take one image of each class while they fit into 256 KiB, and one as an odd-sized JPEG.

    Args:
        answer: uint8 [n, height, width, channels] -> the logits to expect, float32 [n, classes].
        card: of the file that is to carry them.
        images: the data set.
        positions: int64 [n], of the images to choose from: the test split.
        scaled_tolerance: what a difference may come to where they are replayed.
    """
    files = _one_of_each_class(images, positions)
    files.append(_odd_jpeg(images.images[positions[0]]))
    arrays = [to_array(file, card.preprocessing) for file in files]
    logits = answer(np.stack(arrays))
    inputs = [
        GoldenInput(
            file,
            hashlib.sha256(array.tobytes()).hexdigest(),
            card.classes[answer.argmax()],
            tuple(map(float, answer)),
        )
        for file, array, answer in zip(files, arrays, logits, strict=True)
    ]
    return GoldenInputs(tuple(inputs), scaled_tolerance)


def _one_of_each_class(images: ImageDataset, positions: NDArray[np.int64]) -> list[bytes]:
    files: list[bytes] = []
    labels = images.labels[positions]
    for label in np.unique(labels):
        candidates = positions[labels == label][:_CANDIDATES]
        # The whole stored image: its centre is the network's input, as for every other image.
        file = min((_png(images.images[position]) for position in candidates), key=len)
        if not files or sum(map(len, files)) + len(file) <= _MOST_BYTES:
            files.append(file)
    return files


def _png(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    _image(pixels).save(file, "PNG", optimize=True)
    return file.getvalue()


def _odd_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """Return a JPEG file that must be decoded, turned upright, resized and cut to be an input."""
    image = _image(pixels)
    size = (image.width * 5 // 4 | 1, image.height * 3 // 2 | 1)
    exif = Image.Exif()
    exif[_ORIENTATION] = _ROTATED
    file = io.BytesIO()
    turned = image.resize(size, Image.Resampling.BICUBIC).transpose(Image.Transpose.ROTATE_90)
    turned.save(file, "JPEG", quality=90, exif=exif)
    return file.getvalue()


def _image(pixels: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
