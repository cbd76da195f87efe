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
_JPEG_CANDIDATES = 16
# EXIF: the file's rows are the image's columns, from right to left.
_ORIENTATION, _ROTATED = 0x0112, 6


def choose_golden_inputs(
    answer: Answer,
    card: ModelCard,
    images: ImageDataset,
    positions: NDArray[np.int64],
    logits: NDArray[np.float32],
    scaled_tolerance: float,
) -> GoldenInputs:
    """Take one image of each class while they fit into 256 KiB, and one as an odd-sized JPEG.

    Of the images of a class that the model is sure enough of, it is the smallest file among the
    first. A class without such an image has none.

    Args:
        answer: uint8 [n, height, width, channels] -> the logits to expect, float32 [n, classes].
        card: of the file that is to carry them.
        images: the data set.
        positions: int64 [n], of the images to choose from: the test split.
        logits: float32 [n, classes], what `answer` says to these.
        scaled_tolerance: what a difference may come to where they are replayed.

    Returns:
        the images of classes, in the order of the classes, and the JPEG.
    """
    # At least the largest logit of those that will be chosen, by which differences are scaled.
    scale = float(np.abs(logits).max())
    jpeg = _choose_jpeg(answer, card, images, positions, 2 * scaled_tolerance, scale)
    scale = max(scale, _largest(jpeg))
    # Nearly undecided, it could be answered otherwise on another processor.
    sure = _margins(logits) > 2 * scaled_tolerance * scale
    room = _MOST_BYTES
    chosen = []
    labels = images.labels[positions]
    for label in np.unique(labels[sure]):
        candidates = positions[sure & (labels == label)][:_CANDIDATES]
        # The whole stored images: their centres are the network's inputs, as of every other image.
        file = min((_png(images.images[position]) for position in candidates), key=len)
        one = _golden_input(file, answer, card)
        if _size(one) > room:
            break
        room -= _size(one)
        chosen.append(one)
    return GoldenInputs((*chosen, jpeg), scaled_tolerance)


def _choose_jpeg(
    answer: Answer,
    card: ModelCard,
    images: ImageDataset,
    positions: NDArray[np.int64],
    least_scaled_margin: float,
    scale: float,
) -> GoldenInput:
    """Take the first image that the model is sure enough of as a JPEG, else the surest.

    The images come from all parts of the split, which may hold one class after the other. Without a
    JPEG, nothing would tell whether another machine decodes and resizes as this one.
    """
    spread = np.linspace(0, len(positions) - 1, min(_JPEG_CANDIDATES, len(positions))).astype(int)
    surest, largest_margin = None, -1.0
    for position in positions[spread]:
        one = _golden_input(_odd_jpeg(images.images[position]), answer, card)
        margin = float(_margins(np.array([one.logits]))[0]) / max(scale, _largest(one))
        if margin > least_scaled_margin:
            return one
        if margin > largest_margin:
            surest, largest_margin = one, margin
    assert surest is not None
    return surest


def _golden_input(file: bytes, answer: Answer, card: ModelCard) -> GoldenInput:
    pixels = to_array(file, card.preprocessing)
    (logits,) = answer(np.stack([pixels]))
    label = card.classes[logits.argmax()]
    digest = hashlib.sha256(pixels.tobytes()).hexdigest()
    return GoldenInput(file, digest, label, tuple(map(float, logits)))


def _margins(logits: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return how far the largest logit of each row lies above the second, [n]."""
    two = np.partition(logits, -2, axis=1)[:, -2:]
    return two[:, 1] - two[:, 0]


def _largest(one: GoldenInput) -> float:
    return max(map(abs, one.logits))


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
