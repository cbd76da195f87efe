"""Requests that wait together are answered together.

A batch is what waits when the session is free: a lone request never waits for company, and under
load batches grow by themselves.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imgclf.serving.errors import RequestError

Answers = tuple[NDArray[np.float32], NDArray[np.float32]]
Run = Callable[[NDArray[np.uint8]], Answers]


@dataclass(frozen=True)
class _Waiting:
    """Images of one request, and where their answers go."""

    run: Run
    images: NDArray[np.uint8]
    answers: "asyncio.Future[Answers]"
    since: float


class Batcher:
    """A bounded queue in front of a model, emptied a batch at a time by one thread.

    Args:
        max_batch: images in a batch; a request with more is a batch of its own.
        max_queue: images that may wait; a request past it is refused.
        observe: is told each batch's size and how long its first request waited, in seconds.
    """

    def __init__(
        self, max_batch: int, max_queue: int, observe: Callable[[int, float], None]
    ) -> None:
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._observe = observe
        self._queue: deque[_Waiting] = deque()
        self._queued_images = 0
        self._worker: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, "imgclf-run")

    async def submit(self, run: Run, images: NDArray[np.uint8]) -> Answers:
        """Wait for the answers for some images.

        Args:
            run: the model that was there when the request came: all of it is answered by one.
            images: uint8 [n, height, width, channels].

        Returns:
            logits and probabilities, float32 [n, classes].

        Raises:
            RequestError: too many images wait already.
        """
        # However small the queue, one request is taken where none waits.
        if self._queue and self._queued_images + len(images) > self._max_queue:
            raise RequestError(429, "too many images wait already; try again later", retry_after=1)
        loop = asyncio.get_running_loop()
        waiting = _Waiting(run, images, loop.create_future(), time.perf_counter())
        self._queue.append(waiting)
        self._queued_images += len(images)
        if self._worker is None or self._worker.done():
            self._worker = loop.create_task(self._work())
        return await waiting.answers

    def close(self) -> None:
        """End the thread; nothing must wait any more."""
        self._thread.shutdown()

    async def _work(self) -> None:
        """Answer batch after batch until nothing waits."""
        loop = asyncio.get_running_loop()
        while batch := self._next_batch():
            self._observe(
                sum(len(one.images) for one in batch), time.perf_counter() - batch[0].since
            )
            images = [one.images for one in batch]
            try:
                joined = images[0] if len(images) == 1 else np.concatenate(images)
                answers = await loop.run_in_executor(self._thread, batch[0].run, joined)
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
            self._queued_images -= len(first.images)
            if not first.answers.done():
                batch.append(first)
                images += len(first.images)
        return batch
