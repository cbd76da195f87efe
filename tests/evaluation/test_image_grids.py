import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from imgclf.evaluation.image_grids import (
    correct,
    image_grid,
    misclassified,
    target_titles,
)

pytestmark = pytest.mark.usefixtures("warnings_are_errors")


def draw(figure: Figure) -> Figure:
    """Lay the figure out, which is also when matplotlib complains of texts it cannot draw."""
    FigureCanvasAgg(figure).draw()
    return figure


def noise(number: int, height: int = 8, width: int = 8, channels: int = 1) -> NDArray[np.uint8]:
    generator = np.random.default_rng(0)
    return generator.integers(100, 150, (number, height, width, channels), dtype=np.uint8)


def mistakes(number: int, classes: list[str], heading: str = "Mistakes") -> Figure:
    true_labels = np.arange(number) % len(classes)
    return misclassified(
        noise(number),
        true_labels,
        (true_labels + 1) % len(classes),
        np.linspace(0.97, 0.5, number, dtype=np.float32),
        classes,
        heading,
    )


def test_grey_images_are_grey_and_not_stretched_to_full_contrast() -> None:
    images = noise(3)
    for axes, expected in zip(image_grid(images, list("abc")).axes, images, strict=True):
        (drawn,) = axes.get_images()
        rgba = drawn.to_rgba(np.asarray(drawn.get_array()), bytes=True)
        for channel in range(3):
            # Within 1: matplotlib rounds where it looks the colour up.
            np.testing.assert_allclose(rgba[:, :, channel], expected[:, :, 0], rtol=0, atol=1)


def test_colour_images_are_drawn_as_they_are() -> None:
    images = noise(2, height=4, width=6, channels=3)
    for axes, expected in zip(image_grid(images, ["a", "b"]).axes, images, strict=True):
        (drawn,) = axes.get_images()
        np.testing.assert_array_equal(drawn.get_array(), expected)


@pytest.mark.parametrize(("side", "interpolation"), [(8, "nearest"), (224, "auto")])
def test_small_images_keep_their_pixels(side: int, interpolation: str) -> None:
    axes = image_grid(noise(1, height=side, width=side), [""]).axes[0]
    assert axes.get_images()[0].get_interpolation() == interpolation


def test_titles_have_their_colours_and_stand_over_their_images() -> None:
    figure = image_grid(noise(2), ["right", "wrong\n$9"], ["green", "red"], heading="Some")
    titles = [axes.title for axes in draw(figure).axes]
    assert [title.get_text() for title in titles] == ["right", "wrong\n$9"]
    assert [title.get_color() for title in titles] == ["green", "red"]
    assert figure.get_suptitle() == "Some"


@pytest.mark.parametrize("number", [1, 13])
def test_titles_do_not_touch_other_titles_or_images(number: int, hostile_names: list[str]) -> None:
    figure = draw(mistakes(number, hostile_names))
    assert len(figure.axes) == number
    titles = [axes.title.get_window_extent() for axes in figure.axes]
    for position, title in enumerate(titles):
        assert not any(title.overlaps(other) for other in titles[position + 1 :])
        others = [axes.bbox for axes in figure.axes if axes is not figure.axes[position]]
        assert not any(title.overlaps(other) for other in others)
    heading = figure._suptitle.get_window_extent()  # pyrefly: ignore
    assert not any(heading.overlaps(title) for title in titles)


def test_misclassified_images_tell_truth_prediction_and_confidence() -> None:
    figure = mistakes(2, ["3", "8"], "2 of 360 misclassified")
    assert [axes.get_title() for axes in figure.axes] == ["3 → 8\n97%", "8 → 3\n50%"]
    assert figure.get_suptitle() == "2 of 360 misclassified"


def test_long_class_names_take_two_lines() -> None:
    figure = mistakes(1, ["golden retriever", "labrador retriever"])
    assert figure.axes[0].get_title() == "golden retriever →\nlabrador retriever\n97%"


def test_correct_images_tell_class_and_confidence() -> None:
    confidence = np.array([1.0, 0.514])
    figure = correct(noise(2), np.array([1, 0]), confidence, ["cat", "dog"], "Right")
    assert [axes.get_title() for axes in figure.axes] == ["dog\n100%", "cat\n51%"]
    assert figure.get_suptitle() == "Right"


def test_without_images_the_heading_stands_alone() -> None:
    figure = draw(mistakes(0, ["3", "8"], "All 360 test images are classified correctly"))
    (text,) = figure.axes[0].texts
    assert text.get_text() == "All 360 test images are classified correctly"
    box = text.get_window_extent()
    assert figure.bbox.x0 < box.x0 < box.x1 < figure.bbox.x1


def test_labels_are_titled_by_their_class() -> None:
    assert target_titles(np.array([2, 0]), ["cat", "dog", "bird"]) == ["bird", "cat"]


def test_mixed_images_are_titled_by_their_two_largest_shares() -> None:
    targets = np.array([[0.7, 0.3, 0], [0, 0, 1], [0.2, 0, 0.8], [0.996, 0.004, 0]], np.float32)
    titles = target_titles(targets, ["cat", "dog", "bird"])
    assert titles == ["cat 70%\ndog 30%", "bird", "bird 80%\ncat 20%", "cat"]


def test_shares_are_told_whole_beside_names_of_any_length(hostile_names: list[str]) -> None:
    targets = np.full((1, len(hostile_names)), 0, np.float32)
    targets[0, [9, 10]] = 0.75, 0.25
    figure = draw(image_grid(noise(1), target_titles(targets, hostile_names)))
    first, second = figure.axes[0].get_title().split("\n")
    assert first.endswith(" 75%")
    assert second.endswith(" 25%")
