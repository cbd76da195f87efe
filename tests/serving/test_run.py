"""A server's life: signals, other models, several processes, its log and its figures."""

import asyncio
import http.client
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import psutil
import pytest
import requests
from click.testing import Result
from prometheus_client.parser import text_string_to_metric_families

from imgclf.serving.run import listen
from model_files import write_sealed
from server_process import EXAMPLE, PATIENCE, REFERENCE, Server, until

IMAGE = EXAMPLE.read_bytes()


def another_model(path: Path, name: str) -> None:
    """Replace a model at once by one that answers alike and has another digest."""
    proto = onnx.load(REFERENCE)
    proto.doc_string = name
    write_sealed(proto, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


@contextmanager
def slow_request(server: Server) -> Iterator[http.client.HTTPConnection]:
    """Send half of a request; `finish` sends the rest."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    connection.putrequest("POST", "/predict")
    connection.putheader("Content-Length", str(len(IMAGE)))
    connection.putheader("Content-Type", "image/png")
    connection.putheader("X-Request-ID", "slow")
    connection.endheaders(IMAGE[:50])
    try:
        yield connection
    finally:
        connection.close()


def finish(connection: http.client.HTTPConnection) -> http.client.HTTPResponse:
    connection.send(IMAGE[50:])
    return connection.getresponse()


@contextmanager
def flowing(server: Server) -> Iterator[list[tuple[int, str]]]:
    """Ask all the time, each time anew; collects statuses and the versions that have answered."""
    answers: list[tuple[int, str]] = []
    ending = threading.Event()

    def ask() -> None:
        while not ending.is_set():
            response = server.post("/predict", IMAGE)
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


# --- Ending


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_what_is_in_flight_and_refuses_the_rest(number: signal.Signals):
    with Server(REFERENCE) as server, slow_request(server) as connection:
        idle = requests.Session()
        idle.get(server.url + "/v2/health/live", timeout=PATIENCE)
        server.signal(number)
        until(lambda: refused(server))
        assert server.process.poll() is None
        response = finish(connection)
        assert response.status == 200
        assert b'"label":"1"' in response.read().replace(b" ", b"")
        assert server.end() == 0
        assert server.other_lines == []


def test_a_server_that_cannot_start_says_why_in_one_line(tmp_path: Path):
    absent, damaged, changed = (tmp_path / name for name in ("absent", "damaged", "changed"))
    content = bytearray(REFERENCE.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    proto = onnx.load(REFERENCE)
    largest = max(proto.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    largest.raw_data = bytes(len(largest.raw_data))
    write_sealed(proto, changed)
    started = [
        (Server(path, *options, ready=False), message.format(path=path))
        for path, options, message in (
            (absent, (), "Cannot open the model '{path}': no such file."),
            (damaged, (), "'{path}' has been changed since it was exported"),
            (changed, (), "'{path}' does not answer on this machine as it did"),
            (absent, ("--workers", "2"), "Cannot open the model '{path}': no such file."),
        )
    ]
    for server, message in started:
        assert server.end() == 1
        lines = [line for line in server.other_lines if line.startswith("Error: ")]
        assert lines[0].startswith(f"Error: {message}")
        assert "Traceback" not in "".join(server.other_lines)
        assert any(message in entry.get("reason", "") for entry in server.log)


def test_a_port_in_use_and_hosts_that_are_none_are_told(refused_serve: Callable[..., Result]):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for host, number, reason in (
            ("127.0.0.1", port, "Address already in use"),
            ("192.0.2.1", 0, "Cannot assign requested address"),
            ("a..b", 0, ""),
        ):
            result = refused_serve("--host", host, "--port", str(number))
            assert result.exit_code == 1
            first, hint = result.stderr.splitlines()
            assert first.startswith(f"Error: Cannot listen on {host}:{number}: {reason}")
            assert hint == "Choose another --port or --host."


def test_answers_are_sent_at_once():
    """With Nagle's algorithm each request of a kept connection would wait 40 ms."""

    async def nodelay(listener: socket.socket) -> int:
        found: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted = writer.get_extra_info("socket")
            found.set_result(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        async with await asyncio.start_server(connected, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname())
            writer.close()
            return await asyncio.wait_for(found, PATIENCE)

    with listen("127.0.0.1", 0) as listener:
        handed_over = socket.socket(fileno=os.dup(listener.fileno()))
        for one in (listener, handed_over):
            assert asyncio.run(nodelay(one))


# --- Another model


def test_hangup_takes_up_another_model_and_no_request_fails(model_copy: Path):
    with Server(model_copy, ready=False) as server:
        # Before it is ready: it must not end by that.
        server.signal(signal.SIGHUP)
        until(lambda: server.get("/v2/health/ready").status_code == 200)
        first = server.wait_for("reloaded")["version"]
        with flowing(server) as answers:
            another_model(model_copy, "second")
            server.signal(signal.SIGHUP)
            second = server.wait_for("reloaded", 2)
            until(lambda: answers[-1][1] == second["version"])
        assert second["instead_of"] == first != second["version"] == server.version()
        assert {status for status, _ in answers} == {200}
        assert {version for _, version in answers} == {first, second["version"]}

        model_copy.write_bytes(model_copy.read_bytes()[:-1])
        server.signal(signal.SIGHUP)
        refusal = server.wait_for("not reloaded")
        assert refusal["level"] == "error"
        assert "not an ONNX model" in refusal["reason"] or "has been changed" in refusal["reason"]
        assert refusal["still_serving"] == second["version"]
        answer = server.post("/predict", IMAGE)
        assert (answer.status_code, answer.json()["version"]) == (200, second["version"])


def test_a_changed_file_is_taken_up_by_itself_and_slow_requests_end(model_copy: Path):
    with Server(model_copy, "--reload", "--timeout", "1") as server:
        with slow_request(server) as connection:
            response = connection.getresponse()
            assert response.status == 503
            assert response.headers["Retry-After"] == "1"
            assert response.headers["X-Request-ID"] == "slow"
            assert response.read() == b'{"error": "the request took longer than 1 s"}'
        assert server.wait_for("timeout")["id"] == "slow"

        first = server.version()
        another_model(model_copy, "second")
        second = server.wait_for("reloaded")["version"]
        assert first != second == server.version()
        model_copy.write_bytes(b"damaged")
        server.wait_for("not reloaded")
        another_model(model_copy, "third")
        third = server.wait_for("reloaded", 2)["version"]
        assert server.version() == third
        assert third not in (first, second)


# --- Several processes


def workers_of(server: Server) -> list[psutil.Process]:
    return psutil.Process(server.process.pid).children()


def count(server: Server) -> float:
    return figures(server).get(("imgclf_requests_total", "200", "/predict"), 0.0)


def figures(server: Server) -> dict[tuple[str, ...], float]:
    """Samples by their name and the values of their labels, those in the order of their names."""
    families = text_string_to_metric_families(server.get("/metrics").text)
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in families
        for sample in family.samples
    }


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


# --- Log and figures


@pytest.mark.parametrize("given", ["mine", "x" * 128, "a b/c:1"])
def test_a_request_keeps_the_id_that_it_came_with(server: Server, given: str):
    response = server.post("/predict", IMAGE, headers={"X-Request-ID": given})
    assert response.headers["X-Request-ID"] == given
    until(lambda: any(entry.get("id") == given for entry in server.log))


@pytest.mark.parametrize("given", ["", "x" * 129, b"\xe4", "tab\tin it"])
def test_what_is_no_id_is_replaced(server: Server, given: Any):
    response = server.post("/predict", IMAGE, headers={"X-Request-ID": given})
    found = response.headers["X-Request-ID"]
    assert len(found) == 16
    assert int(found, 16) >= 0


def test_each_request_is_a_line_of_json_and_health_is_none(server: Server):
    server.get("/v2/health/ready")
    done = server.post("/predict?top_k=1", IMAGE).headers["X-Request-ID"]
    failed = server.get("/n\u00e4chste\nZeile").headers["X-Request-ID"]
    until(lambda: any(entry.get("id") == failed for entry in server.log))
    entries = {entry["id"]: entry for entry in server.log if "id" in entry}
    assert entries[done]["event"] == "request"
    assert entries[done]["level"] == "info"
    assert (entries[done]["method"], entries[done]["path"]) == ("POST", "/predict")
    assert entries[done]["status"] == 200
    assert 0 < entries[done]["milliseconds"] < 30_000
    assert entries[failed]["status"] == 404
    assert entries[failed]["path"] == "/n\u00e4chste\nZeile"
    assert not any(entry.get("path") == "/v2/health/ready" for entry in server.log)
    assert server.other_lines == []


def test_a_client_that_goes_is_logged_and_disturbs_nobody(server: Server):
    with slow_request(server):
        pass
    until(lambda: any(entry.get("status") == 499 for entry in server.log))
    assert server.post("/predict", IMAGE).status_code == 200


def test_figures_count_requests_by_path_and_code_and_have_histograms(server: Server):
    before = figures(server)
    for path, content, status in (
        ("/predict", IMAGE, 200),
        ("/predict", IMAGE, 200),
        ("/predict", b"x", 415),
        ("/v2/models/made-up/infer", b"{}", 404),
        ("/made-up", b"", 404),
    ):
        assert server.post(path, content).status_code == status
    after = figures(server)

    def more(*key: str) -> float:
        return after.get(key, 0.0) - before.get(key, 0.0)

    assert more("imgclf_requests_total", "200", "/predict") == 2
    assert more("imgclf_requests_total", "415", "/predict") == 1
    assert more("imgclf_requests_total", "404", "/v2/models/{name}/infer") == 1
    assert more("imgclf_requests_total", "404", "unknown") == 1
    assert not any("made-up" in part for key in after for part in key)
    assert more("imgclf_request_seconds_count", "/predict") == 3
    assert more("imgclf_request_seconds_bucket", "30.0", "/predict") == 3
    assert more("imgclf_request_seconds_bucket", "+Inf", "/predict") == 3
    assert more("imgclf_batch_images_sum") == 2
    assert more("imgclf_batch_images_bucket", "1.0") == more("imgclf_batch_images_count") == 2
    assert more("imgclf_queue_seconds_count") == 2
