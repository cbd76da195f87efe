"""From images to answers: decoding in threads, batching, limits of time."""

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imgclf.errors import BadImageError, TooManyPixelsError, UnknownFormatError
from imgclf.preprocess import to_array
from imgclf.serving.batching import Answers, Batcher
from imgclf.serving.errors import RequestError
from imgclf.serving.measured import Measures
from imgclf.serving.served_model import LoadedModel, ServedModel
from imgclf.serving.settings import ServerSettings


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
    """

    def __init__(self, settings: ServerSettings, served: ServedModel, measures: Measures) -> None:
        self.settings = settings
        self.served = served
        self._batcher = Batcher(settings.max_batch, settings.max_queue, measures.observe_batch)
        self._decoders = ThreadPoolExecutor(os.cpu_count() or 1, "imgclf-decode")

    def model(self) -> LoadedModel:
        """Return the model that answers now.

        Raises:
            RequestError: none has proved itself yet.
        """
        loaded = self.served.current
        if loaded is None:
            raise RequestError(503, "the model is not loaded yet", retry_after=1)
        return loaded

    async def answer(self, loaded: LoadedModel, pixels: NDArray[np.uint8]) -> Answers:
        """Return logits and probabilities for inputs of the network."""
        return await self._batcher.submit(loaded.predictor.run, pixels)

    async def decode(
        self, loaded: LoadedModel, files: Sequence[bytes]
    ) -> list[NDArray[np.uint8] | Unread]:
        """Decode and resize image files as the model's card says.

        Raises:
            RequestError: there are too many.
        """
        most = self.settings.max_images
        if len(files) > most:
            raise RequestError(413, f"{len(files)} images in one request; the limit is {most}")

        def decode(file: bytes) -> NDArray[np.uint8] | Unread:
            try:
                return to_array(file, loaded.card.preprocessing, self.settings.max_pixels)
            except UnknownFormatError as error:
                return Unread(415, error.message)
            except TooManyPixelsError as error:
                return Unread(413, error.message)
            except BadImageError as error:
                return Unread(422, error.message)

        loop = asyncio.get_running_loop()
        decoding = [loop.run_in_executor(self._decoders, decode, file) for file in files]
        return await asyncio.gather(*decoding)

    def close(self) -> None:
        """End the threads; nothing must be asked any more."""
        self._decoders.shutdown(cancel_futures=True)
        self._batcher.close()
