"""Folders in which entries of the cache are built, locked by the process that builds.

The operating system takes the lock from a process whatever ends it, on this machine or in a
container. So a folder without a lock is one that was left, whoever made it. Where the file system
has no locks nobody can tell: nothing that was left is removed there.
"""

import errno
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

_PREFIX = ".building-"
_LOCK_FILE = "building.lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@dataclass(frozen=True)
class Build:
    """An entry that is not whole.

    Attributes:
        folder: holds it.
        num_bytes: on the disk.
        in_progress: whether a process holds it, or nobody can tell; False where it was left.
    """

    folder: Path
    num_bytes: int
    in_progress: bool


@contextmanager
def building(cache: Path) -> Iterator[Path]:
    """Make a folder that is left alone while the block runs; what is in it then is removed.

    Raises:
        OSError: the cache cannot be written.
    """
    folder, lock = _locked_folder(cache)
    try:
        yield folder
    finally:
        # Not every system removes a file that is open. Who removes the folder too does no harm.
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)


def list_builds(cache: Path) -> list[Build]:
    """Return what is being built and what was left."""
    builds = []
    for folder in _folders(cache):
        with _held_if_left(folder) as left:
            builds.append(Build(folder, _num_bytes(folder), in_progress=not left))
    return builds


def remove_abandoned(cache: Path) -> int:
    """Remove what was left by processes that are no more; return the bytes freed."""
    freed = 0
    for folder in _folders(cache):
        with _held_if_left(folder) as left:
            if left:
                freed += _num_bytes(folder)
                shutil.rmtree(folder, ignore_errors=True)
    return freed


def remove_entry(folder: Path) -> None:
    """Remove a whole entry, under another name: none that is half removed is taken for whole.

    Raises:
        OSError: the cache may not be written to.
    """
    outgoing = folder.with_name(f"{_PREFIX}{uuid.uuid4().hex}")
    try:
        os.rename(folder, outgoing)  # a full disk has room for that
    except FileNotFoundError:
        return  # another process was faster
    # Another process may take it for one that was left, and remove it too.
    shutil.rmtree(outgoing, ignore_errors=True)


def _locked_folder(cache: Path) -> tuple[Path, BaseFileLock]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=cache))
        lock = _lock(folder)
        try:
            lock.acquire(blocking=False)
        except (Timeout, FileNotFoundError, FileExistsError):
            # Another process has seen the folder before it was locked, and is removing it.
            shutil.rmtree(folder, ignore_errors=True)
            continue
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return folder, lock
        if (folder / _LOCK_FILE).exists():
            return folder, lock
        lock.release()  # of a file that another process has removed


@contextmanager
def _held_if_left(folder: Path) -> Iterator[bool]:
    """Hold a folder that no process holds; yields False where one does, or it cannot be told."""
    try:
        lock = _lock(folder).acquire(blocking=False)
    except OSError:  # `Timeout` is one
        yield False
        return
    with lock:
        yield True


def _lock(folder: Path) -> BaseFileLock:
    return FileLock(folder / _LOCK_FILE, thread_local=False)


def _folders(cache: Path) -> list[Path]:
    if not cache.is_dir():
        return []
    paths = (path for path in cache.iterdir() if path.name.startswith(_PREFIX))
    return sorted(path for path in paths if path.is_dir())


def _num_bytes(folder: Path) -> int:
    num_bytes = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # it was removed meanwhile
                num_bytes += os.lstat(os.path.join(place, name)).st_size
    return num_bytes
