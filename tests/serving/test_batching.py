"""Requests that wait together: each gets its own answer, whatever happens to the others."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from imgclf.predict import Predictor
from imgclf.preprocess import to_array
from imgclf.serving.batching import Answers, Batcher


class Model:
    """Answers each image with its first pixel and an offset; may be held up, or fail."""

    def __init__(self, offset: int = 0) -> None:
        self.offset = offset
        self.batches: list[list[int]] = []
        self.free = threading.Event()
        self.free.set()
        self.failures: list[Exception] = []

    def run(self, images: NDArray[np.uint8]) -> Answers:
        self.batches.append(images[:, 0, 0, 0].tolist())
        assert self.free.wait(30)
        if self.failures:
            raise self.failures.pop()
        values = images[:, :1, 0, 0].astype(np.float32) + self.offset
        return values, -values

    @property
    def sizes(self) -> list[int]:
        return [len(batch) for batch in self.batches]


def images(*firsts: int) -> NDArray[np.uint8]:
    return np.array(firsts, np.uint8).reshape(-1, 1, 1, 1)


def with_batcher(
    work: Callable[[Batcher], Coroutine[Any, Any, None]],
    max_batch: int = 4,
    observe_batch: Callable[[int], None] = lambda images: None,
    observe_wait: Callable[[float], None] = lambda seconds: None,
) -> None:
    async def run() -> None:
        batcher = Batcher(max_batch, observe_batch, observe_wait)
        try:
            async with asyncio.timeout(30):
                await work(batcher)
        finally:
            batcher.close()

    asyncio.run(run())


async def held(batcher: Batcher, model: Model) -> "asyncio.Task[Answers]":
    """Let a request of one image keep the model busy until it is set free."""
    model.free.clear()
    task = asyncio.create_task(batcher.submit(model.run, images(200)))
    await asyncio.sleep(0.05)
    return task


def submit(batcher: Batcher, model: Model, *firsts: int) -> "asyncio.Task[Answers]":
    return asyncio.create_task(batcher.submit(model.run, images(*firsts)))


def test_answers_under_load_equal_the_single_answers(reference: Predictor, files: list[bytes]):
    digits = [to_array(file, reference.card.preprocessing) for file in files]
    sizes = [1 + number % 3 for number in range(60)]
    requests = [
        np.stack([digits[(number + step) % len(digits)] for step in range(size)])
        for number, size in enumerate(sizes)
    ]
    batches: list[int] = []

    async def work(batcher: Batcher) -> None:
        answers = await asyncio.gather(*(batcher.submit(reference.run, one) for one in requests))
        for request, found in zip(requests, answers, strict=True):
            for values, expected in zip(found, reference.run(request), strict=True):
                assert values.shape == expected.shape
                np.testing.assert_allclose(values, expected, atol=1e-5)

    with_batcher(work, max_batch=8, observe_batch=batches.append)
    assert sum(batches) == sum(sizes)
    assert max(batches) == 8
    assert len(batches) < len(requests) / 2


def test_what_waits_is_answered_together_but_never_more_than_allowed():
    async def work(batcher: Batcher) -> None:
        model = Model()
        tasks = [await held(batcher, model)]
        tasks += [submit(batcher, model, *firsts) for firsts in ((1, 2), (3,), (4, 5), (6, 7, 8))]
        tasks.append(submit(batcher, model, *range(10, 20)))
        tasks.append(submit(batcher, model, 9))
        await asyncio.sleep(0)
        model.free.set()
        answers = await asyncio.gather(*tasks)
        # The one with ten images is larger than a batch: the last one is answered in between.
        assert model.sizes == [1, 3, 2, 3, 4, 1, 4, 2]
        found = [values[:, 0].tolist() for values, _ in answers]
        assert found == [[200], [1, 2], [3], [4, 5], [6, 7, 8], list(range(10, 20)), [9]]
        assert [(-negative[:, 0]).tolist() for _, negative in answers] == found

    with_batcher(work)


def test_a_large_request_is_answered_in_batches_and_lets_others_in_between():
    async def work(batcher: Batcher) -> None:
        model = Model()
        first = await held(batcher, model)
        large = submit(batcher, model, *range(10))
        await asyncio.sleep(0)
        others = [submit(batcher, model, number) for number in (100, 101, 102)]
        await asyncio.sleep(0)
        model.free.set()
        values, negative = await large
        assert values[:, 0].tolist() == (-negative[:, 0]).tolist() == list(range(10))
        await asyncio.gather(first, *others)
        assert model.batches == [[200], [0, 1, 2, 3], [100, 101, 102], [4, 5, 6, 7], [8, 9]]

    with_batcher(work)


def test_of_a_large_request_that_is_given_up_no_other_batch_is_run():
    async def work(batcher: Batcher) -> None:
        model = Model()
        model.free.clear()
        large = submit(batcher, model, *range(12))
        while not model.batches:
            await asyncio.sleep(0.01)
        large.cancel()
        await asyncio.sleep(0)
        model.free.set()
        assert (await batcher.submit(model.run, images(200)))[0][0, 0] == 200
        assert model.batches == [[0, 1, 2, 3], [200]]

    with_batcher(work)


def test_a_lone_request_does_not_wait_for_company(monkeypatch: pytest.MonkeyPatch):
    timers: list[float] = []

    async def work(batcher: Batcher) -> None:
        loop = asyncio.get_running_loop()
        call_at = loop.call_at

        def recorded(when: float, *arguments: Any, **options: Any) -> asyncio.TimerHandle:
            timers.append(when - loop.time())
            return call_at(when, *arguments, **options)

        monkeypatch.setattr(loop, "call_at", recorded)
        # Whatever waits for a time sets a timer.
        await asyncio.sleep(0.001)
        assert len(timers) == 1
        assert (await batcher.submit(Model().run, images(7)))[0][0, 0] == 7
        assert len(timers) == 1

    with_batcher(work)


def test_an_image_is_answered_in_the_thread_at_hand_only_where_no_other_waits():
    async def work(batcher: Batcher) -> None:
        loop, model = asyncio.get_running_loop(), Model()

        def at_once() -> Answers | None:
            return batcher.answer_at_once(model.run, images(7))

        answers = await loop.run_in_executor(None, at_once)
        assert answers is not None
        assert answers[0].tolist() == [[7]]
        model.free.clear()
        lone = loop.run_in_executor(None, at_once)
        while len(model.batches) < 2:
            await asyncio.sleep(0.01)
        assert at_once() is None
        batched = submit(batcher, model, 1)
        await asyncio.sleep(0.05)
        assert model.batches == [[7], [7]], "the model was asked twice at a time"
        model.free.set()
        assert (await lone) is not None
        assert (await batched)[0][0, 0] == 1
        waiting = submit(batcher, model, 2)
        await asyncio.sleep(0)
        assert at_once() is None, "it went before what was queued"
        await waiting

    with_batcher(work)


def test_the_wait_of_each_request_is_observed(monkeypatch: pytest.MonkeyPatch):
    clock, waits = SimpleNamespace(now=0.0), []
    monkeypatch.setattr(
        "imgclf.serving.batching.time", SimpleNamespace(perf_counter=lambda: clock.now)
    )

    async def work(batcher: Batcher) -> None:
        model = Model()
        tasks = [await held(batcher, model)]
        for clock.now in (1.0, 3.0):
            tasks.append(submit(batcher, model, 1))
            await asyncio.sleep(0)
        clock.now = 7.0
        model.free.set()
        await asyncio.gather(*tasks)
        assert model.sizes == [1, 2]

    with_batcher(work, observe_wait=waits.append)
    assert waits == [0, 6, 4]


def test_cancelled_requests_disturb_nobody_and_are_not_run():
    async def work(batcher: Batcher) -> None:
        model = Model()
        first = await held(batcher, model)
        tasks = [submit(batcher, model, number) for number in range(4)]
        await asyncio.sleep(0)
        for task in (first, tasks[0], tasks[2]):
            task.cancel()
        await asyncio.sleep(0)
        model.free.set()
        assert (await tasks[1])[0][0, 0] == 1
        assert (await tasks[3])[0][0, 0] == 3
        # The one that was being answered could not be stopped; the others were not asked.
        assert model.batches == [[200], [1, 3]]

    with_batcher(work)


def test_a_failure_reaches_every_request_of_its_batch_and_no_other():
    async def work(batcher: Batcher) -> None:
        model, broken = Model(), Model()
        first = await held(batcher, model)
        broken.failures = [ValueError("the batch failed")]
        failing = [submit(batcher, broken, number) for number in range(4)]
        after = [submit(batcher, broken, 7), submit(batcher, model, 8)]
        await asyncio.sleep(0)
        model.free.set()
        assert (await first)[0][0, 0] == 200
        results = await asyncio.gather(*failing, return_exceptions=True)
        assert [str(result) for result in results] == ["the batch failed"] * 4
        assert [(await task)[0][0, 0] for task in after] == [7, 8]

    with_batcher(work)


def test_each_request_is_answered_by_the_model_that_it_came_for():
    async def work(batcher: Batcher) -> None:
        old, new = Model(), Model(offset=1000)
        new.free = old.free
        first = await held(batcher, old)
        models = [old, old, new, new, old, new]
        tasks = [submit(batcher, model, n, n + 1) for n, model in enumerate(models)]
        await asyncio.sleep(0)
        old.free.set()
        await first
        for number, (task, model) in enumerate(zip(tasks, models, strict=True)):
            values, _ = await task
            expected = [number + model.offset, number + 1 + model.offset]
            assert values[:, 0].tolist() == expected
        assert old.sizes == [1, 4, 2]
        assert new.sizes == [4, 2]

    with_batcher(work)
