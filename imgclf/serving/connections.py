"""What a client may take before its request is answered: a place, memory for headers, time.

uvicorn bounds neither the headers that httptools reads nor how long they take, and whoever comes
past its own limit of connections is answered in plain text, even if it only asks for the health.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

from fastapi import Request, Response
from fastapi.routing import APIRoute
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from imgclf.serving.errors import RequestError
from imgclf.serving.settings import ServerSettings

# Of headers and trailers, and of whatever else the parser keeps until it is whole. What comes whole
# in one piece passes: the event loop hands over 256 KiB at most.
_MOST_UNPARSED = 64 * 1024
_NO_PLACE = "no_place"


class BoundedConnection(HttpToolsProtocol):
    """uvicorn's connection with a client, within limits.

    Attributes:
        most: clients that have a place; `PlacedRoute` refuses those past it.
        seconds: how long a client may wait before it begins a request, and until its headers are
            whole.
    """

    most: ClassVar[int]
    seconds: ClassVar[float]

    _has_place = True
    _unparsed = 0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # noqa: D102
        super().connection_made(transport)
        if len(self.connections) > self.most:
            self._has_place = False
            self.app_state = {**self.app_state, _NO_PLACE: True}
        self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        self._clear_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:  # noqa: D102
        self._unparsed += len(data)
        super().data_received(data)
        if self._unparsed > _MOST_UNPARSED and not self.transport.is_closing():
            self.send_400_response("The headers of the request are too large.")
        # A request that has arrived has a time limit of its own.
        if self.cycle is None or self.cycle.response_complete:
            self._set_deadline()

    def on_headers_complete(self) -> None:  # noqa: D102
        self._unparsed = 0
        self._clear_deadline()
        super().on_headers_complete()
        self.cycle.keep_alive = self.cycle.keep_alive and self._has_place

    def on_body(self, body: bytes) -> None:  # noqa: D102
        self._unparsed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:  # noqa: D102
        self._unparsed = 0
        super().on_message_complete()

    def _set_deadline(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.seconds, self.timeout_keep_alive_handler)

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def bounded_connection(settings: ServerSettings) -> type[BoundedConnection]:
    """Return `BoundedConnection` with a server's limits; uvicorn itself builds one for a client."""

    class Connection(BoundedConnection):
        most = settings.max_connections
        seconds = settings.timeout

    return Connection


class PlacedRoute(APIRoute):
    """A route for those clients alone that came when there was a place.

    It asks before FastAPI looks at the request: a dependency would double what FastAPI does to
    find a request's parameters.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:  # noqa: D102
        answer = super().get_route_handler()

        async def answer_if_placed(request: Request) -> Response:
            if request.scope.get("state", {}).get(_NO_PLACE):
                raise RequestError(503, "too many connections; try again later", retry_after=1)
            return await answer(request)

        return answer_if_placed
