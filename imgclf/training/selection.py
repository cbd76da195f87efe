"""Which epoch's weights are kept, and when to stop early."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class Selection:
    """The best epoch so far: the best monitored metric, then the lowest validation loss.

    Attributes:
        monitor: the metric's name; ``val/loss`` is better when lower, all others when higher.
        best_epoch: 0 before the first.
        best: validation metrics of the best epoch by name; empty without a validation split.
        last_epoch: the epoch that was looked at last.
    """

    monitor: str = "val/accuracy"
    best_epoch: int = 0
    best: Mapping[str, float] = field(default_factory=dict)
    last_epoch: int = 0
    _last_rise: int = 0

    def update(self, epoch: int, metrics: Mapping[str, float]) -> bool:
        """Look at an epoch's validation metrics; return whether it is the best so far."""
        self.last_epoch = epoch
        score = self._score(metrics)
        # Small validation splits tie often; the loss still tells the epochs apart.
        if self.best and not score > self._score(self.best):
            return False
        if not self.best or score[0] > self._score(self.best)[0]:
            self._last_rise = epoch
        self.best_epoch, self.best = epoch, dict(metrics)
        return True

    def _score(self, metrics: Mapping[str, float]) -> tuple[float, float]:
        value, loss = metrics[self.monitor], metrics["val/loss"]
        # A loss that is no number is the worst there is, also as the first.
        loss = math.inf if math.isnan(loss) else loss
        return (-loss if self.monitor == "val/loss" else value), -loss

    def keep_last(self, epoch: int) -> None:
        """Without a validation split nothing is selected: the last epoch is kept."""
        self.best_epoch = self.last_epoch = epoch

    def exhausted(self, patience: int) -> bool:
        """Tell whether there was nothing better for ``patience`` epochs; 0 is endless patience."""
        return patience > 0 and self.last_epoch - self._last_rise >= patience

    def metrics(self) -> dict[str, float]:
        """Return the selection by its logged names; nothing is best where nothing was selected."""
        metrics = {"best/epoch": float(self.best_epoch)}
        if self.best:
            for name in ("val/accuracy", self.monitor):
                metrics[f"best/{name.replace('/', '_')}"] = self.best[name]
        return metrics
