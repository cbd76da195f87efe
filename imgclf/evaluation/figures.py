"""Pictures of a training run: arrays and histories in, matplotlib figures out.

Built without pyplot, so nothing here touches global state, and with the font that matplotlib ships,
so a figure looks the same on every machine; a box replaces each character which that font lacks.
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
GREY, LIGHT_GREY = "#4d4d4d", "#d9d9d9"
# Blue, vermilion and green of the Okabe-Ito palette, which colour-blind readers can tell apart.
SERIES_COLOURS = ("#0072b2", "#d55e00", "#009e73")
STYLE = {
    "font.family": [FONT],
    "text.parse_math": False,  # class names may contain dollar signs
    "axes.edgecolor": GREY,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": LIGHT_GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "legend.columnspacing": 1.0,
}
# Decorates functions: matplotlib's own settings plus STYLE hold inside them and nowhere else.
house_style = style.context(STYLE, after_reset=True)

# White for nothing at all, so that even a rare confusion stands out.
SHARE_COLOURS = LinearSegmentedColormap.from_list("shares", ["white", "#6baed6", "#08306b"])

WIDEST_LABEL = 13.0  # in font sizes: about 22 letters
MOST_ANNOTATED_CLASSES = 30
MOST_AXIS_LABELS = 100
POINTS_PER_INCH = 72


@house_style
def save(figure: Figure, path: Path) -> None:
    """Write the figure as a PNG file, cropped to what is drawn."""
    figure.savefig(path, format="png", dpi=150, bbox_inches="tight", pad_inches=0.15)


@cache
def _drawable_characters() -> frozenset[str]:
    """Characters that the font has a visible glyph for."""
    glyphs = map(chr, get_font(findfont(FONT)).get_charmap())
    # Control and format characters (category C) would reorder or hide their neighbours.
    return frozenset(glyph for glyph in glyphs if unicodedata.category(glyph)[0] != "C")


def _printable(text: str) -> str:
    """One line of text that the font can draw: a box stands for each character it cannot."""
    line = " ".join(unicodedata.normalize("NFC", text).split())
    return "".join(letter if letter in _drawable_characters() else "□" for letter in line)


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
        end = kept // 3
        shortened = text[: kept - end].rstrip() + "…" + text[len(text) - end :].lstrip()
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
    # A class without images has an empty row: all its shares are 0.
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap=SHARE_COLOURS, vmin=0, vmax=1, interpolation="nearest")
    place = {"shrink": min(1, 4 / side), "aspect": 25, "anchor": (0, 1)}
    figure.colorbar(image, label="Share of the true class", format=PercentFormatter(1), **place)

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
    axes.spines[:].set(visible=True, color=LIGHT_GREY)
    axes.set(xlabel="Predicted class", ylabel="True class")


def _annotate_cells(
    axes: Axes, counts: NDArray[np.int64], shares: NDArray[np.float64], cell: float
) -> None:
    """Write each count into its cell, leaving out the zeros off the diagonal."""
    font_size = min(11, 0.85 * cell * POINTS_PER_INCH / _width(str(counts.max())))
    centred = {"ha": "center", "va": "center", "fontsize": font_size}
    for (row, column), count in np.ndenumerate(counts):
        if count or row == column:
            colour = "white" if shares[row, column] > 0.55 else "black"
            axes.text(column, row, str(count), color=colour, **centred)
    edges = np.arange(len(counts) - 1) + 0.5
    axes.hlines(edges, -0.5, len(counts) - 0.5, colors=LIGHT_GREY, linewidth=0.5)
    axes.vlines(edges, -0.5, len(counts) - 0.5, colors=LIGHT_GREY, linewidth=0.5)


# Panel title -> label -> metric name.
PANELS = {
    "Loss": {"Training": "train/loss", "Validation": "val/loss"},
    "Accuracy": {"Training": "train/accuracy", "Validation": "val/accuracy"},
    "Validation, macro": {"Precision": "val/precision", "Recall": "val/recall", "F1": "val/f1"},
}


@house_style
def curves(
    history: Mapping[str, Sequence[tuple[int, float]]], best_epoch: int | None = None
) -> Figure:
    """Draw loss, accuracy and validation precision, recall and F1 over the epochs.

    Args:
        history: metric name -> (epoch, value) pairs in the order of epochs; all but the losses are
            fractions between 0 and 1. Values that are not finite leave a gap; a panel without
            any values is left out.
        best_epoch: marked by a vertical line.
    """
    finite = {name for name, pairs in history.items() if np.isfinite([v for _, v in pairs]).any()}
    titles = [title for title, series in PANELS.items() if finite & set(series.values())]
    if not titles:
        return _message("No epochs recorded")
    figure = Figure(figsize=(4.6 * len(titles), 3.6), layout="constrained")
    for position, title in enumerate(titles, start=1):
        axes = figure.add_subplot(1, len(titles), position)
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
    if title != "Loss":
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
    columns = min(len(images), 6)
    rows = math.ceil(len(images) / columns)
    title_lines = max(title.count("\n") + 1 for title in titles)
    row_height = 1.6 * float(np.clip(height / width, 0.4, 2)) + 0.18 * title_lines + 0.15
    figure = Figure(figsize=(1.85 * columns, rows * row_height + 0.5), layout="constrained")
    figure.suptitle(_printable(heading), x=0.01, horizontalalignment="left", fontsize=12)
    # Enlarged pixels keep their edges; larger images are smoothed as matplotlib sees fit.
    interpolation = "nearest" if max(height, width) <= 128 else "auto"
    for position, image in enumerate(images):
        axes = figure.add_subplot(rows, columns, position + 1)
        axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation=interpolation)
        lines = (_shorten(_printable(line), WIDEST_LABEL) for line in titles[position].split("\n"))
        colour = colours[position] if colours is not None else "black"
        axes.set_title("\n".join(lines), loc="center", fontsize=9, color=colour, pad=4)
        axes.set(xticks=[], yticks=[])
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
        true_labels, predicted_labels: int64 [n], indices into classes.
        confidence: float [n], probability of the predicted class, between 0 and 1.
        classes: class names.
        total, wrong: number of images evaluated and misclassified; n may be smaller than wrong.
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
    all_shown = len(images) == wrong
    order = "most confident first" if all_shown else f"showing the {len(images)} most confident"
    heading = f"{wrong} of {total} test images misclassified, {order}"
    return image_grid(images, titles, heading=heading)


def _message(text: str) -> Figure:
    figure = Figure(figsize=(6, 1.6))
    axes = figure.add_axes((0.02, 0.05, 0.96, 0.9), xticks=[], yticks=[])
    axes.spines[:].set(visible=True, color=LIGHT_GREY)
    axes.text(0.5, 0.5, _printable(text), ha="center", va="center", fontsize=12)
    return figure
