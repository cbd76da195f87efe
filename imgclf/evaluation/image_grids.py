"""Grids of images, each under its title."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
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
    columns = min(len(images), 6)
    rows = math.ceil(len(images) / columns)
    title_lines = max(title.count("\n") + 1 for title in titles)
    row_height = 1.6 * float(np.clip(height / width, 0.4, 2)) + 0.18 * title_lines + 0.15
    figure = Figure(figsize=(1.85 * columns, rows * row_height + 0.5), layout="constrained")
    figure.suptitle(printable(heading), x=0.01, horizontalalignment="left", fontsize=12)
    # Enlarged pixels keep their edges; larger images are smoothed as matplotlib sees fit.
    interpolation = "nearest" if max(height, width) <= 128 else "auto"
    for position, image in enumerate(images):
        axes = figure.add_subplot(rows, columns, position + 1)
        axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation=interpolation)
        lines = (shorten(printable(line), WIDEST_LABEL) for line in titles[position].split("\n"))
        colour = colours[position] if colours is not None else "black"
        axes.set_title("\n".join(lines), loc="center", fontsize=9, color=colour, pad=4)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=True, color=LIGHT_GREY)
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
