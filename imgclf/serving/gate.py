"""What every request passes: its id, its log line, its figures, safe headers."""

import logging
import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from imgclf.serving.measured import LOG, Measures, log

_SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_LONGEST_ID = 128
# Asked for every few seconds by whoever watches over the server.
_NOT_LOGGED = ("/v2/health/live", "/v2/health/ready", "/metrics")


class Gate:
    """ASGI middleware around the whole application.

    Args:
        app: the application.
        measures: receives figures.
    """

    def __init__(self, app: ASGIApp, measures: Measures) -> None:
        self._app = app
        self._measures = measures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = _request_id(Headers(scope=scope))
        status = 0

        async def send_safely(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                for name, value in _SAFE_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._app(scope, receive, send_safely)
        except TimeoutError:
            log("timeout", logging.WARNING, id=request_id, path=scope["path"])
        except ClientDisconnect:
            status = 499  # as nginx logs it; nobody reads it
        except Exception:  # noqa: BLE001 - the client has its answer, the log gets all of it
            _log_exception(request_id, scope["path"])
        finally:
            # Cut off by the server's end, a request has none: uvicorn answers it with this one.
            status = status or 500
            seconds = time.perf_counter() - started
            # By its template: names that clients make up must not become figures of their own.
            path = getattr(scope.get("route"), "path", "unknown")
            self._measures.requests.labels(path, str(status)).inc()
            self._measures.request_seconds.labels(path).observe(seconds)
            if scope["path"] not in _NOT_LOGGED:
                log(
                    "request",
                    id=request_id,
                    method=scope["method"],
                    path=scope["path"],
                    status=status,
                    milliseconds=round(1000 * seconds, 3),
                )


def _log_exception(request_id: str, path: str) -> None:
    """Log the exception at hand with its traceback."""
    LOG.exception("exception", extra={"fields": {"id": request_id, "path": path}})


def _request_id(headers: Headers) -> str:
    """Take over the id that a proxy has given, if it is one."""
    given = headers.get("x-request-id", "")
    if 0 < len(given) <= _LONGEST_ID and given.isascii() and given.isprintable():
        return given
    return secrets.token_hex(8)
