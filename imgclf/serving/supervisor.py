"""Keeps several serving processes alive, and passes signals on to them."""

import dataclasses
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from imgclf.errors import ImgclfError
from imgclf.own_process import visible_packages
from imgclf.serving.measured import log
from imgclf.serving.settings import ServerSettings
from imgclf.serving.signals import hold_reloads, take_reloads

_SECONDS_BETWEEN_LOOKS = 0.1
# One that has lived shorter, or has failed, is replaced so much later: it may be that none can
# start.
_SHORTEST_LIFE = 5.0


@dataclass(frozen=True)
class _Worker:
    """A process, when it was started, and when its end was seen: seconds of the monotonic clock.

    ``number`` is its place among the others; the process that replaces it has the same.
    """

    number: int
    process: "subprocess.Popen[bytes]"
    started: float
    ended: float | None = None

    @property
    def alive(self) -> bool:
        return self.process.poll() is None


_Start: TypeAlias = Callable[[int], _Worker]


def serve_workers(settings: ServerSettings, listener: socket.socket) -> None:
    """Keep as many processes alive as there are to be, until a signal ends them.

    Raises:
        ImgclfError: one cannot be started at first, or all of them have ended by themselves.
    """
    # Only noted here: a signal must not find half a list of workers.
    signals: deque[int] = deque()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: signals.append(number))
    listener.set_inheritable(True)
    with tempfile.TemporaryDirectory(prefix="imgclf-metrics-") as metrics:
        start = partial(_start, settings, listener, metrics)
        workers = [start(number) for number in range(settings.workers)]
        ending = False
        while any(worker.alive for worker in workers):
            time.sleep(_SECONDS_BETWEEN_LOOKS)
            ending = _pass_on(signals, workers) or ending
            if ending:
                # Nobody must wait here for an answer that does not come.
                listener.close()
            else:
                workers = [_replaced(worker, start) for worker in workers]
    if not ending:
        raise ImgclfError("No process can serve the model; see above.")


def _start(settings: ServerSettings, listener: socket.socket, metrics: str, number: int) -> _Worker:
    arguments = [settings.to_json(), str(listener.fileno()), str(number)]
    hold_reloads()
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "imgclf.serving.worker", *arguments],
            env={
                **os.environ,
                "PYTHONPATH": visible_packages(),
                "PROMETHEUS_MULTIPROC_DIR": metrics,
            },
            # Nothing is written to it; its end is the end of this process.
            stdin=subprocess.PIPE,
            pass_fds=[listener.fileno()],
            # Ctrl-C is for this process, which passes it on.
            start_new_session=True,
        )
    except OSError as error:
        raise ImgclfError(
            f"Cannot start a process that serves: {error.strerror or error}.",
            "Close other programs, or raise the limits of memory and of processes.",
        ) from error
    finally:
        take_reloads()
    return _Worker(number, process, time.monotonic())


def _pass_on(signals: deque[int], workers: list[_Worker]) -> bool:
    """Pass on what has come, and tell whether it ends the server."""
    ending = False
    while signals:
        number = signals.popleft()
        ending = ending or number != signal.SIGHUP
        for worker in workers:
            if worker.alive:
                worker.process.send_signal(number)
    return ending


def _replaced(worker: _Worker, start: _Start) -> _Worker:
    """Return who is in the place of a worker: itself, or another process once it has ended."""
    if worker.alive:
        return worker
    now, ended, code = time.monotonic(), worker.ended, worker.process.returncode
    if ended is None:
        log("worker ended", logging.ERROR, pid=worker.process.pid, code=code)
        ended = now
    has_served = code <= 0 and ended - worker.started >= _SHORTEST_LIFE
    if not has_served and now - ended < _SHORTEST_LIFE:
        return dataclasses.replace(worker, ended=ended)
    try:
        return start(worker.number)
    except ImgclfError as error:
        log("worker not started", logging.ERROR, reason=error.message)
        # As one that has ended at once: it is tried again later.
        return dataclasses.replace(worker, started=now, ended=now)
