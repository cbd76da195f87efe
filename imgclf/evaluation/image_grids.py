"""Grids of images, each under its title."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from imgclf.evaluation.drawing import (
    LIGHT_GREY,
    WIDEST_LABEL,
    class_labels,
    house_style,
    message,
    printable,
    shorten,
    text_width,
)

COLUMNS = 6
# In inches; a box is as wide as the widest title, 13 times the font's 9 points.
IMAGE_SIDE, NARROWEST_BOX, HEADING_HEIGHT = 1.7, 1.65, 0.3


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
        return message(heading or "No images")
    height, width = images.shape[1:3]
    columns = min(len(images), COLUMNS)
    rows = math.ceil(len(images) / columns)
    # Everything in inches, within one pair of axes: matplotlib takes seconds to lay out 36 pairs.
    scale = IMAGE_SIDE / max(height, width)
    box_width = max(scale * width, NARROWEST_BOX)
    title_height = 0.08 + 0.18 * max(title.count("\n") + 1 for title in titles)
    row_height, column_width = scale * height + title_height + 0.05, box_width + 0.1
    size = (columns * column_width, rows * row_height + HEADING_HEIGHT)
    figure = Figure(figsize=size)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, size[0]), ylim=(0, size[1]))
    axes.set_axis_off()
    axes.set_autoscale_on(False)
    figure.suptitle(printable(heading), x=0.05 / size[0], y=1, ha="left", va="top", fontsize=12)
    # Enlarged pixels keep their edges; larger images are smoothed as matplotlib sees fit.
    interpolation = "nearest" if max(height, width) <= 128 else "auto"
    for position, image in enumerate(images):
        row, column = divmod(position, columns)
        middle, bottom = (column + 0.5) * column_width, (rows - 1 - row) * row_height
        left, top = middle - scale * width / 2, bottom + scale * height
        extent = (left, left + scale * width, bottom, top)
        look = {"cmap": "gray", "vmin": 0, "vmax": 255, "interpolation": interpolation}
        axes.imshow(image, extent=extent, aspect="auto", **look)
        frame = {"fill": False, "ec": LIGHT_GREY, "lw": 0.8, "clip_on": False}
        axes.add_patch(Rectangle((left, bottom), scale * width, scale * height, **frame))
        lines = (shorten(printable(line), WIDEST_LABEL) for line in titles[position].split("\n"))
        colour = colours[position] if colours is not None else "black"
        place = {"ha": "center", "va": "bottom", "fontsize": 9}
        axes.text(middle, top + 0.04, "\n".join(lines), color=colour, **place)
    return figure


def correct(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    confidence: NDArray[np.floating],
    classes: Sequence[str],
    heading: str,
) -> Figure:
    """Draw correctly classified images, each titled with its class and the confidence.

    Args:
        images: uint8 [n, height, width, channels].
        labels: int64 [n], indices into classes.
        confidence: float [n], probability of the class, between 0 and 1.
        classes: class names.
        heading: stands above all images, and alone where there is none.
    """
    names = class_labels(classes)
    titles = [
        f"{names[label]}\n{probability:.0%}"
        for label, probability in zip(labels, confidence, strict=True)
    ]
    return image_grid(images, titles, heading=heading)


def misclassified(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    predicted: NDArray[np.int64],
    confidence: NDArray[np.floating],
    classes: Sequence[str],
    heading: str,
) -> Figure:
    """Draw misclassified images, each titled "true → predicted" and the confidence.

    Args:
        images: uint8 [n, height, width, channels].
        labels, predicted: int64 [n], indices into classes.
        confidence: float [n], probability of the predicted class, between 0 and 1.
        classes: class names.
        heading: stands above all images, and alone where there is none.
    """
    names = class_labels(classes, widest=WIDEST_LABEL - 2)  # room for an arrow
    titles = []
    for label, guess, probability in zip(labels, predicted, confidence, strict=True):
        both = f"{names[label]} → {names[guess]}"
        if text_width(both) > WIDEST_LABEL:
            both = f"{names[label]} →\n{names[guess]}"
        titles.append(f"{both}\n{probability:.0%}")
    return image_grid(images, titles, heading=heading)


def target_titles(
    targets: NDArray[np.int64] | NDArray[np.float32], classes: Sequence[str]
) -> list[str]:
    """Say what training compares each image with: its class, or the shares of a mixed image.

    Args:
        targets: int64 [n], labels; or float32 [n, classes], shares that sum to 1.
        classes: class names.

    Returns:
        a class name, or the two largest shares, a line each, such as ``cat 70%`` and ``dog 30%``.
    """
    if targets.ndim == 1:
        names = class_labels(classes)
        return [names[label] for label in targets]
    names = class_labels(classes, widest=WIDEST_LABEL - 3)  # room for the share
    titles = []
    for shares in targets:
        first, second = np.argsort(-shares, kind="stable")[:2]
        if shares[first] >= 0.995:  # it would say 100%
            titles.append(names[first])
        else:
            titles.append("\n".join(f"{names[k]} {shares[k]:.0%}" for k in (first, second)))
    return titles
