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
_FIELDS = {"sequence": int, "time_ms": int, "kind": str, "content": dict}
# What is read of a record's content without looking first.
_CONTENTS: dict[str, dict[str, type]] = {
    "parameters": {"values": dict},
    "tags": {"values": dict},
    "metrics": {"values": dict, "step": int, "summary": dict},
    "end": {"status": str},
}


@dataclass(frozen=True)
class Record:
    """One line of the journal.

    Attributes:
        sequence: 0 for the first.
        time_ms: when it was written, milliseconds since 1970; never less than the one before.
        kind: ``run``, ``parameters``, ``tags``, ``metrics``, ``dataset``, ``artifact`` or ``end``.
        content: JSON-ready values.
    """

    sequence: int
    time_ms: int
    kind: str
    content: dict[str, Any]


@dataclass(frozen=True)
class _Counted:
    """What a journal holds: bytes, records, and the time of the last one."""

    end: int = 0
    length: int = 0
    time_ms: int = 0


class Journal:
    """Appends records to ``journal.jsonl``; a record that `append` returned is on the disk.

    A signal may be raised inside `append`, which then returns nothing; the record is there or not,
    and the next one follows either way.
    """

    def __init__(self, path: Path, mode: str) -> None:
        self._path = path
        # Without a buffer: what could not be written does not come again with the next record.
        # At the file's end, wherever another process has brought that: nothing is written over.
        self._file = open(path, mode, buffering=0, opener=_open_to_append)  # noqa: SIM115 - kept
        # One object, so that no signal falls between two of its values.
        self._counted = _Counted()

    @property
    def length(self) -> int:
        """How many records it holds."""
        return self._counted.length

    @classmethod
    def create(cls, path: Path) -> Self:
        """Begin a journal.

        Raises:
            FileExistsError: there is one.
            ImgclfError: it cannot be written.
        """
        try:
            return cls(path, "x+b")
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
            journal = cls(path, "r+b")
            journal._count(_whole_bytes(path), last)
            journal._repair()
        except OSError as error:
            raise _cannot_write(path, error) from error
        return journal

    def append(self, kind: str, time_ms: int | None = None, /, **content: Any) -> Record:
        """Write one record through to the disk.

        Args:
            kind: of the record.
            time_ms: milliseconds since 1970; None for now, and after the record before: of two
                metrics of one step MLflow takes the later one for the last, and a clock may be
                put back. A given time that is before the last record's becomes that.
            content: of the record.

        Raises:
            ImgclfError: it cannot be written, as on a full disk; the journal stays whole.
        """
        try:
            self._repair()
            last = self._counted
            if time_ms is None:
                time_ms = max(time.time_ns() // 1_000_000, last.time_ms + 1)
            record = Record(last.length, max(time_ms, last.time_ms), kind, content)
            line = json.dumps(asdict(record)).encode() + b"\n"
            written = 0
            while written < len(line):
                written += self._file.write(line[written:])
            os.fsync(self._file.fileno())
        except OSError as error:
            # The next record must not follow a part of this one.
            with suppress(OSError):
                self._repair()
            raise _cannot_write(self._path, error) from error
        self._count(last.end + len(line), record)
        return record

    def close(self) -> None:
        """Close the file; nothing can be appended afterwards."""
        self._file.close()

    def _count(self, end: int, last: Record | None) -> None:
        if last is not None:
            self._counted = _Counted(end, last.sequence + 1, last.time_ms)

    def _repair(self) -> None:
        """Bring the file and what was counted of it together, after a signal or a full disk.

        A line that is whole is counted, for whoever sends the run may have read it; one that is
        not is cut off.
        """
        end = self._counted.end
        if self._file.seek(0, os.SEEK_END) == end:
            return
        self._file.seek(end)
        rest = self._file.read()
        whole = rest.rfind(b"\n") + 1
        if whole < len(rest):
            self._file.truncate(end + whole)
        if whole:
            self._count(end + whole, _parse(self._path, rest[:whole].splitlines()[-1]))


class JournalReader:
    """Reads what a journal has gained since the last look; a torn last line is none.

    Args:
        path: the journal.
        first: the sequence number of the first record to return.
    """

    def __init__(self, path: Path, first: int = 0) -> None:
        self._path = path
        self._first = first
        self._number = self._offset = 0  # of the next line

    def new_records(self) -> Iterator[Record]:
        """Yield the records that were not yielded yet.

        Raises:
            ImgclfError: the journal cannot be read, or is damaged before its last line.
        """
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        return  # it is being written, or was torn by a kill
                    number = self._number
                    record = _parse(self._path, line) if number >= self._first else None
                    if record and record.sequence != number:
                        raise _damaged(self._path)
                    self._number, self._offset = number + 1, self._offset + len(line)
                    if record:
                        yield record
        except OSError as error:
            raise _cannot_read(self._path, error) from error


def read_records(path: Path, first: int = 0) -> Iterator[Record]:
    """Read the records from a sequence number on; a torn last line is none.

    Raises:
        ImgclfError: the journal cannot be read, or is damaged before its last line.
    """
    return JournalReader(path, first).new_records()


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
        raise _cannot_read(path, error) from error


def run_folders(runs_dir: Path) -> list[Path]:
    """Return the runs' folders that hold a journal, the oldest run first."""
    return sorted(path.parent for path in runs_dir.glob(f"*/{JOURNAL_FILE}"))


def _open_to_append(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_APPEND, 0o666)


def _whole_bytes(path: Path) -> int:
    """Return the length of a journal's whole lines."""
    return path.read_bytes().rfind(b"\n") + 1


def _parse(path: Path, line: bytes) -> Record:
    try:
        record = Record(**json.loads(line))
    # A list within a list, ten thousand times, is too deep for Python's reader.
    except (ValueError, TypeError, RecursionError) as error:
        raise _damaged(path) from error
    of_content = _CONTENTS.get(record.kind, {}) if isinstance(record.kind, str) else {}
    if not _has_types(vars(record), _FIELDS) or not _has_types(record.content, of_content):
        raise _damaged(path)
    return record


def _has_types(values: dict[str, Any], types: dict[str, type]) -> bool:
    return all(isinstance(values.get(name), kind) for name, kind in types.items())


def _damaged(path: Path) -> ImgclfError:
    return ImgclfError(
        f"The journal '{path}' is damaged: a line in it is no record, or one is missing.",
        "Put a copy in its place, or move the run's folder away.",
    )


def _cannot_read(path: Path, error: OSError) -> ImgclfError:
    return ImgclfError(
        f"Cannot read the journal '{path}': {error.strerror}.",
        "Check that the file is there and may be read.",
    )


def _cannot_write(path: Path, error: OSError) -> ImgclfError:
    return ImgclfError(
        f"Cannot write the run's journal '{path}': {error.strerror}.",
        "Make room on the disk, or choose another with --runs-dir.",
    )
