"""Reading requests: never more than is allowed, compressed or not, one or many."""

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from starlette.requests import Request

from imgclf.serving.errors import RequestError

# zlib reads gzip and zlib ("deflate" as the standard has it) by itself with this.
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
_ENCODINGS = ("gzip", "deflate")
# Small answers are as long compressed.
_SMALLEST_COMPRESSED = 500
# What is longer would hold up other requests while it is parsed.
LARGE_BODY = 2**20
_Parsed = TypeVar("_Parsed")


class Bodies:
    """Reads and parses the bodies of requests, and bounds the bytes of all that are here.

    Args:
        most: bytes at a time, of all requests together.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0
        # One: parsing holds the interpreter's lock, and more of it would leave others less.
        self._thread = ThreadPoolExecutor(1, "imgclf-read")

    @asynccontextmanager
    async def read(self, request: Request, max_bytes: int) -> AsyncIterator[bytes]:
        """Read and decompress a request's body; until the block is left, its bytes count.

        Raises:
            RequestError: it is too large, compressed in a way that is not read, or too much is
                here already.
        """
        held = 0

        def hold(size: int) -> None:
            nonlocal held
            if self._held + size > self._most:
                raise RequestError(503, "too much is being read; try again later", retry_after=1)
            self._held += size
            held += size

        try:
            body = await _receive(request, max_bytes, hold)
            encoding = request.headers.get("content-encoding", "identity").strip().lower()
            if encoding not in ("", "identity"):
                body = await self._in_thread(decompress, body, encoding, max_bytes)
                hold(len(body))
            yield body
        finally:
            self._held -= held

    async def parse(self, parser: Callable[[bytes], _Parsed], body: bytes) -> _Parsed:
        """Parse a body; a large one in a thread, for others to be answered meanwhile."""
        if len(body) <= LARGE_BODY:
            return parser(body)
        return await self._in_thread(parser, body)

    def close(self) -> None:
        """End the thread; nothing must be read any more."""
        self._thread.shutdown(cancel_futures=True)

    async def _in_thread(self, function: Callable[..., _Parsed], *arguments: object) -> _Parsed:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)


async def _receive(request: Request, max_bytes: int, hold: Callable[[int], None]) -> bytes:
    chunks, size = [], 0
    # What says itself that it is too large need not be waited for.
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and int(announced) > max_bytes:
        raise too_large("the body", max_bytes)
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            raise too_large("the body", max_bytes)
        hold(len(chunk))
        chunks.append(chunk)
    return b"".join(chunks)


def decompress(content: bytes, encoding: str, max_bytes: int) -> bytes:
    """Decompress gzip or deflate, up to a size.

    Raises:
        RequestError: it is something else, damaged, or larger.
    """
    if encoding not in _ENCODINGS:
        raise RequestError(415, f"Content-Encoding {encoding!r:.40}; gzip and deflate are read")
    reader = zlib.decompressobj(_GZIP_OR_ZLIB)
    try:
        result = reader.decompress(content, max_bytes + 1)
    except zlib.error as error:
        raise RequestError(400, f"the body is no {encoding}: {error}") from error
    if len(result) > max_bytes:
        raise too_large("the body", max_bytes)
    if not reader.eof or reader.unused_data:
        raise RequestError(400, f"the body is no {encoding}: it is cut off, or more follows")
    return result


def compress(content: bytes, accepted: str) -> tuple[bytes, Mapping[str, str]]:
    """Compress an answer where the client accepts that.

    Args:
        content: the answer.
        accepted: the request's Accept-Encoding.

    Returns:
        the answer, and the headers that say how it is compressed.
    """
    encoding = next((name for name in _ENCODINGS if _accepts(accepted, name)), None)
    if encoding is None or len(content) < _SMALLEST_COMPRESSED:
        return content, {"Vary": "Accept-Encoding"}
    window = zlib.MAX_WBITS + (16 if encoding == "gzip" else 0)
    writer = zlib.compressobj(level=1, wbits=window)
    compressed = writer.compress(content) + writer.flush()
    return compressed, {"Content-Encoding": encoding, "Vary": "Accept-Encoding"}


def _accepts(accepted: str, encoding: str) -> bool:
    for entry in accepted.lower().split(","):
        name, _, quality = entry.replace(" ", "").partition(";q=")
        if name == encoding:
            return not quality or quality.strip("0.") != ""
    return False


def too_large(what: str, max_bytes: int) -> RequestError:
    """Return what is said to a request of which a part is too large."""
    return RequestError(413, f"{what} is larger than {max_bytes / 2**20:g} MiB")
