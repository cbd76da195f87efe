"""A run in progress, and the end of one that does not finish."""

import traceback
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from imgclf.config import TrainConfig
from imgclf.data.dataset import ImageDataset
from imgclf.data.scan import Scan
from imgclf.data.splits import Split
from imgclf.disk import write_whole
from imgclf.errors import ImgclfError, printable
from imgclf.next_command import resume_command
from imgclf.progress import say
from imgclf.tracking.environment import environment_tags
from imgclf.tracking.identity import ERROR_TAG
from imgclf.tracking.journal import FAILED, KILLED
from imgclf.tracking.tracker import Tracker
from imgclf.training.device import Compute

# Metric name -> (epoch, value) pairs.
History = dict[str, list[tuple[int, float]]]

# In the run's folder.
CHECKPOINTS = "checkpoints"
_TRACEBACK = "traceback.txt"
# Who asks a run to end waits for so long, the steps before included.
_SECONDS_TO_LEAVE = 5.0


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

    @property
    def checkpoints(self) -> Path:
        """Their folder."""
        return self.folder / CHECKPOINTS

    @cached_property
    def environment(self) -> dict[str, str]:
        """Device, versions and git commit, as they were when this was first asked for."""
        return environment_tags(self.compute.device_name, self.config)


def end_early(tracker: Tracker, error: BaseException, folder: Path) -> None:
    """Record how a run ended that did not finish, and say whether MLflow knows.

    Args:
        tracker: of the run.
        error: what ended it: a signal (`KeyboardInterrupt`, `SystemExit`) or a failure.
        folder: the run's.
    """
    killed = isinstance(error, KeyboardInterrupt | SystemExit)
    status = KILLED if killed else FAILED
    say(f"ending the run as {status}")
    try:
        tracker.tags({ERROR_TAG: " ".join(f"{type(error).__name__}: {error}".split())})
        if not killed:
            text = "".join(traceback.format_exception(error))
            write_whole(folder / _TRACEBACK, printable(text).encode(), "the traceback")
            tracker.artifact(_TRACEBACK)
    except ImgclfError as problem:  # what ended the run is what a person must read
        say(f"not recorded: {problem.message}")
    try:
        problems = (
            tracker.finish(status, _SECONDS_TO_LEAVE, say)
            if killed
            else tracker.finish(status, say=say)
        )
    except ImgclfError as problem:
        problems = [f"{problem.message} 'imgclf sync' ends it once there is room."]
    for problem in problems:
        say(f"MLflow was not told: {problem}")
    if (folder / CHECKPOINTS).is_dir():
        say(f"resume it:  {resume_command(folder.name, folder.parent)}")
