"""The server beside bare decoding and running, and beside `mlflow models serve`, on one model.

Run:   python benchmarks/serving.py [--seconds 10] [--requests 0]
Cost:  about ten minutes on two CPU cores. Linux.

Clients run in a process of their own on the same machine and keep their connections. imgclf gets
JPEG files at /predict; mlflow gets the same images as the JSON numbers that it reads, made
beforehand, and serves the same ONNX file with one worker. "bare" decodes and runs the same files in
a loop. The ways take turns in each of three rounds; the median round is shown. --requests N sends N
requests more and prints the server's memory before and after.
"""

import contextlib
import http.client
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import click
import numpy as np
import psutil
from rounds import machine
from served_models import NETWORKS, photographs, write_model

ROUNDS = 3
CLIENTS = (1, 32)


@dataclass(frozen=True)
class Target:
    """Where requests go: a port, a path, and what is sent in turn."""

    port: int
    path: str
    content_type: str
    bodies: tuple[bytes, ...]


def _ask(target: Target, seconds: float, number: int) -> list[float]:
    """Ask again and again over one connection; return how long each answer took."""
    connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=120)
    latencies = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        body = target.bodies[number % len(target.bodies)]
        start = time.perf_counter()
        connection.request("POST", target.path, body, {"Content-Type": target.content_type})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200, answer.status
        latencies.append(time.perf_counter() - start)
        number += 1
    return latencies


def _clients(target: Target, clients: int, seconds: float) -> list[float]:
    with ThreadPoolExecutor(clients) as pool:
        parts = pool.map(lambda number: _ask(target, seconds, number), range(clients))
        return [latency for part in parts for latency in part]


def _load(target: Target, clients: int, seconds: float) -> tuple[float, float, float]:
    """Return requests a second, and the median and 99th percentile in milliseconds."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.apply(_clients, (target, clients, 0.5))
        latencies = pool.apply(_clients, (target, clients, seconds))
    p50, p99 = np.percentile(latencies, [50, 99])
    return len(latencies) / seconds, 1000 * p50, 1000 * p99


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def _server(port: int, ready: str, *command: str) -> Iterator[tuple[float, int]]:
    """Run a server for a block; give the seconds until it was ready, and its process id."""
    start = time.perf_counter()
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    process = subprocess.Popen(
        [sys.executable, "-m", *command, "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    )
    try:
        while not _answers(port, ready):
            assert process.poll() is None, command
            time.sleep(0.05)
        yield time.perf_counter() - start, process.pid
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _jpegs(size: int) -> tuple[bytes, ...]:
    files = []
    for image in photographs(32, size):
        file = BytesIO()
        image.save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return tuple(files)


def _json_numbers(files: tuple[bytes, ...], model: Path) -> tuple[bytes, ...]:
    from imgclf.predict import Predictor
    from imgclf.preprocess import to_array

    rule = Predictor(model).card.preprocessing
    return tuple(
        json.dumps({"inputs": to_array(file, rule)[None].tolist()}).encode() for file in files
    )


def _bare(model: Path, files: tuple[bytes, ...], seconds: float) -> float:
    """Return the median milliseconds to decode and run one file in a loop."""
    import onnxruntime

    from imgclf.predict import Predictor
    from imgclf.preprocess import to_array

    rule = Predictor(model).card.preprocessing
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    times, end, number = [], time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        start = time.perf_counter()
        session.run(None, {"image": to_array(files[number % len(files)], rule)[None]})
        times.append(time.perf_counter() - start)
        number += 1
    return 1000 * float(np.median(times))


def _write_mlflow_model(model: Path, folder: Path) -> None:
    import mlflow
    import onnx

    mlflow.onnx.save_model(
        onnx.load(model), folder, save_as_external_data=False,
        onnx_execution_providers=["CPUExecutionProvider"],
    )  # fmt: skip


@click.command()
@click.option("--seconds", default=10.0, help="Length of each measurement.")
@click.option("--requests", default=0, help="Requests after which the memory is compared.")
@click.option("--without-mlflow", is_flag=True, help="Leave mlflow's server out.")
def main(seconds: float, requests: int, without_mlflow: bool) -> None:
    """Measure and print tables."""
    print("| size | server | clients | requests/s | p50, ms | p99, ms | cold start, s |")
    print("|---|---|---|---|---|---|---|")
    for size in NETWORKS:
        with tempfile.TemporaryDirectory() as folder:
            model = Path(folder) / "model.onnx"
            write_model(size, model)
            _compare(size, model, seconds, without_mlflow)
            if requests:
                _memory(size, model, requests)
    print(f"\n{machine()}; {ROUNDS} rounds of {seconds:g} s, the median one")


def _compare(size: int, model: Path, seconds: float, without_mlflow: bool) -> None:
    files = _jpegs(size)
    kind = "application/octet-stream"
    ports = [_free_port() for _ in range(3)]
    serve = ("imgclf", "serve", str(model))
    ready = "/v2/health/ready"
    with contextlib.ExitStack() as stack:
        starts = {
            "imgclf": stack.enter_context(_server(ports[0], ready, *serve))[0],
            "imgclf, --max-batch 1": stack.enter_context(
                _server(ports[1], ready, *serve, "--max-batch", "1")
            )[0],
        }
        targets = {
            "imgclf": Target(ports[0], "/predict", kind, files),
            "imgclf, --max-batch 1": Target(ports[1], "/predict", kind, files),
        }
        if not without_mlflow:
            name = "mlflow models serve"
            saved = model.parent / "mlflow"
            _write_mlflow_model(model, saved)
            command = ("mlflow", "models", "serve", "--env-manager", "local", "-m", str(saved))
            starts[name] = stack.enter_context(_server(ports[2], "/ping", *command))[0]
            numbers = _json_numbers(files, model)
            targets[name] = Target(ports[2], "/invocations", "application/json", numbers)
        rounds: dict[tuple[str, int], list[tuple[float, float, float]]] = {}
        bare = []
        for _ in range(ROUNDS):
            bare.append(_bare(model, files, seconds))
            for name, target in targets.items():
                for clients in CLIENTS:
                    rounds.setdefault((name, clients), []).append(_load(target, clients, seconds))
    middle = f"{np.median(bare):.2f}"
    print(f"| {size} | bare loop | 1 | {1000 / np.median(bare):,.0f} | {middle} | | |")
    for (name, clients), found in rounds.items():
        rate, p50, p99 = sorted(found)[ROUNDS // 2]
        start = f"{starts[name]:.1f}" if clients == 1 else ""
        print(f"| {size} | {name} | {clients} | {rate:,.0f} | {p50:.2f} | {p99:.2f} | {start} |")


def _memory(size: int, model: Path, requests: int) -> None:
    """Print the server's own memory after 1,000 requests and after many more."""
    port, files = _free_port(), _jpegs(size)
    target = Target(port, "/predict", "application/octet-stream", files)
    with _server(port, "/v2/health/ready", "imgclf", "serve", str(model)) as (_, pid):
        process, sent, readings = psutil.Process(pid), 0, []
        lock = threading.Lock()

        def send(number: int) -> None:
            nonlocal sent
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
            while sent < requests:
                connection.request("POST", target.path, files[number % 32])
                connection.getresponse().read()
                with lock:
                    sent += 1
                    if sent in (1000, requests):
                        readings.append(process.memory_full_info().uss / 2**20)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(send, range(8)))
    print(
        f"| {size} | memory of imgclf | 8 | {readings[0]:.0f} MiB after 1,000 requests,"
        f" {readings[-1]:.0f} MiB after {requests:,} | | | |"
    )


if __name__ == "__main__":
    main()
