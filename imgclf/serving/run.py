"""Starts the server: one process, or several that share the port."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import uvicorn

from imgclf.errors import ImgclfError
from imgclf.serving.app import create_app
from imgclf.serving.measured import log, set_up_logging
from imgclf.serving.settings import ServerSettings

# Requests that are being answered when the server is told to end get so long, in seconds.
_GRACE = 30
_SHORTEST_LIFE = 5.0


def listen(host: str, port: int) -> socket.socket:
    """Open the port.

    Raises:
        ImgclfError: it cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or error
        raise ImgclfError(
            f"Cannot listen on {host}:{port}: {reason}.", "Choose another --port or --host."
        ) from error
    listener.listen(2048)
    return listener


def serve_process(settings: ServerSettings, listener: socket.socket) -> None:
    """Serve in this process until a signal ends it.

    Raises:
        ImgclfError: the model did not prove itself.
    """
    set_up_logging()
    reasons: list[str] = []

    def give_up(reason: str) -> None:
        reasons.append(reason)
        server.should_exit = True

    config = uvicorn.Config(
        create_app(settings, give_up),
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=_GRACE,
    )
    server = uvicorn.Server(config)
    # At its end uvicorn raises the signal that ended it once more: all is done by then.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    server.run(sockets=[listener])
    if reasons:
        message, _, hint = reasons[0].partition("\n")
        raise ImgclfError(message, hint)


def serve(settings: ServerSettings, host: str, port: int) -> None:
    """Serve until a signal ends it.

    SIGTERM and SIGINT finish what is being answered and refuse the rest; SIGHUP reloads the model.

    Raises:
        ImgclfError: the port cannot be had, or the model did not prove itself.
    """
    with listen(host, port) as listener:
        set_up_logging()
        address, bound = listener.getsockname()[:2]
        log("listening", url=f"http://{f'[{address}]' if ':' in address else address}:{bound}/")
        if settings.workers == 1:
            serve_process(settings, listener)
        else:
            _serve_workers(settings, listener)


def _serve_workers(settings: ServerSettings, listener: socket.socket) -> None:
    """Keep as many processes alive as there are to be, and pass signals on to them."""
    ending = False
    workers: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, _: object) -> None:
        nonlocal ending
        ending = ending or number != signal.SIGHUP
        for worker in workers:
            if worker.poll() is None:
                worker.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, pass_on)
    listener.set_inheritable(True)
    with tempfile.TemporaryDirectory(prefix="imgclf-metrics-") as metrics:
        workers += [_start_worker(settings, listener, metrics) for _ in range(settings.workers)]
        started = [time.monotonic()] * len(workers)
        while not ending or any(worker.poll() is None for worker in workers):
            time.sleep(0.1)
            for position, worker in enumerate(workers):
                if ending or worker.poll() is None:
                    continue
                if time.monotonic() - started[position] < _SHORTEST_LIFE:
                    ending = True  # it cannot start: neither could the next one
                    _end(workers)
                    break
                log("worker ended", pid=worker.pid, code=worker.returncode)
                workers[position] = _start_worker(settings, listener, metrics)
                started[position] = time.monotonic()
    if any(worker.returncode == 1 for worker in workers):
        raise ImgclfError("The model did not prove itself; see above.")


def _start_worker(
    settings: ServerSettings, listener: socket.socket, metrics: str
) -> "subprocess.Popen[bytes]":
    packages = os.pathsep.join(path or os.getcwd() for path in sys.path)
    descriptor = str(listener.fileno())
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "imgclf.serving.worker", settings.to_json(), descriptor],
        env={**os.environ, "PYTHONPATH": packages, "PROMETHEUS_MULTIPROC_DIR": metrics},
        pass_fds=[listener.fileno()],
        # Ctrl-C is for this process, which passes it on.
        start_new_session=True,
    )


def _end(workers: Sequence["subprocess.Popen[bytes]"]) -> None:
    for worker in workers:
        if worker.poll() is None:
            worker.terminate()
