"""A server's life: how it starts, takes up other models, and ends."""

import asyncio
import json
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import requests
from click.testing import Result

from imgclf.serving.run import listen
from model_files import write_sealed
from other_models import another_model
from server_process import (
    IMAGE,
    PATIENCE,
    REFERENCE,
    Server,
    finish,
    flowing,
    refused,
    slow_request,
    until,
)

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


def test_a_failure_that_nobody_foresaw_ends_the_server_with_one_line_and_a_trace_in_the_log():
    before = """
import imgclf.serving.served_model as module
def fail(_):
    raise RuntimeError("out of\\nluck")
module.replay = fail
"""
    with Server(REFERENCE, ready=False, before=before) as server:
        assert server.end() == 1
        (error,) = server.other_lines
        assert error == f"Error: Cannot load the model '{REFERENCE}': RuntimeError: out of luck\n"
        traceback = server.wait_for("not loaded")["traceback"]
        assert "served_model.py" in traceback
        assert traceback.endswith("RuntimeError: out of\nluck")


def test_the_environment_says_nothing_about_the_processes(tmp_path: Path):
    """As other servers on the machine may be told by it."""
    before = "import os; os.environ['WEB_CONCURRENCY'] = 'all'"
    with Server(tmp_path / "absent", ready=False, before=before) as server:
        assert server.end() == 1
        assert server.wait_for("not loaded")["reason"].endswith("no such file.")


# Windows has neither; here it shows that nothing touches them there.
WITHOUT_HANGUP = "import signal; del signal.SIGHUP, signal.pthread_sigmask"


def test_where_there_is_no_hangup_a_server_starts_answers_and_ends():
    with Server(REFERENCE, before=WITHOUT_HANGUP) as server:
        assert server.post("/predict", IMAGE).status_code == 200
        server.signal(signal.SIGTERM)
        assert server.end() == 0
        assert server.other_lines == []


def test_where_there_is_no_hangup_several_processes_are_refused():
    server = Server(REFERENCE, "--workers", "2", ready=False, before=WITHOUT_HANGUP)
    assert server.end() == 2
    assert server.other_lines == [
        "Error: --workers needs Linux or macOS.\n",
        "Start several servers, each with its own --port.\n",
    ]


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


def test_a_name_that_is_no_part_of_an_address_is_refused(refused_serve: Callable[..., Result]):
    result = refused_serve("--name", "a/b", "--port", "0")
    assert result.exit_code == 2
    assert "--name 'a/b'" in result.stderr


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--timeout", "nan"),
        ("--cors-origin", "https://pages.example/"),
        ("--cors-origin", "pages.example"),
        ("--cors-origin", "https://Pages.example"),
        ("--cors-origin", ""),
    ],
)
def test_options_that_could_never_work_are_refused(
    refused_serve: Callable[..., Result], option: str, value: str
):
    result = refused_serve(option, value, "--port", "0")
    assert result.exit_code == 2
    assert f"Invalid value for '{option}'" in result.stderr


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
            until(lambda: answers)
            another_model(model_copy, "second")
            server.signal(signal.SIGHUP)
            second = server.wait_for("reloaded", 2)
            until(lambda: answers and answers[-1][1] == second["version"])
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
            answer = json.loads(response.read())
            assert answer == {"error": "the request took longer than 1 s"}
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
