"""Brings runs' journals to MLflow, by a process of its own.

To import mlflow and to open its store takes a core for many seconds, and Python runs one thread at
a time: in a thread, all that would be taken from the preparation of the data and from training.
The process reads the journal itself; it is only told that there is more. Where it dies during a
run, another one takes its place. After a run it is kept for a while, for the next one.
"""

import atexit
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any, Self

from imgclf.errors import ImgclfError
from imgclf.own_process import can_start_python, how_it_ended, start_python
from imgclf.tracking import no_answer

_KEPT_SECONDS = 60.0
# What takes less at a run's end is not worth a word.
_MOMENT_SECONDS = 1.0
# Between a death and the next start. What has ended one may end the next: after one more death in a
# row nothing is started any more.
_SECONDS_BEFORE_STARTS = (0.0, 2.0, 8.0, 30.0)
# A process that lived for so long begins a new row.
_LONG_LIFE_SECONDS = 600.0
# Variables that programs set for themselves while they run; they say nothing to MLflow.
_NOT_FOR_MLFLOW = ("CUDA", "PYTEST", "TORCH", "TRITON")


@dataclass(frozen=True)
class Delivery:
    """How far the process has come.

    Attributes:
        tracking_uri: the store; empty before mlflow was imported.
        mlflow_run_id, url: of the run, once it is known.
        is_open: whether MLflow has opened the run, again where it is resumed.
        delivered: how many of the journal's records were dealt with and are not held back.
        refusal: message and hint, where MLflow will not open the run; empty otherwise.
        problems: what will never be taken, in words.
        held_back: what the server does not take while it takes others, in words.
        failing: why the record at hand has not been taken yet, while the server is away.
        ended: whether the run's last record was dealt with.
    """

    tracking_uri: str = ""
    mlflow_run_id: str | None = None
    url: str | None = None
    is_open: bool = False
    delivered: int = 0
    refusal: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    held_back: tuple[str, ...] = ()
    failing: str = ""
    ended: bool = False

    @classmethod
    def from_json(cls, line: bytes) -> Self:
        """Read what `to_json` wrote."""
        values: dict[str, Any] = json.loads(line)
        # JSON knows no tuples.
        for name in ("refusal", "problems", "held_back"):
            values[name] = tuple(values[name])
        return cls(**values)

    def to_json(self) -> bytes:
        """Return one line."""
        return json.dumps(asdict(self)).encode() + b"\n"


class Sender:
    """A process of `imgclf.tracking.sender_process`; it begins to import mlflow at once.

    It serves one run after the other, between `take_sender` and `finish`. Where it has died
    meanwhile, the next word of the run starts another one, a few times in a row.

    Raises:
        ImgclfError: no process can be started.
    """

    def __init__(self) -> None:
        self._surroundings = _surroundings()
        if not can_start_python():
            raise ImgclfError(
                "Training needs a Python interpreter to start a process for MLflow; this program"
                " carries Python inside itself.",
                "Train with 'imgclf train' of an ordinary installation.",
            )
        self._folder = Path()
        self._was_open = False
        self._failing_since: float | None = None
        self._how_it_ended = ""
        self._deaths = 0
        self._may_start_at = 0.0
        self._tried = threading.Event()
        # Several threads speak for a run, and each may find the process dead.
        self._starting = threading.Lock()
        self.delivery = Delivery()
        self._start()

    def _start(self) -> None:
        module = "imgclf.tracking.sender_process"
        self._process = start_python(module, json.dumps(sys.argv), "for MLflow")
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        self._listener = threading.Thread(
            target=self._listen, args=[self._process], name="imgclf-sender", daemon=True
        )
        self._listener.start()

    def begin(self, folder: Path) -> None:
        """Serve the run in a folder from now on; its journal has its first record."""
        self.delivery = replace(Delivery(), tracking_uri=self.delivery.tracking_uri)
        self._was_open = False
        self._deaths = 0
        self._tried.clear()
        self._folder = folder
        self.announce()

    def announce(self, *, ended: bool = False) -> bool:
        """Say that the journal has more, or that it has ended; never wait.

        Returns:
            whether there is somebody to hear it, or will be.
        """
        with self._starting:
            lives = self._listener.is_alive() or self._start_again()
            assert self._process.stdin is not None
            line = json.dumps({"folder": str(self._folder), "ended": ended}).encode() + b"\n"
            # Where the process is gone, `_listen` says so. Where it has stopped, the pipe may be
            # full: what it finds there when it goes on makes it read all of the journal.
            with suppress(BrokenPipeError, BlockingIOError):
                os.write(self._process.stdin.fileno(), line)
        return lives

    def _start_again(self) -> bool:
        """Start another process when it is time; return whether one is there, or will be."""
        if self.delivery.refusal or self._deaths > len(_SECONDS_BEFORE_STARTS):
            return False
        if time.monotonic() >= self._may_start_at:
            dead = self._process.stdin
            try:
                self._start()
                _close(dead)
            except ImgclfError as error:  # there is no memory for it, say
                self._count_death(error.message)
        return True

    def _count_death(self, how: str) -> None:
        self._how_it_ended = how
        pauses = _SECONDS_BEFORE_STARTS
        self._may_start_at = time.monotonic() + pauses[min(self._deaths, len(pauses) - 1)]
        self._deaths += 1

    def wait_until_tried(self, seconds: float) -> None:
        """Wait, for so long at most, until MLflow has opened the run or failed to."""
        self._tried.wait(seconds)

    def finish(
        self, patience: float, seconds: float, say_waiting: Callable[[], object]
    ) -> tuple[Delivery, str]:
        """Wait until the run is sent to its end, while the server answers.

        Args:
            patience: seconds after which a server that does not answer is given up.
            seconds: to wait at most; then the process goes on by itself, while the server answers.
            say_waiting: is called once where it takes longer than a moment.

        Returns:
            how far it came, and why not to the end; empty where it did.
        """
        start, reason, waits, is_said = time.monotonic(), "", True, False
        lives = self.announce(ended=True)
        while lives and waits and not (reason or self._is_through):
            time.sleep(0.05)
            lives = self._listener.is_alive() or self.announce(ended=True)
            waited = time.monotonic() - start
            if waited > _MOMENT_SECONDS and not is_said:
                say_waiting()
                is_said = True
            reason = self._why_hopeless(start, patience)
            waits = waited < seconds
        delivery = self.delivery
        if delivery.ended:
            _keep(self, _KEPT_SECONDS)
            return delivery, ""
        failing = f": {delivery.failing}" if delivery.failing else ""
        if waits or not self._listener.is_alive():
            self.stop()
            reason = " ".join(delivery.refusal) or reason or self._how_it_ended + failing
            return delivery, reason
        _close(self._process.stdin)
        return delivery, f"it takes longer than {seconds:.0f} seconds and goes on{failing}"

    @property
    def _is_through(self) -> bool:
        return self.delivery.ended or bool(self.delivery.refusal)

    def _why_hopeless(self, start: float, patience: float) -> str:
        since = self._failing_since
        if since is None or time.monotonic() - max(start, since) <= patience:
            return ""
        return no_answer(self.delivery.tracking_uri, self.delivery.failing)

    def fits(self) -> bool:
        """Tell whether the process is there and sees what a new one would see."""
        works = self._listener.is_alive() and not self.delivery.refusal
        return works and self._surroundings == _surroundings()

    def let_go(self) -> None:
        """Say no more: the process sends what there is, and ends a run that has no end."""
        _close(self._process.stdin)

    def stop(self) -> None:
        """End the process at once."""
        self._process.kill()
        _close(self._process.stdin)
        self._listener.join()

    def _listen(self, process: "subprocess.Popen[bytes]") -> None:
        """Follow a process until it ends."""
        assert process.stdout is not None
        started = time.monotonic()
        try:
            with process.stdout:
                self._follow(process.stdout)
        finally:
            code = process.wait()
            if time.monotonic() - started > _LONG_LIFE_SECONDS:
                self._deaths = 0
            how = how_it_ended(code) if code else "ended too early"
            self._count_death(f"the process that sends to MLflow {how}")
            self._failing_since = None
            self._tried.set()

    def _follow(self, answers: IO[bytes]) -> None:
        for line in answers:
            if not line.endswith(b"\n"):
                return  # it was killed while it wrote
            delivery = Delivery.from_json(line)
            self._was_open = self._was_open or delivery.is_open
            if delivery.refusal and self._was_open:
                # Another process than the one that opened the run cannot work: the run goes on.
                delivery = replace(self.delivery, failing=delivery.refusal[0])
            self.delivery = delivery
            self._failing_since = (
                self._failing_since or time.monotonic() if delivery.failing else None
            )
            tried = delivery.is_open or delivery.refusal or delivery.failing
            if tried and not delivery.ended:
                self._tried.set()


def _close(stdin: IO[bytes] | None) -> None:
    assert stdin is not None
    with suppress(BrokenPipeError):  # of a record that nobody has read
        stdin.close()


def _surroundings() -> tuple[Any, ...]:
    """Return what a process takes over from this one when it starts."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith(_NOT_FOR_MLFLOW)}
    return variables, os.getcwd(), list(sys.path), list(sys.argv)


_kept: dict[Sender, threading.Timer | None] = {}
_lock = threading.Lock()


def prepare_sender() -> None:
    """Start a process for the next run: it imports mlflow while this one does something else."""
    _keep(Sender(), None)  # for as long as it takes to read the data


def take_sender() -> Sender:
    """Return a process that has been kept, or a new one."""
    with _lock:
        found = next((sender for sender in _kept if sender.fits()), None)
        if found is not None:
            if timer := _kept.pop(found):
                timer.cancel()
            return found
    return Sender()


def _keep(sender: Sender, seconds: float | None) -> None:
    timer = threading.Timer(seconds, _discard, [sender]) if seconds else None
    with _lock:
        _kept[sender] = timer
    if timer:
        timer.daemon = True
        timer.start()


def _discard(sender: Sender) -> None:
    with _lock:
        if sender not in _kept:
            return  # it was taken meanwhile
        timer = _kept.pop(sender)
    if timer:
        timer.cancel()
    sender.stop()


@atexit.register
def stop_kept_senders() -> None:
    """End the processes that wait for a next run; the program's end does so too."""
    for sender in list(_kept):
        _discard(sender)
