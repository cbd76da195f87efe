"""Test accuracy and cost of recipes on the real data, over seeds.

Run:   python benchmarks/recipes.py DATA_DIR --recipe NAME [--seeds 5] [--cifar10 FOLDER]
       python benchmarks/recipes.py DATA_DIR --recipe NAME --tta KIND
Cost:  each recipe's own ('imgclf recipes'), for each seed; on two CPU cores from 15 seconds to half
       an hour.

DATA_DIR holds MNIST, Fashion-MNIST and CIFAR-10 as torchvision lays them out (they are downloaded
where they are absent); --cifar10 gives a folder of images to use instead of the canonical one.

A run's time begins with the data on the disk and ends with the validation figures of the last
epoch. Downloading, decoding a folder's images for the first time and importing are not in it.
"of epochs" is the part of it between the first step and the last epoch's figures. Before each run,
and after the last, the published notebook's way is timed on 3,000 images: its ten epochs over
60,000, calculated from the two beside a run, stand beside.

--tta adds the test accuracy with test-time augmentation, as `imgclf evaluate --tta` measures it;
its kind is to be chosen on validation images.
"""

import os
import tempfile
import time
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import numpy as np

from imgclf.evaluation.test_time_augmentation import KINDS

PUBLISHED = ("mnist-cnn", "fashion-cnn", "cifar10-cnn")


def _row(values: dict[str, Any], seeds: Iterable[int], tta: str | None) -> str:
    """Train a recipe with each seed, and return its row of the table."""
    from notebook import seconds_of_ten_epochs
    from rounds import mean_percentage, ratios, spread

    from imgclf import TrainConfig, evaluate, train
    from imgclf.training.device import choose_compute

    device = choose_compute(TrainConfig.from_dict(values)).device
    accuracies, augmented, seconds, of_epochs = [], [], [], []
    notebooks = [seconds_of_ten_epochs(device)]
    for seed in seeds:
        config = TrainConfig.from_dict({**values, "seed": seed})
        result = train(config)
        seconds.append(sum(result.timings[f"time/{part}_seconds"] for part in ("data", "train")))
        of_epochs.append(_seconds_of_epochs(result.folder))
        notebooks.append(seconds_of_ten_epochs(device))
        accuracies.append(100 * result.metrics["test/accuracy"])
        if tta:
            evaluated = evaluate(
                run=result.run_id, dataset=config.dataset, split="test", tta=tta,
                data_dir=config.data_dir, runs_dir=config.runs_dir,
            )  # fmt: skip
            augmented.append(100 * evaluated.metrics["test/accuracy"])
        print(
            f"{config.recipe} seed {seed}: {accuracies[-1]:.2f}% in {seconds[-1]:.1f} s", flush=True
        )
    cells = [f"`{values['recipe']}`", mean_percentage(accuracies), f"{min(accuracies):.2f}%"]
    if tta:
        cells += [mean_percentage(augmented), f"{min(augmented):.2f}%"]
    beside = [(before + after) / 2 for before, after in pairwise(notebooks)]
    form = ".1f" if np.median(seconds) < 60 else ".0f"
    cells += [f"{len(seconds)}", spread(seconds, form), spread(of_epochs, form)]
    cells += [f"{np.median(notebooks):.0f}", spread(ratios(seconds, beside), ".4f")]
    return f"| {' | '.join(cells)} |"


def _seconds_of_epochs(folder: Path) -> float:
    from imgclf.tracking.journal import JOURNAL_FILE, read_records

    records = read_records(folder / JOURNAL_FILE)
    metrics = [record.content["values"] for record in records if record.kind == "metrics"]
    return sum(values.get("epoch_seconds", 0.0) for values in metrics)


@click.command()
@click.argument("data_dir", type=click.Path(path_type=Path))
@click.option("--recipe", "names", multiple=True, help="Which; else the published three.")
@click.option("--seeds", default=5, help="Runs of each recipe.")
@click.option("--first-seed", default=0, help="Seeds count from here.")
@click.option("--cifar10", default="", help="A folder of images instead of CIFAR-10.")
@click.option(
    "--precision", default="auto", help="As `imgclf train` takes it; else the recipe's own."
)
@click.option(
    "--tta",
    type=click.Choice([kind for kind in KINDS if kind != "none"]),
    help="Add the accuracy with this test-time augmentation.",
)
def main(
    data_dir: Path,
    names: tuple[str, ...],
    seeds: int,
    first_seed: int,
    cifar10: str,
    precision: str,
    tta: str | None,
) -> None:
    """Train recipes and print a table."""
    from rounds import machine

    from imgclf import TrainConfig
    from imgclf.pipeline.data import load_and_split
    from imgclf.training.device import choose_compute

    rows = []
    cifar10 = str(Path(cifar10).resolve()) if cifar10 else ""
    data_dir = data_dir.resolve()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        os.chdir(folder)
        for name in names or PUBLISHED:
            values = {"recipe": name, "data_dir": str(data_dir), "runs_dir": f"{folder}/runs"}
            if precision != "auto":
                values["precision"] = precision
            if TrainConfig.from_dict(values).dataset == "cifar10" and cifar10:
                values["dataset"] = cifar10
            config = TrainConfig.from_dict(values)
            compute = choose_compute(config)
            start = time.perf_counter()
            load_and_split(config)
            print(f"reading {config.dataset} once: {time.perf_counter() - start:.1f} s")
            rows.append(_row(values, range(first_seed, first_seed + seeds), tta))
            print(rows[-1], flush=True)
    headings = ["recipe", "test accuracy", "lowest"]
    if tta:
        headings += [f"with test-time augmentation: {tta}", "lowest"]
    headings += [
        "seeds",
        "seconds, median (lowest to highest)",
        "of epochs",
        "notebook's ten epochs, extrapolated from 3,000 images",
        "ratio",
    ]
    print(f"\n| {' | '.join(headings)} |\n{'|---' * len(headings)}|")
    print("\n".join(rows))
    device_name, precision = compute.device_name, compute.precision_name
    print(f"\n{device_name}, {precision}, {compute.threads} threads; {machine()}")


if __name__ == "__main__":
    main()
