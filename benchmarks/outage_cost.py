"""What a tracking server that hangs takes from a training run: the same run with and without.

Run:   python benchmarks/outage_cost.py [--data-dir FOLDER] [--epochs 8] [--repeats 5]
Cost:  about fifteen minutes on two CPU cores.

Both ways are `imgclf.train` with the recipe mnist-cnn on the real MNIST, in one process, recorded
by a real `mlflow server` on this machine. In "outage" the server is stopped (SIGSTOP) when the
first epoch has been recorded, so that it takes connections and answers none, and goes on when the
last epoch has been recorded. The ways take turns, and every second round turns their order round.

The seconds are those from the first step to the last epoch's record, validation and the calls of
the tracker included. A server that is stopped leaves its own share of the cores to training, a few
milliseconds an epoch.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import numpy as np
import requests
from rounds import machine

from imgclf import TrainConfig
from imgclf.pipeline import train as pipeline
from imgclf.tracking.tracker import Tracker


@contextmanager
def _server(folder: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a tracking server, and point MLflow to it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(port)),
            *("--backend-store-uri", f"sqlite:///{folder}/server.db"),
            *("--artifacts-destination", f"{folder}/artifacts"),
        ],
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"
    while True:
        try:
            if requests.get(f"{address}/health", timeout=5).ok:
                break
        except requests.RequestException:
            time.sleep(0.2)
    os.environ["MLFLOW_TRACKING_URI"] = address
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class _Run:
    """One run, whose server hangs in its middle or not.

    Attributes:
        seconds: from the first step to the last epoch's record.
    """

    def __init__(self, server: "subprocess.Popen[bytes]", outage: bool) -> None:
        self._server = server
        self._outage = outage
        self._begun = self.seconds = 0.0
        self._epochs = 0

    def train(self, config: TrainConfig) -> float:
        """Train, and return the seconds."""
        run = self

        class Timed(Tracker):
            def wait_until_open(self) -> None:
                super().wait_until_open()
                run._begun = time.perf_counter()

            def metrics(self, values: Mapping[str, float], *args: Any, **options: Any) -> None:
                super().metrics(values, *args, **options)
                if "epoch_seconds" in values:
                    run._after_epoch(config.epochs)

        with patch.object(pipeline, "Tracker", Timed):
            result = pipeline.train(config)
        assert not result.not_sent, result.not_sent
        return self.seconds

    def _after_epoch(self, epochs: int) -> None:
        self._epochs += 1
        self.seconds = time.perf_counter() - self._begun
        if self._outage and self._epochs == 1:
            os.killpg(self._server.pid, signal.SIGSTOP)
        if self._outage and self._epochs == epochs:
            os.killpg(self._server.pid, signal.SIGCONT)


@click.command()
@click.option("--data-dir", default="", help="Folder that holds MNIST, or will.")
@click.option("--dataset", default="mnist", help="Another one, for a trial.")
@click.option("--epochs", default=8, help="Epochs of a run; eight take about a minute.")
@click.option("--threads", default=0, help="CPU threads of the arithmetic; 0: one for each core.")
@click.option("--repeats", default=5, help="Pairs of runs.")
def main(data_dir: str, dataset: str, epochs: int, threads: int, repeats: int) -> None:
    """Train in pairs and print a table."""
    data_dir = str(Path(data_dir).resolve()) if data_dir else ""
    pairs = []
    with tempfile.TemporaryDirectory() as folder, _server(folder) as server:
        values = {"recipe": "mnist-cnn", "data_dir": data_dir, "runs_dir": f"{folder}/runs"}
        values |= {"dataset": dataset, "threads": threads}
        _Run(server, False).train(TrainConfig.from_dict({**values, "epochs": 1}))  # warms up
        config = TrainConfig.from_dict({**values, "epochs": epochs})
        for number in range(repeats):
            order = (True, False) if number % 2 else (False, True)
            measured = {outage: _Run(server, outage).train(config) for outage in order}
            pairs.append((measured[True], measured[False]))
    outage, fine = np.array(pairs).T
    percent = 100 * (outage - fine) / fine
    print("\n| outage, s | server fine, s | difference, median of the pairs (lowest to highest) |")
    print("|---|---|---|")
    print(
        f"| {np.median(outage):.1f} | {np.median(fine):.1f} | {np.median(percent):+.1f}%"
        f" ({percent.min():+.1f}% to {percent.max():+.1f}%) |"
    )
    print(f"\n{machine()}; {repeats} pairs of {epochs} epochs")


if __name__ == "__main__":
    main()
