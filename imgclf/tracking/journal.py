"""The append-only file that holds what a run has to tell, before it is told to anybody."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from imgclf.errors import ImgclfError

JOURNAL_FILE = "journal.jsonl"
# How a run ends, in MLflow's words.
FINISHED, FAILED, KILLED = "FINISHED", "FAILED", "KILLED"
_FIRST_TAIL_BYTES = 4096


@dataclass(frozen=True)
class Record:
    """One line of the journal.

    Attributes:
        sequence: 0 for the first.
        time_ms: when it was written, milliseconds since 1970.
        kind: ``run``, ``parameters``, ``tags``, ``metrics``, ``dataset``, ``artifact`` or ``end``.
        content: JSON-ready values.
    """

    sequence: int
    time_ms: int
    kind: str
    content: dict[str, Any]


class Journal:
    """Appends records to ``journal.jsonl``; a record that `append` returned is on the disk.

    Attributes:
        length: how many records it holds.
    """

    def __init__(self, path: Path, mode: str, length: int) -> None:
        self._path = path
        # Without a buffer: what could not be written does not come again with the next record.
        self._file = path.open(mode, buffering=0)
        self._end = self._file.seek(0, os.SEEK_END)
        self.length = length

    @classmethod
    def create(cls, path: Path) -> Self:
        """Begin a journal.

        Raises:
            FileExistsError: there is one.
            ImgclfError: it cannot be written.
        """
        try:
            return cls(path, "xb", 0)
        except FileExistsError:
            raise
        except OSError as error:
            raise _cannot_write(path, error) from error

    @classmethod
    def resume(cls, path: Path) -> Self:
        """Go on with a journal. A torn last line, of a kill inside a write, is cut off.

        Raises:
            ImgclfError: it cannot be read or written, or its last record is damaged.
        """
        last = last_record(path)
        try:
            with path.open("r+b") as file:
                file.truncate(_whole_bytes(path))
            return cls(path, "r+b", last.sequence + 1 if last else 0)
        except OSError as error:
            raise _cannot_write(path, error) from error

    def append(self, kind: str, time_ms: int | None = None, /, **content: Any) -> Record:
        """Write one record through to the disk.

        Args:
            kind: of the record.
            time_ms: milliseconds since 1970; None for now.
            content: of the record.

        Raises:
            ImgclfError: it cannot be written, as on a full disk; the journal stays as it was.
        """
        now_ms = time.time_ns() // 1_000_000
        record = Record(self.length, now_ms if time_ms is None else time_ms, kind, content)
        line = json.dumps(asdict(record)).encode() + b"\n"
        try:
            written = 0
            while written < len(line):
                written += self._file.write(line[written:])
            os.fsync(self._file.fileno())
        except OSError as error:
            # The next record must not follow a part of this one.
            with suppress(OSError):
                self._file.truncate(self._end)
                self._file.seek(self._end)
            raise _cannot_write(self._path, error) from error
        self._end += len(line)
        self.length += 1
        return record

    def close(self) -> None:
        """Close the file; nothing can be appended afterwards."""
        self._file.close()


def read_records(path: Path, first: int = 0) -> Iterator[Record]:
    """Read the records from a sequence number on; a torn last line is none.

    Raises:
        ImgclfError: the journal cannot be read, or is damaged before its last line.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file):
                if not line.endswith(b"\n"):
                    return  # it is being written, or was torn by a kill
                if number < first:
                    continue
                record = _parse(path, line)
                if record.sequence != number:
                    raise _damaged(path)
                yield record
    except OSError as error:
        raise ImgclfError(f"Cannot read the journal '{path}': {error.strerror}.") from error


def last_record(path: Path) -> Record | None:
    """Return the last whole record without reading the others; None where there is none.

    Raises:
        ImgclfError: the journal cannot be read, or this record is damaged.
    """
    try:
        with path.open("rb") as file:
            length, end = _FIRST_TAIL_BYTES, file.seek(0, os.SEEK_END)
            while True:
                start = max(0, end - length)
                file.seek(start)
                whole = file.read(end - start).rpartition(b"\n")[0]
                _, newline, line = whole.rpartition(b"\n")
                if newline or not start:
                    return _parse(path, line) if line else None
                length *= 4
    except OSError as error:
        raise ImgclfError(f"Cannot read the journal '{path}': {error.strerror}.") from error


def run_folders(runs_dir: Path) -> list[Path]:
    """Return the runs' folders that hold a journal, the oldest run first."""
    return sorted(path.parent for path in runs_dir.glob(f"*/{JOURNAL_FILE}"))


def _whole_bytes(path: Path) -> int:
    """Return the length of a journal's whole lines."""
    return path.read_bytes().rfind(b"\n") + 1


def _parse(path: Path, line: bytes) -> Record:
    try:
        record = Record(**json.loads(line))
    except (ValueError, TypeError) as error:
        raise _damaged(path) from error
    return record


def _damaged(path: Path) -> ImgclfError:
    return ImgclfError(
        f"The journal '{path}' is damaged: a line in it is no record, or one is missing.",
        "Put a copy in its place, or move the run's folder away.",
    )


def _cannot_write(path: Path, error: OSError) -> ImgclfError:
    return ImgclfError(
        f"Cannot write the run's journal '{path}': {error.strerror}.",
        "Make room on the disk, or choose another with --runs-dir.",
    )
