"""What a client may take before it is answered: a place, memory for headers, time."""

import http.client
import select
import socket
import time
from collections.abc import Iterator

import pytest
import requests

from server_process import IMAGE, PATIENCE, REFERENCE, Server, until


def connected(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)


# --- Places


def test_clients_past_the_limit_are_refused_until_there_is_a_place():
    with Server(REFERENCE, "--max-connections", "2") as server:
        with connected(server), connected(server):
            for response in (server.post("/predict", IMAGE), server.get("/v2/models/digits")):
                assert response.status_code == 503
                assert response.json() == {"error": "too many connections; try again later"}
                assert response.headers["Retry-After"] == "1"
                assert response.headers["Connection"] == "close"
            # Who watches over the server must not take it for dead.
            assert server.get("/v2/health/live").status_code == 200
            assert server.get("/v2/health/ready").status_code == 200
        until(lambda: server.post("/predict", IMAGE).status_code == 200)


# --- Headers

HEAD = b"POST /predict HTTP/1.1\r\nHost: a\r\n"
FILLING = b"x" * 66 * 1024
LINES = b"X: y\r\n" * (len(FILLING) // 6)


@pytest.mark.parametrize(
    "begun",
    [b"GET /" + FILLING, HEAD + b"X: " + FILLING, HEAD + LINES],
    ids=["address", "header", "headers"],
)
def test_what_comes_before_a_request_must_be_small(server: Server, begun: bytes):
    with connected(server) as client:
        client.sendall(begun)
        assert client.recv(4096).startswith(b"HTTP/1.1 400 ")
        assert server.get("/v2/health/live").status_code == 200


@pytest.mark.parametrize("more", [b"X: " + FILLING, LINES], ids=["trailer", "trailers"])
def test_what_comes_after_a_request_must_be_small(server: Server, more: bytes):
    with connected(server) as client:
        client.sendall(HEAD + b"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n")
        assert client.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"0\r\n" + more)
        assert client.recv(4096).startswith(b"HTTP/1.1 400 ")


def test_large_headers_are_taken_of_each_request_of_a_connection(server: Server):
    with requests.Session() as session:
        for _ in range(2):
            response = session.post(server.url + "/predict", IMAGE, headers={"X": "y" * 60_000})
            assert response.status_code == 200


# --- Time


@pytest.fixture(scope="module")
def impatient() -> Iterator[Server]:
    with Server(REFERENCE, "--timeout", "1") as server:
        yield server


def until_closed(client: socket.socket, more: bytes = b"") -> bytes:
    """Send a byte at a time, and return what came until the server ended the connection."""
    received, end = b"", time.monotonic() + PATIENCE
    try:
        while time.monotonic() < end:
            if select.select([client], [], [], 0.1)[0]:
                content = client.recv(4096)
                if not content:
                    return received
                received += content
            client.sendall(more)
    except (ConnectionResetError, BrokenPipeError):
        return received
    raise AssertionError(f"the server holds the connection; it has sent {received[:100]}")


@pytest.mark.parametrize(
    ("begun", "more"),
    [
        (b"", b""),
        (b"", b"\n"),
        (b"GET /v2", b""),
        (b"GET /v2", b"x"),
        (HEAD + b"X: ", b"y"),
    ],
    ids=["nothing", "empty lines", "half an address", "a long address", "a long header"],
)
def test_a_client_that_does_not_ask_in_time_is_let_go(impatient: Server, begun: bytes, more: bytes):
    with connected(impatient) as client:
        client.sendall(begun)
        assert until_closed(client, more) == b""


@pytest.mark.parametrize(
    "more", [b"", b"x"], ids=["that then falls silent", "that sends on all the same"]
)
def test_a_client_that_is_answered_early_is_let_go(impatient: Server, more: bytes):
    with connected(impatient) as client:
        client.sendall(b"POST /no-route HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
        assert until_closed(client, more).startswith(b"HTTP/1.1 404 ")


def test_one_connection_serves_longer_than_a_request_may_take(impatient: Server):
    connection = http.client.HTTPConnection("127.0.0.1", impatient.port, timeout=PATIENCE)
    connection.connect()
    first = connection.sock
    for _ in range(4):
        connection.request("GET", "/v2/health/live")
        response = connection.getresponse()
        assert (response.status, response.read()) == (200, b'{"live":true}')
        # Otherwise it has connected anew.
        assert connection.sock is first
        time.sleep(0.4)
    connection.close()
