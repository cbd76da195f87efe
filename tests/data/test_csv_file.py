"""A CSV file stands for the same images as their folder does."""

import csv
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgclf.data.csv_file import list_csv
from imgclf.data.dataset import ImageDataset
from imgclf.data.files import Listing, load_listing
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
        ([["label", "split"], ["x", "train"]], "lacks the column path or label; it has label"),
        ([["path", "label", "Path"], ["a.png", "x", "b.png"]], "has the column path twice"),
        ([["path", "label"], ["a.png", "x"], ["b.png", "y", "z"]], "line 3 has more values than"),
        ([["path", "label"], ["a\0b.png", "x"]], "line 2: the path holds a zero byte"),
    ],
)
def test_faults_are_named_with_their_line(rows, message, tmp_path):
    with pytest.raises(ImgclfError, match=message):
        list_csv(write_csv(tmp_path / "x.csv", rows))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'path,label\na.png,"x\nb.png,y\n', "line 3: unexpected end of data"),
        (b'path,label\na.png,"x" y\n', "line 2: ',' expected after"),
        (b"path,label\n" + b"a" * 200_000 + b",x\n", "line 2: field larger than field limit"),
        ("path,label\na.png,café\n".encode("latin-1"), "is no text in UTF-8"),
        ("path,label\na.png,café\n".encode("utf-16"), "is no text in UTF-8"),
        (b"\x89PNG\r\n\x1a\n", "is no text in UTF-8"),
        (b"", "it has nothing"),
        (b"path;label\na.png;x\n", "it has path;label"),
    ],
)
def test_what_is_no_csv_is_said_so(content, message, tmp_path):
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(ImgclfError, match=message) as caught:
        list_csv(tmp_path / "x.csv")
    assert caught.value.hint


def test_empty_columns_of_spreadsheets_are_passed_over(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("path,label,,\na.png,x,,\nb.png,y\nc.png,y,,,,\n")
    listing = list_csv(path)
    assert listing.names == ("a.png", "b.png", "c.png")
    assert listing.classes == ("x", "y")


def test_files_that_never_end_and_paths_outside_are_read_as_data_or_named(rows, digit_files):
    os.mkfifo(digit_files / "pipe.png")
    hostile = ["/dev/zero", "pipe.png", "../../../../../../etc/passwd", ".", "x" * 5000, "absent"]
    listed = [["path", "label"], *([name, "0"] for name in hostile), *rows]
    path = write_csv(digit_files / "hostile.csv", listed)
    try:
        with tempfile.TemporaryDirectory() as cache:
            dataset = load_listing(list_csv(path), 0, 0.1, Path(cache), lambda done, total: None)
    finally:
        path.unlink()
        (digit_files / "pipe.png").unlink()
    assert len(dataset) == 160
    reasons = dict(dataset.unreadable)
    assert len(reasons) == len(hostile)
    assert reasons["pipe.png"] == "not a file: a folder, a pipe or a device"
    assert reasons["x" * 5000] == "File name too long"


TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30).filter(str.strip)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    labels=st.lists(TEXT, min_size=1, max_size=8), encoding=st.sampled_from(["utf-8", "utf-8-sig"])
)
def test_any_label_comes_back_as_it_was_written(labels, encoding):
    rows = [["path", "label"], *([f"{n}.png", label] for n, label in enumerate(labels))]
    with tempfile.TemporaryDirectory() as folder:
        listing = list_csv(write_csv(Path(folder, "x.csv"), rows, encoding))
    found = {
        name: listing.classes[label]
        for name, label in zip(listing.names, listing.labels, strict=True)
    }
    assert found == {f"{n}.png": label.strip() for n, label in enumerate(labels)}
    assert listing.classes == tuple(sorted({label.strip() for label in labels}))


def listed(path: Path) -> Listing | ImgclfError:
    try:
        return list_csv(path)
    except ImgclfError as error:
        return error


LINES = st.lists(
    st.lists(
        st.one_of(
            st.sampled_from(["path", "label", "split", "a.png", "b.png", "../c", "x", "test", ""]),
            st.text("\",;'\n\r\0\ufeff\u2028 ab/.", max_size=6),
        ),
        max_size=5,
    ).map(",".join),
    max_size=6,
).map("\n".join)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(content=st.one_of(st.binary(max_size=200), LINES.map(str.encode)), heading=st.booleans())
def test_any_bytes_are_a_listing_or_an_error_with_a_way_out(content, heading):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.csv")
        path.write_bytes(b"path,label,split\n" * heading + content)
        listing = listed(path)
    if isinstance(listing, ImgclfError):
        assert listing.message
        assert listing.hint
        return
    assert len(listing.files) == len(listing.names) == len(listing.labels) == len(listing.parts)
    assert all(label.strip() for label in listing.classes)
    assert set(listing.labels.tolist()) == set(range(len(listing.classes)))


def test_a_file_that_is_no_text_is_a_clear_error(tmp_path):
    (tmp_path / "x.csv").write_bytes(bytes(range(256)))
    with pytest.raises(ImgclfError, match=r"as CSV|lacks the column"):
        list_csv(tmp_path / "x.csv")


def test_missing_image_files_are_listed(digit_files, rows, tmp_path):
    absolute = [[str(digit_files / row[0]), row[1]] for row in rows]
    path = write_csv(tmp_path / "x.csv", [["path", "label"], *absolute, ["gone.png", "0"]])
    with pytest.raises(ImgclfError, match=r"gone\.png: No such file"):
        load(list_csv(path))
