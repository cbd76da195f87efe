"""What the training half says of a run: first into its journal, then to MLflow in the background.

A process imports mlflow, opens the run and sends the
journal's records in order; `Tracker.wait_until_open` and `Tracker.finish` wait for it, but for a
bounded time. A thread adds what the machine is doing meanwhile.
"""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imgclf.errors import ImgclfError
from imgclf.tracking.identity import RunIdentity
from imgclf.tracking.journal import Journal
from imgclf.tracking.sender import Delivery, take_sender
from imgclf.tracking.system import SystemSampler

FINISHED, FAILED, KILLED = "FINISHED", "FAILED", "KILLED"
# A busy machine needs that long to import mlflow and to set a database up. A server that refuses
# the connection is not waited for, one that hangs no longer than this.
OPENING_SECONDS = 30.0
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
        self._sender = take_sender()
        self._final: Delivery | None = None
        # The journal's order is the order of sending.
        self._order = threading.Lock()
        self._say("run", identity=identity.to_dict())
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

    def wait_until_open(self) -> None:
        """Wait until MLflow has opened the run, for a bounded time; then `check`.

        So a wrong address is told before the first step, and what it takes to import mlflow and to
        open its store is not taken from training.
        """
        self._sender.wait_until_tried(OPENING_SECONDS)
        self.check()

    def check(self) -> None:
        """Raise `ImgclfError` if MLflow refused the run itself; do not wait."""
        if refusal := self._delivery.refusal:
            raise ImgclfError(*refusal)

    def finish(self, status: str) -> list[str]:
        """End the run and wait until all is sent, while the server answers.

        Returns:
            what was not sent, in words; empty where MLflow holds the whole run.
        """
        self._sampler.stop()
        self._say("end", status=status)
        self._journal.close()
        self._final = self._sender.finish(PATIENCE_SECONDS)
        return list(self._final.problems)

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

    def _say(self, kind: str, **content: Any) -> None:
        with self._order:
            self._sender.send(self._journal.append(kind, **content))
