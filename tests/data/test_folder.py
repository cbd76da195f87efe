"""Which images a folder has, of which classes and parts, and what names they may have."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from image_folders import load, noise, write_pixels
from imgclf.data.folder import list_folder
from imgclf.data.scan import scan_dataset
from imgclf.data.splits import missing_classes, split_dataset
from imgclf.errors import ImgclfError
from nobody import as_nobody


def test_empty_folder_is_an_error_that_shows_the_layout(tmp_path: Path) -> None:
    with pytest.raises(ImgclfError, match="has no images") as caught:
        load(tmp_path)
    assert f"{tmp_path.name}/<class>/<image>" in caught.value.hint


def test_images_beside_the_class_folders_have_no_class(tmp_path: Path) -> None:
    write_pixels(tmp_path / "x.png", noise(8, 8))
    with pytest.raises(ImgclfError, match="has no images"):
        load(tmp_path)


def test_one_class_can_be_looked_at_and_not_be_trained_on(tmp_path: Path) -> None:
    write_pixels(tmp_path / "cat" / "x.png", noise(8, 8))
    (tmp_path / "dog").mkdir()
    dataset = load(tmp_path)
    assert dataset.classes == ("cat",)
    with pytest.raises(ImgclfError, match="one class only: 'cat'"):
        split_dataset(dataset, 0.1, 0.2, 0)


@pytest.mark.parametrize(
    "parts", [("val", "test"), ("test",), ("train", "test"), ("train", "Validation"), ("valid",)]
)
def test_some_of_the_parts_are_parts_too(parts: tuple[str, ...], digit_files: Path, tmp_path: Path):
    for part in parts:
        shutil.copytree(digit_files, tmp_path / part)
    (tmp_path / "__MACOSX" / "train").mkdir(parents=True)
    (tmp_path / "__MACOSX" / "train" / "x.png").write_bytes(b"")
    dataset = load(tmp_path)
    assert dataset.classes == ("0", "1", "2", "3")
    assert len(dataset) == 160 * len(parts)
    assert len(set(dataset.parts.tolist())) == len(parts)


def test_parts_beside_another_folder_of_images_are_an_error(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "mixed" / "train")
    shutil.copytree(tiny / "cat", tmp_path / "mixed" / "bird")
    with pytest.raises(ImgclfError, match="'train', a part of a split, and 'bird'"):
        load(tmp_path / "mixed")


def test_name_that_is_not_text_is_written_as_python_shows_it(tiny: Path) -> None:
    root = tiny.rename(tiny.with_name(b"caf\xe9".decode("utf-8", "surrogateescape")))
    assert load(root).name == "caf\\udce9"


def test_only_visible_images_of_class_folders_are_taken(tiny: Path) -> None:
    before = load(tiny)
    (tiny / "empty").mkdir()
    (tiny / "README.md").write_text("about the data")
    (tiny / "cat" / "notes.txt").write_text("about cats")
    (tiny / "cat" / "labels.csv").write_text("a,b")
    (tiny / "cat" / "folder.png").mkdir()
    for hidden in (".hidden.png", ".thumbnails/x.png", "deeper/.trash/x.png"):
        write_pixels(tiny / "cat" / hidden, noise(12, 10))
    write_pixels(tiny / ".git" / "x.png", noise(12, 10))
    after = load(tiny)
    assert (after.names, after.classes, after.digest) == (
        before.names,
        before.classes,
        before.digest,
    )


def test_nested_folders_belong_to_their_class(tiny: Path) -> None:
    write_pixels(tiny / "cat" / "2024" / "may" / "x.png", noise(12, 10))
    dataset = load(tiny)
    position = dataset.names.index("cat/2024/may/x.png")
    assert dataset.classes[dataset.labels[position]] == "cat"
    assert dataset.classes == ("cat", "dog")


def test_suffixes_may_be_in_capitals(tiny: Path) -> None:
    write_pixels(tiny / "cat" / "UPPER.PNG", noise(12, 10))
    write_pixels(tiny / "dog" / "Mixed.Jpeg", noise(12, 10))
    assert {"cat/UPPER.PNG", "dog/Mixed.Jpeg"} <= set(load(tiny).names)


def test_class_folder_may_be_a_link(tiny: Path, tmp_path: Path) -> None:
    write_pixels(tmp_path / "elsewhere" / "x.png", noise(12, 10))
    (tiny / "bird").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    dataset = load(tiny)
    assert dataset.classes == ("bird", "cat", "dog")
    assert "bird/x.png" in dataset.names


def test_a_link_back_to_the_images_themselves_is_no_class(tiny: Path) -> None:
    before = load(tiny)
    (tiny / "again").symlink_to(tiny, target_is_directory=True)
    (tiny / "above").symlink_to("..", target_is_directory=True)
    (tiny / "train").symlink_to(".", target_is_directory=True)
    assert load(tiny).digest == before.digest


@pytest.mark.parametrize("given", [True, False], ids=["in parts", "without parts"])
def test_a_link_that_gives_images_a_second_class_is_an_error(
    tiny: Path, tmp_path: Path, given: bool
) -> None:
    root = tmp_path / "parts" / "train" if given else tiny
    if given:
        shutil.copytree(tiny, root)
    (root / "kitten").symlink_to(root / "cat", target_is_directory=True)
    with pytest.raises(ImgclfError, match=r"'.*kitten' and '.*cat' lead to the same images"):
        load(root.parent if given else root)


def test_a_link_into_another_class_is_an_error(tiny: Path) -> None:
    write_pixels(tiny / "cat" / "wild" / "x.png", noise(12, 10))
    (tiny / "lynx").symlink_to(tiny / "cat" / "wild", target_is_directory=True)
    with pytest.raises(ImgclfError, match="lead to the same images"):
        load(tiny)


def test_the_same_images_of_a_class_in_two_parts_are_left_to_the_scan(
    tiny: Path, tmp_path: Path
) -> None:
    root = tmp_path / "parts"
    for part in ("train", "test"):
        (root / part).mkdir(parents=True)
        for label in ("cat", "dog"):
            (root / part / label).symlink_to(tiny / label, target_is_directory=True)
    dataset = load(root)
    scan = scan_dataset(dataset, split_dataset(dataset, 0.0, 0.2, 0))
    assert len(scan.leaks) == 6


def test_links_in_a_circle_do_not_hang(tiny: Path) -> None:
    before = load(tiny)
    (tiny / "cat" / "up").symlink_to(tiny, target_is_directory=True)
    (tiny / "cat" / "here").symlink_to(".", target_is_directory=True)
    (tiny / "self").symlink_to("self")
    assert load(tiny).digest == before.digest


@pytest.mark.skipif(sys.platform != "linux", reason="file names there are always Unicode")
def test_names_that_are_not_utf8_are_read_and_tell_files_apart(tiny: Path) -> None:
    before = load(tiny).digest
    digests = {before}
    for name in (b"\xe9.png", b"\xe8.png"):
        path = os.fsdecode(os.path.join(os.fsencode(tiny), b"cat", name))
        shutil.copy(tiny / "cat" / "0.png", path)
        dataset = load(tiny)
        assert len(dataset) == 7
        digests.add(dataset.digest)
        os.remove(path)
    assert len(digests) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="file names there are always Unicode")
def test_class_names_are_always_text_that_can_be_written(tiny: Path) -> None:
    os.rename(os.fsencode(tiny / "cat"), os.path.join(os.fsencode(tiny), b"caf\xe9"))
    (tiny / "dog").rename(tiny / "Hund, gro\u00df \u72ac")
    dataset = load(tiny)
    assert dataset.classes == ("Hund, gro\u00df \u72ac", "caf\\udce9")
    assert "".join(dataset.classes).encode()  # no lone surrogates


@pytest.mark.skipif(sys.platform != "linux", reason="file names there are always Unicode")
def test_two_classes_that_are_written_alike_are_an_error(tiny: Path) -> None:
    """One name holds a byte that is not UTF-8, the other what Python shows in its place."""
    os.rename(os.fsencode(tiny / "cat"), os.path.join(os.fsencode(tiny), b"caf\xe9"))
    (tiny / "dog").rename(tiny / "caf\\udce9")
    with pytest.raises(ImgclfError, match="both written"):
        load(tiny)


def test_a_folder_that_cannot_be_read_is_named() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)
        for label in ("cat", "dog"):
            (root / label).mkdir()
        (root / "dog").chmod(0)
        with as_nobody(), pytest.raises(ImgclfError, match="dog': Permission denied") as caught:
            list_folder(root)
        assert "permissions" in caught.value.hint
        (root / "bird").symlink_to(root / "dog" / "bird")
        with as_nobody(), pytest.raises(ImgclfError, match="bird': Permission denied"):
            list_folder(root)
        (root / "dog").chmod(0o755)
        root.chmod(0)
        with as_nobody(), pytest.raises(ImgclfError, match=f"{root}': Permission denied"):
            list_folder(root)
        root.chmod(0o755)


def copy_in_parts(digit_files: Path, root: Path, *names: str) -> None:
    """Deal the digits out over sub-folders, in turns."""
    for number, path in enumerate(sorted(digit_files.rglob("*.png"))):
        target = root / names[number % len(names)] / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())


@pytest.mark.parametrize("val_name", ["val", "valid", "validation"])
def test_a_folder_in_parts_keeps_them(digit_files: Path, tmp_path: Path, val_name: str) -> None:
    copy_in_parts(digit_files, tmp_path, "train", val_name, "test")
    dataset = load(tmp_path)
    split = split_dataset(dataset, 0.3, 0.3, seed=1)
    for part, name in ((split.train, "train"), (split.val, val_name), (split.test, "test")):
        assert {dataset.names[position].split("/")[0] for position in part} == {name}
    assert dataset.classes == ("0", "1", "2", "3")
    assert sum(split.sizes.values()) == 160


@pytest.mark.parametrize("given", ["val", "test"])
def test_a_part_that_is_not_given_is_dealt_out_of_the_training_images(
    digit_files: Path, tmp_path: Path, given: str
) -> None:
    copy_in_parts(digit_files, tmp_path, "train", given)
    dataset = load(tmp_path)
    split = split_dataset(dataset, 0.25, 0.25, seed=1)
    assert len(getattr(split, given)) == 80
    other = split.val if given == "test" else split.test
    assert len(other) == 20
    assert {dataset.names[position].split("/")[0] for position in other} == {"train"}


def test_a_class_that_is_missing_from_a_part_keeps_its_index_and_is_named(
    digit_files: Path, tmp_path: Path
) -> None:
    copy_in_parts(digit_files, tmp_path, "train", "test")
    shutil.rmtree(tmp_path / "test" / "1")
    dataset = load(tmp_path)
    split = split_dataset(dataset, 0.0, 0.2, seed=0)
    assert missing_classes(dataset, split) == {"test": ("1",)}
    assert set(dataset.labels[split.test].tolist()) == {0, 2, 3}


def test_classes_may_be_called_like_parts(digit_files: Path, tmp_path: Path) -> None:
    """Toy trains and road tests are classes where no sub-folder holds folders of images."""
    shutil.copytree(digit_files / "0", tmp_path / "train")
    shutil.copytree(digit_files / "1", tmp_path / "test")
    assert load(tmp_path).classes == ("test", "train")
