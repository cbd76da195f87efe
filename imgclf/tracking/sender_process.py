"""The process that brings journals to MLflow: ``python -m imgclf.tracking.sender_process``.

Its argument is the command line of the process that has started it, as JSON: MLflow records it as
the run's source. Each line of standard input names a run's folder whose journal has more, or has
ended; after a run's end, another may follow. Each line of standard output is a `Delivery`. While a
run has nothing to send, the process sends what the runs beside it have left.

When its input ends before the run has ended, the run's process was killed, and this one ends the
run. It goes on until all is sent, or until the server does not answer for a while. A record that
the server does not take, while it takes others, is held back and tried once more at the run's end.
"""

import json
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from imgclf.errors import ImgclfError
from imgclf.interruption import END_SIGNALS
from imgclf.tracking import brief_requests
from imgclf.tracking.running import end_dead_run, is_running
from imgclf.tracking.sender import Delivery
from imgclf.tracking.sync import pauses, send_left_over

if TYPE_CHECKING:  # importing it loads mlflow
    from imgclf.tracking.outbox import Outbox

# How long a server may be silent after the run's own process has ended.
_PATIENCE_SECONDS = 60.0
# Between two tries while somebody waits for the run's end.
_LONGEST_LAST_PAUSE_SECONDS = 2.0
# Of one record, before it is held back where the server takes others.
_TRIES = 6
_NOTHING_LEFT = object()
# A process that was killed gives its lock back a moment after its pipes.
_DYING_SECONDS = 2.0


def main() -> None:
    """Deliver run after run until the input ends."""
    # Who ends the run tells of it through here; a batch system signals all processes of a job.
    for number in END_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    # What a library prints must not get between the answers.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    sys.argv = json.loads(sys.argv[1])
    announced = _Announced()
    sending = _Sending(answers, announced)
    try:
        from imgclf.tracking.connection import import_store

        import_store()
        with brief_requests():
            while folder := announced.next_folder():
                sending.send_run(folder)
    except Exception as error:  # noqa: BLE001 - a broken installation raises what it likes
        sending.fail(error)
        # At an ordinary end Python would wait for the thread that reads, and give up with an abort.
        os._exit(1)


class _GivenUpError(Exception):
    """Nobody needs this process to try again."""


class _Announced:
    """What was said on standard input, read by a thread so that who says it never waits.

    Attributes:
        closed_at: since when nothing more can come, on the monotonic clock; None before.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._folders: list[Path] = []
        self._served = self._lines = self._seen = 0
        self._ended = False
        self.closed_at: float | None = None
        threading.Thread(target=self._read, daemon=True).start()

    def next_folder(self) -> Path | None:
        """Wait for the next run; None where there is none."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._folders) > self._served or self.closed_at)
            if self._served == len(self._folders):
                return None
            self._served += 1
            return self._folders[self._served - 1]

    def wait(self) -> None:
        """Wait until something was said since the last time."""
        with self._changed:
            self._changed.wait_for(lambda: self._lines > self._seen or self.closed_at)
            self._seen = self._lines

    def wait_before_retry(self, seconds: float) -> None:
        """Wait for so long, but not for long where the run has said its last word."""
        with self._changed:
            if not self._is_ending():
                self._changed.wait_for(self._is_ending, seconds)
                return
        time.sleep(min(seconds, _LONGEST_LAST_PAUSE_SECONDS))

    def _is_ending(self) -> bool:
        return self._ended or self.closed_at is not None

    def _read(self) -> None:
        try:
            for line in sys.stdin.buffer:
                self._take(**json.loads(line))
            if not self._lines:
                os._exit(0)  # there is no run: mlflow need not be imported to its end
        finally:
            with self._changed:
                self.closed_at = time.monotonic()
                self._changed.notify_all()

    def _take(self, folder: str, ended: bool) -> None:
        with self._changed:
            self._lines += 1
            # A run that has ended may be resumed in the same folder.
            if self._ended or self._folders[-1:] != [Path(folder)]:
                self._folders.append(Path(folder))
            self._ended = ended
            self._changed.notify_all()


class _Sending:
    """Sends one run after the other and tells how far it has come."""

    def __init__(self, answers: BinaryIO, announced: _Announced) -> None:
        self._answers = answers
        self._announced = announced
        self._delivery = Delivery()
        self._taken_at = 0.0

    def send_run(self, folder: Path) -> None:
        """Send a run to its end; stop before where MLflow will not open it or nobody needs it."""
        from imgclf.tracking.destination import RefusedError

        self._delivery = Delivery()
        try:
            with self._open_outbox(folder) as outbox:
                outbox.refill()  # it tells whether the run has to be opened again
                self._tell_of(outbox)
                is_sent = self._send(outbox, folder)
            if is_sent:
                self._tell(ended=True)
        except RefusedError as error:
            self._tell(refusal=(f"MLflow refused the run: {error}", error.hint))
        except _GivenUpError:
            return  # nobody listens either

    def fail(self, error: Exception) -> None:
        """Tell of an error that nobody foresaw."""
        if self._delivery.is_open:
            problem = f"{type(error).__name__}: {error}"
            self._tell(problems=(*self._delivery.problems, problem))
        elif isinstance(error, ImgclfError):
            self._tell(refusal=(error.message, error.hint))
        else:
            self._tell(refusal=(f"MLflow cannot be used: {error}", "Reinstall mlflow."))

    def _open_outbox(self, folder: Path) -> "Outbox":
        from imgclf.tracking.outbox import BeingSentError, Outbox

        waits = pauses()
        while True:
            try:
                return Outbox(folder)
            except BeingSentError as error:  # by what is left of the run that this one resumes
                self._wait(str(error), next(waits), folder)

    def _send(self, outbox: "Outbox", folder: Path) -> bool:
        """Send until the run's end; return whether it was reached."""
        left_over = send_left_over(folder.parent, folder)
        try:
            while True:
                if outbox.refill() or (outbox.ended and outbox.retry_held_back()):
                    self._send_next(outbox, folder)
                elif outbox.ended:
                    return True
                elif self._announced.closed_at:
                    if not self._end_dead_run(outbox, folder):
                        return False
                elif next(left_over, _NOTHING_LEFT) is _NOTHING_LEFT:
                    self._announced.wait()
        finally:
            left_over.close()

    def _end_dead_run(self, outbox: "Outbox", folder: Path) -> bool:
        """End a run whose process was killed; return whether there is more to send for it."""
        try:
            # Where it is in progress again, its new process has a sender of its own.
            return end_dead_run(folder, _DYING_SECONDS)
        except ImgclfError:  # the disk is full
            outbox.kill_run()
            return False

    def _send_next(self, outbox: "Outbox", folder: Path) -> None:
        """Send a record or a batch, however often it has to be tried, or hold it back."""
        from imgclf.tracking.destination import UnreachableError

        tries = 1 if outbox.next_is_held_back else _TRIES
        for number, seconds in enumerate(pauses(), start=1):
            try:
                outbox.send_next()
                break
            except UnreachableError as error:
                if number >= tries and outbox.hold_back_next():
                    break
                self._wait(str(error), seconds, folder)
        self._taken_at = time.monotonic()
        self._tell_of(outbox)

    def _wait(self, failing: str, seconds: float, folder: Path) -> None:
        """Tell why it goes no further, and wait before the next try."""
        self._tell(failing=failing)
        if closed_at := self._announced.closed_at:
            silent = time.monotonic() - max(closed_at, self._taken_at)
            if silent > _PATIENCE_SECONDS or is_running(folder):
                raise _GivenUpError
        self._announced.wait_before_retry(seconds)

    def _tell_of(self, outbox: "Outbox") -> None:
        sent = outbox.sent
        self._tell(
            tracking_uri=sent.tracking_uri,
            mlflow_run_id=sent.mlflow_run_id,
            url=sent.url,
            is_open=outbox.is_open,
            delivered=sent.num_taken,
            problems=sent.problems(),
            held_back=sent.waiting(),
            failing="",
        )

    def _tell(self, **changes: Any) -> None:
        self._delivery = replace(self._delivery, **changes)
        # Who has started this process may be gone; the run is to be sent all the same.
        with suppress(BrokenPipeError):
            self._answers.write(self._delivery.to_json())


if __name__ == "__main__":
    main()
