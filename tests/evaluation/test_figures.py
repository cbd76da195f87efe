import math
import subprocess
import sys
import warnings
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from PIL import Image

from imgclf.evaluation import figures

History = dict[str, list[tuple[int, float]]]

HOSTILE_NAMES = [
    "cost_$5_and_$6",
    r"$\frac{broken",
    "<b>bold</b>",
    "line\nbreak",
    "猫犬",
    "犬猫",
    "dog 🐕",
    "right-to-left \u202e override",
    "not UTF-8 \udcff",
    "x" * 40,
    "W" * 40,
    " ",
    "",
]


@pytest.fixture(autouse=True)
def warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


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


def history(epochs: int, *names: str) -> History:
    return {name: [(epoch, 1 / epoch) for epoch in range(1, epochs + 1)] for name in names}


def complete_history(epochs: int) -> History:
    validation = ("val/loss", "val/accuracy", "val/precision", "val/recall", "val/f1")
    return history(epochs, "train/loss", "train/accuracy", *validation)


def noise(number: int, height: int = 8, width: int = 8, channels: int = 1) -> NDArray[np.uint8]:
    generator = np.random.default_rng(0)
    return generator.integers(100, 150, (number, height, width, channels), dtype=np.uint8)


def mistakes(number: int, classes: list[str], total: int = 360, wrong: int | None = None) -> Figure:
    true_labels = np.arange(number) % len(classes)
    return figures.misclassified(
        noise(number),
        true_labels,
        (true_labels + 1) % len(classes),
        np.linspace(0.97, 0.5, number, dtype=np.float32),
        classes,
        total=total,
        wrong=number if wrong is None else wrong,
    )


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
        assert "…" in labels[position]
        assert len(labels[position]) < 30
    assert labels[0].endswith("lawn")
    assert labels[3].startswith("3: a")


def test_hostile_names_are_drawn_as_they_are_or_by_number() -> None:
    number = len(HOSTILE_NAMES)
    counts = np.eye(number, dtype=np.int64)
    figure = draw(figures.confusion_matrix(counts, HOSTILE_NAMES, title="猫 $x"))
    labels = tick_labels(figure.axes[0])
    assert labels[:4] == ["cost_$5_and_$6", r"$\frac{broken", "<b>bold</b>", "line break"]
    assert labels[4:7] == ["4: □□", "5: □□", "6: dog □"]
    assert "\u202e" not in labels[7]
    assert len(set(labels)) == number
    assert figure.axes[0].get_title(loc="left").startswith("□ $x\n")


# Curves


def test_three_panels_show_the_series_as_given() -> None:
    figure = draw(figures.curves(complete_history(12)))
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["Loss", "Accuracy", "Validation, macro"]
    assert list(lines(figure.axes[0])) == ["Training", "Validation"]
    assert list(lines(figure.axes[1])) == ["Training", "Validation"]
    assert list(lines(figure.axes[2])) == ["Precision", "Recall", "F1"]
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
    expected = ["train/loss", "val/loss", "train/accuracy", "val/accuracy"]
    assert shown == [*expected, "val/precision", "val/recall", "val/f1"]


def test_fractions_are_shown_in_percent_and_never_beyond_the_possible() -> None:
    perfect = {name: [(1, 1.0), (2, 1.0)] for name in ("train/accuracy", "val/f1")}
    for axes in draw(figures.curves(perfect)).axes:
        bottom, top = axes.get_ylim()
        labels = {
            round(position, 6): label.get_text()
            for position, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)
            if bottom <= position <= top
        }
        assert max(labels) == 1
        assert labels[1].startswith("100")
        assert labels[1].endswith("%")


def test_without_validation_the_third_panel_is_left_out() -> None:
    figure = draw(figures.curves(history(5, "train/loss", "train/accuracy")))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Loss", "Accuracy"]
    assert all(list(lines(axes)) == ["Training"] for axes in figure.axes)


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


# Images


def test_grey_images_are_grey_and_not_stretched_to_full_contrast() -> None:
    images = noise(3)
    for axes, expected in zip(figures.image_grid(images, list("abc")).axes, images, strict=True):
        (drawn,) = axes.get_images()
        rgba = drawn.to_rgba(np.asarray(drawn.get_array()), bytes=True)
        for channel in range(3):
            # Within 1: matplotlib rounds where it looks the colour up.
            np.testing.assert_allclose(rgba[:, :, channel], expected[:, :, 0], rtol=0, atol=1)


def test_colour_images_are_drawn_as_they_are() -> None:
    images = noise(2, height=4, width=6, channels=3)
    for axes, expected in zip(figures.image_grid(images, ["a", "b"]).axes, images, strict=True):
        (drawn,) = axes.get_images()
        np.testing.assert_array_equal(drawn.get_array(), expected)


@pytest.mark.parametrize(("side", "interpolation"), [(8, "nearest"), (224, "auto")])
def test_small_images_keep_their_pixels(side: int, interpolation: str) -> None:
    axes = figures.image_grid(noise(1, height=side, width=side), [""]).axes[0]
    assert axes.get_images()[0].get_interpolation() == interpolation


def test_titles_have_their_colours_and_stand_over_their_images() -> None:
    figure = figures.image_grid(noise(2), ["right", "wrong\n$9"], ["green", "red"], heading="Some")
    titles = [axes.title for axes in draw(figure).axes]
    assert [title.get_text() for title in titles] == ["right", "wrong\n$9"]
    assert [title.get_color() for title in titles] == ["green", "red"]
    assert figure.get_suptitle() == "Some"


@pytest.mark.parametrize("number", [1, 13])
def test_titles_do_not_touch_other_titles_or_images(number: int) -> None:
    figure = draw(mistakes(number, HOSTILE_NAMES))
    assert len(figure.axes) == number
    titles = [axes.title.get_window_extent() for axes in figure.axes]
    for position, title in enumerate(titles):
        assert not any(title.overlaps(other) for other in titles[position + 1 :])
        others = [axes.bbox for axes in figure.axes if axes is not figure.axes[position]]
        assert not any(title.overlaps(other) for other in others)
    heading = figure._suptitle.get_window_extent()  # pyrefly: ignore
    assert not any(heading.overlaps(title) for title in titles)


def test_misclassified_images_tell_truth_prediction_and_confidence() -> None:
    figure = mistakes(2, ["3", "8"], total=360)
    assert [axes.get_title() for axes in figure.axes] == ["3 → 8\n97%", "8 → 3\n50%"]
    assert figure.get_suptitle() == "2 of 360 test images misclassified, most confident first"


def test_heading_tells_how_many_of_the_mistakes_are_shown() -> None:
    heading = mistakes(4, ["3", "8"], total=1000, wrong=50).get_suptitle()
    assert heading == "50 of 1000 test images misclassified, showing the 4 most confident"


def test_long_class_names_take_two_lines() -> None:
    figure = mistakes(1, ["golden retriever", "labrador retriever"])
    assert figure.axes[0].get_title() == "golden retriever →\nlabrador retriever\n97%"


def test_no_mistake_is_said() -> None:
    figure = draw(mistakes(0, ["3", "8"], total=360))
    (text,) = figure.axes[0].texts
    assert text.get_text() == "All 360 test images are classified correctly"
    box = text.get_window_extent()
    assert figure.bbox.x0 < box.x0 < box.x1 < figure.bbox.x1


# Files and global state


@pytest.mark.parametrize(
    "figure",
    [
        figures.confusion_matrix(COUNTS, ["cat", "dog", "bird"]),
        figures.curves(complete_history(3), best_epoch=2),
        mistakes(12, ["3", "8"]),
        mistakes(0, ["3", "8"]),
    ],
    ids=["confusion", "curves", "mistakes", "no mistakes"],
)
def test_saved_pictures_have_a_sensible_size_and_margin(figure: Figure, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    figures.save(figure, path)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert 500 < picture.width < 2500
        assert 150 < picture.height < 2500
        pixels = np.asarray(picture.convert("L"))
    rows, columns = np.nonzero(pixels < 250)
    height, width = pixels.shape
    margins = [rows.min(), columns.min(), height - 1 - rows.max(), width - 1 - columns.max()]
    # Nothing is clipped at the border, and no space is wasted around what is drawn.
    assert min(margins) > 5
    assert max(margins) < 60


def test_settings_of_the_user_neither_change_nor_matter(tmp_path: Path) -> None:
    plain, coloured = tmp_path / "plain.png", tmp_path / "coloured.png"
    figures.save(figures.confusion_matrix(COUNTS, ["$a$", "b", "c"]), plain)
    changes = {"axes.facecolor": "black", "text.color": "red", "font.size": 30, "savefig.dpi": 10}
    with matplotlib.rc_context(changes):
        before = dict(matplotlib.rcParams)
        figures.save(figures.confusion_matrix(COUNTS, ["$a$", "b", "c"]), coloured)
        assert dict(matplotlib.rcParams) == before
    assert coloured.read_bytes() == plain.read_bytes()


def test_pyplot_is_never_imported(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from imgclf.evaluation import figures
figures.save(figures.curves({"train/loss": [(1, 1.0)]}), Path(sys.argv[1]))
sys.exit("matplotlib.pyplot" in sys.modules)
"""
    path = tmp_path / "curves.png"
    subprocess.run([sys.executable, "-c", program, str(path)], check=True)
    assert path.exists()
