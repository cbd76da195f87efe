"""Starts `imgclf serve` as a person does, reads its log, asks it, ends it."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import requests

REFERENCE = Path(__file__).parents[2] / "exports" / "reference" / "model.onnx"
EXAMPLE = REFERENCE.with_name("example.png")
# Of a busy machine: no test waits so long where all is well.
PATIENCE = 60.0


class Server:
    """A running server; leaving the ``with`` block ends it by SIGTERM.

    Args:
        model: the file.
        options: of the command, beside ``--port 0``.
        ready: whether to wait until it is.
    """

    def __init__(self, model: Path, *options: "str | Path", ready: bool = True) -> None:
        self.log: list[dict[str, Any]] = []
        self.other_lines: list[str] = []
        self._ready = ready
        self.process = subprocess.Popen(
            [sys.executable, "-m", "imgclf", "serve", model, "--port", "0", *options],
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
