"""Epochs on a folder of image files: decoded once, against ImageFolder and a DataLoader.

Run:   python benchmarks/folder_data.py FOLDER [--epochs 3]
Cost:  some minutes on two CPU cores for the 50,000 JPEG files of a copy of CIFAR-10.

FOLDER holds train/<class>/*.jpg. No network is trained: the epochs deliver batches of 64, augmented
by a random crop and a flip, and that alone is timed, listing the files included. imgclf decodes
into an empty cache first; the "next run" finds it filled.
"""

import os
import platform
import tempfile
import time
from pathlib import Path

import click
import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import Compose, RandomCrop, RandomHorizontalFlip, ToTensor

from imgclf.config import TrainConfig
from imgclf.data.augment import Augmentation
from imgclf.data.loader import TrainLoader
from imgclf.data.sources import load_dataset


def _decode_once(folder: str, epochs: int, cache: str) -> list[float]:
    config = TrainConfig(dataset=folder, data_dir=cache, crop_padding=4, horizontal_flip=True)
    times, start = [], time.perf_counter()
    dataset = load_dataset(config)
    size = dataset.preprocessing
    augmentation = Augmentation.from_config(config, size.height, size.width)
    positions = torch.arange(len(dataset)).numpy()
    loader = TrainLoader(
        dataset.images, positions, dataset.labels, len(dataset.classes), augmentation, config,
        torch.device("cpu"),
    )  # fmt: skip
    for epoch in range(1, epochs + 1):
        for _ in loader.epoch(epoch):
            pass
        times.append(time.perf_counter() - start)
        start = time.perf_counter()
    return times


def _image_folder(folder: str, epochs: int, workers: int) -> list[float]:
    times, start = [], time.perf_counter()
    transform = Compose([RandomCrop(32, padding=4), RandomHorizontalFlip(), ToTensor()])
    loader = DataLoader(ImageFolder(folder, transform), 64, shuffle=True, num_workers=workers)
    for _ in range(epochs):
        for _ in loader:
            pass
        times.append(time.perf_counter() - start)
        start = time.perf_counter()
    return times


@click.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--epochs", default=3, help="Epochs of each way.")
def main(folder: Path, epochs: int) -> None:
    """Time the epochs and print a table."""
    train = str(folder / "train")
    with tempfile.TemporaryDirectory() as cache:
        rows = {
            "imgclf, empty cache": _decode_once(train, epochs, cache),
            "imgclf, next run": _decode_once(train, epochs, cache),
        }
    for workers in (0, 2):
        name = f"ImageFolder, DataLoader with {workers} workers"
        rows[name] = _image_folder(train, epochs, workers)
    print("| way | " + " | ".join(f"epoch {n}, s" for n in range(1, epochs + 1)) + " |")
    print("|---" * (epochs + 1) + "|")
    for name, times in rows.items():
        print(f"| {name} | " + " | ".join(f"{seconds:.1f}" for seconds in times) + " |")
    print(
        f"\n{platform.machine()}, {os.cpu_count()} CPU cores, Python {platform.python_version()},"
        f" torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
