"""Sends what runs have left: of an outage, or of a process that was killed."""

import random
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from imgclf.errors import ImgclfError
from imgclf.tracking import brief_requests, no_answer
from imgclf.tracking.journal import run_folders
from imgclf.tracking.running import end_dead_run, is_running, other_host
from imgclf.tracking.sent import Sent, has_unsent, read_sent

if TYPE_CHECKING:  # importing it loads mlflow
    from imgclf.tracking.outbox import Outbox

# Of one record, before its server is said not to answer.
_TRIES = 3
_PATIENCE_SECONDS = 30.0
_LONGEST_PAUSE_SECONDS = 30.0


@dataclass(frozen=True)
class SyncResult:
    """What the sending of one run came to.

    Attributes:
        folder: of the run.
        is_running: whether it is in progress; then nothing was done.
        other_host: where it was last in progress and may still be, since it has no end; then
            nothing was done. Empty where that is this host.
        was_dead: whether its process had been killed, which nobody had noted before.
        records: how many were sent now.
        sent: how far the sending has come in all.
        failing: why records are left, in words; empty where none is.
        is_unreachable: whether that is because the store does not answer.
    """

    folder: Path
    is_running: bool = False
    other_host: str = ""
    was_dead: bool = False
    records: int = 0
    sent: Sent = field(default_factory=Sent)
    failing: str = ""
    is_unreachable: bool = False


def sync_runs(
    folders: Iterable[Path],
    tries: int = _TRIES,
    patience: float = _PATIENCE_SECONDS,
    other_hosts: bool = False,
) -> Iterator[SyncResult]:
    """Send what runs have left, one after the other; end those whose process was killed.

    Args:
        folders: of the runs.
        tries: how often a record is tried; then it is held back where its store takes others. A
            store that has not answered is not asked again.
        patience: seconds to wait for another process that is sending the same run.
        other_hosts: whether runs of other hosts that have no end are known to be dead.
    """
    silent: dict[str, str] = {}
    for folder in folders:
        result = _sync(folder, silent, tries, patience, other_hosts)
        if result.is_unreachable:
            silent[result.sent.tracking_uri] = result.failing
        yield result


def end_dead_runs(runs_dir: Path) -> list[SyncResult]:
    """End the runs whose process was killed as KILLED, and tell MLflow so, in one try.

    It costs a look at the end of each journal where there is none.

    Returns:
        what became of these runs, and of those whose journal cannot be read.
    """
    dead, broken = [], []
    for folder in run_folders(runs_dir):
        try:
            if end_dead_run(folder):
                dead.append(folder)
        except ImgclfError as error:
            broken.append(SyncResult(folder, failing=error.message))
    ended = sync_runs(dead, tries=1, patience=0.0)
    return [*broken, *(replace(result, was_dead=True) for result in ended)]


def send_left_over(runs_dir: Path, own: Path) -> Generator[None, None, None]:
    """Do the same for all runs but one, and send what they have left; each record is tried once.

    What a store does not take while it takes others is held back. It yields after each record, so
    that the caller can do first what is more urgent, and ends where a store does not answer: each
    further try would keep the caller waiting.
    """
    from imgclf.tracking.destination import RefusedError, UnreachableError
    from imgclf.tracking.outbox import BeingSentError, Outbox

    for folder in run_folders(runs_dir):
        if folder == own:
            continue
        try:
            end_dead_run(folder)
            if is_running(folder) or other_host(folder) or not has_unsent(folder):
                continue
            with Outbox(folder) as outbox:
                while outbox.refill() or outbox.retry_held_back():
                    try:
                        outbox.send_next()
                    except UnreachableError:
                        if not outbox.hold_back_next():
                            return
                    yield
        except (ImgclfError, BeingSentError, RefusedError):
            continue


def pauses() -> Iterator[float]:
    """Yield the seconds to wait before each further try, doubled each time.

    They are dealt out at random: clients that a server's fall has brought into step must not come
    back in step.
    """
    seconds = 1.0
    while True:
        yield seconds * random.uniform(0.5, 1.0)
        seconds = min(2 * seconds, _LONGEST_PAUSE_SECONDS)


def _sync(
    folder: Path, silent: dict[str, str], tries: int, patience: float, other_hosts: bool
) -> SyncResult:
    result = SyncResult(folder)
    try:
        was_dead = end_dead_run(folder, other_hosts=other_hosts)
        result = replace(result, was_dead=was_dead, sent=read_sent(folder))
        if is_running(folder):
            return replace(result, is_running=True)
        if host := other_host(folder):
            return replace(result, other_host=host)
        return _send(result, silent, tries, patience) if has_unsent(folder) else result
    except ImgclfError as error:
        return replace(result, failing=" ".join(str(error).split()))


def _send(result: SyncResult, silent: dict[str, str], tries: int, patience: float) -> SyncResult:
    from imgclf.tracking.outbox import BeingSentError, Outbox

    try:
        with brief_requests(), Outbox(result.folder, patience) as outbox:
            before = outbox.sent.num_taken
            failing = silent.get(outbox.sent.tracking_uri, "")
            is_unreachable = bool(failing)
            if not failing:
                failing, is_unreachable = _send_all(outbox, tries)
    except BeingSentError as error:
        return replace(result, failing=str(error))
    return replace(
        result,
        records=outbox.sent.num_taken - before,
        sent=outbox.sent,
        failing=failing,
        is_unreachable=is_unreachable,
    )


def _send_all(outbox: "Outbox", tries: int) -> tuple[str, bool]:
    """Send until nothing is left; else return why not, and whether the store does not answer."""
    from imgclf.tracking.destination import RefusedError, UnreachableError

    waits, failed = pauses(), 0
    while outbox.refill() or outbox.retry_held_back():
        try:
            outbox.send_next()
        except UnreachableError as error:
            failed += 1
            if failed < tries:
                time.sleep(next(waits))
                continue
            if not outbox.hold_back_next():
                return no_answer(outbox.sent.tracking_uri, str(error)), True
        except RefusedError as error:
            return f"MLflow refused the run: {error} {error.hint}", False
        waits, failed = pauses(), 0
    return "; ".join(outbox.sent.waiting()), False
