"""A run in progress, and the end of one that does not finish."""

import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from imgclf.config import TrainConfig
from imgclf.data.dataset import ImageDataset
from imgclf.data.scan import Scan
from imgclf.data.splits import Split
from imgclf.disk import write_whole
from imgclf.errors import ImgclfError, printable
from imgclf.interruption import Interruption
from imgclf.next_command import resume_command
from imgclf.progress import say
from imgclf.tracking.environment import environment_tags
from imgclf.tracking.identity import ERROR_TAG, RunIdentity
from imgclf.tracking.journal import FAILED, FINISHED, KILLED
from imgclf.tracking.tracker import Tracker
from imgclf.training.device import Compute

# Metric name -> (epoch, value) pairs.
History = dict[str, list[tuple[int, float]]]

# In the run's folder.
CHECKPOINTS = "checkpoints"
START = "start.json"
_TRACEBACK = "traceback.txt"
# Who asks a run to end waits for so long, the steps before included.
_SECONDS_TO_LEAVE = 5.0

_Outcome = TypeVar("_Outcome")


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


def record(
    identity: RunIdentity,
    interruption: Interruption,
    carry_out: Callable[[Tracker], _Outcome],
    resumed: bool = False,
) -> tuple[Tracker, _Outcome, tuple[str, ...]]:
    """Carry out a run from its first record to its end, which is recorded whatever happens.

    A signal waits while the run begins and while its end is recorded: it finds no run without an
    end, whenever it comes.

    Args:
        identity: who the run is.
        interruption: the signals.
        carry_out: all that lies between; raises what ends the run early.
        resumed: whether the run goes on.

    Returns:
        the run's tracker, what ``carry_out`` returned, and what MLflow did not take, in words.
    """
    with interruption.held():
        tracker = Tracker(identity, Path(identity.folder), resumed)
        try:
            with interruption.held(waits=False):
                outcome = carry_out(tracker)
        except BaseException as error:
            _end_early(tracker, error, Path(identity.folder), interruption)
            raise
        heard = partial(interruption.held, waits=False)
        return tracker, outcome, tuple(tracker.finish(FINISHED, say=say, waiting=heard))


def _end_early(
    tracker: Tracker, error: BaseException, folder: Path, interruption: Interruption
) -> None:
    """Record how a run ended that did not finish, and say whether MLflow knows.

    Args:
        tracker: of the run.
        error: what ended it: a signal (`KeyboardInterrupt`, `SystemExit`) or a failure.
        folder: the run's.
        interruption: the signals, which wait.
    """
    killed = isinstance(error, KeyboardInterrupt | SystemExit)
    status, problems = KILLED if killed else FAILED, []
    try:
        tracker.tags({ERROR_TAG: " ".join(f"{type(error).__name__}: {error}".split())})
        if not killed:
            text = "".join(traceback.format_exception(error))
            write_whole(folder / _TRACEBACK, printable(text).encode(), "the traceback")
            tracker.artifact(_TRACEBACK)
    except ImgclfError as problem:  # what ended the run is what a person must read
        problems.append(problem.message)
    say(f"ending the run as {status}")
    try:
        if killed:  # who asks once more leaves at once
            problems += tracker.finish(status, _SECONDS_TO_LEAVE, say)
        else:
            # A signal ends the wait, and no more: what has failed is still to be read.
            with suppress(KeyboardInterrupt, SystemExit):
                unheld = partial(interruption.held, waits=False)
                problems += tracker.finish(status, say=say, waiting=unheld)
    except ImgclfError as problem:
        problems.append(f"{problem.message} 'imgclf sync' ends it once there is room.")
    for problem in problems:
        say(f"MLflow was not told: {problem}")
    # A run that was ended before its first checkpoint begins anew, under its own id.
    if (folder / CHECKPOINTS).is_dir() or (killed and (folder / START).exists()):
        say(f"resume it:  {resume_command(folder.name, folder.parent)}")
