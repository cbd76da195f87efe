"""What tracking takes from a training run: the same run with and without.

Run:   python benchmarks/tracking_cost.py [--data-dir FOLDER] [--epochs 8] [--repeats 5]
Cost:  about a quarter of an hour on two CPU cores.

Both ways train with the recipe mnist-cnn on the real MNIST, each run in a process of its own, from
its start to its end. "with" is as `imgclf train` does it: a journal flushed to the disk, metrics of
the machine, and MLflow with an SQLite database, in a process that starts before torch is imported
and ends with the run. "without" has a tracker that does nothing, and starts no process for MLflow.
They take turns, and every second round turns their order round; a first pair warms up.

"whole run" is the process from its start to its end. "epochs" is from the first step to the last
epoch's record, validation and the calls of the tracker included. "before and after" is all the
rest: importing, reading the data, opening the run, testing, pictures and tables (both ways write
them), and sending what is not sent yet.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import numpy as np

from imgclf.config import TrainConfig

_PARTS = ("whole run", "epochs", "before and after")


class _Clock:
    """Sees when a run's epochs begin and end."""

    def __init__(self) -> None:
        self.begun = self.ended = 0.0

    def begin(self) -> None:
        self.begun = time.perf_counter()

    def end(self, values: Mapping[str, float]) -> None:
        if "epoch_seconds" in values:
            self.ended = time.perf_counter()


def _with(clock: _Clock) -> type[Any]:
    from imgclf.tracking.tracker import Tracker

    class Timed(Tracker):
        def wait_until_open(self) -> None:
            super().wait_until_open()
            clock.begin()

        def metrics(self, values: Mapping[str, float], *args: Any, **options: Any) -> None:
            super().metrics(values, *args, **options)
            clock.end(values)

    return Timed


def _without(clock: _Clock) -> type[Any]:
    class Silent:
        mlflow_run_id = url = None
        tracking_uri = ""

        def __init__(self, *_: Any, **__: Any) -> None: ...

        def _nothing(self, *_: Any, **__: Any) -> None: ...

        parameters = tags = dataset = artifact = check = _nothing

        def wait_until_open(self) -> None:
            clock.begin()

        def metrics(self, values: Mapping[str, float], *_: Any, **__: Any) -> None:
            clock.end(values)

        def finish(self, *_: Any, **__: Any) -> list[str]:
            return []

    return Silent


def _train(values: Mapping[str, Any], tracked: bool) -> float:
    """Train in this process; return the seconds of the epochs."""
    if tracked:
        from imgclf.tracking.sender import prepare_sender

        prepare_sender()
    from imgclf.pipeline.train import train

    clock = _Clock()
    with patch("imgclf.pipeline.run.Tracker", _with(clock) if tracked else _without(clock)):
        result = train(TrainConfig.from_dict(values))
    assert not result.not_sent
    return clock.ended - clock.begun


def _measure(values: Mapping[str, Any], tracked: bool) -> list[float]:
    """Train in a process of its own; return the seconds of each part, as `_PARTS` names them."""
    way = "with" if tracked else "without"
    command = [sys.executable, __file__, "--measure", way, json.dumps(values)]
    start = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    whole = time.perf_counter() - start
    epochs = float(done.stdout.splitlines()[-1])
    return [whole, epochs, whole - epochs]


@click.command()
@click.option("--data-dir", default="", help="Folder that holds MNIST, or will.")
@click.option("--dataset", default="mnist", help="Another one, for a trial.")
@click.option("--epochs", default=8, help="Epochs of a run; eight take about a minute.")
@click.option("--threads", default=0, help="CPU threads of the arithmetic; 0: one for each core.")
@click.option("--repeats", default=5, help="Pairs of runs.")
@click.option("--measure", type=(click.Choice(["with", "without"]), str), hidden=True)
def main(
    data_dir: str,
    dataset: str,
    epochs: int,
    threads: int,
    repeats: int,
    measure: tuple[str, str] | None,
) -> None:
    """Train in pairs and print a table."""
    if measure is not None:
        way, values = measure
        print(_train(json.loads(values), way == "with"))
        return
    from rounds import machine, orders

    pairs = []
    data_dir = str(Path(data_dir).resolve()) if data_dir else ""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        values = {"recipe": "mnist-cnn", "data_dir": data_dir, "runs_dir": f"{folder}/runs"}
        values |= {"dataset": dataset, "threads": threads, "epochs": epochs}
        for tracked in (True, False):  # warms up, and creates the database
            _measure({**values, "epochs": 1}, tracked)
        for order in orders((False, True), repeats):
            measured = {tracked: _measure(values, tracked) for tracked in order}
            pairs.append((measured[True], measured[False]))
    seconds = np.array(pairs)  # [pair, with or without, part]
    print("\n| part of a run | with, s | without, s | difference, median (lowest to highest) |")
    print("|---|---|---|---|")
    for part, name in enumerate(_PARTS):
        tracked, silent = seconds[:, 0, part], seconds[:, 1, part]
        difference = tracked - silent
        percent = 100 * difference / silent
        print(
            f"| {name} | {np.median(tracked):.1f} | {np.median(silent):.1f} |"
            f" {np.median(difference):+.2f} s, {np.median(percent):+.1f}%"
            f" ({percent.min():+.1f}% to {percent.max():+.1f}%) |"
        )
    print(f"\n{machine()}; {repeats} pairs of {epochs} epochs")


if __name__ == "__main__":
    main()
