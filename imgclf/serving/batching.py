"""Requests that wait together are answered together.

A batch is what waits when the session is free: a lone request never waits for company, and under
load batches grow by themselves. How much may wait is for whoever submits to say.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Answers = tuple[NDArray[np.float32], NDArray[np.float32]]
Run = Callable[[NDArray[np.uint8]], Answers]


@dataclass(frozen=True)
class _Waiting:
    """Images of one request, as many as one call takes at most, and where their answers go."""

    run: Run
    images: NDArray[np.uint8]
    answers: "asyncio.Future[Answers]"
    since: float


class Batcher:
    """A queue in front of a model, emptied a batch at a time by one thread.

    Args:
        max_batch: images in one call of the model.
        observe_batch: is told how many images each call answers.
        observe_wait: is told how long what a call answers has waited, in seconds: of each request.
    """

    def __init__(
        self,
        max_batch: int,
        observe_batch: Callable[[int], None],
        observe_wait: Callable[[float], None],
    ) -> None:
        self._max_batch = max_batch
        self._observe_batch = observe_batch
        self._observe_wait = observe_wait
        self._queue: deque[_Waiting] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._one_call = threading.Lock()
        self._thread = ThreadPoolExecutor(1, "imgclf-run")

    async def submit(self, run: Run, images: NDArray[np.uint8]) -> Answers:
        """Wait for the answers for some images.

        Args:
            run: the model that was there when the request came: all of it is answered by one.
            images: uint8 [n, height, width, channels]; n is at least 1.

        Returns:
            logits and probabilities, float32 [n, classes].
        """
        if len(images) <= self._max_batch:
            return await self._answers(run, images)
        # The next part queues once this one is answered: what came meanwhile stands before it.
        parts = [
            await self._answers(run, images[start : start + self._max_batch])
            for start in range(0, len(images), self._max_batch)
        ]
        logits, probabilities = zip(*parts, strict=True)
        return np.concatenate(logits), np.concatenate(probabilities)

    def answer_at_once(self, run: Run, images: NDArray[np.uint8]) -> Answers | None:
        """Answer in the calling thread, which is any but the event loop's.

        Args:
            run: the model.
            images: uint8 [n, height, width, channels], as many as one call takes at most.

        Returns:
            logits and probabilities, float32 [n, classes]; None where the model is busy or others
            wait: then the images must be submitted.
        """
        if self._queue or not self._one_call.acquire(blocking=False):
            return None
        try:
            self._observe_wait(0.0)
            self._observe_batch(len(images))
            return run(images)
        finally:
            self._one_call.release()

    def close(self) -> None:
        """End the thread; nothing must wait any more."""
        self._thread.shutdown()

    async def _answers(self, run: Run, images: NDArray[np.uint8]) -> Answers:
        """Queue images for one call."""
        loop = asyncio.get_running_loop()
        waiting = _Waiting(run, images, loop.create_future(), time.perf_counter())
        self._queue.append(waiting)
        if self._worker is None or self._worker.done():
            self._worker = loop.create_task(self._work())
        return await waiting.answers

    async def _work(self) -> None:
        """Answer batch after batch until nothing waits."""
        loop = asyncio.get_running_loop()
        while batch := self._next_batch():
            try:
                answers = await loop.run_in_executor(self._thread, self._run, batch)
            except Exception as error:  # noqa: BLE001 - whoever waits must be told, whatever it is
                for one in batch:
                    if not one.answers.done():
                        one.answers.set_exception(error)
                continue
            start = 0
            for one in batch:
                end = start + len(one.images)
                # A client that has gone, or waited too long, has cancelled its request.
                if not one.answers.done():
                    one.answers.set_result((answers[0][start:end], answers[1][start:end]))
                start = end

    def _run(self, batch: Sequence[_Waiting]) -> Answers:
        images = [one.images for one in batch]
        joined = images[0] if len(images) == 1 else np.concatenate(images)
        with self._one_call:
            now = time.perf_counter()
            for one in batch:
                self._observe_wait(now - one.since)
            self._observe_batch(len(joined))
            return batch[0].run(joined)

    def _next_batch(self) -> list[_Waiting]:
        """Take from the queue what one call answers: images for one model, as many as allowed."""
        batch: list[_Waiting] = []
        images = 0
        while self._queue:
            first = self._queue[0]
            other_model = batch and first.run != batch[0].run
            if other_model or (batch and images + len(first.images) > self._max_batch):
                break
            self._queue.popleft()
            if not first.answers.done():
                batch.append(first)
                images += len(first.images)
        return batch
