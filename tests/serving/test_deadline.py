"""Nobody waits any more: what is done for a request ends, and is told where somebody listens."""

import asyncio
import http.client
import time
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from asgi import Exchange
from image_files import encode
from imgclf.serving.deadline import Deadline
from server_process import IMAGE, PATIENCE, REFERENCE, Server, figures, until


class Application:
    """Reads the body, does its work, answers; notes how far it has come."""

    def __init__(self, *work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.work = work
        self.done: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await Request(scope, receive).body()
            for part in self.work:
                await part()
            self.done.append("worked")
            await PlainTextResponse(body)(scope, receive, send)
            for _ in range(5):
                await asyncio.sleep(0)
            self.done.append("answered")
        except asyncio.CancelledError:
            self.done.append("cancelled")
            raise


async def for_ever() -> None:
    await asyncio.Event().wait()


def within_patience(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), PATIENCE))


def test_a_request_in_time_passes_and_ends_by_itself():
    async def work() -> None:
        application = Application()
        exchange = Exchange(Deadline(application, 30), "POST", "/")
        exchange.send_body(b"a bo", more=True)
        exchange.send_body(b"dy")
        await exchange.task
        # The server has said that the client is gone, once its answer was sent.
        assert application.done == ["worked", "answered"]
        assert exchange.status == 200
        assert exchange.sent[1]["body"] == b"a body"

    within_patience(work)


@pytest.mark.parametrize("body_has_come", [True, False])
def test_a_request_that_takes_too_long_is_ended_and_told(body_has_come: bool):
    async def work() -> None:
        application = Application(for_ever)
        exchange = Exchange(Deadline(application, 0.05), "POST", "/")
        exchange.send_body(b"a body", more=not body_has_come)
        with pytest.raises(TimeoutError):
            await exchange.task
        assert application.done == ["cancelled"]
        assert exchange.status == 503
        assert exchange.headers["retry-after"] == "1"
        assert exchange.json() == {"error": "the request took longer than 0.05 s"}

    within_patience(work)


def test_an_answer_that_has_begun_is_not_begun_again():
    async def late(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await for_ever()

    async def work() -> None:
        exchange = Exchange(Deadline(late, 0.05), "GET", "/")
        with pytest.raises(TimeoutError):
            await exchange.task
        assert [message["type"] for message in exchange.sent] == ["http.response.start"]

    within_patience(work)


@pytest.mark.parametrize("body_has_come", [True, False])
def test_a_request_whose_client_has_gone_is_ended(body_has_come: bool):
    async def work() -> None:
        application = Application(for_ever)
        exchange = Exchange(Deadline(application, 2 * PATIENCE), "POST", "/")
        exchange.send_body(b"a body", more=not body_has_come)
        await asyncio.sleep(0.01)
        exchange.disconnect()
        with pytest.raises(ClientDisconnect):
            await exchange.task
        assert application.done == (["cancelled"] if body_has_come else [])
        assert exchange.sent == []

    within_patience(work)


def test_a_server_stops_when_a_client_leaves_that_has_sent_everything():
    """To decode one of these images takes far longer than the client stays."""
    image = encode(np.zeros((10_000, 10_000), np.uint8), "PNG")
    head = b'--b\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n'
    body = (head + image + b"\r\n") * 4 + b"--b--\r\n"
    with Server(REFERENCE, "--max-pixels", "100000000") as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
        connection.putrequest("POST", "/predict")
        connection.putheader("Content-Type", "multipart/form-data; boundary=b")
        connection.putheader("Content-Length", str(len(body)))
        connection.putheader("X-Request-ID", "gone")
        connection.endheaders(body[:-1])
        time.sleep(0.5)
        connection.send(body[-1:])
        # The server must find the end of the body before that of the connection.
        time.sleep(0.05)
        connection.close()
        until(lambda: any(entry.get("id") == "gone" for entry in server.log))
        (entry,) = [entry for entry in server.log if entry.get("id") == "gone"]
        assert (entry["event"], entry["status"]) == ("request", 499)
        assert figures(server)["imgclf_requests_total", "499", "/predict"] == 1
        assert server.post("/predict", IMAGE).status_code == 200
        assert server.other_lines == []
