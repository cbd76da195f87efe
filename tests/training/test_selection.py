import math

import pytest

from imgclf.training.selection import Selection


def fed(*epochs: tuple[float, float]) -> tuple[Selection, list[bool]]:
    """A selection that has looked at (accuracy, loss) of epochs 1, 2, ..."""
    selection = Selection()
    return selection, [
        selection.update(epoch, accuracy, loss)
        for epoch, (accuracy, loss) in enumerate(epochs, start=1)
    ]


def test_highest_accuracy_is_the_best_whatever_its_loss() -> None:
    selection, best = fed((0.5, 1.0), (0.8, 3.0), (0.7, 0.1), (0.9, 2.0))
    assert best == [True, True, False, True]
    assert (selection.best_epoch, selection.best_accuracy, selection.best_loss) == (4, 0.9, 2.0)


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
        selection.update(epoch, accuracy, loss=1 / epoch)  # a falling loss alone does not count
        if selection.exhausted(patience):
            stopped = epoch
            break
    assert stopped == stops_at


def test_a_rise_restores_the_patience() -> None:
    selection, _ = fed((0.5, 1.0), (0.5, 1.0), (0.6, 1.0), (0.5, 1.0))
    assert not selection.exhausted(2)
    selection.update(5, 0.6, 0.1)
    assert selection.exhausted(2)


def test_without_validation_the_last_epoch_is_kept() -> None:
    selection = Selection()
    for epoch in (1, 2, 3):
        selection.keep_last(epoch)
    assert (selection.best_epoch, selection.last_epoch) == (3, 3)
