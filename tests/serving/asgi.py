"""The application inside the test's own process: what a client cannot bring about from outside."""

import asyncio
import json
from contextlib import asynccontextmanager
from typing import Any

from imgclf.serving.gate import Gate


@asynccontextmanager
async def running(app: Gate):
    """Start and end an application as a server does."""
    to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    from_app: asyncio.Queue[Any] = asyncio.Queue()
    task = asyncio.create_task(app({"type": "lifespan"}, to_app.get, from_app.put))
    await to_app.put({"type": "lifespan.startup"})
    assert (await from_app.get())["type"] == "lifespan.startup.complete"
    yield
    await to_app.put({"type": "lifespan.shutdown"})
    assert (await from_app.get())["type"] == "lifespan.shutdown.complete"
    await task


async def ask(
    app: Gate, method: str, path: str, body: bytes = b""
) -> tuple[int, dict[str, str], Any]:
    """Send a request, and return status, headers and the JSON of the answer."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [],
    }
    await app(scope, receive, send)
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    content = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], headers, json.loads(content)


async def until_ready(app: Gate) -> None:
    async with asyncio.timeout(30):
        while (await ask(app, "GET", "/v2/health/ready"))[0] != 200:
            await asyncio.sleep(0.01)


def never(reason: str) -> None:
    raise AssertionError(reason)
