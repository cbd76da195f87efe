"""Epochs on a folder of image files: decoded once, against ImageFolder and a DataLoader.

Run:   python benchmarks/folder_data.py FOLDER [--epochs 3] [--workers 2]
Cost:  some minutes on two CPU cores for the 50,000 JPEG files of a copy of CIFAR-10. Linux.

FOLDER holds one folder of images per class. No network is trained: the epochs deliver batches of
64, augmented by a random crop and a flip, and that alone is timed, listing the files included.
imgclf decodes into an empty cache first; the "next run" finds it filled. Each way runs in a process
of its own. Its memory is the largest sum, over that process and those that it starts, of their
proportional set sizes: a page that several of them hold counts once.
"""

import multiprocessing
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import click
import psutil
import torch
from rounds import machine
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
    loader = DataLoader(
        ImageFolder(folder, transform), 64, shuffle=True, num_workers=workers,
        # Linux's own way; this process was spawned and would hand that on.
        multiprocessing_context="fork" if workers else None,
    )  # fmt: skip
    for _ in range(epochs):
        for _ in loader:
            pass
        times.append(time.perf_counter() - start)
        start = time.perf_counter()
    return times


def _send_times(answer: Connection, way: Callable[..., list[float]], arguments: tuple) -> None:
    answer.send(way(*arguments))


def _measure(way: Callable[..., list[float]], *arguments: object) -> tuple[list[float], int]:
    """Return the times that ``way`` takes in a process of its own, and its memory in bytes."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_times, args=(sender, way, arguments))
    process.start()
    sender.close()
    peak = 0
    # Seldom: to be asked for its pages holds a process up.
    while not receiver.poll(2):
        peak = max(peak, _memory(psutil.Process(process.pid)))
    times = receiver.recv()
    process.join()
    return times, peak


def _memory(process: psutil.Process) -> int:
    """Return the bytes that a process and those below it hold."""
    total = 0
    for one in (process, *process.children(recursive=True)):
        try:
            total += one.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue  # a worker that has just ended
    return total


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False))
@click.option("--epochs", default=3, help="Epochs of each way.")
@click.option("--workers", default=2, help="The DataLoader's worker processes, beside none.")
def main(folder: str, epochs: int, workers: int) -> None:
    """Time the epochs and print a table."""
    with tempfile.TemporaryDirectory() as cache:
        rows = {
            "imgclf, empty cache": _measure(_decode_once, folder, epochs, cache),
            "imgclf, next run": _measure(_decode_once, folder, epochs, cache),
        }
    for number in (0, workers):
        name = f"ImageFolder, DataLoader with {number} workers"
        rows[name] = _measure(_image_folder, folder, epochs, number)
    headings = [f"epoch {n}, s" for n in range(1, epochs + 1)]
    print(f"| way | {' | '.join(headings)} | memory, MB |")
    print("|---" * (epochs + 2) + "|")
    for name, (times, peak) in rows.items():
        print(f"| {name} | {' | '.join(f'{t:.1f}' for t in times)} | {peak / 1e6:,.0f} |")
    print(f"\n{machine()}")


if __name__ == "__main__":
    main()
