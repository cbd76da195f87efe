"""Charts of a training run: arrays and histories in, matplotlib figures out."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from imgclf.evaluation.drawing import (
    GREY,
    LIGHT_GREY,
    POINTS_PER_INCH,
    SERIES_COLOURS,
    class_labels,
    house_style,
    message,
    printable,
    text_width,
)
from imgclf.evaluation.metrics import ClassMetrics

# White for nothing at all, so that even a rare confusion stands out.
SHARE_COLOURS = LinearSegmentedColormap.from_list("shares", ["white", "#6baed6", "#08306b"])

MOST_ANNOTATED_CLASSES = 30
MOST_AXIS_LABELS = 100


@house_style
def confusion_matrix(
    counts: NDArray[np.int64], classes: Sequence[str], title: str = "Confusion matrix"
) -> Figure:
    """Draw a confusion matrix, coloured by the share of each true class.

    Args:
        counts: int64 [classes, classes]; rows are true classes, columns predicted classes.
        classes: class names, in the order of rows and columns.
        title: stands above the overall accuracy.
    """
    number = len(classes)
    labels = class_labels(classes)
    # In inches: large cells for few classes, then a growing matrix, then one of 12 inches.
    cell = min(max(0.65, 2.6 / number), max(8 / number, 0.12), 12 / number)
    label_size = float(np.clip(cell * POINTS_PER_INCH * 0.7, 5.5, 10))
    side = cell * number
    label_space = max(map(text_width, labels)) * label_size / POINTS_PER_INCH
    figure = Figure(figsize=(side + label_space + 2, side + label_space + 1.2), layout="compressed")
    axes = figure.add_subplot()
    # A class without images has an empty row: all its shares are 0.
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap=SHARE_COLOURS, vmin=0, vmax=1, interpolation="nearest")
    place = {"shrink": min(1, 4 / side), "aspect": 25, "anchor": (0, 1)}
    figure.colorbar(image, label="Share of the true class", format=PercentFormatter(1), **place)

    correct, total = int(np.trace(counts)), int(counts.sum())
    accuracy = f"{correct / total:.1%} ({correct} of {total})" if total else "undefined (no images)"
    axes.set_title(f"{printable(title)}\nAccuracy {accuracy}", pad=10)
    _label_matrix_axes(axes, labels, label_size, cell)
    if number <= MOST_ANNOTATED_CLASSES:
        _annotate_cells(axes, counts, shares, cell)
    return figure


def _label_matrix_axes(axes: Axes, labels: Sequence[str], font_size: float, cell: float) -> None:
    """Name the rows and columns; beyond MOST_AXIS_LABELS classes only every so many."""
    step = math.ceil(len(labels) / MOST_AXIS_LABELS)
    positions, shown = range(0, len(labels), step), labels[::step]
    fits = max(map(text_width, shown)) * font_size < 0.95 * cell * step * POINTS_PER_INCH
    axes.set_xticks(positions, shown, fontsize=font_size, rotation=0 if fits else 90)
    axes.set_yticks(positions, shown, fontsize=font_size)
    axes.tick_params(length=0)
    axes.spines[:].set(visible=True, color=LIGHT_GREY)
    axes.set(xlabel="Predicted class", ylabel="True class")


def _annotate_cells(
    axes: Axes, counts: NDArray[np.int64], shares: NDArray[np.float64], cell: float
) -> None:
    """Write each count into its cell, leaving out the zeros off the diagonal."""
    font_size = min(11, 0.85 * cell * POINTS_PER_INCH / text_width(str(counts.max())))
    centred = {"ha": "center", "va": "center", "fontsize": font_size}
    for (row, column), count in np.ndenumerate(counts):
        if count or row == column:
            colour = "white" if shares[row, column] > 0.55 else "black"
            axes.text(column, row, str(count), color=colour, **centred)
    edges = np.arange(len(counts) - 1) + 0.5
    axes.hlines(edges, -0.5, len(counts) - 0.5, colors=LIGHT_GREY, linewidth=0.5)
    axes.vlines(edges, -0.5, len(counts) - 0.5, colors=LIGHT_GREY, linewidth=0.5)


# Panel title -> label -> metric name.
LOSS, LEARNING_RATE = "Loss", "Learning rate"
PANELS = {
    LOSS: {"Training": "train/loss", "Validation": "val/loss"},
    "Accuracy": {
        "Training": "train/accuracy",
        "Validation": "val/accuracy",
        "Test": "epoch/test_accuracy",
    },
    "Validation, macro": {"Precision": "val/precision", "Recall": "val/recall", "F1": "val/f1"},
    LEARNING_RATE: {"End of the epoch": "lr"},
}


@house_style
def curves(
    history: Mapping[str, Sequence[tuple[int, float]]], best_epoch: int | None = None
) -> Figure:
    """Draw loss, accuracy, validation precision, recall and F1, and learning rate over the epochs.

    Args:
        history: metric name -> (epoch, value) pairs in the order of epochs; all but losses and
            learning rate are fractions between 0 and 1. Values that are not finite leave a gap; a
            panel without any values is left out.
        best_epoch: marked by a vertical line.
    """
    finite = {name for name, pairs in history.items() if np.isfinite([v for _, v in pairs]).any()}
    titles = [title for title, series in PANELS.items() if finite & set(series.values())]
    if not titles:
        return message("No epochs recorded")
    columns = 2 if len(titles) == 4 else len(titles)
    rows = math.ceil(len(titles) / columns)
    layout = ConstrainedLayoutEngine(h_pad=0.12, w_pad=0.08)
    figure = Figure(figsize=(5 * columns, 3.6 * rows), layout=layout)
    for position, title in enumerate(titles, start=1):
        axes = figure.add_subplot(rows, columns, position)
        for (label, name), colour in zip(PANELS[title].items(), SERIES_COLOURS, strict=False):
            if name in finite:
                _draw_series(axes, history[name], label, colour)
        if best_epoch is not None:
            axes.axvline(best_epoch, label=f"Best epoch ({best_epoch})", color=GREY, linewidth=0.8)
        _finish_panel(axes, title)
    return figure


def _draw_series(axes: Axes, pairs: Sequence[tuple[int, float]], label: str, colour: str) -> None:
    epochs, values = np.array(pairs, dtype=np.float64).T
    values[~np.isfinite(values)] = np.nan
    # Few points are worth marking, and a single one has no line to be seen by.
    marker = "o" if np.isfinite(values).sum() <= 30 else ""
    # Unclipped, so that a value of 100% is not cut in half by the upper edge.
    axes.plot(epochs, values, label=label, color=colour, marker=marker, ms=4, clip_on=False)


def _finish_panel(axes: Axes, title: str) -> None:
    if title == LEARNING_RATE:
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter("{x:g}")
    elif title != LOSS:
        bottom, top = axes.get_ylim()
        axes.set_ylim(max(bottom, 0), min(top, 1))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    if axes.dataLim.width == 0:  # a single epoch
        axes.set_xlim(axes.dataLim.x0 - 0.5, axes.dataLim.x0 + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    axes.set_xlabel("Epoch")
    axes.grid(visible=True)
    axes.set_title(title, pad=26)
    # Between title and axes, where it cannot cover a curve.
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, handlelength=1, handletextpad=0.5)


MOST_CLASSES_WITH_BARS = 30


@house_style
def per_class(metrics: ClassMetrics, classes: Sequence[str], title: str) -> Figure:
    """Draw precision, recall and F1 of each class as bars.

    Beyond MOST_CLASSES_WITH_BARS classes only those with the lowest F1 are shown, the worst first;
    classes without images are left out then.

    Args:
        metrics: of every class.
        classes: class names.
        title: stands above the bars.
    """
    shown = np.arange(len(classes))
    if len(classes) > MOST_CLASSES_WITH_BARS:
        shown = np.flatnonzero(metrics.support)
        shown = shown[np.argsort(metrics.f1[shown], kind="stable")][:MOST_CLASSES_WITH_BARS]
        title = f"{title}, the {len(shown)} of {len(classes)} classes with the lowest F1"
    names = class_labels(classes)
    figure = Figure(figsize=(8, 1.4 + 0.42 * len(shown)), layout="constrained")
    axes = figure.add_subplot()
    series = {"Precision": metrics.precision, "Recall": metrics.recall, "F1": metrics.f1}
    for offset, (label, values), colour in zip(
        (-0.26, 0, 0.26), series.items(), SERIES_COLOURS, strict=True
    ):
        places = np.arange(len(shown)) + offset
        axes.barh(places, values[shown], height=0.26, label=label, color=colour)
    labels = [f"{names[label]} ({metrics.support[label]:,})" for label in shown]
    axes.set_yticks(range(len(shown)), labels, fontsize=9)
    axes.set_ylim(len(shown) - 0.4, -0.6)  # the first class on top
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=True, axis="x")
    axes.set_axisbelow(True)
    axes.set_ylabel("Class (images)")
    axes.set_title(printable(title), pad=26)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, handlelength=1)
    return figure
