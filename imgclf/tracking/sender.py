"""Brings a run's records to MLflow, by a process of its own.

To import mlflow and to open its store takes a core for many seconds, and Python runs one thread at
a time: in a thread, all that would be taken from the preparation of the data and from training.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from imgclf.errors import ImgclfError
from imgclf.tracking.journal import Record


@dataclass(frozen=True)
class Delivery:
    """How far the process has come.

    Attributes:
        tracking_uri: the store; empty before mlflow was imported.
        mlflow_run_id, url: of the run, once it is open.
        refusal: message and hint, where MLflow will not open the run; empty otherwise.
        problems: what will never be taken, in words.
        failing: why the record at hand has not been taken yet, while the server is away.
    """

    tracking_uri: str = ""
    mlflow_run_id: str | None = None
    url: str | None = None
    refusal: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    failing: str = ""

    @classmethod
    def from_json(cls, line: bytes) -> Self:
        """Read what `to_json` wrote."""
        values: dict[str, Any] = json.loads(line)
        # JSON knows no tuples.
        for name in ("refusal", "problems"):
            values[name] = tuple(values[name])
        return cls(**values)

    def to_json(self) -> bytes:
        """Return one line."""
        return json.dumps(asdict(self)).encode() + b"\n"


class Sender:
    """A process of `imgclf.tracking.sender_process`; it begins to import mlflow at once.

    It ends with `close`, or with the context.

    Raises:
        ImgclfError: no process can be started.
    """

    def __init__(self) -> None:
        # The packages that this process sees; an empty entry stands for the working folder.
        packages = os.pathsep.join(path or os.getcwd() for path in sys.path)
        module = "imgclf.tracking.sender_process"
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, json.dumps(sys.argv)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": packages},
                # Ctrl-C is for this process, which then says how the run ends.
                start_new_session=True,
            )
        except OSError as error:
            raise ImgclfError(
                f"Cannot start a process for MLflow: {error.strerror or error}.",
                "Close other programs, or raise the limits of memory and of processes.",
            ) from error
        self._failing_since: float | None = None
        self._tried = threading.Event()
        self._listener = threading.Thread(target=self._listen, name="imgclf-sender", daemon=True)
        self.delivery = Delivery()
        self._listener.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._end()

    def send(self, record: Record) -> None:
        """Hand over one record; do not wait until it is sent."""
        assert self._process.stdin is not None
        # Where the process is gone, `_listen` says so.
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(asdict(record)).encode() + b"\n")
            self._process.stdin.flush()

    def wait_until_tried(self, seconds: float) -> None:
        """Wait, for so long at most, until MLflow has opened the run or failed to."""
        self._tried.wait(seconds)

    def close(self, patience: float) -> list[str]:
        """Wait until all is sent, or until nothing was taken for so many seconds.

        Returns:
            what was not sent, in words.
        """
        self._close_input()
        start = time.monotonic()
        problems: list[str] = []
        while self._listener.is_alive():
            self._listener.join(timeout=0.05)
            failing_since = self._failing_since
            if failing_since and time.monotonic() - max(start, failing_since) > patience:
                problems = [f"the tracking server does not answer: {self.delivery.failing}"]
                self._process.kill()
                break
        problems = [*self.delivery.problems, *problems]
        self._end()
        return problems

    def _listen(self) -> None:
        """Follow the process until it ends."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.delivery = delivery = Delivery.from_json(line)
            self._failing_since = (
                self._failing_since or time.monotonic() if delivery.failing else None
            )
            if delivery.mlflow_run_id or delivery.refusal or delivery.failing:
                self._tried.set()
        code = self._process.wait()
        if code:
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
            problem = f"the process that sends to MLflow {how}"
            self.delivery = replace(self.delivery, problems=(*self.delivery.problems, problem))
        self._failing_since = None
        self._tried.set()

    def _close_input(self) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # of a record that nobody has read
            self._process.stdin.close()

    def _end(self) -> None:
        assert self._process.stdout is not None
        self._close_input()
        self._listener.join()
        self._process.stdout.close()
