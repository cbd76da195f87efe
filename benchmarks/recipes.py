"""Test accuracy and cost of recipes on the real data, over seeds.

Run:   python benchmarks/recipes.py DATA_DIR --recipe NAME [--seeds 5] [--cifar10 FOLDER]
Cost:  each recipe's own ('imgclf recipes'), for each seed; on two CPU cores from 15 seconds to half
       an hour.

DATA_DIR holds MNIST, Fashion-MNIST and CIFAR-10 as torchvision lays them out (they are downloaded
where they are absent); --cifar10 gives a folder of images to use instead of the canonical one.

A run's time begins with the data on the disk and ends with the validation figures of the last
epoch. Downloading, decoding a folder's images for the first time and importing are not in it.
Before each run the published notebook's way is timed on 3,000 images: its ten epochs over 60,000
stand beside.
"""

import os
import tempfile
import time
from pathlib import Path

import click
import numpy as np

PUBLISHED = ("mnist-cnn", "fashion-cnn", "cifar10-cnn")


@click.command()
@click.argument("data_dir", type=click.Path(path_type=Path))
@click.option("--recipe", "names", multiple=True, help="Which; else the published three.")
@click.option("--seeds", default=5, help="Runs of each recipe.")
@click.option("--first-seed", default=0, help="Seeds count from here.")
@click.option("--cifar10", default="", help="A folder of images instead of CIFAR-10.")
def main(data_dir: Path, names: tuple[str, ...], seeds: int, first_seed: int, cifar10: str) -> None:
    """Train recipes and print a table."""
    from notebook import seconds_of_ten_epochs
    from rounds import machine

    from imgclf import TrainConfig, train
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
            if TrainConfig.from_dict(values).dataset == "cifar10" and cifar10:
                values["dataset"] = cifar10
            config = TrainConfig.from_dict(values)
            compute = choose_compute(config)
            start = time.perf_counter()
            load_and_split(config)
            print(f"reading {config.dataset} once: {time.perf_counter() - start:.1f} s")
            accuracies, seconds, ratios, notebooks = [], [], [], []
            for seed in range(first_seed, first_seed + seeds):
                notebook = seconds_of_ten_epochs(compute.device)
                result = train(TrainConfig.from_dict({**values, "seed": seed}))
                took = sum(result.timings[f"time/{part}_seconds"] for part in ("data", "train"))
                accuracies.append(100 * result.metrics["test/accuracy"])
                seconds.append(took)
                notebooks.append(notebook)
                ratios.append(took / notebook)
                print(f"{name} seed {seed}: {accuracies[-1]:.2f}% in {took:.1f} s", flush=True)
            spread = f" ± {np.std(accuracies, ddof=1):.2f}" if seeds > 1 else ""
            rows.append(
                f"| `{name}` | {np.mean(accuracies):.2f}%{spread} | {min(accuracies):.2f}% |"
                f" {seeds} | {np.median(seconds):.0f} | {np.median(notebooks):.0f} |"
                f" {np.median(ratios):.3f} |"
            )
            print(rows[-1], flush=True)
    print(
        "\n| recipe | test accuracy | lowest | seeds | seconds of training, median | notebook's ten"
        " epochs | ratio |\n|---|---|---|---|---|---|---|"
    )
    print("\n".join(rows))
    print(f"\n{compute.device_name}, {compute.threads} threads; {machine()}")


if __name__ == "__main__":
    main()
