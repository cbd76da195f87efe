"""Requests that wait together: each gets its own answer, whatever happens to the others."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from imgclf.predict import Predictor
from imgclf.preprocess import to_array
from imgclf.serving.batching import Answers, Batcher
from imgclf.serving.errors import RequestError


class Model:
    """Answers each image with its first pixel and an offset; may be held up, or fail."""

    def __init__(self, offset: int = 0) -> None:
        self.offset = offset
        self.sizes: list[int] = []
        self.free = threading.Event()
        self.free.set()
        self.failures: list[Exception] = []

    def run(self, images: NDArray[np.uint8]) -> Answers:
        assert self.free.wait(30)
        self.sizes.append(len(images))
        if self.failures:
            raise self.failures.pop()
        values = images[:, :1, 0, 0].astype(np.float32) + self.offset
        return values, -values


def images(*firsts: int) -> NDArray[np.uint8]:
    return np.array(firsts, np.uint8).reshape(-1, 1, 1, 1)


def with_batcher(
    work: Callable[[Batcher], Coroutine[Any, Any, None]],
    max_batch: int = 4,
    max_queue: int = 100,
    observe: Callable[[int, float], None] = lambda size, waited: None,
) -> None:
    async def run() -> None:
        batcher = Batcher(max_batch, max_queue, observe)
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

    with_batcher(work, max_batch=8, max_queue=1000, observe=lambda size, _: batches.append(size))
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
        # The one with ten images is larger than a batch: it is one of its own.
        assert model.sizes == [1, 3, 2, 3, 10, 1]
        found = [values[:, 0].tolist() for values, _ in answers]
        assert found == [[200], [1, 2], [3], [4, 5], [6, 7, 8], list(range(10, 20)), [9]]
        assert [(-negative[:, 0]).tolist() for _, negative in answers] == found

    with_batcher(work)


def test_a_lone_request_does_not_wait_for_company():
    observed: list[tuple[int, float]] = []

    async def work(batcher: Batcher) -> None:
        for _ in range(3):
            await batcher.submit(Model().run, images(1))

    with_batcher(work, observe=lambda size, waited: observed.append((size, waited)))
    assert [size for size, _ in observed] == [1, 1, 1]
    assert all(waited >= 0 for _, waited in observed)


def test_a_full_queue_refuses_and_recovers():
    async def work(batcher: Batcher) -> None:
        model = Model()
        first = await held(batcher, model)
        waiting = [submit(batcher, model, 1, 2), submit(batcher, model, 3)]
        await asyncio.sleep(0)
        with pytest.raises(RequestError) as caught:
            await batcher.submit(model.run, images(4))
        assert caught.value.status == 429
        assert caught.value.retry_after == 1
        model.free.set()
        answers = await asyncio.gather(first, *waiting)
        assert [values[:, 0].tolist() for values, _ in answers] == [[200], [1, 2], [3]]
        values, _ = await batcher.submit(model.run, images(4))
        assert values[:, 0].tolist() == [4]

    with_batcher(work, max_queue=3)


def test_an_empty_queue_takes_a_request_that_is_larger_than_it():
    async def work(batcher: Batcher) -> None:
        values, _ = await batcher.submit(Model().run, images(1, 2, 3))
        assert values[:, 0].tolist() == [1, 2, 3]

    with_batcher(work, max_batch=2, max_queue=1)


def test_cancelled_requests_disturb_nobody_and_leave_the_queue():
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
        assert model.sizes == [1, 2]
        for number in range(8):
            values, _ = await batcher.submit(model.run, images(number))
            assert values[0, 0] == number

    with_batcher(work, max_queue=4)


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
