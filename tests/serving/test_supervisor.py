"""Several processes on one port: all answer, lost ones are replaced, signals reach them all."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from imgclf.serving.run import listen
from imgclf.serving.settings import ServerSettings
from other_models import another_model
from server_process import (
    IMAGE,
    PATIENCE,
    REFERENCE,
    Server,
    figures,
    finish,
    flowing,
    refused,
    slow_request,
    until,
)


def workers_of(server: Server) -> list[psutil.Process]:
    return psutil.Process(server.process.pid).children()


def count(server: Server) -> float:
    return figures(server).get(("imgclf_requests_total", "200", "/predict"), 0.0)


@contextmanager
def stopped(process: psutil.Process) -> Iterator[None]:
    process.suspend()
    try:
        until(lambda: process.status() == psutil.STATUS_STOPPED)
        yield
    finally:
        process.resume()


def test_each_of_two_processes_answers_and_a_lost_one_is_replaced():
    with Server(REFERENCE, "--workers", "2") as server:
        server.wait_for("ready", 2)
        one, other = workers_of(server)
        for waiting in (one, other):
            with stopped(waiting):
                assert server.post("/predict", IMAGE).status_code == 200
        # A request is counted once its answer is sent.
        until(lambda: count(server) == 2)

        one.kill()
        lost = server.wait_for("worker ended")
        assert (lost["pid"], lost["code"]) == (one.pid, -signal.SIGKILL)
        server.wait_for("ready", 3)
        (new,) = [process for process in workers_of(server) if process.pid != other.pid]
        with stopped(other):
            assert server.post("/predict", IMAGE).status_code == 200
        # Those that the lost one has answered are counted still, in the same files.
        until(lambda: count(server) == 3)
        files = os.listdir(new.environ()["PROMETHEUS_MULTIPROC_DIR"])
        assert sorted(files) == [
            f"{kind}_{number}.db" for kind in ("counter", "histogram") for number in (0, 1)
        ]

        server.process.kill()
        _, alive = psutil.wait_procs([new, other], timeout=PATIENCE)
        assert alive == []


def test_a_process_that_cannot_load_the_model_takes_no_request(tmp_path: Path):
    settings = ServerSettings(str(tmp_path / "absent.onnx"), workers=2)
    with listen("127.0.0.1", 0) as listener:
        number = str(listener.fileno())
        with socket.create_connection(listener.getsockname(), timeout=PATIENCE) as client:
            client.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n")
            with subprocess.Popen(
                [sys.executable, "-m", "imgclf.serving.worker", settings.to_json(), number, "0"],
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(sys.path),
                    "PROMETHEUS_MULTIPROC_DIR": str(tmp_path),
                },
                stdin=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[listener.fileno()],
                text=True,
            ) as worker:
                assert worker.stderr is not None
                # Its input stays open: it would end by that as well.
                assert "Error: Cannot open the model" in worker.stderr.read()
                assert worker.wait(PATIENCE) == 1
            # Another process finds it, as it was sent.
            listener.settimeout(1)
            accepted, _ = listener.accept()
            with accepted:
                assert accepted.recv(3) == b"GET"


@pytest.mark.slow
def test_a_process_that_cannot_be_started_is_tried_again():
    before = """
import errno, subprocess
class Popen(subprocess.Popen):
    started = 0
    def __init__(self, *arguments, **options):
        Popen.started += 1
        if Popen.started == 3:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        super().__init__(*arguments, **options)
subprocess.Popen = Popen
"""
    with Server(REFERENCE, "--workers", "2", before=before) as server:
        server.wait_for("ready", 2)
        workers_of(server)[0].kill()
        assert "temporarily unavailable" in server.wait_for("worker not started")["reason"]
        assert server.post("/predict", IMAGE).status_code == 200
        server.wait_for("ready", 3)
        assert len(workers_of(server)) == 2


@pytest.mark.slow
def test_what_cannot_start_again_does_not_end_those_that_answer(model_copy: Path):
    with Server(model_copy, "--workers", "2") as server:
        server.wait_for("ready", 2)
        lost, _ = workers_of(server)
        model_copy.write_bytes(b"damaged")
        lost.kill()
        server.wait_for("worker ended", 3)
        server.wait_for("not loaded", 2)
        assert server.post("/predict", IMAGE).status_code == 200
        another_model(model_copy, "second")
        server.wait_for("ready", 3)
        assert server.post("/predict", IMAGE).status_code == 200


def test_signals_reach_every_process(model_copy: Path):
    with Server(model_copy, "--workers", "2", ready=False) as server:
        until(lambda: len(workers_of(server)) == 2)
        # While they start: they must not end by that.
        server.signal(signal.SIGHUP)
        server.wait_for("reloaded", 2)
        another_model(model_copy, "second")
        with flowing(server) as answers:
            server.signal(signal.SIGHUP)
            second = server.wait_for("reloaded", 4)["version"]
            until(lambda: [version for _, version in answers[-6:]] == [second] * 6)
        assert {status for status, _ in answers} == {200}
        processes = workers_of(server)
        with slow_request(server) as connection:
            server.signal(signal.SIGTERM)
            until(lambda: refused(server))
            assert finish(connection).status == 200
        assert server.end() == 0
        assert not any(process.is_running() for process in processes)
        assert server.other_lines == []
