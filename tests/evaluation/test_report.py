import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from scipy.special import softmax
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from imgclf.errors import ImgclfError
from imgclf.evaluation.evaluation import Evaluation
from imgclf.evaluation.pictures import correct, misclassified
from imgclf.evaluation.report import write_evaluation
from small_disk import files_up_to

CLASSES = ("cat", "dog", "bird")
FILES = {
    "predictions.csv",
    "per_class.csv",
    "per_class.png",
    "confusion_matrix.csv",
    "confusion_matrix.png",
    "classification_report.txt",
    "classification_report.json",
    "correct.png",
    "misclassified.png",
}


def logits_and_labels(
    number: int, num_classes: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    generator = np.random.default_rng(number)
    labels = generator.integers(0, num_classes, number)
    logits = generator.normal(size=(number, num_classes)).astype(np.float32)
    logits[np.arange(number), labels] += 1
    return logits, labels


def evaluation(
    logits: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: tuple[str, ...] = CLASSES,
    names: list[str] | None = None,
    channels: int = 3,
    split: str = "test",
) -> Evaluation:
    """Each image is of one colour, its position: so a grid shows which images it holds."""
    images = np.empty((len(labels), 9, 7, channels), np.uint8)
    images[:] = (np.arange(len(labels)) % 256)[:, None, None, None]
    names = names or [f"{classes[label]}/{n}.png" for n, label in enumerate(labels)]
    return Evaluation(split, images, names, labels, logits, classes)


EXAMPLE = evaluation(*logits_and_labels(120, 3))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "created" / "test"
    write_evaluation(EXAMPLE, folder)
    return folder


def shown_positions(figure: Figure) -> list[int]:
    images = figure.axes[0].get_images()
    return [int(np.asarray(image.get_array()).flat[0]) for image in images]


def heading(figure: Figure) -> str:
    """What stands above the images, or alone."""
    FigureCanvasAgg(figure).draw()
    return figure.get_suptitle() or figure.axes[0].texts[0].get_text()


def test_every_file_is_there_and_pictures_are_pictures(written: Path) -> None:
    assert {path.name for path in written.iterdir()} == FILES
    for path in written.glob("*.png"):
        with Image.open(path) as image:
            image.load()
            assert min(image.size) > 200
            assert len(image.convert("RGB").getcolors(2**24) or ()) > 10  # not blank


# Tables


def test_predictions_hold_one_line_for_each_image(written: Path) -> None:
    logits, labels = EXAMPLE.logits, EXAMPLE.labels
    table = pd.read_csv(written / "predictions.csv")
    assert table["label"].tolist() == [CLASSES[label] for label in labels]
    assert table["predicted"].tolist() == [CLASSES[guess] for guess in logits.argmax(1)]
    assert table["label_index"].tolist() == labels.tolist()
    assert table["predicted_index"].tolist() == logits.argmax(1).tolist()
    assert table["image"].tolist() == [f"{CLASSES[x]}/{n}.png" for n, x in enumerate(labels)]
    expected = softmax(logits.astype(np.float64), axis=1)
    np.testing.assert_allclose(table["confidence"], expected.max(axis=1), rtol=0, atol=5.1e-7)
    own = expected[np.arange(len(labels)), labels]
    np.testing.assert_allclose(table["label_probability"], own, rtol=0, atol=5.1e-7)
    assert "in_top5" not in table


def test_predictions_sum_up_to_the_metrics(written: Path) -> None:
    table = pd.read_csv(written / "predictions.csv")
    assert table["correct"].dtype == bool
    assert table["correct"].mean() == pytest.approx(EXAMPLE.metrics.accuracy, rel=1e-12)
    counts = confusion_matrix(table["label_index"], table["predicted_index"])
    np.testing.assert_array_equal(counts, EXAMPLE.metrics.confusion)


def test_predictions_among_many_classes_tell_the_top_five(tmp_path: Path) -> None:
    many = evaluation(*logits_and_labels(200, 12), classes=tuple("abcdefghijkl"))
    write_evaluation(many, tmp_path)
    table = pd.read_csv(tmp_path / "predictions.csv")
    highest = np.argsort(many.logits, axis=1)[:, -5:]
    assert table["in_top5"].tolist() == (highest == many.labels[:, None]).any(axis=1).tolist()
    assert table["in_top5"].mean() == pytest.approx(many.metrics.top5 or 0, rel=1e-12)


def test_confusion_table_is_scikit_learns(written: Path) -> None:
    table = pd.read_csv(written / "confusion_matrix.csv", index_col=0)
    assert (*table.index,) == (*table.columns,) == CLASSES
    expected = confusion_matrix(EXAMPLE.labels, EXAMPLE.logits.argmax(1))
    np.testing.assert_array_equal(table, expected)


def test_table_of_classes_is_scikit_learns(written: Path) -> None:
    table = pd.read_csv(written / "per_class.csv")
    assert table["class"].tolist() == list(CLASSES)
    assert table["class_index"].tolist() == [0, 1, 2]
    expected = precision_recall_fscore_support(EXAMPLE.labels, EXAMPLE.logits.argmax(1))
    for name, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        np.testing.assert_allclose(table[name], np.asarray(values), rtol=1e-12)


AWKWARD = (
    'quo"te, comma',
    "line\nbreak",
    "carriage\rreturn",
    "=1+1",
    "ß 犬 🐕",
    " blanks ",
    "a\tb;c'd",
    "macro avg",
    "NA",
    "null",
    "nan",
    "1",
    "01",
    "1.0",
    "True",
    "#comment",
)


@pytest.fixture(scope="module")
def awkward(tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluation, Path]:
    folder = tmp_path_factory.mktemp("awkward")
    example = evaluation(*logits_and_labels(300, len(AWKWARD)), classes=AWKWARD)
    assert set(example.labels) == set(example.predicted) == set(range(len(AWKWARD)))
    write_evaluation(example, folder)
    return example, folder


def test_awkward_names_of_classes_survive(awkward: tuple[Evaluation, Path]) -> None:
    example, folder = awkward
    labels = [AWKWARD[label] for label in example.labels]
    guesses = [AWKWARD[guess] for guess in example.predicted]
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == labels
    table = pd.read_csv(
        folder / "predictions.csv",
        dtype={"image": str, "label": str, "predicted": str},
        keep_default_na=False,
    )
    assert table["label"].tolist() == labels
    assert table["predicted"].tolist() == guesses
    assert table["image"].tolist() == list(example.names)
    matrix = pd.read_csv(folder / "confusion_matrix.csv", index_col=0, keep_default_na=False)
    assert (*matrix.index,) == (*matrix.columns,) == AWKWARD
    report = json.loads((folder / "classification_report.json").read_text(encoding="utf-8"))
    assert tuple(report["classes"]) == AWKWARD


def test_pandas_without_options_keeps_what_matters(awkward: tuple[Evaluation, Path]) -> None:
    example, folder = awkward
    table = pd.read_csv(folder / "predictions.csv")
    assert table["label_index"].tolist() == example.labels.tolist()
    assert table["predicted_index"].tolist() == example.predicted.tolist()
    assert table["correct"].tolist() == (example.labels == example.predicted).tolist()
    matrix = pd.read_csv(folder / "confusion_matrix.csv", index_col=0)
    np.testing.assert_array_equal(matrix, example.metrics.confusion)


def test_names_that_are_not_utf8_are_written_as_python_shows_them(tmp_path: Path) -> None:
    names = [f"cat/caf\udce9-{number}.png" for number in range(5)]
    write_evaluation(evaluation(*logits_and_labels(5, 3), names=names), tmp_path)
    assert pd.read_csv(tmp_path / "predictions.csv")["image"].tolist() == [
        f"cat/caf\\udce9-{number}.png" for number in range(5)
    ]


@pytest.mark.faults
def test_a_full_disk_is_told_and_leaves_whole_files(tmp_path: Path) -> None:
    full = r"Cannot write the picture .*too large\. Up to .* are needed; .* are free"
    with files_up_to(10_000), pytest.raises(ImgclfError, match=full):
        write_evaluation(EXAMPLE, tmp_path)
    assert len(pd.read_csv(tmp_path / "predictions.csv")) == 120
    assert {path.name for path in tmp_path.iterdir()} < FILES


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("right", [True, False], ids=["no mistakes", "all mistakes"])
def test_no_mistakes_and_nothing_but_mistakes(right: bool, channels: int, tmp_path: Path) -> None:
    labels = np.arange(40, dtype=np.int64) % 2  # no birds
    logits = np.eye(3, dtype=np.float32)[labels if right else 1 - labels]
    write_evaluation(evaluation(logits, labels, channels=channels), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == FILES
    assert pd.read_csv(tmp_path / "predictions.csv")["correct"].tolist() == [right] * 40
    table = pd.read_csv(tmp_path / "confusion_matrix.csv", index_col=0)
    assert np.asarray(table)[2].tolist() == [0, 0, 0]


# Pictures


def test_the_most_misclassified_come_first() -> None:
    figure = misclassified(EXAMPLE)
    probabilities = softmax(EXAMPLE.logits.astype(np.float64), axis=1)
    wrong = np.flatnonzero(EXAMPLE.logits.argmax(1) != EXAMPLE.labels)
    expected = sorted(wrong, key=lambda position: -probabilities[position].max())
    assert len(expected) > 36
    assert shown_positions(figure) == expected[:36]
    assert heading(figure) == (
        f"{len(wrong)} of 120 test images misclassified, the 36 most confident"
    )


def test_some_right_images_of_every_class_are_shown_and_always_the_same() -> None:
    positions = shown_positions(correct(EXAMPLE))
    assert positions == shown_positions(correct(EXAMPLE))
    right = EXAMPLE.logits.argmax(1) == EXAMPLE.labels
    assert right[positions].all()
    assert len(set(positions)) == 18
    assert EXAMPLE.labels[positions].tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert positions[:6] != np.flatnonzero(right & (EXAMPLE.labels == 0))[:6].tolist()
    assert heading(correct(EXAMPLE)) == (
        f"{right.sum()} of 120 test images classified correctly, 18 of them at random"
    )


def test_of_a_hundred_classes_thirty_six_are_shown() -> None:
    labels = np.arange(200, dtype=np.int64) % 100
    classes = tuple(f"{label}" for label in range(100))
    figure = correct(evaluation(np.eye(100, dtype=np.float32)[labels], labels, classes))
    shown = labels[shown_positions(figure)]
    assert len(set(shown)) == len(shown) == 36
    assert shown.max() > 60


@pytest.mark.parametrize(
    ("split", "subject"),
    [("val", "validation images"), ("test", "test images"), ("photos", "images of photos")],
)
def test_headings_name_the_split_and_say_where_there_is_nothing(split: str, subject: str) -> None:
    labels = np.arange(40, dtype=np.int64) % 3
    right = evaluation(np.eye(3, dtype=np.float32)[labels], labels, split=split)
    wrong = evaluation(np.eye(3, dtype=np.float32)[(labels + 1) % 3], labels, split=split)
    assert heading(misclassified(right)) == f"All 40 {subject} are classified correctly"
    assert heading(correct(wrong)) == f"0 of 40 {subject} classified correctly"
    few = evaluation(wrong.logits[:3], labels[:3], split=split)
    assert heading(misclassified(few)) == (f"3 of 3 {subject} misclassified, most confident first")
