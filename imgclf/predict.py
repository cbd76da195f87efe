"""The predictor: an exported model file, onnxruntime, NumPy and Pillow; nothing else."""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from imgclf.card import METADATA_KEY, ModelCard
from imgclf.errors import BadImageError, ImgclfError
from imgclf.preprocess import SUFFIXES, ImageSource, to_array

PROVIDERS = ("CPUExecutionProvider",)


@dataclass(frozen=True)
class Prediction:
    """The answer for one image.

    Attributes:
        image: the path, or the position of an image that has none, such as ``#3``.
        label: the most probable class.
        probability: its probability, 0 to 1.
        top: the most probable classes with their probabilities, best first.
    """

    image: str
    label: str
    probability: float
    top: tuple[tuple[str, float], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as JSON-ready values."""
        top = [{"label": label, "probability": value} for label, value in self.top]
        return {
            "image": self.image,
            "label": self.label,
            "probability": self.probability,
            "top": top,
        }


@dataclass(frozen=True)
class Unreadable:
    """An image that could not be read, and why."""

    image: str
    error: str

    def to_dict(self) -> dict[str, Any]:
        """Return the failure as JSON-ready values."""
        return {"image": self.image, "error": self.error}


class Predictor:
    """An exported model, ready to answer. Safe to share between threads.

    Args:
        path: the ``model.onnx`` that ``imgclf export`` wrote.
        threads: CPU threads of the session; 0: one for each core.

    Raises:
        ImgclfError: the file is absent, no ONNX model, or not one of imgclf's.
    """

    card: ModelCard

    def __init__(self, path: "str | os.PathLike[str]", threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        self._session = _open_session(_read(Path(path)), Path(path), options)
        # onnxruntime would go on with another provider without a word.
        self._session.disable_fallback()
        self.providers = tuple(self._session.get_providers())
        metadata = self._session.get_modelmeta().custom_metadata_map
        if METADATA_KEY not in metadata:
            raise ImgclfError(
                f"'{path}' is an ONNX model, but not one that imgclf exported: it has no model"
                " card.",
                "Give a model.onnx that 'imgclf export' wrote.",
            )
        self.card = ModelCard.from_json(metadata[METADATA_KEY])

    def __call__(self, images: Iterable[ImageSource], top_k: int = 5) -> list[Prediction]:
        """Classify images, in order.

        Args:
            images: paths (a folder stands for the images in it), bytes of image files, Pillow
                images, or uint8 arrays [height, width] or [height, width, 1 | 3 | 4].
            top_k: how many classes `Prediction.top` lists.

        Raises:
            BadImageError: an image cannot be read; `stream` goes on instead.
        """
        answers = []
        for answer in self.stream(images, top_k=top_k):
            if isinstance(answer, Unreadable):
                raise BadImageError(f"{answer.image}: {answer.error}")
            answers.append(answer)
        return answers

    def stream(
        self, images: Iterable[ImageSource], top_k: int = 5, batch_size: int = 32
    ) -> Iterator[Prediction | Unreadable]:
        """Classify images one after the other, in order, with memory for one batch.

        An image that cannot be read is answered by `Unreadable`; the others are not held up.
        """
        for names, outcomes in self._decoded_batches(images, batch_size):
            arrays = [outcome for outcome in outcomes if not isinstance(outcome, str)]
            probabilities = iter(self.run(np.stack(arrays))[1] if arrays else ())
            for name, outcome in zip(names, outcomes, strict=True):
                if isinstance(outcome, str):
                    yield Unreadable(name, outcome)
                else:
                    yield self._answer(name, next(probabilities), top_k)

    def predict_logits(
        self, images: Iterable[ImageSource], batch_size: int = 32
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return logits and probabilities, float32 [n, classes], in the order of the images.

        Raises:
            BadImageError: an image cannot be read.
        """
        results = []
        for names, outcomes in self._decoded_batches(images, batch_size):
            for name, outcome in zip(names, outcomes, strict=True):
                if isinstance(outcome, str):
                    raise BadImageError(f"{name}: {outcome}")
            results.append(self.run(np.stack(list(outcomes))))
        logits, probabilities = zip(*results, strict=True)
        return np.concatenate(logits), np.concatenate(probabilities)

    def run(self, batch: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Classify a batch that is already preprocessed.

        Args:
            batch: uint8 [batch, height, width, channels], as the card's preprocessing says.

        Returns:
            logits and probabilities, float32 [batch, classes].
        """
        logits, probabilities = self._session.run(["logits", "probabilities"], {"image": batch})
        return np.asarray(logits), np.asarray(probabilities)

    def _decoded_batches(
        self, images: Iterable[ImageSource], batch_size: int
    ) -> Iterator[tuple[list[str], list[NDArray[np.uint8] | str]]]:
        """Yield names, and for each the input array or the reason why there is none."""
        named = iter(_named(images))
        with ThreadPoolExecutor(min(batch_size, os.cpu_count() or 1)) as pool:
            while batch := list(islice(named, batch_size)):
                outcomes = list(pool.map(self._decode, [source for _, source in batch]))
                yield [name for name, _ in batch], outcomes

    def _decode(self, source: ImageSource) -> NDArray[np.uint8] | str:
        try:
            return to_array(source, self.card.preprocessing)
        except BadImageError as error:
            return error.message

    def _answer(self, name: str, probabilities: NDArray[np.float32], top_k: int) -> Prediction:
        # A stable sort keeps the order of the classes where probabilities are equal.
        best = np.argsort(-probabilities, kind="stable")[: max(top_k, 1)]
        top = tuple((self.card.classes[i], float(probabilities[i])) for i in best)
        return Prediction(name, top[0][0], top[0][1], top)


def find_images(folder: Path) -> list[Path]:
    """Return the image files below a folder, by name; hidden ones are left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def _named(images: Iterable[ImageSource]) -> Iterator[tuple[str, ImageSource]]:
    if isinstance(images, str | os.PathLike):
        images = [images]
    for position, source in enumerate(images):
        if not isinstance(source, str | os.PathLike):
            yield f"#{position}", source
        elif Path(source).is_dir():
            yield from ((str(path), path) for path in find_images(Path(source)))
        else:
            yield os.fspath(source), source


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except IsADirectoryError:
        reason = "it is a folder"
    except FileNotFoundError:
        reason = "no such file"
    except OSError as error:
        reason = str(error.strerror or error)
    raise ImgclfError(
        f"Cannot open the model '{path}': {reason}.",
        "Give the path of a model.onnx; 'imgclf export' writes one.",
    )


def _open_session(
    content: bytes, path: Path, options: onnxruntime.SessionOptions
) -> onnxruntime.InferenceSession:
    try:
        return onnxruntime.InferenceSession(content, options, providers=list(PROVIDERS))
    except Exception as error:  # onnxruntime's errors share no base class
        reason = " ".join(str(error).split())
        raise ImgclfError(
            f"'{path}' is not an ONNX model that can be used: {reason}",
            "Give a model.onnx that 'imgclf export' wrote.",
        ) from error
