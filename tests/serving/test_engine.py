"""Who is let in, and in which order images are decoded: nobody takes the whole server."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from asgi import Exchange, ask, never, running, until_ready
from image_files import encode, png
from imgclf.predict import Predictor
from imgclf.preprocess import to_array
from imgclf.serving.app import create_app
from imgclf.serving.engine import Engine, Unread
from imgclf.serving.errors import RequestError
from imgclf.serving.measured import Measures
from imgclf.serving.protocol import HEADER_LENGTH
from imgclf.serving.served_model import LoadedModel, ServedModel
from imgclf.serving.settings import ServerSettings
from server_process import REFERENCE


@contextmanager
def engine_of(**settings: Any) -> Iterator[Engine]:
    served = ServedModel(REFERENCE, "", 1, "cpu")
    engine = Engine(ServerSettings(str(REFERENCE), **settings), served, Measures(shared=False))
    try:
        yield engine
    finally:
        engine.close()


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return ServedModel(REFERENCE, "", 1, "cpu").load()


def test_a_servers_session_leaves_the_cores_to_others_while_it_waits(loaded: LoadedModel):
    def spins(predictor: Predictor) -> str:
        options = predictor._session.get_session_options()
        return options.get_session_config_entry("session.intra_op.allow_spinning")

    assert spins(loaded.predictor) == "0"
    assert spins(Predictor(REFERENCE)) == "1"


class Decoding:
    """Decodes as ever, notes what, and can be held up."""

    def __init__(self) -> None:
        self.begun: list[bytes] = []
        self.free = threading.Event()
        self.free.set()

    def __call__(self, file: bytes, *arguments: Any) -> Any:
        self.begun.append(file)
        assert self.free.wait(30)
        return to_array(file, *arguments)

    async def until_begun(self, number: int) -> None:
        async with asyncio.timeout(30):
            while len(self.begun) < number:
                await asyncio.sleep(0.01)


@pytest.fixture
def decoding(monkeypatch: pytest.MonkeyPatch) -> Iterator[Decoding]:
    held = Decoding()
    monkeypatch.setattr("imgclf.serving.engine.to_array", held)
    yield held
    held.free.set()


def cores(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr("imgclf.serving.engine.available_cores", lambda: number)


# --- Who is let in


def test_images_are_counted_until_they_are_answered():
    with engine_of(max_queue=3) as engine:
        with engine.admitted(1), engine.admitted(2):
            with pytest.raises(RequestError) as caught, engine.admitted(1):
                pass
            assert (caught.value.status, caught.value.retry_after) == (429, 1)
        with engine.admitted(1), engine.admitted(2):
            pass


def test_one_request_is_taken_whatever_its_size_where_there_is_none():
    with engine_of(max_queue=2) as engine:
        for _ in range(2):
            with engine.admitted(9), pytest.raises(RequestError), engine.admitted(1):
                pass


def test_images_that_fail_are_no_longer_counted():
    with engine_of(max_queue=2) as engine:
        for _ in range(3):
            with pytest.raises(ValueError), engine.admitted(2):
                raise ValueError
        with engine.admitted(1), engine.admitted(1):
            pass


def form(files: list[bytes]) -> tuple[bytes, dict[str, str]]:
    """A form's body and headers."""
    head = b'--b\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n'
    parts = [head + file + b"\r\n" for file in files]
    return b"".join(parts) + b"--b--\r\n", {"Content-Type": "multipart/form-data; boundary=b"}


def requests_of(files: list[bytes]) -> list[tuple[str, bytes, dict[str, str]]]:
    """A request with these images for each route that takes some: path, body, headers."""
    lengths = b"".join(len(file).to_bytes(4, "little") + file for file in files)
    tensor = {
        "name": "image",
        "datatype": "BYTES",
        "shape": [len(files)],
        "parameters": {"binary_data_size": len(lengths)},
    }
    header = json.dumps({"inputs": [tensor]}).encode()
    pixels = json.dumps({"inputs": np.zeros((len(files), 8, 8, 1), int).tolist()}).encode()
    return [
        ("/predict", *form(files)),
        ("/v2/models/digits/infer", header + lengths, {HEADER_LENGTH: str(len(header))}),
        ("/invocations", pixels, {}),
    ]


def test_what_waits_for_its_decoding_counts_on_every_route(decoding: Decoding, files: list[bytes]):
    async def work() -> None:
        app = create_app(ServerSettings(str(REFERENCE), max_queue=5), never)
        async with running(app):
            await until_ready(app)
            decoding.free.clear()
            for path, body, headers in requests_of(files[:3])[:2]:
                first = Exchange(app, "POST", path, headers)
                first.send_body(body)
                await decoding.until_begun(1)
                for other, content, more in requests_of(files[:3]):
                    status, found, answer = await ask(app, "POST", other, content, more)
                    assert (status, found["retry-after"]) == (429, "1")
                    assert answer == {"error": "too many images wait already; try again later"}
                for other, content, more in requests_of(files[:2])[2:]:
                    assert (await ask(app, "POST", other, content, more))[0] == 200
                decoding.free.set()
                await first.task
                assert first.status == 200
                for other, content, more in requests_of(files[:6]):
                    assert (await ask(app, "POST", other, content, more))[0] == 200
                decoding.begun.clear()
                decoding.free.clear()
            decoding.free.set()

    asyncio.run(work())


def test_bodies_that_are_still_coming_have_a_limit_together(
    monkeypatch: pytest.MonkeyPatch, files: list[bytes]
):
    # Four bodies of a MiB, instead of 256 MiB.
    monkeypatch.setattr("imgclf.serving.engine._BYTES_OF_BODIES", 0)

    async def work() -> None:
        app = create_app(ServerSettings(str(REFERENCE), max_body_mb=1), never)
        async with running(app):
            await until_ready(app)
            coming = [Exchange(app, "POST", "/predict") for _ in range(4)]
            for exchange in coming:
                exchange.send_body(bytes(2**20), more=True)
            await asyncio.sleep(0.05)
            for path, body, headers in requests_of(files[:1]):
                status, found, answer = await ask(app, "POST", path, body, headers)
                assert (status, found["retry-after"]) == (503, "1")
                assert answer == {"error": "too much is being read; try again later"}
            coming.pop().disconnect()
            await asyncio.sleep(0.05)
            for path, body, headers in requests_of(files[:1]):
                assert (await ask(app, "POST", path, body, headers))[0] == 200
            for exchange in coming:
                exchange.disconnect()
            await asyncio.gather(*(exchange.task for exchange in coming))

    asyncio.run(work())


# --- Decoding


def finish(work: Callable[[], Any]) -> None:
    async def within() -> None:
        async with asyncio.timeout(30):
            await work()

    asyncio.run(within())


def test_files_are_decoded_in_their_order_and_each_that_is_not_says_why(
    loaded: LoadedModel, reference: Predictor, files: list[bytes]
):
    bad = {2: b"no image", 5: files[2][:60], 7: png(100_000, 100_000, 8, 0)}
    given = [bad.get(position, file) for position, file in enumerate(files)]

    async def work() -> None:
        found = await engine.decode(loaded, given)
        assert len(found) == len(given)
        for position, (one, file) in enumerate(zip(found, files, strict=True)):
            if isinstance(one, Unread):
                assert one.status == {2: 415, 5: 422, 7: 413}[position]
            else:
                assert position not in bad
                np.testing.assert_array_equal(one, to_array(file, reference.card.preprocessing))

    with engine_of() as engine:
        finish(work)


def test_a_request_of_many_images_lets_others_in_between(
    monkeypatch: pytest.MonkeyPatch,
    decoding: Decoding,
    loaded: LoadedModel,
    files: list[bytes],
):
    cores(monkeypatch, 1)
    decoding.free.clear()

    async def work() -> None:
        many = asyncio.create_task(engine.decode(loaded, files[:4]))
        await decoding.until_begun(1)
        one = asyncio.create_task(engine.decode(loaded, files[10:]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        decoding.free.set()
        await asyncio.gather(many, one)
        assert decoding.begun == [files[0], files[10], *files[1:4]]

    with engine_of() as engine:
        finish(work)


def test_as_many_images_are_decoded_at_once_as_a_worker_has_cores(
    monkeypatch: pytest.MonkeyPatch, loaded: LoadedModel, files: list[bytes]
):
    cores(monkeypatch, 9)
    together, running_now, most = threading.Barrier(3, timeout=30), 0, 0
    count = threading.Lock()

    def meet(file: bytes, *arguments: Any) -> Any:
        nonlocal running_now, most
        with count:
            running_now += 1
            most = max(most, running_now)
        together.wait()
        with count:
            running_now -= 1
        return to_array(file, *arguments)

    monkeypatch.setattr("imgclf.serving.engine.to_array", meet)

    async def work() -> None:
        # Fewer at once would never meet.
        assert len(await engine.decode(loaded, files[:9])) == 9

    with engine_of(workers=3) as engine:
        finish(work)
    assert most == 3


def test_of_a_request_that_is_given_up_no_other_image_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
    decoding: Decoding,
    loaded: LoadedModel,
    files: list[bytes],
):
    cores(monkeypatch, 1)
    decoding.free.clear()

    async def work() -> None:
        many = asyncio.create_task(engine.decode(loaded, files[:4]))
        await decoding.until_begun(1)
        many.cancel()
        with pytest.raises(asyncio.CancelledError):
            await many
        decoding.free.set()
        await engine.decode(loaded, files[10:])
        assert decoding.begun == [files[0], files[10]]

    with engine_of() as engine:
        finish(work)


def test_the_pixels_of_a_request_have_a_limit_and_none_is_decoded_past_it(
    decoding: Decoding, loaded: LoadedModel
):
    fits = encode(np.zeros((8, 10), np.uint8), "PNG")
    larger = encode(np.zeros((9, 9), np.uint8), "PNG")
    too_large = encode(np.zeros((11, 10), np.uint8), "PNG")

    async def work() -> None:
        assert not any(isinstance(one, Unread) for one in await engine.decode(loaded, [fits] * 5))
        # What is not decoded does not count.
        found = await engine.decode(loaded, [*[fits] * 5, too_large, b"no image"])
        assert [one.status for one in found if isinstance(one, Unread)] == [413, 415]
        decoding.begun.clear()
        for given, pixels in (([*[fits] * 4, larger], 401), ([fits] * 6, 480)):
            with pytest.raises(RequestError) as caught:
                await engine.decode(loaded, given)
            assert caught.value.status == 413
            expected = f"{pixels} pixels in one request; the limit is 400"
            assert caught.value.message == expected
        assert decoding.begun == []

    with engine_of(max_pixels=100) as engine:
        finish(work)
