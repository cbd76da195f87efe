"""What is written to a disk that may be full: whole or not at all, and errors that say how much."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from imgclf.errors import ImgclfError

# The disk is full, a quota is used up, or a file is larger than this process may write.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_UNITS = ("KiB", "MiB", "GiB")
# Behind the name of a file that is being written, or whose writing was ended by force.
UNFINISHED = ".part"


@contextmanager
def writing(what: str, place: Path, num_bytes: int = 0, hint: str = "") -> Iterator[None]:
    """Turn what a disk raises while a block writes into an error that a person can mend.

    Args:
        what: is written, such as ``the model``.
        place: the file or folder that it goes to.
        num_bytes: how much it takes at most; 0 where nobody knows.
        hint: what to do; empty: to make room, or to look at the permissions.

    Raises:
        ImgclfError: the block raised an `OSError`. Where there was no room, the message says how
            much is needed and how much is free.
    """
    try:
        yield
    except OSError as error:
        room, advice = "", "Check that the folder exists and may be written to."
        if error.errno in _NO_ROOM:
            needed = f" Up to {_shown(num_bytes)} are needed;" if num_bytes else ""
            room = f"{needed} {_shown(_free_bytes(place))} are free."
            advice = "Make room on that disk, or choose another one."
        raise ImgclfError(
            f"Cannot write {what} to '{place}': {error.strerror or error}.{room}", hint or advice
        ) from error


def write_whole(path: Path, content: bytes, what: str, hint: str = "") -> None:
    """Write a file beside its place and rename it into it, so that it is whole at every moment.

    Args:
        path: the file; what stands there stays, and stays readable, until the new one is on the
            disk.
        content: all of it.
        what, hint: as `writing` takes them.

    Raises:
        ImgclfError: it cannot be written; nothing has changed.
    """
    unfinished = path.with_name(path.name + UNFINISHED)
    with writing(what, path, len(content), hint):
        # Of a write that was interrupted; a link there would lead the new one astray.
        unfinished.unlink(missing_ok=True)
        try:
            with unfinished.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
            _sync_folder(path.parent)
        finally:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)


def flush_to_disk(path: Path) -> None:
    """Wait until a file's bytes are on the disk, and not in the system's memory alone.

    Raises:
        OSError: they cannot be written.
    """
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Bring a new name in a folder to the disk: else it may be lost with the power."""
    if os.name == "nt":
        return  # folders cannot be opened there
    # Some file systems know no such call. The file itself is whole in any case.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _free_bytes(place: Path) -> int:
    """Return how much may still be written where a file or folder is, or is to be."""
    place = place.absolute()
    return shutil.disk_usage(next(p for p in (place, *place.parents) if os.path.exists(p))).free


def _shown(num_bytes: int) -> str:
    """Write a number of bytes in the unit that suits it, such as ``1.5 GiB``."""
    power = min(max(1, (num_bytes.bit_length() - 1) // 10), len(_UNITS))
    return f"{num_bytes / 1024**power:,.1f} {_UNITS[power - 1]}"
