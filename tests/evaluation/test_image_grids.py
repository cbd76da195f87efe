from itertools import pairwise

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
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


def mistakes(
    number: int,
    classes: list[str],
    heading: str = "Mistakes",
    images: NDArray[np.uint8] | None = None,
) -> Figure:
    labels = np.arange(number) % len(classes)
    return misclassified(
        noise(number) if images is None else images,
        labels,
        (labels + 1) % len(classes),
        np.linspace(0.97, 0.5, number, dtype=np.float32),
        classes,
        heading,
    )


def drawn_images(figure: Figure) -> list[AxesImage]:
    return figure.axes[0].get_images()


def titles_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_grey_images_are_grey_and_not_stretched_to_full_contrast() -> None:
    images = noise(3)
    grid = image_grid(images, list("abc"))
    for drawn, expected in zip(drawn_images(grid), images, strict=True):
        rgba = drawn.to_rgba(np.asarray(drawn.get_array()), bytes=True)
        for channel in range(3):
            # Within 1: matplotlib rounds where it looks the colour up.
            np.testing.assert_allclose(rgba[:, :, channel], expected[:, :, 0], rtol=0, atol=1)


def test_colour_images_are_drawn_as_they_are() -> None:
    images = noise(2, height=4, width=6, channels=3)
    grid = image_grid(images, ["a", "b"])
    for drawn, expected in zip(drawn_images(grid), images, strict=True):
        np.testing.assert_array_equal(drawn.get_array(), expected)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 7), (10, 60), (60, 10)])
def test_images_keep_their_proportions(height: int, width: int) -> None:
    figure = draw(image_grid(noise(8, height, width), ["a"] * 8))
    boxes = [image.get_window_extent() for image in drawn_images(figure)]
    for box in boxes:
        assert box.height / box.width == pytest.approx(height / width, rel=1e-6)
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1
    assert not any(left.overlaps(right) for left, right in pairwise(boxes))


@pytest.mark.parametrize(("side", "interpolation"), [(8, "nearest"), (224, "auto")])
def test_small_images_keep_their_pixels(side: int, interpolation: str) -> None:
    (drawn,) = drawn_images(image_grid(noise(1, height=side, width=side), [""]))
    assert drawn.get_interpolation() == interpolation


def test_titles_have_their_colours_and_stand_over_their_images() -> None:
    figure = image_grid(noise(8), [*"abcdefg", "w\n$9"], ["green"] * 7 + ["red"], "Some")
    titles = draw(figure).axes[0].texts
    assert titles_of(figure) == [*"abcdefg", "w\n$9"]
    assert [title.get_color() for title in titles] == ["green"] * 7 + ["red"]
    assert figure.get_suptitle() == "Some"
    for title, image in zip(titles, drawn_images(figure), strict=True):
        box, below = title.get_window_extent(), image.get_window_extent()
        assert 0 <= box.y0 - below.y1 < 10
        assert (box.x0 + box.x1) / 2 == pytest.approx((below.x0 + below.x1) / 2, abs=1)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (40, 10), (10, 40)])
@pytest.mark.parametrize("number", [1, 13])
def test_titles_do_not_touch_other_titles_or_images(
    number: int, height: int, width: int, hostile_names: list[str]
) -> None:
    figure = draw(mistakes(number, hostile_names, images=noise(number, height, width)))
    titles = [text.get_window_extent() for text in figure.axes[0].texts]
    images = [image.get_window_extent() for image in drawn_images(figure)]
    assert len(titles) == len(images) == number
    heading = figure._suptitle.get_window_extent()  # pyrefly: ignore
    for position, title in enumerate(titles):
        assert not any(title.overlaps(other) for other in titles[position + 1 :])
        assert not any(title.overlaps(image) for image in images)
        assert not heading.overlaps(title)


def test_misclassified_images_tell_truth_prediction_and_confidence() -> None:
    figure = mistakes(2, ["3", "8"], "2 of 360 misclassified")
    assert titles_of(figure) == ["3 → 8\n97%", "8 → 3\n50%"]
    assert figure.get_suptitle() == "2 of 360 misclassified"


def test_long_class_names_take_two_lines() -> None:
    figure = mistakes(1, ["golden retriever", "labrador retriever"])
    assert titles_of(figure) == ["golden retriever →\nlabrador retriever\n97%"]


def test_correct_images_tell_class_and_confidence() -> None:
    confidence = np.array([1.0, 0.514])
    figure = correct(noise(2), np.array([1, 0]), confidence, ["cat", "dog"], "Right")
    assert titles_of(figure) == ["dog\n100%", "cat\n51%"]
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
    first, second = titles_of(figure)[0].split("\n")
    assert first.endswith(" 75%")
    assert second.endswith(" 25%")
