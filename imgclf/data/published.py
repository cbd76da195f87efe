"""MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100 from the files that torchvision downloads.

The files are read here, without torchvision: importing it costs seconds, and it unpickles CIFAR's
files, which could run code. It is imported for a download alone, which it checks by checksum.
"""

import gzip
import hashlib
import io
import math
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgclf.errors import ImgclfError

FASHION_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
# How many images and labels the files of MNIST and of Fashion-MNIST hold.
_IDX_SHAPES = {
    "train-images-idx3-ubyte": (60_000, 28, 28),
    "train-labels-idx1-ubyte": (60_000,),
    "t10k-images-idx3-ubyte": (10_000, 28, 28),
    "t10k-labels-idx1-ubyte": (10_000,),
}
# MD5 sums that the data sets' publishers give.
_CIFAR10_FILES = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
    "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
}
_CIFAR100_FILES = {
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    "meta": "7973b15100ade9c7d40fb424638fde48",
}

# Images uint8 [n, height, width, channels], labels int64 [n], classes, and how many of the images,
# from the end, are the published test split.
Published = tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...], int]


def load_mnist(data_dir: Path) -> Published:
    """Read MNIST: 60,000 + 10,000 handwritten digits, 28x28 grey (LeCun et al., 1998)."""
    return _load_idx(data_dir, "MNIST", tuple("0123456789"))


def load_fashion_mnist(data_dir: Path) -> Published:
    """Read Fashion-MNIST: 60,000 + 10,000 clothes, 28x28 grey (Xiao et al., arXiv:1708.07747)."""
    return _load_idx(data_dir, "FashionMNIST", FASHION_CLASSES)


def load_cifar10(data_dir: Path) -> Published:
    """Read CIFAR-10: 50,000 + 10,000 photographs, 32x32 colour (Krizhevsky, 2009)."""
    return _load_cifar(data_dir, "CIFAR10", "cifar-10-batches-py", _CIFAR10_FILES, b"labels")


def load_cifar100(data_dir: Path) -> Published:
    """Read CIFAR-100: 50,000 + 10,000 photographs of 100 classes, 32x32 colour."""
    return _load_cifar(data_dir, "CIFAR100", "cifar-100-python", _CIFAR100_FILES, b"fine_labels")


def _load_idx(data_dir: Path, name: str, classes: tuple[str, ...]) -> Published:
    folder = data_dir / name / "raw"
    if not all(_idx_path(folder, stem) for stem in _IDX_SHAPES):
        _download(data_dir, name, folder, [f"{stem}.gz" for stem in _IDX_SHAPES])
    train_images, train_labels, test_images, test_labels = (
        _read_idx(folder, stem, shape) for stem, shape in _IDX_SHAPES.items()
    )
    images = np.concatenate([train_images, test_images])[..., None]
    labels = np.concatenate([train_labels, test_labels]).astype(np.int64)
    if labels.max() >= len(classes):
        raise _damaged(folder, f"a label is {labels.max()}")
    return images, labels, classes, 10_000


def _idx_path(folder: Path, stem: str) -> Path | None:
    found = (path for path in (folder / stem, folder / f"{stem}.gz") if path.is_file())
    return next(found, None)


def _read_idx(folder: Path, stem: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Read an IDX file of bytes: two zero bytes, type 8, the number of dimensions, their sizes."""
    path = _idx_path(folder, stem)
    assert path is not None
    header = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)
    length = len(header) + math.prod(shape)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            # A few bytes of gzip can unpack to any number.
            content = file.read(length + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, str(error)) from error
    if not content.startswith(header) or len(content) != length:
        raise _damaged(path, f"it does not hold {' x '.join(map(str, shape))} bytes in IDX's form")
    return np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape)


def _load_cifar(
    data_dir: Path, name: str, folder_name: str, files: dict[str, str], label_key: bytes
) -> Published:
    folder = data_dir / folder_name
    if not all((folder / file).is_file() for file in files):
        _download(data_dir, name, folder, list(files))
    *batch_files, meta_file = files
    batches = [_read_batch(folder / file, files[file]) for file in batch_files]
    meta = _read_batch(folder / meta_file, files[meta_file])
    names = meta[b"label_names" if b"label_names" in meta else b"fine_label_names"]
    pixels = np.concatenate([batch[b"data"] for batch in batches])
    # Stored as [n, channels * height * width].
    images = np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    labels = np.concatenate([batch[label_key] for batch in batches]).astype(np.int64)
    return images, labels, tuple(name.decode() for name in names), len(batches[-1][b"data"])


def _read_batch(path: Path, md5: str) -> dict[bytes, Any]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _damaged(path, f"it cannot be read: {error.strerror}") from error
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise _damaged(path, "its checksum is not the published one")
    try:
        return _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
    except pickle.UnpicklingError as error:
        raise _damaged(path, str(error)) from error


class _ArraysOnly(pickle.Unpickler):
    """Reads arrays, numbers, bytes and containers; a file that names anything else is refused."""

    _ALLOWED = frozenset(
        [
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        ]
    )

    def find_class(self, module_name: str, global_name: str) -> Any:
        # NumPy 2 has renamed the module that older files name.
        module = module_name.replace("numpy.core", "numpy._core")
        if (module, global_name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"refused to load {module_name}.{global_name}")
        return super().find_class(module, global_name)


def _download(data_dir: Path, name: str, folder: Path, files: list[str]) -> None:
    """Let torchvision fetch and check a data set."""
    from torchvision import datasets

    print(f"downloading {name} to {data_dir}", flush=True)
    fetch: Callable[..., Any] = getattr(datasets, name)
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        fetch(data_dir, download=True)
    except (OSError, RuntimeError) as error:
        shown = ", ".join(files)
        raise ImgclfError(
            f"{name} is not in '{data_dir}' and cannot be downloaded:"
            f" {' '.join(str(error).split())[:200]}",
            f"Connect to the network, or put {shown} into '{folder}', or give the folder that holds"
            " them with --data-dir.",
        ) from error


def _damaged(path: Path, reason: str) -> ImgclfError:
    return ImgclfError(
        f"'{path}' is damaged: {reason}.", "Delete it, so that it is downloaded again."
    )
