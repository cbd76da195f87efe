"""Decoded images on the disk: a folder is decoded once, later runs map the pixels into memory.

An entry is a folder ``<key>/`` with ``pixels.raw`` and ``images.json``. It is built beside its
place and renamed into it, so that it is whole or absent whoever is interrupted, and two processes
may build the same entry at once. The key stands for every file's identity (path, size, times) and
the stored size: a file that changes makes another entry.
"""

import dataclasses
import hashlib
import json
import math
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
import psutil
from numpy.typing import NDArray

from imgclf.card import Preprocessing
from imgclf.data.decode import Decoded, Outcome, choose_size, decode_files
from imgclf.errors import ImgclfError

_VERSION = 1
_PIXELS, _IMAGES = "pixels.raw", "images.json"
_BUILDING = ".building-"

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Entry:
    """A data set in the cache.

    Attributes:
        folder: holds it.
        source: the folder or file that the images were listed from.
        images: how many.
        num_bytes: on the disk.
    """

    folder: Path
    source: str
    images: int
    num_bytes: int


class Stored(NamedTuple):
    """Decoded files.

    Attributes:
        pixels: of the readable ones, uint8 [m, resize_height, resize_width, 1 or 3], mapped from
            the disk: one channel where every image is grey.
        outcomes: [n] what is known of each file.
        preprocessing: the size of these pixels, and of the network's input.
    """

    pixels: NDArray[np.uint8]
    outcomes: list[Outcome]
    preprocessing: Preprocessing


def load_decoded(
    files: Sequence[Path], image_size: int, cache: Path, source: str, progress: Progress
) -> Stored:
    """Return files' pixels from the cache, decoding them where they are not there.

    Args:
        files: the image files.
        image_size: as `choose_size` takes it.
        cache: the folder of all entries; created where it is missing.
        source: where the files were listed, for people.
        progress: is told the number of decoded files and of all files.

    Raises:
        ImgclfError: the cache cannot be written, or the disk is full.
    """
    entry = cache / _key(files, image_size)
    found = _read(entry)
    if found is None:
        size = choose_size(files, image_size)
        with _readable_errors(cache, len(files) * size.resize_height * size.resize_width * 3):
            cache.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(cache)
            _build(entry, files, size, source, progress)
        found = _read(entry)
        assert found is not None, "an entry that was built is whole"
    return found


def list_entries(cache: Path) -> list[Entry]:
    """Return what the cache holds, the largest first."""
    entries = []
    for folder in cache.iterdir() if cache.is_dir() else ():
        try:
            described = json.loads((folder / _IMAGES).read_text(encoding="utf-8"))
            size = sum(path.stat().st_size for path in folder.iterdir())
            entries.append(Entry(folder, described["source"], len(described["images"]), size))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # no entry, or one that is being removed
    return sorted(entries, key=lambda entry: -entry.num_bytes)


def clear(cache: Path) -> int:
    """Remove all entries, and what interrupted builds have left; return the bytes freed."""
    entries = list_entries(cache)
    for entry in entries:
        # Renamed first: no process takes a half-removed entry for a whole one.
        outgoing = entry.folder.with_name(f"{_building_prefix()}{entry.folder.name[:8]}")
        os.rename(entry.folder, outgoing)
        shutil.rmtree(outgoing)
    if cache.is_dir():
        _remove_abandoned(cache)
    return sum(entry.num_bytes for entry in entries)


def _key(files: Sequence[Path], image_size: int) -> str:
    hasher = hashlib.sha256(f"{_VERSION} {PIL.__version__} {image_size}\n".encode())
    for path in files:
        try:
            status = path.stat()
            # The change time too: a permission that is given later changes nothing else.
            known = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
        except OSError as error:
            known = str(error.errno)
        hasher.update(os.fsencode(path) + b"\0" + known.encode() + b"\n")
    return hasher.hexdigest()[:32]


def _read(entry: Path) -> Stored | None:
    """Map an entry; None where it is absent or damaged."""
    try:
        described = json.loads((entry / _IMAGES).read_text(encoding="utf-8"))
        outcomes: list[Outcome] = [
            image if isinstance(image, str) else Decoded(image[0], tuple(image[1]), image[2])
            for image in described["images"]
        ]
        readable = sum(not isinstance(outcome, str) for outcome in outcomes)
        size = Preprocessing(**described["preprocessing"])
        shape = (readable, size.resize_height, size.resize_width, size.channels)
        if (entry / _PIXELS).stat().st_size != math.prod(shape):
            return None
        if not readable:
            return Stored(np.empty(shape, np.uint8), outcomes, size)  # nothing to be mapped
        pixels = np.memmap(entry / _PIXELS, np.uint8, "r", shape=shape)
        return Stored(pixels, outcomes, size)
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None


def _build(
    entry: Path, files: Sequence[Path], size: Preprocessing, source: str, progress: Progress
) -> None:
    """Write an entry beside its place, and rename it into it."""
    folder = Path(tempfile.mkdtemp(prefix=_building_prefix(), dir=entry.parent))
    try:
        outcomes: list[Outcome] = []
        with (folder / _PIXELS).open("wb") as file:
            # Written, not mapped: a full disk is an error then, and no broken process.
            for pixels, decoded in decode_files(files, size):
                file.write(pixels.data)
                outcomes += decoded
                progress(len(outcomes), len(files))
        if all(isinstance(outcome, str) or outcome.is_grey for outcome in outcomes):
            size = dataclasses.replace(size, channels=1)
            _keep_one_channel(folder / _PIXELS)
        described = {
            "source": source,
            "preprocessing": dataclasses.asdict(size),
            "images": outcomes,
        }
        (folder / _IMAGES).write_text(json.dumps(described), encoding="utf-8")
        if entry.exists() and _read(entry) is None:
            shutil.rmtree(entry)  # damaged
        try:
            os.rename(folder, entry)
        except OSError:
            if _read(entry) is None:  # else another process was faster: the same pixels
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _keep_one_channel(path: Path) -> None:
    grey = path.with_suffix(".grey")
    with path.open("rb") as file, grey.open("wb") as output:
        while part := file.read(3 * 2**20):
            output.write(part[::3])
    os.replace(grey, path)


def _building_prefix() -> str:
    return f"{_BUILDING}{socket.gethostname()}-{os.getpid()}-"


def _remove_abandoned(cache: Path) -> None:
    """Remove what processes of this machine have left that are no more."""
    own = f"{_BUILDING}{socket.gethostname()}-"
    for folder in cache.iterdir():
        if folder.name.startswith(own):
            process = folder.name.removeprefix(own).split("-")[0]
            if process.isdigit() and not psutil.pid_exists(int(process)):
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _readable_errors(cache: Path, needed: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        try:
            free = f"{shutil.disk_usage(cache).free / 2**30:,.1f} GiB are free"
        except OSError:
            free = "the folder does not exist"
        raise ImgclfError(
            f"Cannot write decoded images to '{cache}': {error.strerror or error}. They take up to"
            f" {needed / 2**30:,.1f} GiB; {free}.",
            "Give another place with --data-dir, or make room: imgclf datasets --clear-cache",
        ) from error
