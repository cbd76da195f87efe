"""Which epoch's weights are kept, and when to stop early."""

from dataclasses import dataclass


@dataclass
class Selection:
    """The best epoch so far: highest validation accuracy, then lowest validation loss.

    Attributes:
        best_epoch: 0 before the first.
        best_accuracy, best_loss: on the validation split.
        last_epoch: the epoch that was looked at last.
    """

    best_epoch: int = 0
    best_accuracy: float = -1.0
    best_loss: float = float("inf")
    last_epoch: int = 0
    _last_rise: int = 0

    def update(self, epoch: int, accuracy: float, loss: float) -> bool:
        """Look at an epoch; return whether it is the best so far."""
        self.last_epoch = epoch
        if accuracy > self.best_accuracy:
            self._last_rise = epoch
        # Small validation splits tie often; the loss still tells the epochs apart.
        if not (accuracy, -loss) > (self.best_accuracy, -self.best_loss):
            return False
        self.best_epoch, self.best_accuracy, self.best_loss = epoch, accuracy, loss
        return True

    def keep_last(self, epoch: int) -> None:
        """Without a validation split nothing is selected: the last epoch is kept."""
        self.best_epoch = self.last_epoch = epoch

    def exhausted(self, patience: int) -> bool:
        """Tell whether accuracy has not risen for ``patience`` epochs; 0 is endless patience."""
        return patience > 0 and self.last_epoch - self._last_rise >= patience

    def metrics(self) -> dict[str, float]:
        """Return the selection by its logged names; nothing is best where nothing was selected."""
        metrics = {"best/epoch": float(self.best_epoch)}
        if self.best_accuracy >= 0:
            metrics["best/val_accuracy"] = self.best_accuracy
        return metrics
