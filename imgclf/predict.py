"""The predictor: an exported model file, onnxruntime, NumPy and Pillow; nothing else."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imgclf.cores import available_cores
from imgclf.errors import BadImageError, ImgclfError
from imgclf.model_file import INPUT, OUTPUTS, one_line, open_model_file
from imgclf.preprocess import SUFFIXES, ImageSource, to_array

if TYPE_CHECKING:  # to predict takes none
    from imgclf.golden import GoldenInputs

Images: TypeAlias = "ImageSource | Iterable[ImageSource]"


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


@dataclass(frozen=True)
class _Batch:
    """Some images: their names, why each cannot be read (else empty), inputs of the others."""

    names: list[str]
    errors: list[str]
    pixels: NDArray[np.uint8]


class Predictor:
    """An exported model, ready to answer. Safe to share between threads.

    Args:
        model: the ``model.onnx`` that ``imgclf export`` wrote: its path, or its bytes.
        threads: CPU threads of the session; 0: one for each core.
        device: ``cpu``, or ``cuda`` where onnxruntime-gpu is installed in place of onnxruntime.
        allow_spinning: whether the session's threads wait for work by spinning, which is faster
            while one batch follows another, and takes the cores from all else.

    Attributes:
        card: what the model is.
        sha256: of the file.
        providers: who computes, in onnxruntime's words.

    Raises:
        ImgclfError: the file is absent, no ONNX model, not one of imgclf's, or changed since; or
            the device cannot be used.
    """

    def __init__(
        self,
        model: "str | os.PathLike[str] | bytes",
        threads: int = 0,
        device: str = "cpu",
        allow_spinning: bool = True,
    ) -> None:
        opened = open_model_file(model, threads, device, allow_spinning)
        self._session, self.card, self.sha256 = opened
        self.providers = tuple(self._session.get_providers())

    @property
    def batch_size(self) -> int | None:
        """The only size of a batch that the graph takes; None: any, as exports have it."""
        size = self._session.get_inputs()[0].shape[0]
        return size if isinstance(size, int) else None

    @property
    def golden(self) -> "GoldenInputs":
        """The golden inputs that the file carries.

        Raises:
            ImgclfError: there are none, or they cannot be read.
        """
        from imgclf.golden import METADATA_KEY as GOLDEN_KEY
        from imgclf.golden import GoldenInputs

        metadata = self._session.get_modelmeta().custom_metadata_map
        if GOLDEN_KEY not in metadata:
            raise ImgclfError("The model carries no golden inputs.", "Export it again.")
        return GoldenInputs.from_json(metadata[GOLDEN_KEY], self.card.classes)

    def __call__(self, images: Images, top_k: int = 5) -> list[Prediction]:
        """Classify images, in order.

        Args:
            images: paths (a folder stands for the images in it), bytes of image files, Pillow
                images, or uint8 arrays [height, width] or [height, width, 1 | 3 | 4]; or one of
                these alone; or one array [n, height, width, 1 | 3 | 4].
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
        self, images: Images, top_k: int = 5, batch_size: int = 32
    ) -> Iterator[Prediction | Unreadable]:
        """Classify images one after the other, in order, with memory for one batch.

        An image that cannot be read is answered by `Unreadable`; the others are not held up.
        """
        for batch in self._batches(images, batch_size):
            pairs = zip(batch.names, batch.errors, strict=True)
            read = [name for name, error in pairs if not error]
            answered = iter(self.answers(read, self.run(batch.pixels)[1], top_k) if read else ())
            for name, error in zip(batch.names, batch.errors, strict=True):
                yield Unreadable(name, error) if error else next(answered)

    def predict_logits(
        self, images: Images, batch_size: int = 32
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return logits and probabilities, float32 [n, classes], in the order of the images.

        Raises:
            BadImageError: an image cannot be read.
        """
        none = np.empty((0, len(self.card.classes)), np.float32)
        results = [(none, none)]
        for batch in self._batches(images, batch_size):
            for name, error in zip(batch.names, batch.errors, strict=True):
                if error:
                    raise BadImageError(f"{name}: {error}")
            results.append(self.run(batch.pixels))
        logits, probabilities = zip(*results, strict=True)
        return np.concatenate(logits), np.concatenate(probabilities)

    def run(self, batch: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Classify a batch that is already preprocessed.

        Args:
            batch: uint8 [batch, height, width, channels], as the card's preprocessing says.

        Returns:
            logits and probabilities, float32 [batch, classes].
        """
        try:
            logits, probabilities = self._session.run(list(OUTPUTS), {INPUT: batch})
        except Exception as error:  # onnxruntime's errors share no base class
            raise ImgclfError(
                f"The model failed on a batch of shape {batch.shape}: {one_line(error)}"
            ) from error
        return np.asarray(logits), np.asarray(probabilities)

    def _batches(self, images: Images, batch_size: int) -> "Iterator[_Batch]":
        if isinstance(images, np.ndarray) and self._are_inputs(images):
            for start in range(0, len(images), batch_size):
                pixels = images[start : start + batch_size]
                names = [f"#{start + position}" for position in range(len(pixels))]
                yield _Batch(names, [""] * len(pixels), pixels)
            return
        named = iter(_named(images))
        with ThreadPoolExecutor(min(batch_size, available_cores())) as pool:
            while batch := list(islice(named, batch_size)):
                outcomes = list(pool.map(self._decode, [source for _, source in batch]))
                errors = [outcome if isinstance(outcome, str) else "" for outcome in outcomes]
                arrays = [outcome for outcome in outcomes if not isinstance(outcome, str)]
                pixels = np.stack(arrays) if arrays else np.empty(0, np.uint8)
                yield _Batch([name for name, _ in batch], errors, pixels)

    def _are_inputs(self, images: NDArray[np.uint8]) -> bool:
        """Tell whether an array holds images that need not be changed to be inputs."""
        rule = self.card.preprocessing
        shape = (rule.resize_height, rule.resize_width, rule.channels)
        inputs = (rule.height, rule.width, rule.channels)
        return images.dtype == np.uint8 and images.ndim == 4 and images.shape[1:] == shape == inputs

    def _decode(self, source: ImageSource) -> NDArray[np.uint8] | str:
        try:
            return to_array(source, self.card.preprocessing)
        except BadImageError as error:
            return error.message

    def answers(
        self, names: Sequence[str], probabilities: NDArray[np.float32], top_k: int
    ) -> list[Prediction]:
        """Word the answers for images from their probabilities, float32 [n, classes]."""
        # A stable sort keeps the order of the classes where probabilities are equal.
        best = np.argsort(-probabilities, axis=1, kind="stable")[:, : max(top_k, 1)]
        values = probabilities[np.arange(len(best))[:, None], best]
        classes = self.card.classes
        found = []
        for name, positions, shares in zip(names, best.tolist(), values.tolist(), strict=True):
            labels = [classes[position] for position in positions]
            found.append(
                Prediction(name, labels[0], shares[0], tuple(zip(labels, shares, strict=True)))
            )
        return found


def find_images(folder: Path, skip_unreadable: bool = False) -> Iterator[Path]:
    """Give the image files below a folder, by name; hidden ones are left out.

    Before the first is given, the names of its whole folder are read and sorted; no more than names
    is held. A link to nothing, or in a circle, is among them: whoever reads it will name it. Links
    to folders are not followed.

    Args:
        folder: where to look.
        skip_unreadable: give a folder below it that cannot be read as if it were an image, for
            whoever reads it to name it.

    Raises:
        ImgclfError: a folder cannot be read.
    """
    # Not by recursion, whose depth Python limits.
    levels = [(folder, *_list_folder(folder))]
    while levels:
        folder, names, folders = levels[-1]
        if not names:
            levels.pop()
            continue
        # Let go one by one: pathlib keeps a register of all names that are still held.
        name = names.pop()
        path = folder / name
        if name not in folders or (skip_unreadable and not os.access(path, os.R_OK | os.X_OK)):
            yield path
        else:
            levels.append((path, *_list_folder(path)))


def _list_folder(folder: Path) -> tuple[list[str], set[str]]:
    """Return the names of images and folders in a folder, the last first; which are folders."""
    # Names alone: a million entries with their paths would take hundreds of megabytes.
    names: list[str] = []
    folders: set[str] = set()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.add(entry.name)
                elif os.path.splitext(entry.name)[1].lower() not in SUFFIXES or not _is_file(entry):
                    continue
                names.append(entry.name)
    except OSError as error:
        raise ImgclfError(
            f"Cannot read the folder '{folder}': {error.strerror}.", "Check its permissions."
        ) from error
    names.sort(reverse=True)
    return names, folders


def _is_file(entry: "os.DirEntry[str]") -> bool:
    if not entry.is_symlink():
        return entry.is_file()
    # Not entry.is_file(): that raises for links in a circle and where nobody may look.
    return os.path.isfile(entry) or not os.path.exists(entry)


def _named(images: Images) -> Iterator[tuple[str, ImageSource]]:
    if isinstance(images, str | os.PathLike | bytes | Image.Image) or (
        isinstance(images, np.ndarray) and images.ndim != 4
    ):
        images = [images]
    for position, source in enumerate(images):
        if not isinstance(source, str | os.PathLike):
            yield f"#{position}", source
        elif os.path.isdir(source):
            yield from ((str(path), path) for path in find_images(Path(source), True))
        else:
            yield os.fspath(source), source
