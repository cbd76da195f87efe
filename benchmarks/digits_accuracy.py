"""Test accuracy on the embedded digits with all defaults, over ten seeds.

Run:   python benchmarks/digits_accuracy.py [--seeds 10] [--precision fp32]
Cost:  about two minutes on two CPU cores.
"""

import os
import tempfile
import time
from pathlib import Path

import click
import numpy as np


@click.command()
@click.option("--seeds", default=10, help="Runs, with seeds from 0.")
@click.option("--precision", default="auto", help="As `imgclf train` takes it.")
def main(seeds: int, precision: str) -> None:
    """Train with each seed and print a table."""
    from rounds import machine, mean_percentage

    from imgclf import TrainConfig, train

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        os.chdir(folder)
        for seed in range(seeds):
            start = time.perf_counter()
            runs = str(Path(folder) / "runs")
            result = train(TrainConfig(seed=seed, precision=precision, runs_dir=runs))
            seconds = time.perf_counter() - start
            rows.append((100 * result.metrics["test/accuracy"], seconds))
    accuracy, seconds = np.array(rows).T
    print(
        f"\n| data set | model | seeds | test accuracy, mean ± standard deviation | lowest |"
        f" seconds a run, median |\n|---|---|---|---|---|---|\n"
        f"| digits | digits-cnn | {seeds} | {mean_percentage(accuracy)}"
        f" | {accuracy.min():.2f}% | {np.median(seconds):.1f} |\n\n"
        f"{machine()}; precision {precision}; a run's time holds training, evaluation and tracking."
    )


if __name__ == "__main__":
    main()
