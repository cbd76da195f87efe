"""Bodies: read up to a limit, one and all together; compressed ones are never believed."""

import asyncio
import gzip
import json
import threading
import tracemalloc
import zlib
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect, Request

from imgclf.serving.body import LARGE_BODY, Bodies, compress, decompress
from imgclf.serving.errors import RequestError
from imgclf.serving.protocol import read_json

LIMIT = 100_000
WRITERS = {"gzip": gzip.compress, "deflate": zlib.compress}
READERS = {"gzip": gzip.decompress, "deflate": zlib.decompress}
ENCODINGS = tuple(WRITERS)


def refusal(content: bytes, encoding: str) -> tuple[int, str]:
    with pytest.raises(RequestError) as caught:
        decompress(content, encoding, LIMIT)
    return caught.value.status, caught.value.message


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=2000), st.sampled_from(ENCODINGS))
def test_what_was_compressed_comes_back(content: bytes, encoding: str):
    assert decompress(WRITERS[encoding](content), encoding, LIMIT) == content


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_limit_is_one_of_the_decompressed_size(encoding: str):
    fits, does_not = bytes(LIMIT), bytes(LIMIT + 1)
    assert decompress(WRITERS[encoding](fits), encoding, LIMIT) == fits
    assert refusal(WRITERS[encoding](does_not), encoding)[0] == 413


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_bomb_is_refused_before_it_takes_memory(encoding: str):
    bomb = WRITERS[encoding](bytes(50_000_000))
    assert len(bomb) < LIMIT
    tracemalloc.start()
    status, message = refusal(bomb, encoding)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert status == 413
    assert message == "the body is larger than 0.0953674 MiB"
    assert peak < 10 * LIMIT


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_what_is_cut_off_or_goes_on_is_refused(encoding: str):
    content = WRITERS[encoding](b"some content" * 20)
    for changed in (b"", content[:5], content[:-1], content + b"x", content + content):
        assert refusal(changed, encoding)[0] == 400


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_what_is_not_compressed_or_changed_is_refused(encoding: str):
    assert refusal(b"no such thing", encoding)[0] == 400
    content = bytearray(WRITERS[encoding](bytes(range(200))))
    content[-1] ^= 1  # of the length (gzip) or the checksum (deflate)
    assert refusal(bytes(content), encoding)[0] == 400


@pytest.mark.parametrize("encoding", ["br", "zstd", "x", "gzip, gzip", "gzip,deflate"])
def test_other_encodings_are_refused(encoding: str):
    status, message = refusal(b"content", encoding)
    assert status == 415
    assert "gzip and deflate are read" in message


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("GZIP", "gzip"),
        ("br, deflate", "deflate"),
        ("gzip;q=0.001", "gzip"),
        ("gzip; q=0, deflate; q=0.5", "deflate"),
    ],
)
def test_an_answer_is_compressed_as_the_client_accepts_it(accepted: str, encoding: str):
    content = b"a long answer" * 100
    compressed, headers = compress(content, accepted)
    assert headers == {"Content-Encoding": encoding, "Vary": "Accept-Encoding"}
    assert len(compressed) < len(content)
    assert READERS[encoding](compressed) == content


@pytest.mark.parametrize("accepted", ["", "identity", "br", "gzip;q=0", "gzip; q=0.000", "gzipped"])
def test_an_answer_stays_plain_where_no_compression_is_accepted(accepted: str):
    content = b"a long answer" * 100
    assert compress(content, accepted) == (content, {"Vary": "Accept-Encoding"})


def test_a_short_answer_stays_plain():
    assert compress(b"short", "gzip") == (b"short", {"Vary": "Accept-Encoding"})


# --- Bodies together


def request_of(*chunks: bytes | None, encoding: str = "identity") -> Request:
    """A request whose body comes in chunks; the client goes where one is None."""
    waiting = list(chunks)

    async def receive() -> dict[str, Any]:
        chunk = waiting.pop(0)
        if chunk is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": chunk, "more_body": bool(waiting)}

    headers = [(b"content-encoding", encoding.encode())]
    return Request({"type": "http", "headers": headers}, receive)


def with_bodies(most: int, work: Callable[[Bodies], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        bodies = Bodies(most)
        try:
            async with asyncio.timeout(60):
                await work(bodies)
        finally:
            bodies.close()

    asyncio.run(run())


async def size_of(bodies: Bodies, request: Request, max_bytes: int = LIMIT) -> int:
    async with bodies.read(request, max_bytes) as body:
        return len(body)


async def refusal_of(
    bodies: Bodies, request: Request, max_bytes: int = LIMIT
) -> tuple[int, int | None]:
    with pytest.raises(RequestError) as caught:
        await size_of(bodies, request, max_bytes)
    return caught.value.status, caught.value.retry_after


def test_bytes_of_all_requests_count_until_they_end():
    async def work(bodies: Bodies) -> None:
        async with bodies.read(request_of(bytes(40), bytes(20)), LIMIT) as body:
            assert body == bytes(60)
            assert await refusal_of(bodies, request_of(bytes(20), bytes(21))) == (503, 1)
            assert await size_of(bodies, request_of(bytes(40))) == 40
            assert await size_of(bodies, request_of(bytes(40))) == 40
        assert await size_of(bodies, request_of(bytes(100))) == 100

    with_bodies(100, work)


def test_bytes_of_requests_that_fail_count_no_longer():
    async def work(bodies: Bodies) -> None:
        for _ in range(3):
            assert await refusal_of(bodies, request_of(bytes(60), bytes(1)), 60) == (413, None)
            with pytest.raises(ClientDisconnect):
                await size_of(bodies, request_of(bytes(60), None))
            with pytest.raises(ValueError):
                async with bodies.read(request_of(bytes(60)), LIMIT):
                    raise ValueError
            assert await refusal_of(bodies, request_of(bytes(60), encoding="br")) == (415, None)
        assert await size_of(bodies, request_of(bytes(100))) == 100

    with_bodies(100, work)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_compressed_bodies_count_by_what_comes_out(encoding: str):
    content = WRITERS[encoding](bytes(1000))
    assert len(content) < 100

    async def work(bodies: Bodies) -> None:
        async with bodies.read(request_of(content, encoding=encoding.upper()), LIMIT) as body:
            assert body == bytes(1000)
            assert await refusal_of(bodies, request_of(content, encoding=encoding)) == (503, 1)
        assert await refusal_of(bodies, request_of(content, encoding=encoding), 999) == (413, None)
        assert await size_of(bodies, request_of(content, encoding=encoding), 1000) == 1000

    with_bodies(1200, work)


def test_a_large_body_is_parsed_beside_the_loop_and_a_small_one_at_once():
    threads = []

    def parse(body: bytes) -> int:
        threads.append(threading.current_thread())
        if not body[0]:
            raise RequestError(400, "it is no such thing")
        return len(body)

    async def work(bodies: Bodies) -> None:
        for size in (LARGE_BODY, LARGE_BODY + 1):
            assert await bodies.parse(parse, b"x" * size) == size
            with pytest.raises(RequestError, match="it is no such thing"):
                await bodies.parse(parse, bytes(size))

    with_bodies(1, work)
    assert [thread is threading.main_thread() for thread in threads] == [True, True, False, False]


def test_others_are_answered_while_a_large_json_is_parsed():
    """Turns of the loop are counted: it would have next to none beside a parser all in C."""
    numbers = [200, 1.5] * 500_000
    content = json.dumps({"inputs": numbers}).encode()
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.001)
            turns += 1

    async def work(bodies: Bodies) -> None:
        turning = asyncio.create_task(turn())
        assert await bodies.parse(read_json, content) == {"inputs": numbers}
        turning.cancel()

    with_bodies(1, work)
    assert turns > 10
