"""What all figures share: their style, text that the font can draw, and saving.

Built without pyplot, so nothing here touches global state, and with the font that matplotlib ships,
so a figure looks the same on every machine; a box replaces each character which that font lacks.
"""

import io
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font

from imgclf.disk import write_whole

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

WIDEST_LABEL = 13.0  # in font sizes: about 22 letters
POINTS_PER_INCH = 72
DOTS_PER_INCH = 150  # of saved pictures


@house_style
def save(figure: Figure, path: Path) -> None:
    """Write the figure as a PNG file, cropped to what is drawn.

    Raises:
        ImgclfError: it cannot be written.
    """
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DOTS_PER_INCH, bbox_inches="tight", pad_inches=0.15)
    write_whole(path, content.getvalue(), "the picture")


@cache
def _drawable_characters() -> frozenset[str]:
    """Characters that the font has a visible glyph for."""
    glyphs = map(chr, get_font(findfont(FONT)).get_charmap())
    # Control and format characters (category C) would reorder or hide their neighbours.
    return frozenset(glyph for glyph in glyphs if unicodedata.category(glyph)[0] != "C")


def printable(text: str) -> str:
    """One line of text that the font can draw: a box stands for each character it cannot."""
    line = " ".join(unicodedata.normalize("NFC", text).split())
    return "".join(letter if letter in _drawable_characters() else "□" for letter in line)


def text_width(text: str) -> float:
    """Width of a printable text, in font sizes."""
    font = get_font(findfont(FONT))
    font.set_size(100, POINTS_PER_INCH)
    font.set_text(text)
    return font.get_width_height()[0] / 64 / 100  # FreeType counts in 64ths


def shorten(text: str, widest: float) -> str:
    """Leave out the middle of a printable text that is too wide: both ends tell names apart."""
    shortened, kept = text, min(len(text), 100)
    while kept > 1 and text_width(shortened) > widest:
        kept -= 1
        end = kept // 3
        shortened = text[: kept - end].rstrip() + "…" + text[len(text) - end :].lstrip()
    return shortened


def class_labels(classes: Sequence[str], widest: float = WIDEST_LABEL) -> list[str]:
    """Short printable labels; the class number leads where a label alone would be ambiguous."""
    names = [printable(name) or "□" for name in classes]
    labels = [shorten(name, widest) for name in names]
    uses = Counter(labels)
    return [
        shorten(f"{number}: {name}", widest) if uses[label] > 1 or "□" in label else label
        for number, (name, label) in enumerate(zip(names, labels, strict=True))
    ]


def message(text: str) -> Figure:
    """Draw a line of text in a frame, in place of a figure that would be empty."""
    figure = Figure(figsize=(6, 1.6))
    axes = figure.add_axes((0.02, 0.05, 0.96, 0.9), xticks=[], yticks=[])
    axes.spines[:].set(visible=True, color=LIGHT_GREY)
    axes.text(0.5, 0.5, printable(text), ha="center", va="center", fontsize=12)
    return figure
