"""A name or a folder -> labelled uint8 images."""

import os
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path

import numpy as np

from imgclf.card import Preprocessing
from imgclf.config import TrainConfig
from imgclf.data.cache import Progress
from imgclf.data.csv_file import list_csv
from imgclf.data.dataset import ImageDataset, from_arrays
from imgclf.data.files import load_listing
from imgclf.data.folder import list_folder
from imgclf.data.published import (
    load_cifar10,
    load_cifar100,
    load_fashion_mnist,
    load_mnist,
)
from imgclf.errors import UsageError
from imgclf.recipes import DATASETS, nearest

Source = Callable[[Path], ImageDataset]
_SOURCES: dict[str, Source] = {}


def _silent(done: int, total: int) -> None:
    pass


def register(source: Source) -> Source:
    """Make a data set known by its function's name.

    The function takes the folder for downloaded files (``--data-dir``).
    """
    name = source.__name__
    assert name not in _SOURCES, f"there is a data set '{name}' already"
    _SOURCES[name] = source
    return source


def source_names() -> tuple[str, ...]:
    """Return the names of the registered data sets."""
    return tuple(_SOURCES)


def load_dataset(
    config: TrainConfig, progress: Progress = _silent, preprocessing: Preprocessing | None = None
) -> ImageDataset:
    """Load ``config.dataset``: a registered name, or else a folder or a CSV file.

    Args:
        config: says what to load, and how.
        progress: is told the number of decoded files and of all files, while files are decoded.
        preprocessing: how image files are read, for a model that is given; None: as
            ``config.image_size`` says. Registered data sets keep their own size.

    Raises:
        UsageError: neither a known name nor a folder nor a CSV file.
        ImgclfError: there is nothing to train on, or too many images are unreadable.
    """
    # Unlike those of `Path`, these functions take any text: unknown users, names that are too long.
    name, path = config.dataset.replace("-", "_"), Path(os.path.expanduser(config.dataset))
    if name in _SOURCES:
        if config.image_size:
            raise UsageError(
                f"--image-size is for folders; '{name}' has a size of its own.",
                "Leave the option out.",
            )
        return _SOURCES[name](data_folder(config.data_dir))
    is_folder = os.path.isdir(path)
    if not is_folder and not (os.path.isfile(path) and path.suffix.lower() == ".csv"):
        raise UsageError(
            f"There is no data set, folder or CSV file named '{config.dataset}' (looked in"
            f" {os.getcwd()}).{nearest(name, DATASETS)}",
            "Give a folder with one sub-folder of images per class, a CSV file with the columns"
            f" path and label, or one of: {', '.join(DATASETS)}.",
        )
    listing = list_folder(path) if is_folder else list_csv(path)
    cache = decoded_folder(config.data_dir)
    wanted = preprocessing or config.image_size
    return load_listing(listing, wanted, config.max_bad_images, cache, progress)


def data_folder(data_dir: str) -> Path:
    """Return where downloaded data sets are kept.

    ``data_dir`` where it is given, else IMGCLF_DATA_DIR, else a folder in the user's cache.
    """
    given = data_dir or os.environ.get("IMGCLF_DATA_DIR", "")
    if given:
        return Path(os.path.expanduser(given))
    cache = os.environ.get("XDG_CACHE_HOME", "") or Path.home() / ".cache"
    return Path(cache) / "imgclf" / "datasets"


def decoded_folder(data_dir: str) -> Path:
    """Return where the decoded images of folders and CSV files are kept."""
    return data_folder(data_dir) / "decoded"


@register
def digits(_: Path) -> ImageDataset:
    """scikit-learn's 1,797 handwritten digits, 8x8, bright on black.

    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.
    """
    # The file behind `sklearn.datasets.load_digits`: to import that takes seconds.
    path = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    table = np.loadtxt(str(path), np.int64, delimiter=",")
    # The original pixels are counts from 0 to 16; the last column is the label.
    images = np.round(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    return from_arrays("digits", images, table[:, -1], tuple("0123456789"), source="scikit-learn")


@register
def mnist(data_dir: Path) -> ImageDataset:
    """MNIST, with its published test split."""
    return from_arrays("mnist", *load_mnist(data_dir), source=str(data_dir))


@register
def fashion_mnist(data_dir: Path) -> ImageDataset:
    """Fashion-MNIST, with its published test split."""
    return from_arrays("fashion_mnist", *load_fashion_mnist(data_dir), source=str(data_dir))


@register
def cifar10(data_dir: Path) -> ImageDataset:
    """CIFAR-10, with its published test split."""
    return from_arrays("cifar10", *load_cifar10(data_dir), source=str(data_dir))


@register
def cifar100(data_dir: Path) -> ImageDataset:
    """CIFAR-100, with its published test split."""
    return from_arrays("cifar100", *load_cifar100(data_dir), source=str(data_dir))
