"""One process at a time, for steps that look first and write then."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from imgclf.errors import ImgclfError

# A server may hang while an export uploads its model; one that was suspended never goes on.
_PATIENCE_SECONDS = 600.0


@contextmanager
def exclusive(what: str) -> Iterator[None]:
    """Let no other process of this user, on this machine, be in a block for the same thing.

    The operating system frees the lock whatever ends the process.

    Args:
        what: is written, such as a store's address and a model's name.

    Raises:
        ImgclfError: another process has been in such a block for ten minutes.
    """
    lock = FileLock(_lock_file(what))
    try:
        lock.acquire(timeout=_PATIENCE_SECONDS)
    except Timeout as error:
        raise ImgclfError(
            f"Another process has been writing to {what} for {_PATIENCE_SECONDS / 60:.0f} minutes.",
            "Wait for its end, or end it; then do this again.",
        ) from error
    try:
        yield
    finally:
        lock.release()


def _lock_file(what: str) -> Path:
    # Not beside what is written: the file stays. A name for each user: others may not open it.
    user = os.getuid() if hasattr(os, "getuid") else ""
    digest = hashlib.sha256(what.encode()).hexdigest()[:32]
    return Path(tempfile.gettempdir()) / f"imgclf-{user}-{digest}.lock"
