"""Starts `imgclf serve` as a person does, reads its log, asks it, ends it."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import requests
from prometheus_client.parser import text_string_to_metric_families

REFERENCE = Path(__file__).parents[2] / "exports" / "reference" / "model.onnx"
EXAMPLE = REFERENCE.with_name("example.png")
IMAGE = EXAMPLE.read_bytes()
# Of a busy machine: no test waits so long where all is well.
PATIENCE = 60.0


class Server:
    """A running server; leaving the ``with`` block ends it by SIGTERM.

    Args:
        model: the file, or an address in MLflow.
        options: of the command, beside ``--port 0``.
        ready: whether to wait until it is.
        before: code that the process runs before the command, to make its machine another.
    """

    def __init__(
        self,
        model: "str | Path",
        *options: "str | Path",
        ready: bool = True,
        before: str = "",
    ) -> None:
        self.log: list[dict[str, Any]] = []
        self.other_lines: list[str] = []
        self._ready = ready
        program = ["-m", "imgclf"]
        if before:
            program = ["-c", f"{before}\nfrom imgclf.cli import main\nmain(prog_name='imgclf')"]
        self.process = subprocess.Popen(
            [sys.executable, *program, "serve", model, "--port", "0", *options],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> "Server":
        self.url = self.wait_for("listening")["url"].rstrip("/")
        if self._ready:
            until(lambda: self.get("/v2/health/ready").status_code == 200)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.end()

    @property
    def address(self) -> str:
        """Host and port, as the clients of Triton take them."""
        return self.url.removeprefix("http://")

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def get(self, path: str, **options: Any) -> requests.Response:
        return requests.get(self.url + path, timeout=PATIENCE, **options)

    def post(self, path: str, data: Any = None, **options: Any) -> requests.Response:
        return requests.post(self.url + path, data, timeout=PATIENCE, **options)

    def version(self) -> str:
        """The version of the model that answers now."""
        return self.get("/model").json()["version"]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait_for(self, event: str, count: int = 1) -> dict[str, Any]:
        """Wait for the log's n-th line about an event."""

        def found() -> list[dict[str, Any]]:
            return [entry for entry in self.log if entry["event"] == event]

        until(lambda: len(found()) >= count or self.process.poll() is not None)
        if len(found()) < count:
            self._reader.join(PATIENCE)  # what it said last may not be read yet
        assert len(found()) >= count, f"no {event!r} in {self.log} {self.other_lines}"
        return found()[count - 1]

    def end(self) -> int:
        """Wait for the end, and return the exit code."""
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            for line in lines:
                try:
                    self.log.append(json.loads(line))
                except ValueError:
                    self.other_lines.append(line)


def until(condition: Any) -> None:
    """Wait until something holds; a server that is not there yet refuses connections."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            if condition():
                return
        except requests.ConnectionError:
            pass
        time.sleep(0.05)
    raise AssertionError("it did not come about in time")


@contextmanager
def slow_request(server: Server) -> Iterator[http.client.HTTPConnection]:
    """Send half of a request, and wait until it is being read; `finish` sends the rest."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    connection.putrequest("POST", "/predict")
    connection.putheader("Content-Length", str(len(IMAGE)))
    connection.putheader("Content-Type", "image/png")
    connection.putheader("X-Request-ID", "slow")
    # The server says so once somebody there reads what follows; http.client passes over it.
    connection.putheader("Expect", "100-continue")
    connection.endheaders(IMAGE[:50])
    try:
        assert connection.sock.recv(12, socket.MSG_PEEK) == b"HTTP/1.1 100"
        yield connection
    finally:
        connection.close()


def finish(connection: http.client.HTTPConnection) -> http.client.HTTPResponse:
    connection.send(IMAGE[50:])
    return connection.getresponse()


@contextmanager
def flowing(server: Server) -> Iterator[list[tuple[int, str]]]:
    """Ask all the time, each time anew; collects statuses and the versions that have answered.

    A request without an answer has the status 0.
    """
    answers: list[tuple[int, str]] = []
    ending = threading.Event()

    def ask() -> None:
        while not ending.is_set():
            try:
                response = server.post("/predict", IMAGE)
            except requests.RequestException as error:
                answers.append((0, str(error)))
            else:
                answers.append((response.status_code, response.json().get("version", "")))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        ending.set()
        for thread in threads:
            thread.join()


def refused(server: Server) -> bool:
    """Tell whether nobody listens any more, not even a queue that nobody serves."""
    try:
        socket.create_connection(("127.0.0.1", server.port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def figures(server: Server) -> dict[tuple[str, ...], float]:
    """Samples by their name and the values of their labels, those in the order of their names."""
    families = text_string_to_metric_families(server.get("/metrics").text)
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in families
        for sample in family.samples
    }
