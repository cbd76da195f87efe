"""What the training half says of a run: first into its journal, then to MLflow in the background.

Training never waits for the tracking server. A thread imports mlflow, opens the run and sends the
journal's records in order; `Tracker.finish` waits for it, for a bounded time. Another thread adds
what the machine is doing meanwhile.
"""

import queue
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgclf.errors import ImgclfError
from imgclf.tracking.identity import RunIdentity
from imgclf.tracking.journal import Journal, Record
from imgclf.tracking.system import SystemSampler

if TYPE_CHECKING:  # importing it loads mlflow
    from imgclf.tracking.destination import Destination

FINISHED, FAILED, KILLED = "FINISHED", "FAILED", "KILLED"
_FIRST_RETRY_SECONDS = 1.0
_LONGEST_RETRY_SECONDS = 30.0
# When the server has taken nothing for so long, `finish` stops waiting.
PATIENCE_SECONDS = 60.0


class Tracker:
    """One run's voice. Safe to use from several threads.

    Args:
        identity: who the run is and where it belongs.
        folder: the run's local folder; artifacts are named by their path in it.
    """

    def __init__(self, identity: RunIdentity, folder: Path) -> None:
        self._journal = Journal(folder / "journal.jsonl")
        self._sender = _Sender(identity, folder)
        # The journal's order is the order of sending.
        self._order = threading.Lock()
        self._say("run", identity=identity.to_dict())
        self._sender.start()
        self._sampler = SystemSampler(self.metrics)
        self._sampler.start()

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Log the run's parameters."""
        self._say("parameters", values={name: str(value) for name, value in values.items()})

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags."""
        self._say("tags", values=dict(values))

    def dataset(
        self, name: str, digest: str, context: str, source: str, profile: Mapping[str, Any]
    ) -> None:
        """Log a data set input."""
        profile = dict(profile)
        self._say(
            "dataset", name=name, digest=digest, context=context, source=source, profile=profile
        )

    def metrics(
        self, values: Mapping[str, float], step: int, summary: Mapping[str, float] | None = None
    ) -> None:
        """Log metrics, in one batch.

        Args:
            values: of the step.
            step: the epoch.
            summary: of the run as a whole. They go to step 0: MLflow's UI then compares runs by
                bars instead of drawing a line through one point.
        """
        self._say("metrics", values=dict(values), step=step, summary=dict(summary or {}))

    def artifact(self, path: str, artifact_folder: str = "") -> None:
        """Upload a file or folder of the run's folder.

        Args:
            path: relative to the run's folder.
            artifact_folder: where it goes in the artifact store; empty for the top.
        """
        self._say("artifact", path=path, artifact_folder=artifact_folder)

    def check(self) -> None:
        """Raise `ImgclfError` if MLflow refused the run itself; do not wait."""
        if self._sender.refusal is not None:
            raise self._sender.refusal

    def finish(self, status: str) -> list[str]:
        """End the run and wait until all is sent, while the server answers.

        Returns:
            what was not sent, in words; empty where MLflow holds the whole run.
        """
        self._sampler.stop()
        self._say("end", status=status)
        self._journal.close()
        return self._sender.close()

    @property
    def mlflow_run_id(self) -> str | None:
        """MLflow's id of the run, once there is one."""
        return self._sender.mlflow_run_id

    @property
    def url(self) -> str | None:
        """Where to look at the run, once it is known."""
        return self._sender.url

    def _say(self, kind: str, **content: Any) -> None:
        with self._order:
            self._sender.send(self._journal.append(kind, **content))


class _Sender:
    """The background thread that brings records to MLflow, in order, each until it is taken."""

    def __init__(self, identity: RunIdentity, folder: Path) -> None:
        self._identity = identity
        self._folder = folder
        self._records: queue.Queue[Record | None] = queue.Queue()
        self._give_up = threading.Event()
        self._failing_since: float | None = None
        self._last_error = ""
        self._problems: list[str] = []
        self._thread = threading.Thread(target=self._run, name="imgclf-sender", daemon=True)
        self.refusal: ImgclfError | None = None
        self.mlflow_run_id: str | None = None
        self.url: str | None = None

    def start(self) -> None:
        self._thread.start()

    def send(self, record: Record) -> None:
        self._records.put(record)

    def close(self) -> list[str]:
        """Wait until all is sent, or until the server has failed to take a record for a while."""
        self._records.put(None)
        start = time.monotonic()
        while self._thread.is_alive():
            self._thread.join(timeout=0.05)
            failing_since = self._failing_since
            if failing_since is None:
                continue
            if time.monotonic() - max(start, failing_since) > PATIENCE_SECONDS:
                self._give_up.set()
                return [*self._problems, f"the tracking server does not answer: {self._last_error}"]
        return self._problems

    def _run(self) -> None:
        try:
            self._deliver_all()
        except Exception as error:  # noqa: BLE001 - the thread would die unheard
            self._problems.append(f"{type(error).__name__}: {error}")
            if self.mlflow_run_id is None:
                self.refusal = ImgclfError(f"MLflow cannot be used: {error}", "Reinstall mlflow.")

    def _deliver_all(self) -> None:
        from imgclf.tracking.destination import Destination

        destination = Destination(self._identity, self._folder)
        while (record := self._records.get()) is not None and not self._give_up.is_set():
            self._deliver(destination, record)
            self.mlflow_run_id, self.url = destination.mlflow_run_id, destination.url
            if self.refusal is not None:
                return

    def _deliver(self, destination: "Destination", record: Record) -> None:
        from imgclf.tracking.destination import RefusedError, UnreachableError

        pause = _FIRST_RETRY_SECONDS
        while True:
            try:
                destination.deliver(record)
                self._failing_since = None
                return
            except UnreachableError as error:
                self._last_error = str(error)
                self._failing_since = self._failing_since or time.monotonic()
            except RefusedError as error:
                if record.kind == "run":
                    self.refusal = ImgclfError(f"MLflow refused the run: {error}", error.hint)
                self._problems.append(f"{record.kind}: {error}")
                return
            if self._give_up.wait(pause):
                self._problems.append(f"{record.kind}: {self._last_error}")
                return
            pause = min(2 * pause, _LONGEST_RETRY_SECONDS)
