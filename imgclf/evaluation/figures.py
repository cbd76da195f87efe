"""Pictures of a training run: arrays and histories in, matplotlib figures out.

Figures are built without pyplot, so nothing here depends on or changes global state, and a figure
is freed as soon as nobody refers to it. Only the font that matplotlib ships is used: a figure looks
the same on every machine, and characters which that font lacks are replaced by a box.
"""

import math
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

FONT = "DejaVu Sans"
INK, GREY, LIGHT_GREY = "#222222", "#6b6b6b", "#d9d9d9"
# Blue, vermilion and green of the Okabe-Ito palette, which colour-blind readers can tell apart.
BLUE, VERMILION, GREEN = "#0072b2", "#d55e00", "#009e73"

STYLE = {
    "font.family": [FONT],
    "font.size": 10,
    "text.color": INK,
    "text.parse_math": False,  # class names may contain dollar signs
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid.axis": "y",
    "grid.color": LIGHT_GREY,
    "grid.linewidth": 0.6,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "legend.borderpad": 0.1,
    "legend.borderaxespad": 0.2,
    "legend.handlelength": 1.3,
    "legend.handletextpad": 0.5,
    "legend.columnspacing": 1.0,
}
# Decorates functions: matplotlib's own settings plus STYLE hold inside them and nowhere else.
house_style = style.context(STYLE, after_reset=True)

# White for nothing at all, so that even a rare confusion stands out.
SHARES = LinearSegmentedColormap.from_list("shares", ["white", "#6baed6", "#08306b"])

WIDEST_LABEL = 13.0  # in font sizes: about 22 letters
MOST_ANNOTATED_CLASSES = 30
MOST_AXIS_LABELS = 100
POINTS_PER_INCH = 72
GRID_COLUMNS = 6


@house_style
def save(figure: Figure, path: Path) -> None:
    """Write the figure as a PNG file, cropped to what is drawn."""
    figure.savefig(path, format="png", dpi=150, bbox_inches="tight", pad_inches=0.15)


@cache
def _drawable_characters() -> frozenset[int]:
    """Code points for which the font has a glyph."""
    return frozenset(get_font(findfont(FONT)).get_charmap())


def _is_drawable(character: str) -> bool:
    # Control and format characters (category C) have glyphs, but reorder or hide their neighbours.
    invisible = unicodedata.category(character).startswith("C")
    return ord(character) in _drawable_characters() and not invisible


def _printable(text: str) -> str:
    """One line of text that the font can draw: a box stands for each character it cannot."""
    line = " ".join(unicodedata.normalize("NFC", text).split())
    return "".join(c if _is_drawable(c) else "□" for c in line)


def _width(text: str) -> float:
    """Width of a printable text, in font sizes."""
    font = get_font(findfont(FONT))
    font.set_size(100, POINTS_PER_INCH)
    font.set_text(text)
    return font.get_width_height()[0] / 64 / 100  # FreeType counts in 64ths


def _shorten(text: str, widest: float) -> str:
    """Leave out the middle of a printable text that is too wide: both ends tell names apart."""
    shortened, kept = text, min(len(text), 100)
    while kept > 1 and _width(shortened) > widest:
        kept -= 1
        tail = kept // 3
        shortened = f"{text[: kept - tail]}…{text[len(text) - tail :]}"
    return shortened


def _class_labels(classes: Sequence[str], widest: float = WIDEST_LABEL) -> list[str]:
    """Short printable labels; the class number leads where a label alone would be ambiguous."""
    labels = [_shorten(_printable(name) or "□", widest) for name in classes]
    uses = Counter(labels)
    return [
        _shorten(f"{number}: {label}", widest) if uses[label] > 1 or "□" in label else label
        for number, label in enumerate(labels)
    ]


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
    labels = _class_labels(classes)
    # In inches: large cells for few classes, then a growing matrix, then one of 12 inches.
    cell = min(max(0.65, 2.6 / number), max(8 / number, 0.12), 12 / number)
    label_size = float(np.clip(cell * POINTS_PER_INCH * 0.7, 5.5, 10))
    side = cell * number
    label_space = max(map(_width, labels)) * label_size / POINTS_PER_INCH

    figure = Figure(figsize=(side + label_space + 2, side + label_space + 1.2), layout="compressed")
    axes = figure.add_subplot()
    row_totals = counts.sum(axis=1, keepdims=True)
    # A class without examples has an empty row: all its shares are 0.
    shares = counts / np.maximum(row_totals, 1)
    image = axes.imshow(shares, cmap=SHARES, vmin=0, vmax=1, interpolation="nearest")
    colour_bar = figure.colorbar(image, ax=axes, shrink=min(1, 4 / side), aspect=25, anchor=(0, 1))
    colour_bar.set_label("Share of the true class")
    colour_bar.ax.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    colour_bar.outline.set_visible(False)

    correct, total = int(np.trace(counts)), int(counts.sum())
    accuracy = f"{correct / total:.1%} ({correct} of {total})" if total else "undefined (no images)"
    axes.set_title(f"{_printable(title)}\nAccuracy {accuracy}", pad=10)
    _label_matrix_axes(axes, labels, label_size, cell)
    if number <= MOST_ANNOTATED_CLASSES:
        _annotate_cells(axes, counts, shares, cell)
    return figure


def _label_matrix_axes(axes: Axes, labels: Sequence[str], font_size: float, cell: float) -> None:
    """Name the rows and columns; beyond MOST_AXIS_LABELS classes only every so many."""
    step = math.ceil(len(labels) / MOST_AXIS_LABELS)
    positions, shown = range(0, len(labels), step), labels[::step]
    fits = max(map(_width, shown)) * font_size < 0.95 * cell * step * POINTS_PER_INCH
    axes.set_xticks(positions, shown, fontsize=font_size, rotation=0 if fits else 90)
    axes.set_yticks(positions, shown, fontsize=font_size)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color(LIGHT_GREY)
    axes.set_xlabel("Predicted class", labelpad=8)
    axes.set_ylabel("True class", labelpad=8)


def _annotate_cells(
    axes: Axes, counts: NDArray[np.int64], shares: NDArray[np.float64], cell: float
) -> None:
    """Write each count into its cell, leaving out the zeros off the diagonal."""
    font_size = min(11, 0.85 * cell * POINTS_PER_INCH / _width(str(counts.max())))
    for (row, column), count in np.ndenumerate(counts):
        if count or row == column:
            colour = "white" if shares[row, column] > 0.55 else INK
            axes.text(
                column, row, str(count), ha="center", va="center", fontsize=font_size, color=colour
            )
    edges = np.arange(len(counts) - 1) + 0.5
    axes.hlines(edges, -0.5, len(counts) - 0.5, colors=LIGHT_GREY, linewidth=0.5)
    axes.vlines(edges, -0.5, len(counts) - 0.5, colors=LIGHT_GREY, linewidth=0.5)


# Panel title -> metric name -> (label, colour).
PANELS: dict[str, dict[str, tuple[str, str]]] = {
    "Loss": {"train/loss": ("Training", BLUE), "val/loss": ("Validation", VERMILION)},
    "Accuracy": {"train/accuracy": ("Training", BLUE), "val/accuracy": ("Validation", VERMILION)},
    "Validation, mean over classes": {
        "val/precision": ("Precision", BLUE),
        "val/recall": ("Recall", VERMILION),
        "val/f1": ("F1", GREEN),
    },
}


@house_style
def curves(
    history: Mapping[str, Sequence[tuple[int, float]]], best_epoch: int | None = None
) -> Figure:
    """Draw loss, accuracy and validation precision, recall and F1 over the epochs.

    A panel without any values is left out.

    Args:
        history: metric name -> (epoch, value) pairs in the order of epochs; all but the losses are
            fractions between 0 and 1. Values that are not finite leave a gap.
        best_epoch: marked by a vertical line.
    """
    panels = {
        title: {name: look for name, look in series.items() if _has_values(history.get(name, ()))}
        for title, series in PANELS.items()
    }
    panels = {title: series for title, series in panels.items() if series}
    if not panels:
        return _message("No epochs recorded")
    figure = Figure(figsize=(4.4 * len(panels), 3.6), layout="constrained")
    for position, (title, series) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(1, len(panels), position)
        for name, (label, colour) in series.items():
            _draw_series(axes, history[name], label, colour)
        if title != "Loss":
            _show_percent(axes)
        _finish_panel(axes, title, best_epoch)
    return figure


def _has_values(pairs: Sequence[tuple[int, float]]) -> bool:
    return any(math.isfinite(value) for _, value in pairs)


def _draw_series(axes: Axes, pairs: Sequence[tuple[int, float]], label: str, colour: str) -> None:
    epochs, values = np.array(pairs, dtype=np.float64).T
    values[~np.isfinite(values)] = np.nan
    # Few points are worth marking, and a single one has no line to be seen by.
    marker = "o" if np.isfinite(values).sum() <= 30 else ""
    axes.plot(epochs, values, label=label, color=colour, marker=marker, markersize=4, linewidth=1.6)


def _show_percent(axes: Axes) -> None:
    bottom, top = axes.get_ylim()
    axes.set_ylim(max(bottom, -0.02), min(top, 1.02))
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))


def _finish_panel(axes: Axes, title: str, best_epoch: int | None) -> None:
    if best_epoch is not None:
        axes.axvline(
            best_epoch,
            label=f"Best epoch ({best_epoch})",
            color=GREY,
            linewidth=0.9,
            linestyle="--",
        )
    first, last = axes.dataLim.intervalx
    if first == last:
        axes.set_xlim(first - 0.5, last + 0.5)
    axes.xaxis.set_major_locator(
        MaxNLocator(nbins=8, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1)
    )
    axes.set_xlabel("Epoch")
    axes.grid(visible=True)
    axes.set_title(title, pad=26)
    # Between title and axes, where it cannot cover a curve.
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4)


@house_style
def image_grid(
    images: NDArray[np.uint8],
    titles: Sequence[str],
    colours: Sequence[str] | None = None,
    heading: str = "",
) -> Figure:
    """Draw images side by side, each under its title; meant for up to about 36 of them.

    Args:
        images: uint8 [n, height, width, channels] with 1 (grey) or 3 (RGB) channels.
        titles: one per image; may have several lines.
        colours: matplotlib colours of the titles, one per image.
        heading: stands above all images.
    """
    if len(images) == 0:
        return _message(heading or "No images")
    height, width = images.shape[1:3]
    columns = min(len(images), GRID_COLUMNS)
    rows = math.ceil(len(images) / columns)
    title_lines = max(title.count("\n") + 1 for title in titles)
    row_height = 1.6 * float(np.clip(height / width, 0.4, 2)) + 0.18 * title_lines + 0.15
    figure = Figure(figsize=(1.85 * columns, rows * row_height + 0.5), layout="constrained")
    if heading:
        figure.suptitle(_printable(heading), x=0.01, horizontalalignment="left", fontsize=12)
    # Enlarged pixels keep their edges; larger images are smoothed as matplotlib sees fit.
    interpolation = "nearest" if max(height, width) <= 128 else "auto"
    for position, image in enumerate(images):
        axes = figure.add_subplot(rows, columns, position + 1)
        pixels = image[:, :, 0] if image.shape[2] == 1 else image
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation=interpolation)
        lines = titles[position].split("\n")
        title = "\n".join(_shorten(_printable(line), WIDEST_LABEL) for line in lines)
        colour = colours[position] if colours is not None else INK
        axes.set_title(title, loc="center", fontsize=9, color=colour, pad=4)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set(visible=True, color=LIGHT_GREY)
    return figure


@house_style
def misclassified(
    images: NDArray[np.uint8],
    true_labels: NDArray[np.int64],
    predicted_labels: NDArray[np.int64],
    confidence: NDArray[np.floating],
    classes: Sequence[str],
    total: int,
    wrong: int,
) -> Figure:
    """Draw misclassified images, each titled "true → predicted" and the confidence.

    Args:
        images: uint8 [n, height, width, channels], the most confident mistake first.
        true_labels: int64 [n], indices into classes.
        predicted_labels: int64 [n], indices into classes.
        confidence: float [n], probability of the predicted class, between 0 and 1.
        classes: class names.
        total: number of images evaluated.
        wrong: number of images misclassified; may be larger than n.
    """
    if wrong == 0:
        return _message(f"All {total} test images are classified correctly")
    labels = _class_labels(classes, widest=WIDEST_LABEL - 2)  # room for an arrow
    titles = []
    for true, predicted, probability in zip(true_labels, predicted_labels, confidence, strict=True):
        names = f"{labels[true]} → {labels[predicted]}"
        if _width(names) > WIDEST_LABEL:
            names = f"{labels[true]} →\n{labels[predicted]}"
        titles.append(f"{names}\n{probability:.0%}")
    shown = len(images)
    order = "most confident first" if shown == wrong else f"showing the {shown} most confident"
    heading = f"{wrong} of {total} test images misclassified, {order}"
    return image_grid(images, titles, heading=heading)


def _message(text: str) -> Figure:
    """A figure that only says something."""
    figure = Figure(figsize=(6, 1.6))
    axes = figure.add_axes((0.02, 0.05, 0.96, 0.9), xticks=[], yticks=[])
    axes.spines[:].set(visible=True, color=LIGHT_GREY)
    axes.text(0.5, 0.5, _printable(text), ha="center", va="center", fontsize=12)
    return figure
