"""The server beside bare decoding and running, and beside `mlflow models serve`, on one model.

Run:   python benchmarks/serving.py [--seconds 10] [--rounds 3] [--without-mlflow]
       python benchmarks/serving.py --network mnist-cnn --requests 100000
Cost:  about half an hour on two CPU cores, a third of it for each network; --requests as long as
       the server takes to answer so many. Linux.

The loop decodes and runs one file after the other in this process. `imgclf serve` gets the bytes of
files, with its defaults and with --max-batch 1, which answers each image alone. mlflow's server
reads JSON numbers: its client decodes and resizes each file and writes the numbers, which is part
of what a request costs there, and of its latency here. Both servers serve the same ONNX file with
one worker; before anything is timed, their answers are compared with the loop's.

A latency is from a file's bytes in memory to the whole answer. The clients run in four processes on
the same machine, each connection kept, each client asking again as soon as it is answered; "client
CPU" is their processor time for a request, which the server does not have. Requests a second are
divided by the time from the first request to the last answer. "Start" is from the command to
readiness, with the files in the system's cache. The ways take turns, every second round backwards.
Figures are medians over the rounds; requests a second with the lowest and the highest round.

--requests N lastly sends about N requests by 8 clients and prints the server's own memory (what no
other process shares) at eleven points, with its slope from the second point on.
"""

import contextlib
import dataclasses
import http.client
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime
import psutil
from http_clients import Clients, Load, Target, ask_for_each
from rounds import machine, orders
from served_models import SERVED, Served, write_jpegs, write_model

from imgclf.card import ModelCard, Preprocessing
from imgclf.preprocess import to_array

CLIENTS = (1, 32)
FILES = 32
MEMORY_CLIENTS, MEMORY_STEPS = 8, 10


@dataclass(frozen=True)
class Server:
    """A way to serve a model.

    Attributes:
        name: for people.
        command: behind ``python -m``, without the port.
        ready: path that answers 200 once the server is ready.
        path: of predictions.
        probability: answer -> that of the most probable class.
        as_numbers: as `Target` takes it.
    """

    name: str
    command: tuple[str, ...]
    ready: str
    path: str
    probability: Callable[[Any], float]
    as_numbers: tuple[int, ...] = ()

    def target(self, port: int, files: Sequence[Path]) -> Target:
        return Target(port, self.path, tuple(map(str, files)), self.as_numbers)


@dataclass(frozen=True)
class Case:
    """What is served: an exported file and image files."""

    served: Served
    model: Path
    card: ModelCard
    files: list[Path]


@dataclass(frozen=True)
class Row:
    """A line of the table: a way with so many clients, measured in several rounds."""

    name: str
    clients: int
    loads: list[Load]

    def text(self, starts: Sequence[float]) -> str:
        rates = [len(load.latencies) / load.seconds for load in self.loads]
        p50, p99 = (
            np.median([1000 * np.percentile(load.latencies, share) for load in self.loads])
            for share in (50, 99)
        )
        cost = np.median([1000 * one.client_seconds / len(one.latencies) for one in self.loads])
        client = f"{cost:.2f}" if cost else ""
        start = f"{np.median(starts):.1f}" if starts else ""
        return (
            f"| {self.name} | {self.clients} | {_spread(rates)} | {p50:.2f} | {p99:.2f} |"
            f" {client} | {start} |"
        )


def _imgclf_server(model: Path) -> Server:
    return Server(
        "`imgclf serve`",
        ("imgclf", "serve", str(model)),
        "/v2/health/ready",
        "/predict",
        lambda answer: answer["predictions"][0]["probability"],
    )


def _servers(case: Case, without_mlflow: bool) -> list[Server]:
    batching = _imgclf_server(case.model)
    alone = dataclasses.replace(
        batching,
        name="`imgclf serve --max-batch 1`",
        command=(*batching.command, "--max-batch", "1"),
    )
    if without_mlflow:
        return [batching, alone]
    saved = case.model.parent / "mlflow"
    _save_in_mlflow(case, saved)
    command = ("mlflow", "models", "serve", "--env-manager", "local", "--host", "127.0.0.1")
    mlflow_server = Server(
        "`mlflow models serve`",
        (*command, "--model-uri", str(saved)),
        "/ping",
        "/invocations",
        lambda answer: max(answer["predictions"]["probabilities"][0]),
        dataclasses.astuple(case.card.preprocessing),
    )
    return [batching, alone, mlflow_server]


def _save_in_mlflow(case: Case, folder: Path) -> None:
    import mlflow
    import onnx

    from imgclf.tracking.model_registry import onnx_signature

    mlflow.onnx.save_model(
        onnx.load(case.model),
        folder,
        signature=onnx_signature(case.card),
        pip_requirements=["mlflow", "onnxruntime"],
        save_as_external_data=False,
        onnx_execution_providers=["CPUExecutionProvider"],
    )


@contextlib.contextmanager
def _running(server: Server) -> Iterator[tuple[psutil.Process, int, float]]:
    """Run a server for a block; give its process, its port, and the seconds until it was ready."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    # mlflow starts its workers by names that it looks up.
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    start = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", *server.command, "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PATH": path},
        start_new_session=True,
    )
    try:
        while not _answers(port, server.ready):
            assert process.poll() is None, f"it has ended: {server.command}"
            time.sleep(0.02)
        yield psutil.Process(process.pid), port, time.monotonic() - start
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class Bare:
    """Decodes and runs one file after the other."""

    def __init__(self, case: Case) -> None:
        self._rule: Preprocessing = case.card.preprocessing
        self._files = [path.read_bytes() for path in case.files]
        providers = ["CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(case.model, providers=providers)
        self.probabilities = [self._probability(file) for file in self._files]

    def _probability(self, file: bytes) -> float:
        answer = self._session.run(["probabilities"], {"image": to_array(file, self._rule)[None]})
        return float(np.asarray(answer[0]).max())

    def load(self, seconds: float) -> Load:
        latencies: list[float] = []
        start = end = time.monotonic()
        while end < start + seconds:
            began = end
            self._probability(self._files[len(latencies) % len(self._files)])
            end = time.monotonic()
            latencies.append(end - began)
        return Load(latencies, end - start, 0.0)


def _compare(case: Case, ways: list[Server], clients: Clients, rounds: int, seconds: float) -> None:
    """Print a model's table."""
    bare = Bare(case)
    starts: dict[str, list[float]] = {way.name: [] for way in ways}
    for _ in range(rounds):
        for way in ways:
            with _running(way) as (_, _, taken):
                starts[way.name].append(taken)
    first = Row("decode and run in a loop", 1, [])
    rows = [Row(way.name, number, []) for way in ways for number in CLIENTS]
    with contextlib.ExitStack() as stack:
        targets = {}
        for way in ways:
            _, port, _ = stack.enter_context(_running(way))
            target = targets[way.name] = way.target(port, case.files)
            answered = [way.probability(answer) for answer in ask_for_each(target)]
            np.testing.assert_allclose(answered, bare.probabilities, atol=1e-4)
        for order in orders(rows, rounds):
            first.loads.append(bare.load(seconds))
            for row in order:
                row.loads.append(clients.ask(targets[row.name], row.clients, seconds))
    print(f"\n{case.served}\n")
    print("| way | clients | requests/s | p50, ms | p99, ms | client CPU, ms | start, s |")
    print("|---|---|---|---|---|---|---|")
    print(first.text([]))
    for row in rows:
        print(row.text(starts[row.name] if row.clients == 1 else []), flush=True)


def _watch_memory(case: Case, clients: Clients, requests: int) -> None:
    """Print a server's own memory while it answers."""
    server = _imgclf_server(case.model)
    each = math.ceil(requests / MEMORY_STEPS / MEMORY_CLIENTS)
    with _running(server) as (process, port, _):
        target = server.target(port, case.files)
        sent, memory = [0], [process.memory_full_info().uss / 2**20]
        for _ in range(MEMORY_STEPS):
            load = clients.ask(target, MEMORY_CLIENTS, math.inf, each)
            sent.append(sent[-1] + len(load.latencies))
            memory.append(process.memory_full_info().uss / 2**20)
    slope = np.polyfit(sent[1:], memory[1:], 1)[0] * 100_000
    print(f"\nMemory of `imgclf serve` that no other process shares, {case.served}\n")
    print("| requests | " + " | ".join(f"{number:,}" for number in sent) + " |")
    print("|---" * (len(sent) + 1) + "|")
    print("| MiB | " + " | ".join(f"{reading:.1f}" for reading in memory) + " |")
    print(f"\n{slope:+.2f} MiB for 100,000 requests, from {sent[1]:,} requests on", flush=True)


def _spread(rates: Sequence[float]) -> str:
    values = (float(np.median(rates)), min(rates), max(rates))
    median, lowest, highest = (f"{value:,.{0 if value >= 10 else 2}f}" for value in values)
    return f"{median} ({lowest} to {highest})"


@click.command()
@click.option(
    "--network",
    "networks",
    multiple=True,
    type=click.Choice([served.network for served in SERVED]),
    default=[served.network for served in SERVED],
    help="Only this network; may be repeated.",
)
@click.option("--seconds", default=10.0, help="Length of each measurement.")
@click.option("--rounds", default=3, help="Measurements of each way, and starts.")
@click.option("--requests", default=0, help="Requests while memory is watched; 0: it is not.")
@click.option("--without-mlflow", is_flag=True, help="Leave mlflow's server out.")
def main(
    networks: Sequence[str], seconds: float, rounds: int, requests: int, without_mlflow: bool
) -> None:
    """Measure and print tables."""
    # As an exception, so that no server is left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    with Clients() as clients, tempfile.TemporaryDirectory() as root:
        for served in (one for one in SERVED if one.network in networks):
            folder = Path(root) / served.network
            folder.mkdir()
            model = folder / "model.onnx"
            case = Case(
                served, model, write_model(served, model), write_jpegs(FILES, served, folder)
            )
            _compare(case, _servers(case, without_mlflow), clients, rounds, seconds)
            if requests:
                _watch_memory(case, clients, requests)
    print(
        f"\n{machine()}, onnxruntime {onnxruntime.__version__}; {rounds} rounds of {seconds:g} s:"
        " median (lowest to highest)"
    )


if __name__ == "__main__":
    main()
