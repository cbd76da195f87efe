import math

import pytest

from imgclf.training.selection import Selection


def metrics(accuracy: float, loss: float, **others: float) -> dict[str, float]:
    return {"val/accuracy": accuracy, "val/loss": loss, **others}


def fed(*epochs: tuple[float, float]) -> tuple[Selection, list[bool]]:
    """A selection that has looked at (accuracy, loss) of epochs 1, 2, ..."""
    selection = Selection()
    return selection, [
        selection.update(epoch, metrics(accuracy, loss))
        for epoch, (accuracy, loss) in enumerate(epochs, start=1)
    ]


def test_highest_accuracy_is_the_best_whatever_its_loss() -> None:
    selection, best = fed((0.5, 1.0), (0.8, 3.0), (0.7, 0.1), (0.9, 2.0))
    assert best == [True, True, False, True]
    assert (selection.best_epoch, selection.best) == (4, metrics(0.9, 2.0))
    assert selection.metrics() == {"best/epoch": 4.0, "best/val_accuracy": 0.9}


def test_equal_accuracies_are_told_apart_by_the_loss_and_then_by_time() -> None:
    selection, best = fed((0.9, 1.0), (0.9, 1.5), (0.9, 0.5), (0.9, 0.5))
    assert best == [True, False, True, False]
    assert selection.best_epoch == 3


def test_first_epoch_is_kept_even_if_every_answer_is_wrong() -> None:
    selection, best = fed((0.0, math.inf))
    assert best == [True]
    assert selection.best_epoch == 1


def test_loss_that_is_no_number_never_wins_a_tie() -> None:
    selection, best = fed((0.1, 2.3), (0.1, math.nan), (0.1, math.inf))
    assert best == [True, False, False]
    assert selection.best_epoch == 1


@pytest.mark.parametrize(("patience", "stops_at"), [(1, 4), (2, 5), (3, 6), (5, None), (0, None)])
def test_patience_counts_epochs_without_a_better_accuracy(
    patience: int, stops_at: int | None
) -> None:
    accuracies = [0.5, 0.6, 0.7, 0.7, 0.6, 0.7, 0.7]  # the last rise is epoch 3
    selection = Selection()
    stopped = None
    for epoch, accuracy in enumerate(accuracies, start=1):
        selection.update(epoch, metrics(accuracy, 1 / epoch))  # a falling loss alone does not count
        if selection.exhausted(patience):
            stopped = epoch
            break
    assert stopped == stops_at


def test_a_rise_restores_the_patience() -> None:
    selection, _ = fed((0.5, 1.0), (0.5, 1.0), (0.6, 1.0), (0.5, 1.0))
    assert not selection.exhausted(2)
    selection.update(5, metrics(0.6, 0.1))
    assert selection.exhausted(2)


def test_without_validation_the_last_epoch_is_kept() -> None:
    selection = Selection()
    for epoch in (1, 2, 3):
        selection.keep_last(epoch)
    assert (selection.best_epoch, selection.last_epoch) == (3, 3)
    assert selection.metrics() == {"best/epoch": 3.0}


@pytest.mark.parametrize(
    ("monitor", "best_epoch"), [("val/accuracy", 3), ("val/f1", 2), ("val/loss", 4)]
)
def test_best_epoch_is_best_in_the_monitored_metric(monitor: str, best_epoch: int) -> None:
    epochs = [(0.5, 1.0, 0.4), (0.6, 1.2, 0.9), (0.9, 1.1, 0.8), (0.7, 0.3, 0.7)]
    selection = Selection(monitor)
    for epoch, (accuracy, loss, f1) in enumerate(epochs, start=1):
        selection.update(epoch, metrics(accuracy, loss, **{"val/f1": f1}))
    accuracy, loss, f1 = epochs[best_epoch - 1]
    expected = {"val/accuracy": accuracy, "val/loss": loss, "val/f1": f1}
    assert selection.best_epoch == best_epoch
    assert selection.metrics() == {
        "best/epoch": best_epoch,
        "best/val_accuracy": accuracy,
        f"best/{monitor.replace('/', '_')}": expected[monitor],
    }


def test_patience_follows_the_monitored_metric() -> None:
    selection = Selection("val/loss")
    for epoch, loss in enumerate([1.0, 0.8, 0.9, 0.8], start=1):
        selection.update(epoch, metrics(accuracy=epoch / 10, loss=loss))
    assert selection.best_epoch == 2
    assert selection.exhausted(2)
    assert not selection.exhausted(3)
