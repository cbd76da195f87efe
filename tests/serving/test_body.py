"""Compressed bodies: read up to a limit, refused beyond it, and never believed."""

import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgclf.serving.body import compress, decompress
from imgclf.serving.errors import RequestError

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
