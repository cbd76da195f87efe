"""Epochs on a folder of image files: decoded once, against ImageFolder and a DataLoader.

Run:   python benchmarks/folder_data.py FOLDER [--epochs 3] [--workers 2] [--rounds 3]
Cost:  some minutes a round on two CPU cores for the 50,000 JPEG files of a copy of CIFAR-10. Linux.

FOLDER holds one folder of images per class. No network is trained: the epochs deliver batches of
64, augmented by a random crop and a flip, and that alone is timed, listing the files included. In
every way a batch ends as float32 [64, channels, height, width] from 0 to 1. imgclf decodes into an
empty cache, in each round anew; the "next run" finds one filled. Each way runs once a round in a
process of its own; the ways take turns, every second round backwards, and a ratio is of two times
in one round. The files are read once before anything is timed, so that none comes from the disk.

A way's memory is the largest sum, over that process and those that it starts, of their
proportional set sizes: a page that several of them hold counts once.
"""

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing.connection import Connection

import click
import psutil
import torch
from rounds import machine, orders, ratios, spread
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import Compose, RandomCrop, RandomHorizontalFlip, ToTensor

from imgclf.config import TrainConfig
from imgclf.data.augment import Augmentation
from imgclf.data.loader import TrainLoader
from imgclf.data.sources import load_dataset

# Returns the seconds of each epoch.
Way = Callable[[], list[float]]


def _decode_first(folder: str, epochs: int) -> list[float]:
    with tempfile.TemporaryDirectory() as cache:
        return _decode_once(folder, epochs, cache)


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
        for (batch,) in loader.epoch(epoch):
            # What ToTensor makes of an image; in training, the network's first step does it.
            batch.images.permute(0, 3, 1, 2).float().div_(255)
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


def _send_times(answer: Connection, way: Way) -> None:
    answer.send(way())


def _measure(way: Way) -> tuple[list[float], int]:
    """Return the times that ``way`` takes in a process of its own, and its memory in bytes."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_times, args=(sender, way))
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
@click.option("--rounds", default=3, help="Runs of each way.")
def main(folder: str, epochs: int, workers: int, rounds: int) -> None:
    """Time the epochs and print two tables."""
    with tempfile.TemporaryDirectory() as cache:
        next_run = partial(_decode_once, folder, epochs, cache)
        ways: dict[str, Way] = {
            "imgclf, empty cache": partial(_decode_first, folder, epochs),
            "imgclf, next run": next_run,
            "ImageFolder, no workers": partial(_image_folder, folder, epochs, 0),
            f"ImageFolder, {workers} workers": partial(_image_folder, folder, epochs, workers),
        }
        _measure(next_run)  # fills the cache
        measured: dict[str, list[tuple[list[float], int]]] = {name: [] for name in ways}
        for order in orders(list(ways), rounds):
            for name in order:
                measured[name].append(_measure(ways[name]))
    _print_tables(measured, epochs)
    print(f"\n{machine()}; {rounds} rounds: median (lowest to highest)")


def _print_tables(measured: Mapping[str, list[tuple[list[float], int]]], epochs: int) -> None:
    """Print the times and the memory of each way in each round; the last way is the reference."""
    # way -> epoch -> seconds in each round
    seconds = {
        name: list(zip(*(times for times, _ in runs), strict=True))
        for name, runs in measured.items()
    }
    *_, reference = seconds
    headings = " | ".join(f"epoch {number}, s" for number in range(1, epochs + 1))
    print(f"| way | {headings} | memory, MB |\n{'|---' * (epochs + 2)}|")
    for name, times in seconds.items():
        memory = spread([peak / 1e6 for _, peak in measured[name]], ",.0f")
        print(f"| {name} | {' | '.join(spread(each, '.1f') for each in times)} | {memory} |")
    headings = headings.replace(", s", "")
    print(f"\nTimes over those of {reference}\n\n| way | {headings} |\n{'|---' * (epochs + 1)}|")
    for name, times in seconds.items():
        beside = [ratios(*pair) for pair in zip(times, seconds[reference], strict=True)]
        print(f"| {name} | {' | '.join(map(spread, beside))} |")


if __name__ == "__main__":
    main()
