"""The append-only file that holds what a run has to tell, before it is told to anybody."""

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


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
    """Appends records to ``journal.jsonl``; a record that `append` returned is on the disk."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("x", encoding="utf-8")
        self._length = 0

    def append(self, kind: str, **content: Any) -> Record:
        """Write one record through to the disk."""
        record = Record(self._length, time.time_ns() // 1_000_000, kind, content)
        self._file.write(json.dumps(asdict(record)) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._length += 1
        return record

    def close(self) -> None:
        """Close the file; nothing can be appended afterwards."""
        self._file.close()
