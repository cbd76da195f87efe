"""From images to answers: who is let in, decoding in threads, batching."""

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imgclf.card import Preprocessing
from imgclf.cores import available_cores
from imgclf.errors import BadImageError, TooManyPixelsError, UnknownFormatError
from imgclf.preprocess import image_size, to_array
from imgclf.serving.batching import Answers, Batcher
from imgclf.serving.body import Bodies
from imgclf.serving.errors import RequestError
from imgclf.serving.measured import Measures
from imgclf.serving.served_model import LoadedModel, ServedModel
from imgclf.serving.settings import ServerSettings

# All images of a request may have so many times the pixels of the largest one.
_LARGEST_IMAGES = 4
# All bodies that are here may have so many times the bytes of the largest one, or so many bytes.
_LARGEST_BODIES = 4
_BYTES_OF_BODIES = 256 * 2**20


@dataclass(frozen=True)
class Unread:
    """An image file that cannot be read: HTTP status and reason."""

    status: int
    reason: str


class Engine:
    """Answers images with the model that is served.

    Args:
        settings: the server's.
        served: the model.
        measures: is told of every batch.

    Attributes:
        bodies: reads requests.
    """

    def __init__(self, settings: ServerSettings, served: ServedModel, measures: Measures) -> None:
        self.settings = settings
        self.served = served
        self.bodies = Bodies(max(_LARGEST_BODIES * settings.max_body, _BYTES_OF_BODIES))
        self._images = 0
        self._batcher = Batcher(
            settings.max_batch, measures.batch_images.observe, measures.queue_seconds.observe
        )
        self._threads = max(1, available_cores() // settings.workers)
        self._decoders = ThreadPoolExecutor(self._threads, "imgclf-decode")

    def model(self) -> LoadedModel:
        """Return the model that answers now.

        Raises:
            RequestError: none has proved itself yet.
        """
        loaded = self.served.current
        if loaded is None:
            raise RequestError(503, "the model is not loaded yet", retry_after=1)
        return loaded

    @contextmanager
    def admitted(self, images: int) -> Iterator[None]:
        """Let a request's images in, from before their decoding until their answer.

        Raises:
            RequestError: too many are in already.
        """
        # However few may be in, one request is taken where there is none.
        if self._images and self._images + images > self.settings.max_queue:
            raise RequestError(429, "too many images wait already; try again later", retry_after=1)
        self._images += images
        try:
            yield
        finally:
            self._images -= images

    async def answer(self, loaded: LoadedModel, pixels: NDArray[np.uint8]) -> Answers:
        """Return logits and probabilities for inputs of the network."""
        return await self._batcher.submit(loaded.predictor.run, pixels)

    async def answer_file(self, loaded: LoadedModel, file: bytes) -> Answers | Unread:
        """Return logits and probabilities, [1, classes], for an image file, or why there are none.

        Where no other waits, the thread that decodes it runs the model too: to wake another one
        takes a lone client longer than most of what else is done for it.
        """
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._decoders, self._decode_and_run, loaded, file)
        return await self.answer(loaded, found) if isinstance(found, np.ndarray) else found

    async def decode(
        self, loaded: LoadedModel, files: Sequence[bytes]
    ) -> list[NDArray[np.uint8] | Unread]:
        """Decode and resize image files as the model's card says.

        Raises:
            RequestError: together they have too many pixels.
        """
        loop = asyncio.get_running_loop()
        # Each is held to its own limit as well: so few cannot be past that of all.
        if len(files) > _LARGEST_IMAGES:
            await loop.run_in_executor(self._decoders, self._check_pixels, files)
        rule = loaded.card.preprocessing
        decoded: list[NDArray[np.uint8] | Unread | None] = [None] * len(files)
        waiting = iter(enumerate(files))

        async def decode_one_by_one() -> None:
            for position, file in waiting:
                decoded[position] = await loop.run_in_executor(
                    self._decoders, self._decode, file, rule
                )

        # No more at a time than there are threads: other requests have their turn in between, and
        # of one that is given up nothing more is begun.
        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(self._threads, len(files))):
                tasks.create_task(decode_one_by_one())
        return [one for one in decoded if one is not None]

    def close(self) -> None:
        """End the threads; nothing must be asked any more."""
        self.bodies.close()
        self._decoders.shutdown(cancel_futures=True)
        self._batcher.close()

    def _check_pixels(self, files: Sequence[bytes]) -> None:
        """Refuse images that together are too large, by their headers."""
        most = _LARGEST_IMAGES * self.settings.max_pixels
        pixels = 0
        for file in files:
            # What is not decoded takes no time; its reason is told later.
            with suppress(BadImageError):
                width, height = image_size(file, self.settings.max_pixels)
                pixels += width * height
        if pixels > most:
            raise RequestError(413, f"{pixels:,} pixels in one request; the limit is {most:,}")

    def _decode_and_run(
        self, loaded: LoadedModel, file: bytes
    ) -> Answers | NDArray[np.uint8] | Unread:
        """Return pixels [1, height, width, channels] where the model is not free to answer."""
        decoded = self._decode(file, loaded.card.preprocessing)
        if isinstance(decoded, Unread):
            return decoded
        pixels = decoded[None]
        answers = self._batcher.answer_at_once(loaded.predictor.run, pixels)
        return pixels if answers is None else answers

    def _decode(self, file: bytes, rule: Preprocessing) -> NDArray[np.uint8] | Unread:
        try:
            return to_array(file, rule, self.settings.max_pixels)
        except UnknownFormatError as error:
            return Unread(415, error.message)
        except TooManyPixelsError as error:
            return Unread(413, error.message)
        except BadImageError as error:
            return Unread(422, error.message)
