"""A name or a folder -> labelled uint8 images."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgclf.card import Preprocessing
from imgclf.config import TrainConfig
from imgclf.data.dataset import ImageDataset, content_digest
from imgclf.data.folder import load_folder
from imgclf.errors import UsageError
from imgclf.recipes import DATASETS, nearest

Source = Callable[[], ImageDataset]
_SOURCES: dict[str, Source] = {}


def register(source: Source) -> Source:
    """Make a data set known by its function's name."""
    _SOURCES[source.__name__.replace("_", "-")] = source
    return source


def source_names() -> tuple[str, ...]:
    """Return the names of the registered data sets."""
    return tuple(_SOURCES)


def load_dataset(config: TrainConfig) -> ImageDataset:
    """Load ``config.dataset``: a registered name, or else a folder.

    Raises:
        UsageError: neither a known name nor a folder.
        ImgclfError: the folder holds nothing to train on, or too many unreadable images.
    """
    name = config.dataset
    if name in _SOURCES:
        if config.image_size:
            raise UsageError(
                f"--image-size is for folders; '{name}' has a size of its own.",
                "Leave the option out.",
            )
        return _SOURCES[name]()
    if Path(name).expanduser().is_dir():
        return load_folder(Path(name).expanduser(), config.image_size, config.max_bad_images)
    raise UsageError(
        f"There is no data set and no folder named '{name}' (looked in {os.getcwd()})."
        f"{nearest(name, DATASETS)}",
        f"Give a folder with one sub-folder of images per class, or one of: {', '.join(DATASETS)}.",
    )


@register
def digits() -> ImageDataset:
    """scikit-learn's 1,797 handwritten digits, 8x8, bright on black.

    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.
    """
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()  # scikit-learn types it as a tuple as well
    # The original pixels are counts from 0 to 16.
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    return _from_arrays("digits", images, bunch.target, tuple("0123456789"), "scikit-learn")


def _from_arrays(
    name: str,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    classes: tuple[str, ...],
    source: str,
) -> ImageDataset:
    names = tuple(str(position) for position in range(len(images)))
    labels = labels.astype(np.int64)
    digests = [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
    return ImageDataset(
        name=name,
        images=images,
        labels=labels,
        classes=classes,
        names=names,
        files=(),
        preprocessing=Preprocessing.identity(*images.shape[1:]),
        digest=content_digest(classes, names, labels, digests),
        source=source,
    )
