"""What training has come to, beside the weights; a checkpoint holds it in JSON."""

import dataclasses
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from torch import Tensor

from imgclf.pipeline.run import History
from imgclf.training.checkpoint import Checkpoint, does_not_fit
from imgclf.training.json_values import is_number, read_values
from imgclf.training.loop import EpochEnd
from imgclf.training.selection import Selection


@dataclass
class Progress:
    """What training has come to, beside `TrainState`; a checkpoint holds both.

    Attributes:
        selection: which epoch is the best so far.
        history: metrics of the epochs.
        best: the selected weights.
        pending: an epoch that is trained and not validated yet.
        seconds, epoch_seconds: what training and the epoch in progress took before this process.
    """

    selection: Selection
    history: History = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)
    pending: EpochEnd | None = None
    seconds: float = 0.0
    epoch_seconds: float = 0.0

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, monitor: str) -> "Progress":
        """Read what `to_dict` returned, with the tensors.

        Args:
            checkpoint: as it was read.
            monitor: the metric that the run selects by.

        Raises:
            ImgclfError: it holds something else.
        """
        values = checkpoint.progress
        try:
            seconds, epoch_seconds = values["seconds"], values["epoch_seconds"]
            pending = values["pending"]
            progress = cls(
                selection=read_values(Selection, values["selection"]),
                history=_history(values["history"]),
                best=checkpoint.group("best"),
                pending=None if pending is None else read_values(EpochEnd, pending),
                seconds=seconds,
                epoch_seconds=epoch_seconds,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise does_not_fit(f"its progress: {error}") from error
        selection = progress.selection
        measured = selection.best.keys() >= {monitor, "val/accuracy", "val/loss"}
        if selection.monitor != monitor or (selection.best and not measured):
            raise does_not_fit("its progress: the selection is by other metrics")
        if not (is_number(seconds) and is_number(epoch_seconds)):
            raise does_not_fit("its progress: seconds are no number")
        return progress

    def to_dict(self) -> dict[str, Any]:
        """Return all but the tensors, JSON-ready."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del values["best"]
        pending = self.pending and dataclasses.asdict(self.pending)
        return values | {"selection": dataclasses.asdict(self.selection), "pending": pending}

    def metrics_of(self, epoch: int) -> dict[str, float]:
        """Return the metrics of an epoch."""
        metrics = {}
        for name, points in self.history.items():
            place = bisect_left(points, epoch, key=itemgetter(0))
            if place < len(points) and points[place][0] == epoch:
                metrics[name] = points[place][1]
        return metrics


def _history(values: object) -> History:
    """Read the metrics of the epochs."""
    if not isinstance(values, dict):
        raise ValueError("there are no metrics")
    return {name: _points(said) for name, said in values.items()}


def _points(values: Iterable[Any]) -> list[tuple[int, float]]:
    """Read a metric's epochs and values."""
    points = [(epoch, value) for epoch, value in values]
    if not points or not all(type(epoch) is int and is_number(value) for epoch, value in points):
        raise ValueError("a metric has no epoch or no value")
    return points
