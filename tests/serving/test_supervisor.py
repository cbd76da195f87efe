"""Several processes on one port: all answer, lost ones are replaced, signals reach them all."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

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
        # Those that the lost one has answered are counted still.
        until(lambda: count(server) == 3)

        server.process.kill()
        _, alive = psutil.wait_procs([new, other], timeout=PATIENCE)
        assert alive == []


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
            time.sleep(0.2)
            server.signal(signal.SIGTERM)
            until(lambda: refused(server))
            assert finish(connection).status == 200
        assert server.end() == 0
        assert not any(process.is_running() for process in processes)
        assert server.other_lines == []
