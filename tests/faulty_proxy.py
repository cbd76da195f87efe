"""A real HTTP proxy in front of a tracking server that delays requests and answers with errors."""

import threading
from collections.abc import Callable
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

PASS, ERROR, NOT_FOUND, LOSE_ANSWER = "pass", "error", "not found", "lose answer"


class FaultyProxy:
    """Passes requests on to a server.

    Attributes:
        address: where it listens.
        requests: the paths that were asked for.
        poison: requests whose body holds it get a 500, and the server is not asked; empty: none.
        fault: called with the path of each request, in a thread of its own; it may take its time,
            and returns `PASS`, `ERROR` or `NOT_FOUND` (500 or 404, and the server is not asked) or
            `LOSE_ANSWER` (the server does as asked, and nobody hears of it).
    """

    def __init__(self, server: str) -> None:
        self._target = urlsplit(server).netloc
        self.requests: list[str] = []
        self.poison = b""
        self.fault: Callable[[str], str] = lambda _: PASS
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def _handle(self) -> None:
                proxy.answer(self)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request; the connection ends with it."""
        path = request.path
        self.requests.append(path)
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        fault = ERROR if self.poison and self.poison in body else self.fault(path)
        if fault in (ERROR, NOT_FOUND):
            request.send_error(500 if fault == ERROR else 404)
            return
        connection = HTTPConnection(self._target, timeout=60)
        connection.request(request.command, path, body, dict(request.headers))
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if fault == LOSE_ANSWER:
            return
        request.send_response(answer.status)
        request.send_header("Content-Type", answer.headers.get("Content-Type", "text/plain"))
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)
