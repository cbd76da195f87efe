"""Test accuracy of the published recipes on the real data, over seeds.

Run:   python benchmarks/published_recipes.py DATA_DIR [--seeds 3] [--cifar10 FOLDER]
Cost:  a few minutes for each recipe and seed on two CPU cores.

DATA_DIR holds MNIST, Fashion-MNIST and CIFAR-10 as torchvision lays them out (they are downloaded
where they are absent); --cifar10 gives a folder of images to use instead of the canonical CIFAR-10.
"""

import os
import platform
import tempfile
import time
from pathlib import Path

import click
import numpy as np


@click.command()
@click.argument("data_dir", type=click.Path(path_type=Path))
@click.option("--seeds", default=3, help="Runs of each recipe.")
@click.option("--cifar10", default="", help="A folder of images instead of CIFAR-10.")
@click.option("--recipe", "names", multiple=True, help="Only these recipes.")
def main(data_dir: Path, seeds: int, cifar10: str, names: tuple[str, ...]) -> None:
    """Train every published recipe and print a table."""
    import torch

    from imgclf import TrainConfig, train

    rows = []
    chosen = names or ("mnist-cnn", "fashion-cnn", "cifar10-cnn")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        data_dir = data_dir.resolve()
        cifar10 = str(Path(cifar10).resolve()) if cifar10 else ""
        os.chdir(folder)
        for name in chosen:
            values = {"recipe": name, "data_dir": str(data_dir), "runs_dir": f"{folder}/runs"}
            if name == "cifar10-cnn" and cifar10:
                values["dataset"] = cifar10
            accuracy, seconds = [], []
            for seed in range(seeds):
                start = time.perf_counter()
                result = train(TrainConfig.from_dict({**values, "seed": seed}))
                seconds.append(time.perf_counter() - start)
                accuracy.append(100 * result.metrics["test/accuracy"])
            spread = f" ± {np.std(accuracy, ddof=1):.2f}" if seeds > 1 else ""
            rows.append(
                f"| `{name}` | {np.mean(accuracy):.2f}%{spread} | {min(accuracy):.2f}% | {seeds} |"
                f" {np.median(seconds):.0f} |"
            )
            print(rows[-1], flush=True)
    print("\n| recipe | test accuracy | lowest | seeds | seconds a run, median |")
    print("|---|---|---|---|---|")
    print("\n".join(rows))
    print(
        f"\n{platform.machine()}, {os.cpu_count()} CPU cores, Python {platform.python_version()},"
        f" torch {torch.__version__}; a run's time holds data, training, evaluation and tracking."
    )


if __name__ == "__main__":
    main()
