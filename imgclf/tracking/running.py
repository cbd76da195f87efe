"""Which runs are in progress, and the end of those whose process was killed.

A process in which a run is in progress holds a lock on a file in the run's folder, which the
operating system takes from it whatever ends it. Hosts that share a folder need not see each other's
locks: another host's run is left alone unless somebody says that it is dead.
"""

import platform
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from imgclf.errors import ImgclfError
from imgclf.tracking.identity import ERROR_TAG
from imgclf.tracking.journal import (
    JOURNAL_FILE,
    KILLED,
    Journal,
    Record,
    last_record,
    read_records,
)

_LOCK_FILE = "running.lock"
# Another process that only asks whether the run is in progress holds the lock for an instant.
_HOLD_SECONDS = 2.0


def hold_run(folder: Path) -> BaseFileLock:
    """Mark a run as in progress until the lock is released or this process ends.

    Returns:
        the lock; it must be kept, for it ends with its last reference.

    Raises:
        ImgclfError: the run is in progress in another process, or its folder cannot be written.
    """
    lock = _lock(folder)
    try:
        lock.acquire(timeout=_HOLD_SECONDS)
    except Timeout as error:
        raise ImgclfError(
            f"Run '{folder.name}' is in progress in another process.",
            "Wait for its end, or end it.",
        ) from error
    except OSError as error:
        raise cannot_lock(folder, error) from error
    return lock


def is_running(folder: Path) -> bool:
    """Tell whether a run is in progress, as far as this host sees locks.

    Raises:
        ImgclfError: the run has no end, and its journal cannot be read or its folder not be locked.
    """
    if _last_without_end(folder / JOURNAL_FILE) is None:
        return False
    try:
        with _lock(folder).acquire(blocking=False):
            return False
    except Timeout:
        return True
    except OSError as error:
        raise cannot_lock(folder, error) from error


def other_host(folder: Path) -> str:
    """Return the host where a run without an end was last in progress; empty where it is this one.

    Raises:
        ImgclfError: the journal cannot be read.
    """
    path = folder / JOURNAL_FILE
    if _last_without_end(path) is None:
        return ""
    host = ""
    for record in read_records(path):
        if record.kind == "run":
            host = str(record.content.get("host", ""))
    return "" if host == platform.node() else host


def end_dead_run(folder: Path, patience: float = 0.0, other_hosts: bool = False) -> bool:
    """End a run as KILLED in its journal, where it has no end and is not in progress.

    Args:
        folder: the run's folder.
        patience: seconds to wait for a process that is just ending.
        other_hosts: whether a run that was last in progress on another host is known to be dead.

    Returns:
        whether it was so.

    Raises:
        ImgclfError: the journal cannot be read or written.
    """
    path = folder / JOURNAL_FILE
    if _last_without_end(path) is None:
        return False
    try:
        lock = _lock(folder).acquire(timeout=patience)
    except OSError:  # in progress, or only others may write
        return False
    with lock:
        # Another process may have done the same meanwhile.
        last = _last_without_end(path)
        if last is None or (other_host(folder) and not other_hosts):
            return False
        journal = Journal.resume(path)
        try:
            # The run lived until its last word at least.
            journal.append("tags", last.time_ms, values={ERROR_TAG: "the process was killed"})
            journal.append("end", last.time_ms, status=KILLED)
        finally:
            journal.close()
    return True


def cannot_lock(folder: Path, error: OSError) -> ImgclfError:
    """Return what is said where a run's folder cannot hold the lock of a process."""
    return ImgclfError(
        f"Cannot write in the run's folder '{folder}', or lock a file there: {error.strerror}.",
        "It must be yours, on a disk that has room and a file system that has locks. Or choose"
        " another with --runs-dir.",
    )


def _last_without_end(path: Path) -> Record | None:
    last = last_record(path)
    return None if last is None or last.kind == "end" else last


def _lock(folder: Path) -> BaseFileLock:
    # A run may end in another thread than it began in.
    return FileLock(folder / _LOCK_FILE, thread_local=False)
