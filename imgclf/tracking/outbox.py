"""What a run's folder still has to send; the only way by which records reach MLflow.

A run in progress, the run after it, a resumed run and ``imgclf sync`` all send the journal of a
folder from where the last one stopped.
"""

import time
from collections import deque
from collections.abc import Container, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout

from imgclf.tracking.destination import (
    MOST_METRICS,
    Destination,
    RefusedError,
    UnreachableError,
    num_metrics,
)
from imgclf.tracking.identity import ERROR_TAG, read_identity
from imgclf.tracking.journal import (
    JOURNAL_FILE,
    KILLED,
    JournalReader,
    Record,
    last_record,
    read_records,
)
from imgclf.tracking.running import cannot_lock
from imgclf.tracking.sent import Sent, read_sent, write_sent

_LOCK_FILE = "sending.lock"


class BeingSentError(Exception):
    """Another process is sending the run."""


class Outbox:
    """The unsent records of a run. A context manager: it keeps other processes from sending them.

    Args:
        folder: the run's local folder.
        patience: seconds to wait for another process that is sending the run.

    Attributes:
        sent: how far the sending has come.
        ended: whether the last record that was read, now or by an earlier outbox, ends the run.

    Raises:
        BeingSentError: another process is sending the run.
        ImgclfError: the journal cannot be read, or the folder not be written.
    """

    def __init__(self, folder: Path, patience: float = 0.0) -> None:
        self._folder = folder
        self._lock = FileLock(folder / _LOCK_FILE)
        try:
            self._lock.acquire(timeout=patience)
        except Timeout as error:
            raise BeingSentError("another process is sending the run") from error
        except OSError as error:
            raise cannot_lock(folder, error) from error
        try:
            identity = read_identity(folder)
            self.sent = read_sent(folder)
            if not self.sent.tracking_uri:
                self._keep(replace(self.sent, tracking_uri=identity.tracking_uri))
            sent = self.sent
            self._destination = Destination(
                identity, sent.tracking_uri, sent.mlflow_run_id, sent.url
            )
            last = last_record(folder / JOURNAL_FILE)
        except BaseException:
            self._lock.release()
            raise
        self._records: deque[Record] = deque()
        self._reader = JournalReader(folder / JOURNAL_FILE, sent.delivered)
        self._last_run = -1
        self._one_at_a_time = 0
        self._tried_again: set[int] = set()
        self.ended = last is not None and last.sequence < sent.delivered and last.kind == "end"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock.release()

    def refill(self) -> int:
        """Read what the journal has gained; return how many records are to be sent.

        Raises:
            ImgclfError: the journal cannot be read.
        """
        for record in self._reader.new_records():
            self._records.append(record)
            self.ended = record.kind == "end"
            if record.kind == "run":
                self._last_run = record.sequence
        return len(self._records)

    def retry_held_back(self) -> bool:
        """Put what is held back in line again, once by each outbox; return whether there is any.

        Raises:
            ImgclfError: the journal cannot be read.
        """
        sequences = {int(text) for text in self.sent.held_back} - self._tried_again
        if sequences:
            self._tried_again |= sequences
            self._records.extend(_still_valid(self._folder / JOURNAL_FILE, sequences))
        return bool(sequences)

    @property
    def next_is_held_back(self) -> bool:
        """Whether the next record was held back before."""
        return str(self._records[0].sequence) in self.sent.held_back

    @property
    def is_open(self) -> bool:
        """Whether MLflow has opened the run, and has opened it again where it is resumed."""
        return self.sent.mlflow_run_id is not None and self.sent.delivered > self._last_run

    def send_next(self) -> None:
        """Send the next record, or the next batch of metrics; keep what was refused for good.

        Raises:
            UnreachableError: the store is away; nothing has changed.
            RefusedError: the store will not open the run; nothing has changed.
        """
        batch = self._next_batch()
        try:
            self._destination.deliver(batch)
        except RefusedError as error:
            if batch[0].kind == "run":
                raise
            if len(batch) > 1:
                self._one_at_a_time = len(batch)  # only one of them may be wrong
                return
            self._count_refused(f"{batch[0].kind}: {error}")
        self._go_past(batch, {})

    def hold_back_next(self) -> bool:
        """Set the next record aside, where the store takes others, so that those after it are sent.

        It stays in the journal, for `retry_held_back`. Of a batch, the record is looked for first.

        Returns:
            whether the sending can go on: the store is not away, or is back.
        """
        # Without the first kind there is no run; after the other one nothing waits.
        if self._records[0].kind in ("run", "end") or not self._destination.takes_tags():
            return False
        try:
            self.send_next()  # the store may have come back between the last try and the tags
        except UnreachableError as error:
            batch = self._next_batch()
            if len(batch) > 1:
                self._one_at_a_time = len(batch)
            else:
                (record,) = batch
                self._go_past(batch, {str(record.sequence): f"{record.kind}: {error}"})
        return True

    def kill_run(self) -> None:
        """End the run as killed in MLflow alone, where its journal cannot be written.

        Whoever comes when there is room again finds the journal without an end, and does it again.
        """
        if self._destination.mlflow_run_id is not None:
            now_ms = time.time_ns() // 1_000_000
            with suppress(RefusedError, UnreachableError):
                self._destination.deliver([Record(-1, now_ms, "end", {"status": KILLED})])

    def _next_batch(self) -> Sequence[Record]:
        """Return the next record, and the metrics that follow metrics as far as MLflow takes them.

        After an outage there may be thousands, and a call takes as long for one as for many.
        """
        batch = [self._records[0]]
        if batch[0].kind != "metrics" or self._one_at_a_time:
            return batch
        total = num_metrics(batch[0])
        for record in islice(self._records, 1, None):
            if record.kind != "metrics" or (total := total + num_metrics(record)) > MOST_METRICS:
                break
            batch.append(record)
        return batch

    def _go_past(self, batch: Sequence[Record], held_back: Mapping[str, str]) -> None:
        """Keep that records were dealt with, and which of them are held back."""
        self._one_at_a_time = max(0, self._one_at_a_time - 1)
        waiting = dict(self.sent.held_back)
        for record in batch:
            self._records.popleft()
            waiting.pop(str(record.sequence), None)
        self._keep(
            replace(
                self.sent,
                mlflow_run_id=self._destination.mlflow_run_id,
                url=self._destination.url,
                # What was held back has been counted.
                delivered=max(self.sent.delivered, batch[-1].sequence + 1),
                held_back={**waiting, **held_back},
            )
        )

    def _count_refused(self, reason: str) -> None:
        refused = dict(self.sent.refused)
        refused[reason] = refused.get(reason, 0) + 1
        self.sent = replace(self.sent, refused=refused)

    def _keep(self, sent: Sent) -> None:
        self.sent = sent
        write_sent(self._folder, sent)


def _still_valid(path: Path, sequences: Set[int]) -> list[Record]:
    """Read records again, without the tags that later ones have set or removed."""
    found: list[Record] = []
    for record in read_records(path, min(sequences)):
        if record.kind == "tags":
            found = [_without_tags(earlier, record.content["values"]) for earlier in found]
        elif record.kind == "run":
            found = [_without_tags(earlier, {ERROR_TAG}) for earlier in found]
        if record.sequence in sequences:
            found.append(record)
    return found


def _without_tags(record: Record, names: Container[str]) -> Record:
    if record.kind != "tags":
        return record
    values = {name: text for name, text in record.content["values"].items() if name not in names}
    return replace(record, content={"values": values})
