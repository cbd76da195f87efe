"""A run in progress, and the end of one that does not finish."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from imgclf.config import TrainConfig
from imgclf.data.dataset import ImageDataset
from imgclf.data.scan import Scan
from imgclf.data.splits import Split
from imgclf.progress import say
from imgclf.tracking.environment import environment_tags
from imgclf.tracking.tracker import FAILED, KILLED, Tracker
from imgclf.training.device import Compute

# Metric name -> (epoch, value) pairs.
History = dict[str, list[tuple[int, float]]]


@dataclass(frozen=True)
class Run:
    """A run in progress: what every stage of it needs.

    Attributes:
        config: resolved.
        overrides: what was given over the recipe (or the defaults, without one), by name.
        timings: seconds of the stages that are over, by the names of their metrics.
    """

    config: TrainConfig
    overrides: dict[str, Any]
    compute: Compute
    dataset: ImageDataset
    split: Split
    scan: Scan
    tracker: Tracker
    folder: Path
    timings: dict[str, float] = field(default_factory=dict)

    @cached_property
    def environment(self) -> dict[str, str]:
        """Device, versions and git commit, as they were when this was first asked for."""
        return environment_tags(self.compute.device_name, self.config)


def end_early(tracker: Tracker, error: BaseException) -> None:
    """Record how a run ended that did not finish, and say whether MLflow knows."""
    status = KILLED if isinstance(error, KeyboardInterrupt | SystemExit) else FAILED
    say(f"ending the run as {status}")
    tracker.tags({"imgclf.error": " ".join(f"{type(error).__name__}: {error}".split())})
    for problem in tracker.finish(status):
        say(f"MLflow was not told: {problem}")
