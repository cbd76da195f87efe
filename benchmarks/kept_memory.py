"""What training on a CPU gains where a process keeps the memory that a step frees.

Run:   python benchmarks/kept_memory.py [--recipe mnist-cnn …] [--rounds 3]
Cost:  about five minutes on two CPU cores.

imgclf's training loop runs on random images, in a fresh process for each measurement: as it is, and
with the C library left as it was. "faults" are the pages that the operating system had to bring in
a step. The ways take turns.
"""

import dataclasses
import json
import resource
import subprocess
import sys
import time

import click
import numpy as np
from rounds import machine, orders, ratios, spread

from imgclf.card import Preprocessing
from imgclf.config import TrainConfig
from imgclf.data.augment import Augmentation
from imgclf.data.loader import TrainLoader
from imgclf.models import create_classifier, designed_norm_layer
from imgclf.training import device
from imgclf.training.loop import EpochEnd, TrainState, train_epochs

_RECIPES = ("mnist-cnn", "mnist-best", "fashion-cnn", "fashion-fast", "cifar10-cnn", "cifar10-cpu")
_WAYS = ("kept", "given back")
_STEPS = 15


def _measure(recipe: str) -> dict[str, float]:
    """Train two epochs, and measure the second."""
    size, channels = (32, 3) if recipe.startswith("cifar10") else (28, 1)
    config = TrainConfig.from_dict({"recipe": recipe, "device": "cpu", "epochs": 2})
    config = dataclasses.replace(config, norm_layer=designed_norm_layer(config.model))
    compute = device.choose_compute(config)
    number = _STEPS * config.batch_size
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (number, size, size, channels), dtype=np.uint8)
    labels = generator.integers(0, 10, number)
    augmentation = Augmentation.from_config(config, size, size)
    loader = TrainLoader(
        images, np.arange(number), labels, 10, augmentation, config, compute.device
    )
    input_size = Preprocessing.identity(size, size, channels)
    middle = [127.5] * channels
    model = create_classifier(config, input_size, 10, middle, middle)
    state = TrainState.start(model, config, compute)
    moments = []
    for event in train_epochs(state, loader, config, compute):
        if isinstance(event, EpochEnd):
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            moments.append((time.perf_counter(), faults))
    (start, faults_before), (end, faults) = moments
    return {"speed": number / (end - start), "faults": (faults - faults_before) / _STEPS}


def _measure_alone(recipe: str, way: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", recipe, way]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


@click.command()
@click.option("--recipe", "recipes", multiple=True, default=_RECIPES, help="What is trained.")
@click.option("--rounds", default=3, help="Measurements of each way.")
@click.option("--measure", type=(str, str), hidden=True)
def main(recipes: tuple[str, ...], rounds: int, measure: tuple[str, str] | None) -> None:
    """Time both ways and print a table."""
    if measure is not None:
        recipe, way = measure
        if way != "kept":
            device._keep_freed_memory = lambda: None
        print(json.dumps(_measure(recipe)))
        return
    print(
        "| recipe | images/s, kept | given back | kept over given back | faults a step, kept"
        " | given back |\n" + "|---" * 6 + "|"
    )
    for recipe in recipes:
        found: dict[str, list[dict[str, float]]] = {way: [] for way in _WAYS}
        for order in orders(_WAYS, rounds):
            for way in order:
                found[way].append(_measure_alone(recipe, way))
        kept, given_back = ([one["speed"] for one in found[way]] for way in _WAYS)
        faults = [f"{np.median([one['faults'] for one in found[way]]):,.0f}" for way in _WAYS]
        cells = [f"`{recipe}`", f"{np.median(kept):,.0f}", f"{np.median(given_back):,.0f}"]
        cells += [spread(ratios(kept, given_back)), *faults]
        print(f"| {' | '.join(cells)} |", flush=True)
    print(f"\n{machine()}; {rounds} rounds: median (lowest to highest)")


if __name__ == "__main__":
    main()
