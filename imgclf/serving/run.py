"""Starts the server: one process, or several that share the port."""

import math
import os
import signal
import socket

import uvicorn

from imgclf.errors import ImgclfError, UsageError
from imgclf.serving.app import create_app
from imgclf.serving.connections import bounded_connection
from imgclf.serving.measured import log, set_up_logging
from imgclf.serving.settings import ServerSettings
from imgclf.serving.signals import HANGUP
from imgclf.serving.supervisor import serve_workers

# After an answer, for the next request of the same client.
_IDLE_SECONDS = 5


def listen(host: str, port: int) -> socket.socket:
    """Open the port.

    Raises:
        ImgclfError: it cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # By its number: asyncio sends at once (TCP_NODELAY) only where the socket says that it is TCP.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    if os.name == "posix":
        # At once after a server that has ended. On Windows: even beside one that still listens.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except (OSError, OverflowError, UnicodeError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or error
        raise ImgclfError(
            f"Cannot listen on {host}:{port}: {reason}.", "Choose another --port or --host."
        ) from error
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
        http=bounded_connection(settings),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        # Else uvicorn reads WEB_CONCURRENCY, and fails where that is no number.
        workers=1,
        timeout_keep_alive=_IDLE_SECONDS,
        # By then every request is answered, or has taken too long.
        timeout_graceful_shutdown=math.ceil(settings.timeout) + 1,
    )
    server = uvicorn.Server(config)

    def end(*_: object) -> None:
        # Before uvicorn listens to signals; and at its end it raises them once more.
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    server.run(sockets=[listener])
    if reasons:
        message, _, hint = reasons[0].partition("\n")
        raise ImgclfError(message, hint)


def serve(settings: ServerSettings, host: str, port: int) -> None:
    """Serve until a signal ends it.

    SIGTERM and SIGINT finish what is being answered and refuse the rest; SIGHUP reloads the model.

    Raises:
        UsageError: the name cannot be one, or the system knows no sharing of a port.
        ImgclfError: the port or the keys cannot be had, or the model did not prove itself.
    """
    if "/" in settings.name:
        raise UsageError(f"--name '{settings.name}' cannot be a part of an address.")
    if settings.workers > 1 and HANGUP is None:
        raise UsageError(
            "--workers needs Linux or macOS.", "Start several servers, each with its own --port."
        )
    with listen(host, port) as listener:
        set_up_logging()
        address, bound = listener.getsockname()[:2]
        log("listening", url=f"http://{f'[{address}]' if ':' in address else address}:{bound}/")
        if settings.workers == 1:
            serve_process(settings, listener)
        else:
            serve_workers(settings, listener)
