"""What an image costs in 10,000, in 100,000 and in 1,000,000: time and memory.

Run:   python benchmarks/cost_by_size.py [--size 10000 …] [--images 200000] [--rounds 3]
Cost:  about ten minutes a round, 8 GiB of memory and 3.5 GB of disk for the three sizes.

Colour images of 32x32 pixels, of random content. "resident" has them in memory; "mapped" in a file,
as the decoded images of a folder are, with batches gathered ahead of the step. Each row is a fresh
process that computes with one thread. "preparation" is what a run does with all images before its
first step: digests, split, scan, normalisation, the loader. "epoch" draws an epoch's order and
augmentation. "steps" are those of imgclf's training loop with a linear classifier, batches of 64,
random crops and flips; so many images are trained on, in as many epochs as that takes, and an
epoch's first step, which draws, is left out. "validation" is the classifier on a tenth of the
images. The rows take turns, every second round backwards; the second table divides each row's times
by those of the first row in the same round.

"own memory" is the highest that belongs to the process alone, beside what it had before the
preparation, which of "resident" is the images as they came; mapped pages are not in it: the
operating system takes them back when it needs them. "resident" is the process's peak, with all.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import click
import numpy as np
import psutil
from numpy.typing import NDArray
from rounds import machine, orders, ratios, spread
from torch import nn

from imgclf.config import TrainConfig
from imgclf.data.augment import Augmentation
from imgclf.data.dataset import SelectedImages, from_arrays
from imgclf.data.loader import TrainLoader
from imgclf.data.scan import scan_dataset
from imgclf.data.splits import split_dataset
from imgclf.evaluation.inference import predict_logits
from imgclf.models.classifier import ImageClassifier
from imgclf.pipeline.train import create_model
from imgclf.training.device import choose_compute
from imgclf.training.loop import TrainState, train_epochs

_CHUNK = 10_000
_TIMES = ("preparation", "epoch", "steps", "validation")


def _write_images(path: Path, number: int) -> None:
    generator = np.random.default_rng(0)
    images = np.lib.format.open_memmap(path, "w+", np.uint8, (number, 32, 32, 3))
    for start in range(0, number, _CHUNK):
        part = images[start : start + _CHUNK]
        part[...] = generator.integers(0, 256, part.shape, np.uint8)
    images.flush()


def _own_mib() -> float:
    memory = psutil.Process().memory_info()
    return (memory.rss - memory.shared) / 2**20


def _peak_mib() -> float:
    """Read this program's peak from Linux; getrusage's counts that of the program before exec."""
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / 1024


def _measure(images: NDArray[np.uint8], resident: bool, trained_images: int) -> dict[str, float]:
    number = len(images)
    labels = np.random.default_rng(1).integers(0, 10, number)
    config = TrainConfig(
        model="small-cnn", norm_layer="batch", crop_padding=4, horizontal_flip=True, epochs=10**6,
        device="cpu", precision="fp32", threads=1,
    )  # fmt: skip
    compute = choose_compute(config)
    before, start = _own_mib(), time.perf_counter()
    dataset = from_arrays("random", images, labels, tuple("0123456789"))
    split = split_dataset(dataset, 0.1, 0.1, 0)
    scan_dataset(dataset, split)
    normalized = create_model(config, dataset, split)
    augmentation = Augmentation.from_config(config, 32, 32)
    loader = TrainLoader(images, split.train, labels, 10, augmentation, config,
                         compute.device, resident=resident)  # fmt: skip
    prepared = time.perf_counter()
    next(loader.epoch(1))
    drawn = time.perf_counter()
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    mean, std = (part.flatten().tolist() for part in (normalized.mean, normalized.std))
    model = ImageClassifier(linear, mean, std)
    state = TrainState.start(model, config, compute)
    own = [_own_mib()]
    begun, seconds, counted = 0.0, 0.0, 0

    def stop() -> bool:
        nonlocal begun, seconds, counted
        now = time.perf_counter()
        # An epoch's first step has drawn its tables: that is the column before.
        if state.sums.steps > 1:
            seconds, counted = seconds + now - begun, counted + 1
        begun = now
        if state.step % 100 == 0:
            own.append(_own_mib())
            begun = time.perf_counter()
        return state.step * config.batch_size >= trained_images

    for _ in train_epochs(state, loader, config, compute, stop):
        pass
    trained = time.perf_counter()
    predict_logits(model, SelectedImages(dataset, split.val), compute.device)
    validated = time.perf_counter()
    own.append(_own_mib())
    return {
        "preparation": (prepared - start) / number,
        "epoch": (drawn - prepared) / len(split.train),
        "steps": seconds / (counted * config.batch_size),
        "validation": (validated - trained) / len(split.val),
        "own": max(own) - before,
        "resident": _peak_mib(),
    }


def _measure_alone(path: Path, way: str, trained_images: int) -> dict[str, float]:
    """Measure in a process of its own."""
    command = [sys.executable, __file__, "--images", str(trained_images)]
    measured = subprocess.run(
        [*command, "--measure", way, str(path)], check=True, stdout=subprocess.PIPE
    )
    return json.loads(measured.stdout)


def _print_tables(measured: Mapping[tuple[int, str], list[dict[str, float]]]) -> None:
    """Print what was measured in each round, by size and way; the first row is the reference."""
    print(
        "| images | way | preparation, images/s | epoch | steps | validation | own memory, MiB"
        " | resident, MiB | pixels, MiB |\n" + "|---" * 9 + "|"
    )
    for (number, way), rounds in measured.items():
        times = [spread([1 / one[name] for one in rounds], ",.0f") for name in _TIMES]
        memory = [spread([one[name] for one in rounds], ",.0f") for name in ("own", "resident")]
        cells = [f"{number:,}", way, *times, *memory, f"{number * 3072 / 2**20:,.0f}"]
        print(f"| {' | '.join(cells)} |")
    (size, first_way), first = next(iter(measured.items()))
    print(
        f"\nTimes an image over those of {size:,} images, {first_way}\n\n"
        "| images | way | preparation | epoch | steps | validation |\n" + "|---" * 6 + "|"
    )
    for (number, way), rounds in measured.items():
        cells = [
            spread(ratios([one[name] for one in rounds], [one[name] for one in first]))
            for name in _TIMES
        ]
        print(f"| {number:,} | {way} | {' | '.join(cells)} |")


@click.command()
@click.option("--size", "sizes", multiple=True, default=(10_000, 100_000, 1_000_000))
@click.option("--images", "trained_images", default=200_000, help="Images to train on in a row.")
@click.option("--rounds", default=3, help="Measurements of each row.")
@click.option("--measure", type=(str, click.Path(path_type=Path)), hidden=True)
def main(
    sizes: tuple[int, ...], trained_images: int, rounds: int, measure: tuple[str, Path] | None
) -> None:
    """Measure every size in both ways and print two tables."""
    if measure is not None:
        way, path = measure
        images = np.load(path, mmap_mode=None if way == "resident" else "r")
        print(json.dumps(_measure(images, way == "resident", trained_images)))
        return
    rows = [(number, way) for number in sizes for way in ("resident", "mapped")]
    measured: dict[tuple[int, str], list[dict[str, float]]] = {row: [] for row in rows}
    with tempfile.TemporaryDirectory() as folder:
        paths = {number: Path(folder) / f"{number}.npy" for number in sizes}
        for number, path in paths.items():
            _write_images(path, number)
        for order in orders(rows, rounds):
            for number, way in order:
                row = _measure_alone(paths[number], way, trained_images)
                measured[number, way].append(row)
    _print_tables(measured)
    print(f"\n{machine()}; one thread; {rounds} rounds: median (lowest to highest)")


if __name__ == "__main__":
    main()
