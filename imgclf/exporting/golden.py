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
from imgclf.preprocess import from_array, to_array

Answer = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

_MOST_BYTES = 256 * 1024
# Of each class, the image that is smallest as a file, among so many.
_CANDIDATES = 4
# EXIF: the file's rows are the image's columns, from right to left.
_ORIENTATION, _ROTATED = 0x0112, 6


def choose_golden_inputs(
    answer: Answer,
    card: ModelCard,
    images: ImageDataset,
    positions: NDArray[np.int64],
    scaled_tolerance: float,
) -> GoldenInputs:
    """Take one image of each class while they fit into 256 KiB, and one as an odd-sized JPEG.

    Of the first images of a class, it is the smallest file that the model is sure enough of.

    Args:
        answer: uint8 [n, height, width, channels] -> the logits to expect, float32 [n, classes].
        card: of the file that is to carry them.
        images: the data set.
        positions: int64 [n], of the images to choose from: the test split.
        scaled_tolerance: what a difference may come to where they are replayed.
    """
    room = _MOST_BYTES
    chosen = [_golden_input(_odd_jpeg(images.images[positions[0]]), answer, card)]
    labels = images.labels[positions]
    for label in np.unique(labels):
        candidates = positions[labels == label][:_CANDIDATES]
        # The whole stored images: their centres are the network's inputs, as of every other image.
        files = sorted((_png(images.images[position]) for position in candidates), key=len)
        found = [_golden_input(file, answer, card) for file in files]
        scale = max(np.abs(one.logits).max() for one in (*chosen, *found))
        # Nearly undecided, it could be answered otherwise on another processor.
        sure = [one for one in found if _margin(one) > 2 * scaled_tolerance * scale]
        size = _size(sure[0]) if sure else 0
        if size > room:
            break
        room -= size
        chosen[-1:-1] = sure[:1]
    return GoldenInputs(tuple(chosen), scaled_tolerance)


def _golden_input(file: bytes, answer: Answer, card: ModelCard) -> GoldenInput:
    pixels = to_array(file, card.preprocessing)
    (logits,) = answer(np.stack([pixels]))
    label = card.classes[logits.argmax()]
    digest = hashlib.sha256(pixels.tobytes()).hexdigest()
    return GoldenInput(file, digest, label, tuple(map(float, logits)))


def _margin(one: GoldenInput) -> float:
    second, first = np.sort(one.logits)[-2:]
    return float(first - second)


def _size(one: GoldenInput) -> int:
    """Return about how many bytes of JSON it takes."""
    return len(one.image) * 4 // 3 + 20 * len(one.logits)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    from_array(pixels).save(file, "PNG")
    return file.getvalue()


def _odd_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """Return a JPEG file that must be decoded, turned upright, resized and cut to be an input."""
    image = from_array(pixels)
    size = (image.width * 5 // 4 | 1, image.height * 3 // 2 | 1)
    exif = Image.Exif()
    exif[_ORIENTATION] = _ROTATED
    file = io.BytesIO()
    turned = image.resize(size, Image.Resampling.BICUBIC).transpose(Image.Transpose.ROTATE_90)
    turned.save(file, "JPEG", quality=90, exif=exif)
    return file.getvalue()
