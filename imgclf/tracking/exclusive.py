"""One process at a time, for steps that look first and write then."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from imgclf.errors import ImgclfError

# A server may hang while an export uploads its model; one that was suspended never goes on.
_PATIENCE_SECONDS = 600.0


class LockError(ImgclfError):
    """A block cannot be entered now, and may be later."""


@contextmanager
def exclusive(what: str) -> Iterator[None]:
    """Let no other process of this user, on this machine, be in a block for the same thing.

    The operating system frees the lock whatever ends the process.

    Args:
        what: is written, such as a store's address and a model's name.

    Raises:
        LockError: another process has been in such a block for ten minutes, or no file can be
            written by which processes take turns.
    """
    lock = _acquire(what)
    try:
        yield
    finally:
        lock.release()


def _acquire(what: str) -> BaseFileLock:
    # Not beside what is written: the file stays.
    name = f"{hashlib.sha256(what.encode()).hexdigest()[:32]}.lock"
    problem = ""
    for folder in (_cache_folder, _temporary_folder):
        try:
            lock = FileLock(folder() / name)
            lock.acquire(timeout=_PATIENCE_SECONDS)
        except Timeout as error:
            raise LockError(
                f"Another process has been writing to {what} for"
                f" {_PATIENCE_SECONDS / 60:.0f} minutes.",
                "Wait for its end, or end it; then do this again.",
            ) from error
        # There may be no home, or one that is full, read-only or on a file system without locks.
        except (OSError, RuntimeError) as error:
            problem = str(error)
        else:
            return lock
    raise LockError(
        f"No file can be written by which processes take turns: {problem}.",
        "Name a folder that can be written, and has room, with TMPDIR; then do this again.",
    )


def _cache_folder() -> Path:
    """Return a folder that this user's processes share, whatever each has as TMPDIR."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "") or Path.home() / ".cache")
    folder = cache / "imgclf" / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _temporary_folder() -> Path:
    # A name for each user: others may not open what is in it.
    user = os.getuid() if hasattr(os, "getuid") else ""
    folder = Path(tempfile.gettempdir()) / f"imgclf-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
