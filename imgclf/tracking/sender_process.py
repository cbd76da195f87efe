"""The process that brings records to MLflow: ``python -m imgclf.tracking.sender_process``.

Its argument is the command line of the process that has started it, as JSON: MLflow records it as
the run's source. Each line of standard input is a `Record`: a run begins with the kind "run" and
ends with "end", and another may follow. Each line of standard output is a `Delivery`. It ends when
all is sent after its input has ended, or when nobody reads its output any more.
"""

import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from imgclf.tracking.identity import RunIdentity
from imgclf.tracking.journal import Record
from imgclf.tracking.sender import Delivery

if TYPE_CHECKING:  # importing it loads mlflow
    from imgclf.tracking.destination import Destination

_FIRST_RETRY_SECONDS = 1.0
_LONGEST_RETRY_SECONDS = 30.0


def main() -> None:
    """Deliver run after run until the input ends."""
    # Who ends the run tells of it through here; a batch system signals all processes of a job.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    # What a library prints must not get between the answers.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    sys.argv = json.loads(sys.argv[1])
    records = _Records()
    delivering = _Delivering(answers)
    try:
        from imgclf.tracking.connection import import_store

        import_store()
        delivering.deliver_all(records)
    except BrokenPipeError:
        pass  # who has started this is gone; `Destination` wraps all errors of its own
    except Exception as error:  # noqa: BLE001 - a broken installation raises what it likes
        delivering.fail(error)
        # At an ordinary end Python would wait for the thread that reads, and give up with an abort.
        os._exit(1)


class _Records:
    """Records in the order of their coming, read by a thread so that their writer never waits."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Record | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def __iter__(self) -> Iterator[Record]:
        while (record := self._queue.get()) is not None:
            yield record

    def _read(self) -> None:
        lines = 0
        try:
            for line in sys.stdin.buffer:
                lines += 1
                self._queue.put(Record(**json.loads(line)))
            if not lines:
                os._exit(0)  # there is no run: mlflow need not be imported to its end
        finally:
            self._queue.put(None)


class _Delivering:
    """Delivers records and tells how far it has come."""

    def __init__(self, answers: BinaryIO) -> None:
        self._answers = answers
        self._delivery = Delivery()

    def deliver_all(self, records: _Records) -> None:
        from imgclf.tracking.connection import tracking_uri
        from imgclf.tracking.destination import Destination

        destination = None
        for record in records:
            if record.kind == "run":
                self._delivery = Delivery(tracking_uri=tracking_uri())
                identity = RunIdentity(**record.content["identity"])
                destination = Destination(identity, Path(identity.folder))
            assert destination is not None, "a run's first record opens it"
            if not self._delivery.refusal:
                self._deliver(destination, record)
            if record.kind == "end":
                self._tell(ended=True)

    def _deliver(self, destination: "Destination", record: Record) -> None:
        from imgclf.tracking.destination import RefusedError, UnreachableError

        pause = _FIRST_RETRY_SECONDS
        while True:
            try:
                destination.deliver(record)
                self._tell(failing="", mlflow_run_id=destination.mlflow_run_id, url=destination.url)
                return
            except UnreachableError as error:
                self._tell(failing=str(error))
            except RefusedError as error:
                if record.kind == "run":
                    self._tell(refusal=(f"MLflow refused the run: {error}", error.hint))
                self._add_problem(f"{record.kind}: {error}")
                return
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_RETRY_SECONDS)

    def fail(self, error: Exception) -> None:
        """Tell of an error that nobody foresaw."""
        if self._delivery.mlflow_run_id is None:
            self._tell(refusal=(f"MLflow cannot be used: {error}", "Reinstall mlflow."))
        self._add_problem(f"{type(error).__name__}: {error}")

    def _add_problem(self, problem: str) -> None:
        self._tell(failing="", problems=(*self._delivery.problems, problem))

    def _tell(self, **changes: Any) -> None:
        self._delivery = replace(self._delivery, **changes)
        self._answers.write(self._delivery.to_json())


if __name__ == "__main__":
    main()
