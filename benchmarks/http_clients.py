"""Clients of a server in processes of their own, which import little beside the standard library.

`Clients` starts the processes once. Each holds some connections, which it keeps, with a thread for
each; requests with a file's bytes are put together beforehand.
"""

import itertools
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

PROCESSES = 4
_PATIENCE = 300.0


@dataclass(frozen=True)
class Target:
    """Where requests go, and what is sent.

    Attributes:
        port: on this machine.
        path: of the address.
        files: paths of image files, sent in turn.
        as_numbers: empty: a file's bytes are sent. Else each request decodes a file, resizes it as
            these five arguments of `imgclf.card.Preprocessing` say, and sends JSON numbers, as
            mlflow's server reads them.
    """

    port: int
    path: str
    files: tuple[str, ...]
    as_numbers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Load:
    """What clients have met together.

    Attributes:
        latencies: seconds from a file's bytes in memory to its whole answer, of every request.
        seconds: from the first request to the last answer.
        client_seconds: processor time of the clients' processes.
    """

    latencies: list[float]
    seconds: float
    client_seconds: float


class Clients:
    """Processes that ask, until the ``with`` block is left."""

    def __init__(self) -> None:
        self._processes = [
            subprocess.Popen(
                [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for _ in range(PROCESSES)
        ]

    def __enter__(self) -> "Clients":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for process in self._processes:
            process.communicate()  # closes its input, which ends it

    def ask(self, target: Target, clients: int, seconds: float, requests: int = 0) -> Load:
        """Ask by so many clients at once, each again as soon as it has its answer.

        Args:
            target: where.
            clients: how many.
            seconds: nobody asks after so long; who has asked by then waits for the answer.
            requests: how many each client sends; 0: as many as it can in the time.
        """
        used = self._processes[: min(clients, PROCESSES)]
        for number, process in enumerate(used):
            numbers = list(range(number, clients, len(used)))
            task = {"target": asdict(target), "clients": numbers, "requests": requests}
            _write(process, task)
        for process in used:
            assert _read(process) == "ready"
        start = time.monotonic() + 0.1  # one clock for all processes
        for process in used:
            _write(process, [start, start + seconds])
        found = [_read(process) for process in used]
        return Load(
            latencies=[latency for one in found for latency in one["latencies"]],
            seconds=max(one["end"] for one in found) - start,
            client_seconds=sum(one["client_seconds"] for one in found),
        )


def ask_for_each(target: Target) -> list[Any]:
    """Return the answers for every file, read from JSON."""
    connection = _Connection(target.port)
    answers = [json.loads(connection.ask(request())) for request in _requests(target)]
    connection.close()
    return answers


def _write(process: "subprocess.Popen[str]", message: Any) -> None:
    assert process.stdin is not None
    print(json.dumps(message), file=process.stdin, flush=True)


def _read(process: "subprocess.Popen[str]") -> Any:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "the process has failed; its reason stands above"
    return json.loads(line)


class _Connection:
    """An HTTP connection that is kept."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), _PATIENCE)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._answers = self._socket.makefile("rb")

    def ask(self, request: bytes) -> bytes:
        """Send a request and return the answer's body; every other status than 200 is an error."""
        self._socket.sendall(request)
        status, length = self._answers.readline(), 0
        while (line := self._answers.readline()).strip():
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        body = self._answers.read(length)
        assert status.split()[1:2] == [b"200"], (status, body)
        assert body
        return body

    def close(self) -> None:
        self._answers.close()
        self._socket.close()


def _requests(target: Target) -> list[Callable[[], bytes]]:
    """Return for each file what gives the bytes of its request."""
    kind = "application/json" if target.as_numbers else "application/octet-stream"

    def request(body: bytes) -> bytes:
        head = f"POST {target.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    contents = [Path(file).read_bytes() for file in target.files]
    if not target.as_numbers:
        prepared = [request(content) for content in contents]
        return [lambda one=one: one for one in prepared]
    # NumPy and Pillow, and nothing heavier.
    from imgclf.card import Preprocessing
    from imgclf.preprocess import to_array

    rule = Preprocessing(*target.as_numbers)

    def as_numbers(content: bytes) -> bytes:
        pixels = to_array(content, rule)
        return request(json.dumps({"inputs": {"image": [pixels.tolist()]}}).encode())

    return [lambda content=content: as_numbers(content) for content in contents]


def _ask(
    connection: _Connection,
    number: int,
    requests: list[Callable[[], bytes]],
    start: float,
    stop: float,
    most: int,
) -> tuple[list[float], float]:
    """Ask from one time of the clock to another; return the latencies, and the last answer's time.

    Args:
        connection: to the server.
        number: of this client; no two begin with the same file.
        requests: made in turn.
        start, stop: on the monotonic clock.
        most: requests to send; 0: any number.
    """
    latencies: list[float] = []
    end = start
    time.sleep(max(0.0, start - time.monotonic()))
    for position in itertools.count(number):
        began = time.monotonic()
        if began >= stop or (most and len(latencies) == most):
            break
        connection.ask(requests[position % len(requests)]())
        end = time.monotonic()
        latencies.append(end - began)
    return latencies, end


def _work() -> None:
    """Do one task after the other, as `Clients.ask` writes them to standard input."""
    while line := sys.stdin.readline():
        task = json.loads(line)
        target = Target(**task["target"])
        requests, numbers = _requests(target), task["clients"]
        connections = [_Connection(target.port) for _ in numbers]
        with ThreadPoolExecutor(len(numbers)) as pool:
            # Everything is used once before it is timed; one connection is enough, for a server
            # may close those that have to wait for each other's first answers.
            connections[0].ask(requests[0]())
            print(json.dumps("ready"), flush=True)
            start, stop = json.loads(sys.stdin.readline())
            before = time.process_time()
            ask = partial(_ask, requests=requests, start=start, stop=stop, most=task["requests"])
            found = list(pool.map(ask, connections, numbers))
        for connection in connections:
            connection.close()
        answer = {
            "latencies": [latency for latencies, _ in found for latency in latencies],
            "end": max(end for _, end in found),
            "client_seconds": time.process_time() - before,
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _work()
