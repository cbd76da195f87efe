"""Decoded images on the disk: a folder is decoded once, later runs map the pixels into memory.

An entry is a folder ``<key>/`` with ``pixels.raw`` and ``images.json``. It is built beside its
place (`imgclf.data.builds`) and renamed into it, so that it is whole or absent whoever is
interrupted, and two processes may build the same entry at once. The key stands for every file's
identity (path, size, times) and for the size that is asked for: a file that changes makes another
entry.
"""

import dataclasses
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
from numpy.typing import NDArray

from imgclf.card import Preprocessing
from imgclf.data.builds import building, remove_abandoned, remove_entry
from imgclf.data.decode import Decoded, Outcome, choose_size, first_size, outcome_from_json
from imgclf.data.parallel_decode import decode_files
from imgclf.disk import flush_to_disk, writing

_VERSION = 2
_PIXELS, _IMAGES = "pixels.raw", "images.json"
_ELSEWHERE = "Give another place with --data-dir, or make room: imgclf datasets --clear-cache"

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


class _Request(NamedTuple):
    """What `load_decoded` was asked for.

    Attributes:
        files: the image files.
        wanted: an ``image_size``, as `choose_size` takes it, or the very rule.
    """

    files: Sequence[Path]
    wanted: int | Preprocessing

    def is_answered_by(self, outcomes: Sequence[Outcome], size: Preprocessing) -> bool:
        """Tell whether an entry can be the one: it may have been written by anybody."""
        if isinstance(self.wanted, Preprocessing):
            fits = size == self.wanted
        else:
            fits = not self.wanted or (size.height, size.width) == (self.wanted, self.wanted)
        return fits and len(outcomes) == len(self.files)


class _Plan(NamedTuple):
    """A way to decode files.

    Attributes:
        size: of the pixels, and their channels.
        shared: (width, height) in pixels that it takes for granted of all images; None for nothing.
        reduce: whether images that are all grey keep one channel.
    """

    size: Preprocessing
    shared: tuple[int, int] | None
    reduce: bool


def load_decoded(
    files: Sequence[Path],
    wanted: int | Preprocessing,
    cache: Path,
    source: str,
    progress: Progress,
) -> Stored:
    """Return files' pixels from the cache, decoding them where they are not there.

    Args:
        files: the image files.
        wanted: an ``image_size``, as `choose_size` takes it, or the very rule.
        cache: the folder of all entries; created where it is missing.
        source: where the files were listed, for people.
        progress: is told the number of decoded files and of all files; 0 at the start.

    Raises:
        ImgclfError: the cache cannot be written, or the disk is full; or a process that decodes was
            killed.
    """
    request, identity = _Request(files, wanted), _identity(files)
    entry = cache / _key(identity, wanted)
    found = _read(entry, request) or _read_like(cache, identity, request)
    if found is not None:
        return found
    for plan in _plans(request):
        needed = len(files) * plan.size.resize_height * plan.size.resize_width * plan.size.channels
        with writing("decoded images", cache, needed, _ELSEWHERE):
            cache.mkdir(parents=True, exist_ok=True)
            remove_abandoned(cache)
            found = _build(entry, request, plan, source, progress)
        if found is not None:
            return found
    raise AssertionError("the last plan always works")


def _plans(request: _Request) -> list[_Plan]:
    """Return the ways to decode files, the first to be tried first; the last one always works."""
    files, wanted = request
    if isinstance(wanted, Preprocessing):
        return [_Plan(wanted, None, reduce=False)]
    # That images share a size is found while they are decoded: to read all headers before takes
    # half as long again, and images that differ mostly do so soon.
    shared = first_size(files)
    hoped, otherwise = choose_size(shared, wanted), choose_size(None, wanted)
    last = _Plan(otherwise, None, reduce=True)
    return [last] if hoped == otherwise else [_Plan(hoped, shared, reduce=True), last]


def list_entries(cache: Path) -> list[Entry]:
    """Return what the cache holds, the largest first."""
    entries = []
    for folder in cache.iterdir() if cache.is_dir() else ():
        try:
            described = json.loads((folder / _IMAGES).read_text(encoding="utf-8"))
            size = sum(path.stat().st_size for path in folder.iterdir())
            entries.append(Entry(folder, described["source"], len(described["images"]), size))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue  # no entry, or one that is being removed
    return sorted(entries, key=lambda entry: -entry.num_bytes)


def clear(cache: Path) -> int:
    """Remove all entries, and what interrupted builds have left; return the bytes freed.

    What another process is building stays.

    Raises:
        ImgclfError: the folder may not be written to.
    """
    entries = list_entries(cache)
    with writing("changes", cache):
        for entry in entries:
            remove_entry(entry.folder)
        return sum(entry.num_bytes for entry in entries) + remove_abandoned(cache)


def _identity(files: Sequence[Path]) -> bytes:
    hasher = hashlib.sha256()
    for path in files:
        try:
            status = path.stat()
            # The change time too: a permission that is given later changes nothing else.
            known = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
        except OSError as error:
            known = str(error.errno)
        hasher.update(os.fsencode(path) + b"\0" + known.encode() + b"\n")
    return hasher.digest()


def _key(identity: bytes, wanted: int | Preprocessing) -> str:
    described = f"{_VERSION} {PIL.__version__} {wanted!r}\n".encode()
    return hashlib.sha256(described + identity).hexdigest()[:32]


def _read_like(cache: Path, identity: bytes, request: _Request) -> Stored | None:
    """Map what was stored for an image size where that came to the very rule that is wanted."""
    if isinstance(request.wanted, Preprocessing):
        for image_size in (0, request.wanted.height):
            found = _read(cache / _key(identity, image_size), request)
            if found is not None:
                return found
    return None


def _read(entry: Path, request: _Request) -> Stored | None:
    """Map an entry; None where it is absent or damaged."""
    try:
        described = json.loads((entry / _IMAGES).read_text(encoding="utf-8"))
        outcomes = [outcome_from_json(image) for image in described["images"]]
        readable = sum(not isinstance(outcome, str) for outcome in outcomes)
        size = Preprocessing(**described["preprocessing"])
        if not request.is_answered_by(outcomes, size):
            return None
        shape = (readable, size.resize_height, size.resize_width, size.channels)
        if (entry / _PIXELS).stat().st_size != math.prod(shape):
            return None
        if not readable:
            return Stored(np.empty(shape, np.uint8), outcomes, size)  # nothing to be mapped
        pixels = np.memmap(entry / _PIXELS, np.uint8, "r", shape=shape)
        return Stored(pixels, outcomes, size)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _build(
    entry: Path, request: _Request, plan: _Plan, source: str, progress: Progress
) -> Stored | None:
    """Write an entry beside its place, and rename it into it; None where the plan does not do."""
    with building(entry.parent) as place:
        folder = place / entry.name
        folder.mkdir()
        outcomes = _write_pixels(folder / _PIXELS, request.files, plan, progress)
        if outcomes is None:
            return None
        size = plan.size
        if plan.reduce and all(isinstance(image, str) or image.is_grey for image in outcomes):
            size = dataclasses.replace(size, channels=1)
            _keep_one_channel(folder / _PIXELS)
        described = {
            "source": source,
            "preprocessing": dataclasses.asdict(size),
            "images": outcomes,
        }
        (folder / _IMAGES).write_text(json.dumps(described), encoding="utf-8")
        # A file that has its length but not its bytes, after a power failure, would pass for whole.
        for name in (_PIXELS, _IMAGES):
            flush_to_disk(folder / name)
        # Mapped before it is in its place, where another process may remove it at any moment.
        built = _read(folder, request)
        assert built is not None, "an entry that was built is whole"
        if entry.exists() and _read(entry, request) is None:
            shutil.rmtree(entry, ignore_errors=True)  # damaged
        try:
            os.rename(folder, entry)
        except OSError:
            # Another process was faster, with the same pixels: two must not hold two copies.
            found = _read(entry, request)
            if found is None:
                raise
            return found
        return built


def _write_pixels(
    path: Path, files: Sequence[Path], plan: _Plan, progress: Progress
) -> list[Outcome] | None:
    """Write the pixels of the readable files; None once an image breaks the plan."""
    outcomes: list[Outcome] = []
    progress(0, len(files))
    # Written, not mapped: a full disk is an error then, and no broken process.
    with path.open("wb") as output, closing(decode_files(files, plan.size)) as batches:
        for batch in batches:
            sizes = {image.size for image in batch.outcomes if isinstance(image, Decoded)}
            if plan.shared and not sizes <= {plan.shared}:
                return None
            output.write(batch.pixels.data)
            outcomes += batch.outcomes
            progress(len(outcomes), len(files))
    return outcomes


def _keep_one_channel(path: Path) -> None:
    # In place: a disk that had room for all three has room for this.
    with path.open("r+b") as file:
        read = written = 0
        while part := file.read(3 * 2**20):
            read += len(part)
            file.seek(written)
            written += file.write(part[::3])
            file.seek(read)
        file.truncate(written)
