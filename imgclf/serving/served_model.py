"""The model that a server answers with; another takes its place once it has proved itself."""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from imgclf.card import ModelCard
from imgclf.predict import Predictor
from imgclf.verify import Verification, replay

FileState: TypeAlias = "tuple[int, int, int] | None"


def file_state(path: Path) -> FileState:
    """Return what differs between two files that were at a path: ns of change, bytes, inode.

    None where no file is there.
    """
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


@dataclass(frozen=True)
class LoadedModel:
    """A model that has answered its golden inputs on this machine.

    Attributes:
        predictor: answers.
        verification: of its golden inputs.
    """

    predictor: Predictor
    verification: Verification

    @property
    def card(self) -> ModelCard:
        """What the model is."""
        return self.predictor.card

    @property
    def version(self) -> str:
        """The first 12 digits of the file's SHA-256."""
        return self.predictor.sha256[:12]


class ServedModel:
    """A file, and the model that was loaded from it last.

    Args:
        path: the ``model.onnx``.
        name: what clients call the model; empty for the data set's name on its card.
        threads: CPU threads of a session; 0: one for each core.
        device: ``cpu`` or ``cuda``.

    Attributes:
        tried: what the file was just before it was read last, whether it could be used or not.
    """

    def __init__(self, path: Path, name: str, threads: int, device: str) -> None:
        self.path = path
        self.name = name
        self.tried: FileState = None
        self._threads = threads
        self._device = device
        self._loading = threading.Lock()
        self._current: LoadedModel | None = None

    @property
    def current(self) -> LoadedModel | None:
        """The model that answers; None before the first one has proved itself."""
        return self._current

    def load(self) -> LoadedModel:
        """Load the file, let it prove itself, and only then answer with it.

        Raises:
            ImgclfError: it cannot be read, or does not answer as it did; the model before it stays.
        """
        with self._loading:
            # Not afterwards: what is put there while this one is read would never be seen.
            self.tried = file_state(self.path)
            # Between two batches there are images to decode and clients to answer.
            predictor = Predictor(self.path, self._threads, self._device, allow_spinning=False)
            verification = replay(predictor)
            verification.require(str(self.path))
            self.name = self.name or predictor.card.provenance.get("dataset", "model")
            self._current = LoadedModel(predictor, verification)
            return self._current
