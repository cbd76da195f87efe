"""What of a run's journal has reached MLflow, kept in the run's folder as ``sent.json``."""

import json
import os
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from imgclf.tracking.journal import JOURNAL_FILE, last_record

_FILE = "sent.json"


@dataclass(frozen=True)
class Sent:
    """How far the sending of a run has come.

    Attributes:
        tracking_uri: of the store; empty before anything was tried.
        mlflow_run_id, url: of the run in MLflow, once it is open.
        delivered: how many records were dealt with, from the journal's first on.
        refused: what the store will never take: kind and reason -> how many records.
        held_back: what the store did not take while it took others: a record's sequence number, as
            JSON has names -> kind and reason. It counts as dealt with, and is tried again.
    """

    tracking_uri: str = ""
    mlflow_run_id: str | None = None
    url: str | None = None
    delivered: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)
    held_back: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_taken(self) -> int:
        """How many records were dealt with and are not held back."""
        return self.delivered - len(self.held_back)

    def problems(self) -> tuple[str, ...]:
        """Return in words what the store will never take."""
        return _in_words(self.refused)

    def waiting(self) -> tuple[str, ...]:
        """Return in words what is held back."""
        return _in_words(Counter(self.held_back.values()))


def _in_words(counts: Mapping[str, int]) -> tuple[str, ...]:
    return tuple(
        reason if count == 1 else f"{reason} ({count} times)" for reason, count in counts.items()
    )


def read_sent(folder: Path) -> Sent:
    """Read what is known of a run's folder."""
    try:
        sent = Sent(**json.loads((folder / _FILE).read_bytes()))
    except (OSError, ValueError, TypeError, RecursionError):
        # Not there yet, or empty after the machine lost power. To send all again does no harm.
        return Sent()
    return sent if _is_sound(sent) else Sent()


def _is_sound(sent: Sent) -> bool:
    """Tell whether a note that was read holds what `write_sent` writes."""
    if not isinstance(sent.refused, dict) or not isinstance(sent.held_back, dict):
        return False
    return (
        isinstance(sent.tracking_uri, str)
        and isinstance(sent.mlflow_run_id, str | None)
        and isinstance(sent.url, str | None)
        and isinstance(sent.delivered, int)
        and sent.delivered >= 0
        and all(isinstance(count, int) for count in sent.refused.values())
        and all(sequence.isdecimal() for sequence in sent.held_back)
        and all(isinstance(reason, str) for reason in sent.held_back.values())
    )


def write_sent(folder: Path, sent: Sent) -> None:
    """Keep it, whole or not at all."""
    new = folder / f".{_FILE}"
    # Where the disk is full, more will be sent again than was needed.
    with suppress(OSError):
        new.write_text(json.dumps(asdict(sent), indent=2) + "\n", encoding="utf-8")
        os.replace(new, folder / _FILE)


def has_unsent(folder: Path) -> bool:
    """Tell whether a run's journal holds records that have not been sent, or are held back.

    Raises:
        ImgclfError: the journal cannot be read.
    """
    last, sent = last_record(folder / JOURNAL_FILE), read_sent(folder)
    return last is not None and (last.sequence >= sent.delivered or bool(sent.held_back))
