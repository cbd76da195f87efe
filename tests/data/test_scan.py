import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgclf.config import TrainConfig
from imgclf.data.scan import Scan, scan_dataset
from imgclf.data.sources import load_dataset
from imgclf.data.splits import split_dataset


def scan(root: Path, **options: object) -> Scan:
    config = TrainConfig.from_dict({"dataset": str(root), "max_bad_images": 1.0, **options})
    dataset = load_dataset(config)
    return scan_dataset(dataset, split_dataset(dataset, 0.1, 0.2, 0))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes in three parts, every image another, in four sizes."""
    generator = np.random.default_rng(0)
    root = tmp_path / "photos"
    for part, number in (("train", 6), ("val", 2), ("test", 3)):
        for label in ("cat", "dog"):
            folder = root / part / label
            folder.mkdir(parents=True)
            for position in range(number):
                shape = (20 + 5 * (position % 4), 30, 3)
                pixels = generator.integers(0, 256, shape, dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{position}.png")
    return root


def test_nothing_to_note_is_noted_of_clean_even_data(digit_files: Path) -> None:
    found = scan(digit_files)
    assert found.notes() == []
    assert (found.copies, found.missing, found.unreadable) == ((), {}, ())
    assert found.sizes == {(8, 8): 160}
    counted = Counter(path.parent.name for path in digit_files.glob("*/*.png"))
    assert {name: sum(parts.values()) for name, parts in found.counts.items()} == counted


def test_counts_and_sizes_are_those_of_the_files(photos: Path) -> None:
    found = scan(photos)
    expected = {"train": 6, "val": 2, "test": 3}
    assert found.counts == {"cat": expected, "dog": expected}
    sizes = Counter(Image.open(path).size for path in photos.rglob("*.png"))
    assert found.sizes == dict(sizes)
    assert found.notes() == ["the images are 30 pixels wide and 20 to 35 high, 30x25 in the middle"]


def test_copies_between_parts_are_named(photos: Path) -> None:
    shutil.copy(photos / "train/cat/0.png", photos / "test/cat/copy.png")
    shutil.copy(photos / "train/dog/1.png", photos / "val/dog/copy.png")
    shutil.copy(photos / "train/dog/2.png", photos / "train/dog/copy.png")  # harmless
    found = scan(photos)
    groups = [[image.name for image in group] for group in found.copies]
    assert groups == [
        ["test/cat/copy.png", "train/cat/0.png"],
        ["train/dog/1.png", "val/dog/copy.png"],
        ["train/dog/2.png", "train/dog/copy.png"],
    ]
    assert found.leaks == found.copies[:2]
    assert found.contradictions == ()
    assert found.notes()[1:] == [
        "1 val image(s) are copies of train images (same bytes):\n  val/dog/copy.png",
        "1 test image(s) are copies of train images (same bytes):\n  test/cat/copy.png",
    ]


def test_copies_with_different_labels_are_named(photos: Path) -> None:
    shutil.copy(photos / "train/cat/0.png", photos / "train/dog/same.png")
    found = scan(photos)
    assert len(found.contradictions) == 1
    assert found.notes()[-1] == (
        "copies with different labels (same bytes):\n"
        "  train/cat/0.png (cat) = train/dog/same.png (dog)"
    )


def test_uneven_classes_are_noted_with_the_way_out(photos: Path) -> None:
    for position in range(1, 6):
        (photos / f"train/cat/{position}.png").unlink()
    (note,) = [note for note in scan(photos).notes() if "uneven" in note]
    assert "1 training images of 'cat', 6 of 'dog'" in note
    assert "--class-weights balanced" in note


@pytest.mark.parametrize("remedy", [{"class_weights": "balanced"}, {"balanced_sampling": True}])
def test_what_a_run_does_about_uneven_classes_is_not_advised(
    photos: Path, remedy: dict[str, object]
) -> None:
    for position in range(1, 6):
        (photos / f"train/cat/{position}.png").unlink()
    found, others = scan(photos), {"loss": "focal", "horizontal_flip": True}
    told = found.notes(config=TrainConfig.from_dict(remedy))
    assert told[-1] == "the classes are uneven: 1 training images of 'cat', 6 of 'dog'"
    assert found.notes(config=TrainConfig.from_dict(others)) == found.notes()


def test_missing_classes_and_unreadable_images_are_noted(photos: Path) -> None:
    shutil.rmtree(photos / "test/cat")
    (photos / "train/dog/0.png").write_bytes(b"")
    found = scan(photos)
    assert found.missing == {"test": ("cat",)}
    notes = "\n".join(found.notes())
    assert "the test images lack the classes: cat" in notes
    assert "1 unreadable image(s) are left out:\n  train/dog/0.png: " in notes


def test_many_problems_are_shortened_in_print_and_whole_in_json(photos: Path) -> None:
    for position in range(25):
        shutil.copy(photos / "train/cat/0.png", photos / f"test/cat/copy{position:02}.png")
    found = scan(photos)
    (note,) = [note for note in found.notes() if "copies" in note]
    assert note.startswith("25 test image(s) are copies")
    assert note.endswith("and 15 more")
    assert len(note.splitlines()) == 12
    (whole,) = [note for note in found.notes(most=25) if "copies" in note]
    assert len(whole.splitlines()) == 26
    written = json.loads(found.to_json())
    assert len(written["copies"][0]) == 26
    assert written["copies"][0][0] == {
        "name": "test/cat/copy00.png", "label": "cat", "part": "test",
    }  # fmt: skip
    assert written["sizes"][0] == [30, 20, 8 + 25]
    assert written["counts"]["cat"] == {"train": 6, "val": 2, "test": 28}


def test_names_that_are_not_text_can_be_printed_and_written(photos: Path) -> None:
    name = b"copy\xff.png".decode("utf-8", "surrogateescape")
    try:
        shutil.copy(photos / "train/cat/0.png", photos / "test/cat" / name)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    found = scan(photos)
    assert "test/cat/copy\\udcff.png" in "\n".join(found.notes())
    written = found.to_json().encode("utf-8", "backslashreplace")
    names = {image["name"] for group in json.loads(written)["copies"] for image in group}
    assert f"test/cat/{name}" in names


def test_copies_among_published_arrays_are_found_by_their_pixels() -> None:
    found = scan(Path("digits"))
    assert found.copies == ()  # as scikit-learn ships them
    assert found.sizes == {(8, 8): 1797}
