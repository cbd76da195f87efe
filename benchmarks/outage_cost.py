"""What a tracking server that goes away takes from a training run: the same run with and without.

Run:   python benchmarks/outage_cost.py [--data-dir FOLDER] [--epochs 4] [--repeats 5]
Cost:  about half an hour on two CPU cores.

All ways are `imgclf.train` with the recipe mnist-cnn on the real MNIST, in one process, recorded by
a real `mlflow server` on this machine:

- fine: it answers all the time.
- hangs: it is stopped (SIGSTOP) when the first epoch has been recorded, so that it takes
  connections and answers none, and goes on when the last epoch has been recorded.
- killed: it is killed (SIGKILL) when the first epoch has been recorded, and started again when the
  last epoch has been.
- absent: it is not there before the last epoch has been recorded.

The ways take turns, and every second round turns their order round. The seconds are those from the
first step to the last epoch's record, validation and the calls of the tracker included. A server
that is away leaves its own share of the cores to training, a few milliseconds an epoch.

The second figure hardly depends on what else the machine does: the CPU seconds that the process
which sends has taken meanwhile, as all that an outage can take from training's cores.
"""

import os
import signal
import socket
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
import psutil
import requests
from rounds import machine, orders, ratios, spread

from imgclf import TrainConfig
from imgclf.pipeline.train import train
from imgclf.tracking.tracker import Tracker

WAYS = ("fine", "hangs", "killed", "absent")


class _Server:
    """A tracking server that is always at one address."""

    def __init__(self, folder: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self._folder = folder
        self.address = f"http://127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        folder = self._folder
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
                *("--port", str(self._port)),
                *("--backend-store-uri", f"sqlite:///{folder}/server.db"),
                *("--artifacts-destination", f"{folder}/artifacts"),
            ],
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while not self._answers():
            time.sleep(0.2)

    def signal(self, number: int) -> None:
        os.killpg(self._process.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self._process.wait()

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.address}/health", timeout=5).ok
        except requests.RequestException:
            return False


class _Run:
    """One run, whose server fares in one of `WAYS`.

    Attributes:
        seconds: from the first step to the last epoch's record.
        sender_cpu_seconds: what the process that sends has computed meanwhile.
    """

    def __init__(self, server: _Server, way: str) -> None:
        self._server = server
        self._way = way
        self._begun = self.seconds = 0.0
        self._sender_begun = self.sender_cpu_seconds = 0.0
        self._epochs = 0

    def train(self, config: TrainConfig) -> None:
        """Train."""
        run = self

        class Timed(Tracker):
            def wait_until_open(self) -> None:
                super().wait_until_open()
                run._begun, run._sender_begun = time.perf_counter(), _sender_cpu_seconds()

            def metrics(self, values: Mapping[str, float], *args: Any, **options: Any) -> None:
                super().metrics(values, *args, **options)
                if "epoch_seconds" in values:
                    run._after_epoch(config.epochs)

        if self._way == "absent":
            self._server.kill()
        with patch("imgclf.pipeline.run.Tracker", Timed):
            result = train(config)
        assert not result.not_sent, result.not_sent

    def _after_epoch(self, epochs: int) -> None:
        self._epochs += 1
        self.seconds = time.perf_counter() - self._begun
        self.sender_cpu_seconds = _sender_cpu_seconds() - self._sender_begun
        if self._epochs == 1:
            if self._way == "hangs":
                self._server.signal(signal.SIGSTOP)
            if self._way == "killed":
                self._server.kill()
        if self._epochs == epochs:
            if self._way == "hangs":
                self._server.signal(signal.SIGCONT)
            if self._way in ("killed", "absent"):
                self._server.start()


def _sender_cpu_seconds() -> float:
    """Return what the one process that sends has computed so far."""
    (sender,) = (
        child
        for child in psutil.Process().children()
        if "imgclf.tracking.sender_process" in child.cmdline()
    )
    times = sender.cpu_times()
    return times.user + times.system


@click.command()
@click.option("--data-dir", default="", help="Folder that holds MNIST, or will.")
@click.option("--dataset", default="mnist", help="Another one, for a trial.")
@click.option("--epochs", default=4, help="Epochs of a run; four take a minute and a half.")
@click.option("--threads", default=0, help="CPU threads of the arithmetic; 0: one for each core.")
@click.option("--repeats", default=5, help="Rounds of all ways.")
def main(data_dir: str, dataset: str, epochs: int, threads: int, repeats: int) -> None:
    """Train in rounds and print a table."""
    data_dir = str(Path(data_dir).resolve()) if data_dir else ""
    with tempfile.TemporaryDirectory() as folder:
        server = _Server(folder)
        os.environ["MLFLOW_TRACKING_URI"] = server.address
        values = {"recipe": "mnist-cnn", "data_dir": data_dir, "runs_dir": f"{folder}/runs"}
        values |= {"dataset": dataset, "threads": threads}
        _Run(server, "fine").train(TrainConfig.from_dict({**values, "epochs": 1}))  # warms up
        config = TrainConfig.from_dict({**values, "epochs": epochs})
        runs: dict[str, list[_Run]] = {way: [] for way in WAYS}
        for order in orders(WAYS, repeats):
            for way in order:
                run = _Run(server, way)
                run.train(config)
                runs[way].append(run)
                print(f"{way}: {run.seconds:.1f} s", flush=True)
        server.kill()
    _print_table(runs)
    print(f"\n{machine()}; {repeats} rounds of {epochs} epochs")


def _print_table(runs: Mapping[str, list[_Run]]) -> None:
    fine = [run.seconds for run in runs["fine"]]
    print(
        "\n| server | seconds, median | over a fine one, % | CPU seconds of the sender |\n"
        + "|---" * 4
        + "|"
    )
    for way, measured in runs.items():
        seconds = [run.seconds for run in measured]
        percent = [100 * (ratio - 1) for ratio in ratios(seconds, fine)]
        over = spread(percent, "+.1f") if way != "fine" else ""
        cpu = spread([run.sender_cpu_seconds for run in measured])
        print(f"| {way} | {np.median(seconds):.1f} | {over} | {cpu} |")


if __name__ == "__main__":
    main()
