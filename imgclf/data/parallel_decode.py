"""Image files decoded on all cores: by threads where they are few, else by processes.

Small files spend most of their time in Python code, which holds the interpreter's lock: threads
then only wait for each other.
"""

import io
import json
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Self

import numpy as np

from imgclf.card import Preprocessing
from imgclf.cores import available_cores
from imgclf.data.decode import Batch, Decoded, decode_batch, outcome_from_json
from imgclf.errors import ImgclfError, some_of
from imgclf.own_process import can_start_python, how_it_ended, start_python

# To start a process takes about as long as to decode 2,000 small files: fewer than _MANY_FILES are
# left to threads, and many cores are not all woken for a few files each.
_MANY_FILES = 10_000
_FILES_PER_PROCESS = 1000
_BATCH_FILES = 32
_BATCH_BYTES = 4 * 2**20

Decoder = Callable[[Sequence[Path]], Batch]


def decode_files(
    files: Sequence[Path], preprocessing: Preprocessing
) -> Generator[Batch, None, None]:
    """Decode files at the stored size, in order, with memory for a few batches a core.

    Args:
        files: the image files.
        preprocessing: pixels have its ``resize_height``, ``resize_width`` and ``channels``.

    Raises:
        ImgclfError: a process that decodes was killed.
    """
    height, width = preprocessing.resize_height, preprocessing.resize_width
    stored = Preprocessing.identity(height, width, preprocessing.channels)
    cores = available_cores()
    most = min(_BATCH_FILES, _BATCH_BYTES // (height * width * stored.channels))
    # Few files are dealt out evenly.
    size = max(1, min(most, math.ceil(len(files) / (4 * cores))))
    batches = (files[start : start + size] for start in range(0, len(files), size))
    processes = min(cores, len(files) // _FILES_PER_PROCESS)
    if len(files) < _MANY_FILES or processes < 2 or not can_start_python():
        with ThreadPoolExecutor(cores) as pool:
            yield from _in_order(pool, [partial(decode_batch, stored=stored)] * cores, batches)
        return
    # The processes are left first: a thread that waits for an answer would wait for ever.
    with ThreadPoolExecutor(processes) as pool, ExitStack() as stack:
        workers = [stack.enter_context(_Worker(stored)) for _ in range(processes)]
        yield from _in_order(pool, [worker.decode for worker in workers], batches)


def _in_order(
    pool: ThreadPoolExecutor, decoders: Sequence[Decoder], batches: Iterator[Sequence[Path]]
) -> Iterator[Batch]:
    """Decode each batch by a decoder that is free, and yield them in order."""
    free: SimpleQueue[Decoder] = SimpleQueue()
    for decoder in decoders:
        free.put(decoder)

    def decode(files: Sequence[Path]) -> Batch:
        decoder = free.get()
        try:
            return decoder(files)
        finally:
            free.put(decoder)

    pending: deque[Future[Batch]] = deque()
    try:
        for files in batches:
            pending.append(pool.submit(decode, files))
            if len(pending) > 2 * len(decoders):
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


class _Worker:
    """A process of `imgclf.data.decode_worker`, ended with the context.

    Args:
        stored: the size and channels of the pixels.

    Raises:
        ImgclfError: no process can be started.
    """

    def __init__(self, stored: Preprocessing) -> None:
        self._shape = (stored.height, stored.width, stored.channels)
        self._ending = threading.Lock()
        self._process = start_python(
            "imgclf.data.decode_worker",
            json.dumps(asdict(stored)),
            "to decode images",
            # No matrices are multiplied there: threads for that would only take memory.
            {"OPENBLAS_NUM_THREADS": "1"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        with self._ending:
            self._process.communicate()  # closes the pipes and waits

    def decode(self, files: Sequence[Path]) -> Batch:
        """Let the process decode files, as `decode_batch` does.

        Raises:
            ImgclfError: the process was killed.
        """
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None
        assert isinstance(answers, io.BufferedReader)
        try:
            requests.write(json.dumps([os.fspath(path) for path in files]).encode() + b"\n")
            requests.flush()
            outcomes = [outcome_from_json(value) for value in json.loads(answers.readline())]
        except (BrokenPipeError, ValueError) as error:
            raise self._ended(files) from error
        readable = sum(isinstance(outcome, Decoded) for outcome in outcomes)
        pixels = np.empty((readable, *self._shape), np.uint8)
        if answers.readinto(pixels.data) < pixels.nbytes:
            raise self._ended(files)
        return Batch(pixels, outcomes)

    def _ended(self, files: Sequence[Path]) -> ImgclfError:
        with self._ending:
            self._process.communicate()  # one that lives ends with its input
        return ImgclfError(
            f"A process that decodes images {how_it_ended(self._process.returncode)}. It had"
            f" {len(files)} files to read, beginning with:\n{some_of([os.fspath(files[0])])}",
            "Most likely the memory was used up: give the machine or the container more.",
        )
