"""Which file a server answers with, whatever happens while it is read."""

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from asgi import ask, never, running, until_ready
from imgclf.predict import Predictor
from imgclf.serving.app import create_app
from imgclf.serving.gate import Gate
from imgclf.serving.settings import ServerSettings
from imgclf.verify import Verification, replay
from other_models import another_model
from server_process import EXAMPLE

REPLAY = "imgclf.serving.served_model.replay"
# With what a person reads of each.
UNFORESEEN: dict[Exception, str] = {
    MemoryError(): "MemoryError",
    RuntimeError("two\nlines"): "RuntimeError: two lines",
    OSError(24, "Too many open files"): "OSError: [Errno 24] Too many open files",
}


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imgclf.serving.loading._SECONDS_BETWEEN_LOOKS", 0.01)


def watching(model: Path, work: Callable[[Gate], Coroutine[Any, Any, None]]) -> None:
    """Run an application with ``--reload``."""

    async def run() -> None:
        app = create_app(ServerSettings(str(model), reload=True), never)
        async with asyncio.timeout(60), running(app):
            await until_ready(app)
            await work(app)

    asyncio.run(run())


def version_of(model: Path) -> str:
    return Predictor(model).sha256[:12]


async def until_it_answers_with(app: Gate, model: Path) -> None:
    version = version_of(model)
    while (await ask(app, "GET", "/model"))[2]["version"] != version:
        await asyncio.sleep(0.01)


def traces(caplog: pytest.LogCaptureFixture, event: str) -> list[type[BaseException]]:
    """The exceptions that were logged with a traceback."""
    return [
        record.exc_info[0]
        for record in caplog.records
        if record.message == event and record.exc_info and record.exc_info[0]
    ]


@pytest.mark.parametrize("error", UNFORESEEN, ids=lambda error: type(error).__name__)
def test_a_first_model_that_fails_in_an_unforeseen_way_is_given_up_and_traced(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    model_copy: Path,
    error: Exception,
):
    def fail(_: Predictor) -> Verification:
        raise error

    monkeypatch.setattr(REPLAY, fail)
    reasons: list[str] = []

    async def work() -> None:
        app = create_app(ServerSettings(str(model_copy)), reasons.append)
        async with asyncio.timeout(60), running(app):
            while not reasons:
                await asyncio.sleep(0.01)

    asyncio.run(work())
    assert reasons == [f"Cannot load the model '{model_copy}': {UNFORESEEN[error]}"]
    assert traces(caplog, "not loaded") == [type(error)]


@pytest.mark.parametrize("error", UNFORESEEN, ids=lambda error: type(error).__name__)
def test_after_an_unforeseen_failure_the_model_before_it_answers_and_the_watch_goes_on(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    model_copy: Path,
    error: Exception,
):
    def fail(_: Predictor) -> Verification:
        raise error

    first = version_of(model_copy)

    async def work(app: Gate) -> None:
        monkeypatch.setattr(REPLAY, fail)
        another_model(model_copy, "second")
        while not traces(caplog, "not reloaded"):
            await asyncio.sleep(0.01)
        status, _, answer = await ask(app, "POST", "/predict", EXAMPLE.read_bytes())
        assert (status, answer["version"]) == (200, first)
        monkeypatch.setattr(REPLAY, replay)
        another_model(model_copy, "third")
        await until_it_answers_with(app, model_copy)

    watching(model_copy, work)
    assert traces(caplog, "not reloaded") == [type(error)]


def test_a_file_that_is_replaced_while_the_first_one_is_loaded_is_taken_up(
    monkeypatch: pytest.MonkeyPatch, model_copy: Path
):
    def replaced_meanwhile(predictor: Predictor) -> Verification:
        monkeypatch.setattr(REPLAY, replay)
        another_model(model_copy, "second")
        return replay(predictor)

    monkeypatch.setattr(REPLAY, replaced_meanwhile)
    watching(model_copy, lambda app: until_it_answers_with(app, model_copy))


def test_a_file_that_is_replaced_while_another_is_taken_up_is_taken_up_next(
    monkeypatch: pytest.MonkeyPatch, model_copy: Path
):
    replaced = threading.Event()

    def replaced_meanwhile(predictor: Predictor) -> Verification:
        monkeypatch.setattr(REPLAY, replay)
        another_model(model_copy, "third")
        replaced.set()
        return replay(predictor)

    async def work(app: Gate) -> None:
        monkeypatch.setattr(REPLAY, replaced_meanwhile)
        another_model(model_copy, "second")
        await asyncio.to_thread(replaced.wait, 30)
        await until_it_answers_with(app, model_copy)

    watching(model_copy, work)


def test_a_file_that_fails_is_tried_once(caplog: pytest.LogCaptureFixture, model_copy: Path):
    async def work(app: Gate) -> None:
        for content in (b"damaged", None, b"damaged again"):
            model_copy.unlink(missing_ok=True)
            if content is not None:
                model_copy.write_bytes(content)
            failures = len(caplog.records)
            while len(caplog.records) == failures:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)  # ten looks
            assert len(caplog.records) == failures + 1
        another_model(model_copy, "second")
        await until_it_answers_with(app, model_copy)

    caplog.set_level(logging.ERROR, "imgclf.serve")
    watching(model_copy, work)
