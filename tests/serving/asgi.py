"""The application inside the test's own process: what a client cannot bring about from outside."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from starlette.types import ASGIApp


class Exchange:
    """A request whose body comes, and whose client goes, when the test says so.

    As a server does, it says that the client has gone once the answer has been sent.
    """

    def __init__(
        self, app: ASGIApp, method: str, path: str, headers: Mapping[str, str] | None = None
    ) -> None:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "scheme": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [
                (name.lower().encode(), value.encode()) for name, value in (headers or {}).items()
            ],
        }
        self.sent: list[Any] = []
        self._from_client: asyncio.Queue[Any] = asyncio.Queue()
        self.task = asyncio.ensure_future(app(scope, self._from_client.get, self._send))

    def send_body(self, content: bytes = b"", more: bool = False) -> None:
        self._from_client.put_nowait({"type": "http.request", "body": content, "more_body": more})

    def disconnect(self) -> None:
        self._from_client.put_nowait({"type": "http.disconnect"})

    @property
    def status(self) -> int:
        return self.sent[0]["status"]

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    def json(self) -> Any:
        return json.loads(b"".join(message.get("body", b"") for message in self.sent[1:]))

    async def _send(self, message: Any) -> None:
        self.sent.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.disconnect()


async def ask(
    app: ASGIApp,
    method: str,
    path: str,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
) -> tuple[int, dict[str, str], Any]:
    """Send a request, and return status, headers and the JSON of the answer."""
    exchange = Exchange(app, method, path, headers)
    exchange.send_body(body)
    await exchange.task
    return exchange.status, exchange.headers, exchange.json()


@asynccontextmanager
async def running(app: ASGIApp) -> AsyncIterator[None]:
    """Start and end an application as a server does."""
    to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    from_app: asyncio.Queue[Any] = asyncio.Queue()
    task = asyncio.ensure_future(app({"type": "lifespan"}, to_app.get, from_app.put))
    await to_app.put({"type": "lifespan.startup"})
    assert (await from_app.get())["type"] == "lifespan.startup.complete"
    yield
    await to_app.put({"type": "lifespan.shutdown"})
    assert (await from_app.get())["type"] == "lifespan.shutdown.complete"
    await task


async def until_ready(app: ASGIApp) -> None:
    async with asyncio.timeout(30):
        while (await ask(app, "GET", "/v2/health/ready"))[0] != 200:
            await asyncio.sleep(0.01)


def never(reason: str) -> None:
    """For a model that is not given up."""
    raise AssertionError(reason)
