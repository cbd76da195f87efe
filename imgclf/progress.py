"""What a person sees while a run trains."""

import dataclasses
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from imgclf.config import TrainConfig
from imgclf.data.dataset import ImageDataset
from imgclf.data.scan import Scan
from imgclf.data.splits import Split
from imgclf.evaluation.metrics import Metrics
from imgclf.options import option_of
from imgclf.training.device import Compute
from imgclf.training.loop import EpochEnd, Snapshot

# What takes less is not worth a word.
_SECONDS_UNTIL_FIRST_LINE = 2.0
_SECONDS_BETWEEN_LINES = 30.0


class _Console(Console):
    """Plain lines for a reader who may go away, as ``tee`` does at Ctrl-C: a run needs nobody.

    What is said from then on is lost. Without a terminal nothing wraps: a log keeps its lines.
    """

    def __init__(self) -> None:
        super().__init__(highlight=False, emoji=False, soft_wrap=True)

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        # All that is printed or drawn is written here.
        try:
            super().__exit__(exc_type, exc_value, traceback)
        except OSError:  # the log's disk is full, or its terminal is gone
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        self.quiet = True
        with suppress(OSError), open(os.devnull, "wb") as nowhere:
            # Else Python itself would fail to write what is left at its end.
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def say(text: str) -> None:
    """Print one line of plain text; where nobody can read it any more, it is lost."""
    _Console().print(text, markup=False)


def print_start(
    config: TrainConfig,
    compute: Compute,
    dataset: ImageDataset,
    split: Split,
    scan: Scan,
    parameters: int,
) -> None:
    """Print what a run is about to do: data, network, optimiser, device.

    Args:
        config: resolved.
        compute: the hardware settings in use.
        dataset, split, scan: the images.
        parameters: the network's number of weights.
    """
    parts = ", ".join(f"{count:,} {part}" for part, count in split.sizes.items() if count)
    lines = [
        f"{dataset.name}: {len(dataset):,} images, {len(dataset.classes)} classes,"
        f" {dataset.preprocessing}; {parts}",
        f"{config.model}: {parameters:,} parameters; batch size {config.batch_size}",
        f"{config.optimizer}: learning rate {config.learning_rate:g}, {config.schedule}, weight"
        f" decay {config.weight_decay:g}",
        f"{config.device}: {compute.device_name}, {config.precision}, {config.threads} threads"
        + (", compiled in the first step" if config.compile else ""),
    ]
    for group in ("Augmentation", "Imbalance"):
        chosen = _chosen(config, group)
        if chosen:
            lines.append(f"{group.lower()}: {', '.join(chosen)}")
    if compute.note:
        lines.append(f"Note: {compute.note}")
    lines += [f"Note: {note}" for note in scan.notes(config=config)]
    say("\n".join([*lines, ""]))


class _DecodingDisplay:
    """A bar on a terminal, else a line soon after the start and one every half minute.

    Args:
        clock: tells seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        console = _Console()
        self.bar = Progress(
            TextColumn("decoding images"),
            BarColumn(bar_width=14),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._clock = clock
        self._task: TaskID | None = None
        self._begun = self._next_line = 0.0
        self._done = 0

    def __call__(self, done: int, total: int) -> None:
        """Show that so many of all files are decoded."""
        now = self._clock()
        if self._task is None:
            self._task = self.bar.add_task("", total=total)
            self._begun, self._next_line = now, now + _SECONDS_UNTIL_FIRST_LINE
        elif now >= self._next_line and self.bar.disable:
            self._next_line = now + _SECONDS_BETWEEN_LINES
            say(f"decoding images: {done:,} of {total:,}")
        self.bar.update(self._task, completed=done)
        self._done = done

    def finish(self) -> None:
        """Say how long it took."""
        seconds = 0.0 if self._task is None else self._clock() - self._begun
        if seconds >= _SECONDS_UNTIL_FIRST_LINE:
            say(f"decoded {self._done:,} images in {seconds:,.1f} s; later runs find them so")


@contextmanager
def decoding_bar(
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Callable[[int, int], None]]:
    """Show how many files are decoded, and how long that took; nothing where it is soon done.

    Args:
        clock: tells seconds.

    Yields:
        the function that is told the number of decoded files, 0 at first, and of all files.
    """
    display = _DecodingDisplay(clock)
    with display.bar:
        yield display
    display.finish()


def _chosen(config: TrainConfig, group: str) -> list[str]:
    """Return a group's options that are not at their defaults, in words."""
    chosen = []
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), field.name.replace("_", " ")
        if option_of(field).group == group and value != field.default:
            spelt = "" if value is True else " off" if value is False else f" {value}"
            chosen.append(name + spelt)
    return chosen


class TrainingDisplay:
    """A line per epoch, and on a terminal a bar with loss, accuracy, speed and time left."""

    def __init__(self, epochs: int, steps_per_epoch: int) -> None:
        self._console = _Console()
        self._epochs = epochs
        self._steps_per_epoch = steps_per_epoch
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=14),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task: TaskID | None = None
        self._has_headings = False

    def __enter__(self) -> "TrainingDisplay":
        self._progress.start()
        self._task = self._progress.add_task(
            "starting", total=self._epochs * self._steps_per_epoch, figures=""
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(text, markup=False)

    def snapshot(self, snapshot: Snapshot) -> None:
        """Move the bar."""
        assert self._task is not None
        done = (snapshot.epoch - 1) * self._steps_per_epoch + snapshot.step_in_epoch
        self._progress.update(
            self._task,
            completed=done,
            description=f"epoch {snapshot.epoch}/{self._epochs}",
            figures=f"loss {snapshot.loss:.4f}  accuracy {snapshot.accuracy:.2%}"
            f"  {snapshot.images_per_second:,.0f} images/s",
        )

    def epoch_end(self, end: EpochEnd, validation: Metrics | None, is_best: bool) -> None:
        """Print an epoch's line; an asterisk marks the best so far."""
        assert self._task is not None
        self._progress.update(self._task, completed=end.epoch * self._steps_per_epoch)
        headings = f"{'epoch':>9}  train loss  accuracy"
        line = f"{f'{end.epoch}/{self._epochs}':>9}  {end.loss:10.4f}  {end.accuracy:8.2%}"
        if validation is not None:
            headings += "  val loss  accuracy  "
            mark = "*" if is_best else " "
            line += f"  {validation.loss:8.4f}  {validation.accuracy:8.2%} {mark}"
        if not self._has_headings:
            self.say(f"{headings}  images/s")
            self._has_headings = True
        self.say(f"{line}  {end.images_per_second:8,.0f}")
