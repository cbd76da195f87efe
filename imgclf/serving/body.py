"""Reading requests: never more than is allowed, compressed or not."""

import zlib
from collections.abc import Mapping

from starlette.requests import Request

from imgclf.serving.errors import RequestError

# zlib reads gzip and zlib ("deflate" as the standard has it) by itself with this.
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
_ENCODINGS = ("gzip", "deflate")
# Small answers are as long compressed.
_SMALLEST_COMPRESSED = 500


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Read and decompress a request's body.

    Raises:
        RequestError: it is too large, or compressed in a way that is not read.
    """
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            raise too_large(max_bytes)
        chunks.append(chunk)
    body = b"".join(chunks)
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    return body if encoding in ("", "identity") else decompress(body, encoding, max_bytes)


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
        raise too_large(max_bytes)
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


def too_large(max_bytes: int) -> RequestError:
    """Return what is said to a request that is too large."""
    return RequestError(413, f"the body is larger than {max_bytes / 2**20:g} MiB")
