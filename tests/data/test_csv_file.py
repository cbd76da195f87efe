"""A CSV file stands for the same images as their folder does."""

import csv
import tempfile
from pathlib import Path

import numpy as np
import pytest

from imgclf.data.csv_file import list_csv
from imgclf.data.dataset import ImageDataset
from imgclf.data.files import load_listing
from imgclf.data.folder import list_folder
from imgclf.data.splits import split_dataset
from imgclf.errors import ImgclfError


def write_csv(path: Path, rows: list[list[str]], encoding: str = "utf-8") -> Path:
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file).writerows(rows)
    return path


def load(listing) -> ImageDataset:
    with tempfile.TemporaryDirectory() as cache:
        return load_listing(listing, 0, 0.0, Path(cache), lambda done, total: None)


@pytest.fixture
def rows(digit_files: Path) -> list[list[str]]:
    """A line for each image, in an order that is not the folder's."""
    files = sorted(digit_files.rglob("*.png"), key=lambda path: path.name)
    return [[str(path.relative_to(digit_files)), path.parent.name] for path in files]


def test_a_csv_in_the_root_gives_what_its_folder_gives(digit_files, rows):
    path = write_csv(digit_files / "images.csv", [["path", "label"], *rows])
    try:
        from_csv, from_folder = load(list_csv(path)), load(list_folder(digit_files))
    finally:
        path.unlink()
    assert from_csv.digest == from_folder.digest
    assert from_csv.names == from_folder.names
    np.testing.assert_array_equal(from_csv.images, from_folder.images)
    np.testing.assert_array_equal(from_csv.labels, from_folder.labels)
    assert (
        split_dataset(from_csv, 0.1, 0.2, 0).digest
        == split_dataset(from_folder, 0.1, 0.2, 0).digest
    )


def test_given_splits_are_kept_and_the_rest_is_dealt_out(digit_files, rows, tmp_path):
    parts = ["test" if number % 4 == 0 else "" for number in range(len(rows))]
    absolute = [
        [str(digit_files / row[0]), row[1], part] for row, part in zip(rows, parts, strict=True)
    ]
    listed = write_csv(tmp_path / "x.csv", [["path", "label", "split"], *absolute])
    dataset = load(list_csv(listed))
    split = split_dataset(dataset, 0.25, 0.9, 0)
    expected = {str(digit_files / row[0]) for row, part in zip(rows, parts, strict=True) if part}
    assert {str(dataset.files[position]) for position in split.test} == expected
    assert len(split.val) == pytest.approx(0.25 * (160 - len(expected)), abs=2)
    assert len(split.train) + len(split.val) + len(split.test) == 160


def test_spreadsheets_put_a_mark_in_front_and_capitals_in_headings(digit_files, rows, tmp_path):
    absolute = [[f" {digit_files / row[0]}", row[1]] for row in rows]
    path = write_csv(tmp_path / "x.csv", [["Path", " Label"], *absolute], encoding="utf-8-sig")
    assert list_csv(path).classes == ("0", "1", "2", "3")


def test_labels_may_look_like_paths_and_markup(digit_files, rows, tmp_path):
    labels = ["../../x", "<b>a,b</b>", '"quoted"', "猫"]
    absolute = [[str(digit_files / row[0]), labels[int(row[1])]] for row in rows]
    listing = list_csv(write_csv(tmp_path / "x.csv", [["path", "label"], *absolute]))
    assert set(listing.classes) == set(labels)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "lacks the column"),
        ([["image", "class"], ["a.png", "x"]], "it has image, class"),
        ([["path", "label"], ["a.png", ""]], "line 2: the path or the label is empty"),
        ([["path", "label"], ["a.png"]], "line 2: the path or the label is empty"),
        ([["path", "label", "split"], ["a.png", "x", "dev"]], "line 2: the split 'dev' is unknown"),
        ([["path", "label"], ["a.png", "x"], ["a.png", "y"]], "twice"),
        ([["path", "label"]], "no images"),
    ],
)
def test_faults_are_named_with_their_line(rows, message, tmp_path):
    with pytest.raises(ImgclfError, match=message):
        list_csv(write_csv(tmp_path / "x.csv", rows))


def test_a_file_that_is_no_text_is_a_clear_error(tmp_path):
    (tmp_path / "x.csv").write_bytes(bytes(range(256)))
    with pytest.raises(ImgclfError, match=r"as CSV|lacks the column"):
        list_csv(tmp_path / "x.csv")


def test_missing_image_files_are_listed(digit_files, rows, tmp_path):
    absolute = [[str(digit_files / row[0]), row[1]] for row in rows]
    path = write_csv(tmp_path / "x.csv", [["path", "label"], *absolute, ["gone.png", "0"]])
    with pytest.raises(ImgclfError, match=r"gone\.png: No such file"):
        load(list_csv(path))
