"""Ends what is done for a request that takes too long, or whose client has gone."""

import asyncio

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Deadline:
    """ASGI middleware that cancels the application when nobody waits for its answer any more.

    Args:
        app: the application.
        seconds: that a request may take.
    """

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on.

        Raises:
            TimeoutError: it took too long; the client has been told, unless its answer had begun.
            ClientDisconnect: the client has gone.
        """
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answering = gone = False
        watch: asyncio.Task[None] | None = None

        async def end_with_client() -> None:
            nonlocal gone
            # Behind the body nothing comes but this.
            if (await receive())["type"] == "http.disconnect" and not limit.expired():
                gone = True
                limit.reschedule(0)

        async def receive_and_watch() -> Message:
            nonlocal watch
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body", False):
                watch = watch or asyncio.create_task(end_with_client())
            return message

        async def send_unwatched(message: Message) -> None:
            nonlocal answering
            answering = True
            # A server says that the client has gone where its answer has been sent, too.
            if watch is not None:
                watch.cancel()
            await send(message)

        try:
            async with asyncio.timeout(self._seconds) as limit:
                await self._app(scope, receive_and_watch, send_unwatched)
        except TimeoutError as error:
            if gone:
                raise ClientDisconnect from error
            if not answering:
                late = {"error": f"the request took longer than {self._seconds:g} s"}
                await JSONResponse(late, 503, {"Retry-After": "1"})(scope, receive, send)
            raise
        finally:
            if watch is not None:
                watch.cancel()
