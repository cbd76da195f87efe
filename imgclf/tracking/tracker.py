"""What the training half says of a run: first into its journal, then to MLflow in the background.

A process imports mlflow, opens the run and sends the journal's records in order;
`Tracker.wait_until_open` and `Tracker.finish` wait for it, but for a bounded time. A thread adds
what the machine is doing meanwhile.
"""

import platform
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from imgclf.errors import ImgclfError, printable
from imgclf.tracking.identity import RunIdentity, sync_command
from imgclf.tracking.journal import JOURNAL_FILE, Journal, read_records
from imgclf.tracking.running import hold_run
from imgclf.tracking.said import Said
from imgclf.tracking.sender import Delivery, take_sender
from imgclf.tracking.system import SystemSampler

# A busy machine needs that long to import mlflow and to set a database up. A server that refuses
# the connection is not waited for, one that hangs no longer than this.
OPENING_SECONDS = 30.0
# When the server has taken nothing for so long, `finish` stops waiting.
PATIENCE_SECONDS = 60.0
# It stops as well when the server is only slow.
_LONGEST_FINISH_SECONDS = 600.0


class Tracker:
    """One run's voice. Safe to use from several threads.

    Whatever it is told is on the disk when the call returns. Where that fails, as on a full disk,
    the call raises `ImgclfError`; the samples of the machine then stop, and `finish` says so.
    MLflow takes no text but UTF-8: values are kept as `printable`.

    Args:
        identity: who the run is and where it belongs.
        folder: the run's local folder; artifacts are named by their path in it.
        resumed: whether the run goes on that the folder's journal holds. What it holds already
            (parameters, tags, data, epochs) is not said again; artifacts are.

    Raises:
        ImgclfError: the run is in progress elsewhere, its journal cannot be read or written, or no
            process can be started.
    """

    def __init__(self, identity: RunIdentity, folder: Path, resumed: bool = False) -> None:
        self._folder = folder.resolve()
        self._running = hold_run(folder)
        path = folder / JOURNAL_FILE
        self._said = Said(read_records(path) if resumed else ())
        self._journal = Journal.resume(path) if resumed else Journal.create(path)
        self._sender = take_sender()
        self._final: Delivery | None = None
        # The journal's order is the order in which things were said.
        self._order = threading.Lock()
        # MLflow shows where a run comes from, whoever sends it.
        source = sys.argv[0] if sys.argv else ""
        self._journal.append(
            "run",
            identity=identity.to_dict(),
            source=source,
            resumed=resumed,
            host=platform.node(),
        )
        self._sender.begin(self._folder)
        self._sampler = SystemSampler(self.metrics, self._said.samples)
        self._sampler.start()

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Log the run's parameters."""
        texts = {name: printable(str(value)) for name, value in values.items()}
        if new := self._said.new_values("parameters", texts):
            self._say("parameters", values=new)

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags."""
        texts = {name: printable(value) for name, value in values.items()}
        if new := self._said.new_values("tags", texts):
            self._say("tags", values=new)

    def dataset(
        self, name: str, digest: str, context: str, source: str, profile: Mapping[str, Any]
    ) -> None:
        """Log a data set input."""
        content = {
            "name": name,
            "digest": digest,
            "context": context,
            "source": printable(source),
            "profile": dict(profile),
        }
        if not self._said.has_dataset(content):
            self._say("dataset", **content)

    def metrics(
        self, values: Mapping[str, float], step: int, summary: Mapping[str, float] | None = None
    ) -> None:
        """Log metrics, in one batch.

        Args:
            values: of the step.
            step: the epoch.
            summary: of the run as a whole; those that changed are said. They go to step 0: MLflow's
                UI then compares runs by bars instead of drawing a line through one point.
        """
        if self._said.has_epoch(values, step):
            return
        new = self._said.new_values("summary", summary or {})
        if values or new:
            self._say("metrics", values=dict(values), step=step, summary=new)

    def artifact(self, path: str, artifact_folder: str = "") -> None:
        """Upload a file or folder of the run's folder.

        Args:
            path: relative to the run's folder.
            artifact_folder: where it goes in the artifact store; empty for the top.
        """
        self._say("artifact", path=path, artifact_folder=artifact_folder)

    def wait_until_open(self) -> None:
        """Wait until MLflow has opened the run, for a bounded time.

        So a wrong address is told before the first step, and what it takes to import mlflow and to
        open its store is not taken from training.
        A refusal that comes later ends nothing: `finish` tells of it.

        Raises:
            ImgclfError: MLflow refused the run.
        """
        self._sender.wait_until_tried(OPENING_SECONDS)
        if refusal := self._delivery.refusal:
            raise ImgclfError(*refusal)

    def finish(
        self,
        status: str,
        seconds: float = _LONGEST_FINISH_SECONDS,
        say: Callable[[str], object] = lambda _: None,
        waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> list[str]:
        """End the run and wait until all is sent, while the server answers.

        Args:
            status: how the run ended, in MLflow's words.
            seconds: to wait at most; what is left then is sent in the background, while the server
                answers.
            say: is told once where it takes longer than a moment.
            waiting: gives the context of the wait, which comes once the end is on the disk.

        Returns:
            what was not sent, in words; empty where MLflow holds the whole run.

        Raises:
            ImgclfError: the end cannot be written; the process that sends ends the run as KILLED.
        """
        deadline = time.monotonic() + seconds
        self._sampler.stop()
        try:
            self._end(status)
            left = max(0.0, deadline - time.monotonic())
            wait = f"sending the rest to MLflow, {left:.0f} seconds at most"
            with waiting():
                self._final, reason = self._sender.finish(PATIENCE_SECONDS, left, lambda: say(wait))
        except BaseException:
            # This process may live on: the other one sends what there is, and ends the run if that
            # could not be written.
            self._sender.let_go()
            raise
        problems = list(self._final.problems)
        if self._sampler.failure:
            problems.append(f"the machine was not sampled to the end: {self._sampler.failure}")
        if reason := reason or "; ".join(self._final.held_back):
            problems.append(f"{self._left} ({reason}); '{sync_command(self._folder)}' sends them")
        return problems

    def _end(self, status: str) -> None:
        try:
            self._say("end", status=status)
        finally:
            self._journal.close()
            self._running.release()

    @property
    def mlflow_run_id(self) -> str | None:
        """MLflow's id of the run, once there is one."""
        return self._delivery.mlflow_run_id

    @property
    def url(self) -> str | None:
        """Where to look at the run, once it is known."""
        return self._delivery.url

    @property
    def tracking_uri(self) -> str:
        """The store's address; empty until mlflow was imported."""
        return self._delivery.tracking_uri

    @property
    def _delivery(self) -> Delivery:
        # After its end, the sender may serve another run.
        return self._final or self._sender.delivery

    @property
    def _left(self) -> str:
        return (
            f"{self._journal.length - self._delivery.delivered} of {self._journal.length} records"
        )

    def _say(self, kind: str, **content: Any) -> None:
        with self._order:
            self._said.take(self._journal.append(kind, **content))
        self._sender.announce()
