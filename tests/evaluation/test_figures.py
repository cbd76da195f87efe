import math
from itertools import pairwise

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from imgclf.evaluation import figures
from imgclf.evaluation.metrics import ClassMetrics, Metrics

History = dict[str, list[tuple[int, float]]]

pytestmark = pytest.mark.usefixtures("warnings_are_errors")


def draw(figure: Figure) -> Figure:
    """Lay the figure out, which is also when matplotlib complains of texts it cannot draw."""
    FigureCanvasAgg(figure).draw()
    return figure


def cell_texts(axes: Axes) -> dict[tuple[int, int], str]:
    """(row, column) -> what is written there."""
    cells = {}
    for text in axes.texts:
        column, row = text.get_position()
        cells[round(row), round(column)] = text.get_text()
    return cells


def tick_labels(axes: Axes) -> list[str]:
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == [label.get_text() for label in axes.get_xticklabels()]
    return labels


def lines(axes: Axes) -> dict[str, Line2D]:
    return {str(line.get_label()): line for line in axes.get_lines()}


def shown_ticks(axes: Axes) -> dict[float, str]:
    """Value -> label of each tick on the vertical axis."""
    bottom, top = axes.get_ylim()
    return {
        round(value, 9): label.get_text()
        for value, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)
        if bottom <= value <= top
    }


def history(epochs: int, *names: str) -> History:
    return {name: [(epoch, 1 / epoch) for epoch in range(1, epochs + 1)] for name in names}


def complete_history(epochs: int) -> History:
    validation = ("val/loss", "val/accuracy", "val/precision", "val/recall", "val/f1")
    training = ("train/loss", "train/accuracy", "lr")
    return history(epochs, *training, *validation, "epoch/test_accuracy")


# Confusion matrix

COUNTS = np.array([[8, 2, 0], [0, 0, 5], [0, 0, 0]], dtype=np.int64)


def test_rows_are_true_classes_and_cells_show_counts_but_no_zeros_off_the_diagonal() -> None:
    axes = figures.confusion_matrix(COUNTS, ["cat", "dog", "bird"]).axes[0]
    expected = {(0, 0): "8", (0, 1): "2", (1, 1): "0", (1, 2): "5", (2, 2): "0"}
    assert cell_texts(axes) == expected
    assert axes.get_ylabel() == "True class"
    assert axes.get_xlabel() == "Predicted class"
    assert axes.yaxis_inverted()  # the first class on top
    assert tick_labels(axes) == ["cat", "dog", "bird"]


def test_colours_are_shares_of_the_true_class() -> None:
    (image,) = figures.confusion_matrix(COUNTS, ["cat", "dog", "bird"]).axes[0].get_images()
    shares = np.asarray(image.get_array(), dtype=np.float64)
    np.testing.assert_allclose(shares, [[0.8, 0.2, 0], [0, 0, 1], [0, 0, 0]])
    assert image.get_clim() == (0, 1)


def test_counts_are_readable_on_their_cell() -> None:
    figure = draw(figures.confusion_matrix(np.array([[19, 1], [10, 10]]), ["cat", "dog"]))
    axes = figure.axes[0]
    brightness = {
        text.get_text(): sum(matplotlib.colors.to_rgb(text.get_color())) for text in axes.texts
    }
    assert brightness["19"] == 3, "white on a dark cell"
    assert brightness["1"] == 0, "black on a pale cell"


@pytest.mark.parametrize(
    ("counts", "accuracy"),
    [(COUNTS, "53.3% (8 of 15)"), (np.zeros((3, 3), dtype=np.int64), "undefined (no images)")],
)
def test_title_says_the_overall_accuracy(counts: NDArray[np.int64], accuracy: str) -> None:
    axes = figures.confusion_matrix(counts, ["a", "b", "c"], title="Test of $run_1$").axes[0]
    assert axes.get_title(loc="left") == f"Test of $run_1$\nAccuracy {accuracy}"


@pytest.mark.parametrize("number", [2, 26, 100])
def test_labels_neither_overlap_nor_leave_the_figure(number: int) -> None:
    names = [f"{position} class with a name of forty characters"[:40] for position in range(number)]
    figure = draw(figures.confusion_matrix(np.eye(number, dtype=np.int64), names))
    axes = figure.axes[0]
    rows = [label.get_window_extent() for label in axes.get_yticklabels()]
    columns = [label.get_window_extent() for label in axes.get_xticklabels()]
    assert len(rows) == len(columns) == number
    assert all(upper.y0 > lower.y0 and not upper.overlaps(lower) for upper, lower in pairwise(rows))
    assert not any(left.overlaps(right) for left, right in pairwise(columns))
    assert min(box.x0 for box in rows) >= 0
    assert min(box.y0 for box in columns) >= 0


@pytest.mark.parametrize(("number", "annotated"), [(30, 30), (31, 0)])
def test_counts_are_written_only_where_they_can_be_read(number: int, annotated: int) -> None:
    names = [str(position) for position in range(number)]
    axes = figures.confusion_matrix(np.eye(number, dtype=np.int64), names).axes[0]
    assert len(axes.texts) == annotated


def test_large_counts_stay_inside_their_cells() -> None:
    counts = np.full((8, 8), 123_456_789, dtype=np.int64)
    figure = draw(figures.confusion_matrix(counts, [str(position) for position in range(8)]))
    axes = figure.axes[0]
    cell_width = axes.get_window_extent().width / 8
    assert max(text.get_window_extent().width for text in axes.texts) < cell_width


def test_a_thousand_classes_are_named_now_and_then() -> None:
    names = [str(position) for position in range(1000)]
    axes = figures.confusion_matrix(np.eye(1000, dtype=np.int64), names).axes[0]
    assert tick_labels(axes) == names[::10]
    np.testing.assert_array_equal(axes.get_yticks(), range(0, 1000, 10))


def test_long_names_are_shortened_and_stay_distinct() -> None:
    names = [
        "golden retriever on a very green lawn",
        "golden retriever on a very green sofa",
        "cat",
    ]
    names += ["a" * 40 + "one" + "a" * 40, "a" * 40 + "two" + "a" * 40]
    labels = tick_labels(figures.confusion_matrix(np.eye(5, dtype=np.int64), names).axes[0])
    assert labels[2] == "cat"
    assert len(set(labels)) == 5
    for position in (0, 1, 3, 4):
        assert labels[position].count("…") == 1
        assert len(labels[position]) < 30
    assert labels[0].endswith("lawn")
    assert labels[3].startswith("3: a")


def test_hostile_names_are_drawn_as_they_are_or_by_number(hostile_names: list[str]) -> None:
    number = len(hostile_names)
    counts = np.eye(number, dtype=np.int64)
    figure = draw(figures.confusion_matrix(counts, hostile_names, title="猫 $x"))
    labels = tick_labels(figure.axes[0])
    assert labels[:4] == ["cost_$5_and_$6", r"$\frac{broken", "<b>bold</b>", "line break"]
    assert labels[4:7] == ["4: □□", "5: □□", "6: dog □"]
    assert "\u202e" not in labels[7]
    assert len(set(labels)) == number
    assert figure.axes[0].get_title(loc="left").startswith("□ $x\n")


# Curves


def test_panels_show_the_series_as_given() -> None:
    figure = draw(figures.curves(complete_history(12)))
    panels = {axes.get_title(loc="left"): list(lines(axes)) for axes in figure.axes}
    assert panels == {
        "Loss": ["Training", "Validation"],
        "Accuracy": ["Training", "Validation", "Test"],
        "Validation, macro": ["Precision", "Recall", "F1"],
        "Learning rate": ["End of the epoch"],
    }
    for axes in figure.axes:
        for line in lines(axes).values():
            np.testing.assert_array_equal(line.get_xdata(), range(1, 13))
            assert list(np.asarray(line.get_ydata())) == [1 / epoch for epoch in range(1, 13)]
        assert axes.get_xlabel() == "Epoch"


def test_series_are_not_mixed_up() -> None:
    names = list(complete_history(1))
    figure = figures.curves({name: [(1, position / 10)] for position, name in enumerate(names)})
    shown = [
        names[round(10 * float(np.asarray(line.get_ydata())[0]))]
        for axes in figure.axes
        for line in lines(axes).values()
    ]
    expected = ["train/loss", "val/loss", "train/accuracy", "val/accuracy", "epoch/test_accuracy"]
    assert shown == [*expected, "val/precision", "val/recall", "val/f1", "lr"]


def test_fractions_are_shown_in_percent_and_never_beyond_the_possible() -> None:
    perfect = {name: [(1, 1.0), (2, 1.0)] for name in ("train/accuracy", "val/f1")}
    for axes in draw(figures.curves(perfect)).axes:
        labels = shown_ticks(axes)
        assert max(labels) == 1
        assert labels[1].startswith("100")
        assert labels[1].endswith("%")


def test_learning_rates_are_written_out_and_start_at_zero() -> None:
    (axes,) = draw(figures.curves({"lr": [(1, 2e-4), (2, 1e-4)]})).axes
    assert axes.get_ylim()[0] == 0
    for value, text in shown_ticks(axes).items():
        assert float(text.replace("−", "-")) == pytest.approx(value)
    assert axes.yaxis.get_offset_text().get_text() == ""


def test_without_validation_its_panel_is_left_out() -> None:
    figure = draw(figures.curves(history(5, "train/loss", "train/accuracy", "lr")))
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["Loss", "Accuracy", "Learning rate"]
    assert [list(lines(axes)) for axes in figure.axes[:2]] == [["Training"], ["Training"]]


def test_validation_keeps_its_colour_without_training() -> None:
    both = figures.curves(history(3, "train/loss", "val/loss"))
    alone = figures.curves({"val/loss": [(1, 1.0)], "train/loss": []})
    colours = [lines(figure.axes[0])["Validation"].get_color() for figure in (both, alone)]
    assert colours[0] == colours[1]
    assert list(lines(alone.axes[0])) == ["Validation"]


def test_best_epoch_is_marked_in_every_panel() -> None:
    figure = figures.curves(complete_history(12), best_epoch=9)
    for axes in figure.axes:
        mark = lines(axes)["Best epoch (9)"]
        assert list(np.asarray(mark.get_xdata())) == [9, 9]
        legend = axes.get_legend()
        assert legend is not None
        assert legend.get_texts()[-1].get_text() == "Best epoch (9)"


@pytest.mark.parametrize("epochs", [1, 2, 12, 200])
def test_epoch_ticks_are_whole_and_few(epochs: int) -> None:
    figure = draw(figures.curves(complete_history(epochs), best_epoch=1))
    for axes in figure.axes:
        left, right = axes.get_xlim()
        ticks = [tick for tick in axes.get_xticks() if left <= tick <= right]
        assert 1 <= len(ticks) <= 9
        assert all(tick == round(tick) for tick in ticks)
        assert left <= 1 <= epochs <= right


@pytest.mark.parametrize(("epochs", "marker"), [(1, "o"), (12, "o"), (200, "")])
def test_few_epochs_are_marked_by_points(epochs: int, marker: str) -> None:
    axes = figures.curves(complete_history(epochs)).axes[0]
    assert str(lines(axes)["Training"].get_marker()).replace("None", "") == marker


def test_values_that_are_not_finite_leave_a_gap() -> None:
    loss = [(1, 2.0), (2, math.nan), (3, math.inf), (4, 1.0)]
    figure = draw(figures.curves({"train/loss": loss, "val/f1": [(1, math.nan), (2, math.nan)]}))
    (axes,) = figure.axes  # the panel without any value is left out
    drawn = np.asarray(lines(axes)["Training"].get_ydata())
    np.testing.assert_array_equal(drawn, [2.0, math.nan, math.nan, 1.0])
    assert np.isfinite(axes.get_ylim()).all()


@pytest.mark.parametrize("epochs", [12, 200])
def test_legends_stay_clear_of_curves_titles_and_each_other(epochs: int) -> None:
    figure = draw(figures.curves(complete_history(epochs), best_epoch=epochs))
    legends = [axes.get_legend().get_window_extent() for axes in figure.axes]  # pyrefly: ignore
    assert not any(left.overlaps(right) for left, right in pairwise(legends))
    for axes, legend in zip(figure.axes, legends, strict=True):
        assert legend.y0 >= axes.bbox.y1
        assert legend.y1 <= axes._left_title.get_window_extent().y0  # pyrefly: ignore
        assert legend.x1 <= axes.bbox.x1


def test_no_history_is_said() -> None:
    figure = draw(figures.curves({}))
    assert [text.get_text() for text in figure.axes[0].texts] == ["No epochs recorded"]


# Bars


def bars_of(figure: Figure) -> dict[str, list[float]]:
    """Series -> lengths of its bars, from top to bottom."""
    axes = figure.axes[0]
    assert axes.yaxis_inverted()
    return {
        str(bars.get_label()): [bar.get_width() for bar in bars]  # pyrefly: ignore
        for bars in axes.containers
    }


def class_metrics(confusion: NDArray[np.int64]) -> ClassMetrics:
    return Metrics(loss=0.0, top5=None, confusion=confusion).per_class


def test_bars_are_precision_recall_and_f1_of_each_class() -> None:
    figure = draw(figures.per_class(class_metrics(COUNTS), ["cat", "dog", "bird"], "Test $1"))
    assert bars_of(figure) == {
        "Precision": [1, 0, 0],
        "Recall": [0.8, 0, 0],
        "F1": [pytest.approx(8 / 9), 0, 0],
    }
    axes = figure.axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["cat (10)", "dog (5)", "bird (0)"]
    assert axes.get_xlim() == (0, 1)
    assert axes.get_title(loc="left") == "Test $1"


def test_of_many_classes_the_worst_are_shown_first() -> None:
    right = np.arange(100)
    confusion = np.diag(right)
    confusion[:, 0] += 100 - right  # class 0 takes what is wrong
    confusion[99] = 0  # no images
    names = [f"{label}" for label in range(100)]
    figure = draw(figures.per_class(class_metrics(confusion), names, "Test"))
    shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    worst = sorted(range(99), key=lambda label: f1(confusion, label))[:30]
    assert shown == [f"{label} (100)" for label in worst]
    assert "the 30 of 100 classes with the lowest F1" in figure.axes[0].get_title(loc="left")
    assert bars_of(figure)["F1"] == sorted(bars_of(figure)["F1"])


def f1(confusion: NDArray[np.int64], label: int) -> float:
    both = confusion[label].sum() + confusion[:, label].sum()
    return 2 * confusion[label, label] / both


@pytest.mark.parametrize("number", [2, 30, 100])
def test_names_of_bars_neither_overlap_nor_leave_the_figure(number: int) -> None:
    names = [f"{position} class with a name of forty characters"[:40] for position in range(number)]
    figure = draw(figures.per_class(class_metrics(np.eye(number, dtype=np.int64)), names, "Test"))
    boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert all(upper.y0 > lower.y1 for upper, lower in pairwise(boxes))
    assert min(box.x0 for box in boxes) >= 0


def test_hostile_names_of_bars_are_drawn(hostile_names: list[str]) -> None:
    confusion = np.eye(len(hostile_names), dtype=np.int64)
    draw(figures.per_class(class_metrics(confusion), hostile_names, "猫"))
