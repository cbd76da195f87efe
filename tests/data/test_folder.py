import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from imgclf.card import Preprocessing
from imgclf.config import TrainConfig
from imgclf.data.dataset import ImageDataset
from imgclf.data.sources import load_dataset
from imgclf.data.splits import missing_classes, split_dataset
from imgclf.errors import ImgclfError
from imgclf.preprocess import to_array

GENERATOR = np.random.default_rng(0)


def noise(height: int, width: int, channels: int = 3) -> NDArray[np.uint8]:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return GENERATOR.integers(0, 256, shape, dtype=np.uint8)


def write(path: Path, pixels: NDArray[np.uint8], **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def load(root: Path, image_size: int = 0, max_bad_images: float = 0.01) -> ImageDataset:
    config = TrainConfig(dataset=str(root), image_size=image_size, max_bad_images=max_bad_images)
    return load_dataset(config)


@pytest.fixture
def copied(digit_files: Path, tmp_path: Path) -> Path:
    return shutil.copytree(digit_files, tmp_path / "digits-copied")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Two classes of three small colour images."""
    root = tmp_path / "tiny"
    for label in ("cat", "dog"):
        for number in range(3):
            write(root / label / f"{number}.png", noise(12, 10))
    return root


# Pixels


def test_pixels_labels_and_names_are_those_of_the_files(digit_files: Path) -> None:
    dataset = load(digit_files)
    files = sorted(digit_files.glob("*/*.png"))
    assert dataset.files == tuple(files)
    assert dataset.names == tuple(f"{path.parent.name}/{path.name}" for path in files)
    assert dataset.classes == ("0", "1", "2", "3")
    assert [dataset.classes[label] for label in dataset.labels] == [p.parent.name for p in files]
    assert dataset.images.shape == (160, 8, 8, 1)  # grey: one channel
    for pixels, path in zip(dataset.images[..., 0], files, strict=True):
        np.testing.assert_array_equal(pixels, np.asarray(Image.open(path)))
    assert dataset.preprocessing == Preprocessing.identity(8, 8, 1)
    assert (dataset.name, dataset.source) == (digit_files.name, str(digit_files.resolve()))


def test_one_colour_image_makes_three_channels_of_all(copied: Path) -> None:
    grey = load(copied).images
    colour = noise(8, 8)
    write(copied / "2" / "zzz.png", colour)
    dataset = load(copied)
    position = dataset.names.index("2/zzz.png")
    assert dataset.preprocessing.channels == 3
    np.testing.assert_array_equal(dataset.images[position], colour)
    others = np.delete(dataset.images, position, axis=0)
    np.testing.assert_array_equal(others, np.repeat(grey, 3, axis=3))


def test_colour_that_resizing_washes_out_still_counts_as_colour(tmp_path: Path) -> None:
    for label in ("a", "b"):
        pixels = np.repeat(noise(600, 600, 1)[..., None], 3, axis=2)
        pixels[::97, ::89] = (90, 120, 80)
        pixels[::97, 1::89] = (150, 120, 160)  # balances its neighbour
        pixels[1::97, ::89] = pixels[1::97, 1::89] = 120
        write(tmp_path / label / "x.png", pixels)
    dataset = load(tmp_path, image_size=8)
    assert dataset.preprocessing.channels == 3
    assert_inputs_are_what_prediction_reads(dataset)


def test_shared_size_of_at_most_128_pixels_is_kept(tiny: Path) -> None:
    dataset = load(tiny)
    assert dataset.preprocessing == Preprocessing.identity(12, 10, 3)
    for pixels, path in zip(dataset.images, dataset.files, strict=True):
        np.testing.assert_array_equal(pixels, np.asarray(Image.open(path)))


@pytest.mark.parametrize(
    ("height", "width", "image_size", "expected"),
    [
        (128, 128, 0, Preprocessing.identity(128, 128, 3)),
        (128, 40, 0, Preprocessing.identity(128, 40, 3)),
        (129, 40, 0, Preprocessing(128, 128, 3, 148, 148)),
        (40, 129, 0, Preprocessing(128, 128, 3, 148, 148)),
        (40, 40, 40, Preprocessing.identity(40, 40, 3)),
        (40, 41, 40, Preprocessing(40, 40, 3, 46, 46)),
        (40, 40, 32, Preprocessing(32, 32, 3, 38, 38)),
        (300, 300, 300, Preprocessing.identity(300, 300, 3)),
    ],
)
def test_size_rule(
    height: int, width: int, image_size: int, expected: Preprocessing, tmp_path: Path
) -> None:
    for label in ("a", "b"):
        write(tmp_path / label / "x.png", noise(height, width))
    dataset = load(tmp_path, image_size)
    assert dataset.preprocessing == expected
    assert dataset.images.shape[1:] == (expected.resize_height, expected.resize_width, 3)


def test_mixed_sizes_are_128_pixels(tiny: Path) -> None:
    write(tiny / "dog" / "other.png", noise(13, 10))
    assert load(tiny).preprocessing == Preprocessing(128, 128, 3, 148, 148)


@pytest.mark.parametrize("image_size", [1, 2, 7, 8, 20, 33, 64, 97, 100, 128, 224])
def test_stored_margin_gives_random_crops_room_on_both_sides_alike(
    image_size: int, tmp_path: Path
) -> None:
    write(tmp_path / "a" / "x.png", noise(9, 11))
    write(tmp_path / "b" / "x.png", noise(11, 9))
    rule = load(tmp_path, image_size).preprocessing
    assert (rule.height, rule.width) == (image_size, image_size)
    assert rule.resize_height == rule.resize_width
    margin = rule.resize_height - image_size
    assert 100 * rule.resize_height >= 115 * image_size
    assert margin % 2 == 0
    assert 100 * (margin - 2) < 15 * image_size  # no larger than needed


def assert_inputs_are_what_prediction_reads(dataset: ImageDataset) -> None:
    inputs = dataset.inputs(slice(None))
    for pixels, path in zip(inputs, dataset.files, strict=True):
        np.testing.assert_array_equal(pixels, to_array(path, dataset.preprocessing), str(path))


def write_of_every_kind(root: Path, grey: bool) -> None:
    """Landscape, portrait and square; several formats, depths and orientations."""
    channels = 1 if grey else 3
    for number, (height, width) in enumerate([(50, 90), (90, 50), (64, 64), (7, 300), (31, 30)]):
        pixels = noise(height, width, channels)
        folder = root / ("a" if number % 2 else "b")
        write(folder / f"{number}.png", pixels)
        write(folder / f"{number}.jpg", pixels, quality=90)
        write(folder / f"{number}.webp", pixels, lossless=grey)
        write(folder / f"{number}.bmp", pixels)
        orientation = Image.Exif()
        orientation[0x0112] = 6  # lies on its side
        write(folder / f"{number}-turned.jpg", pixels, exif=orientation)
        if grey:
            sixteen = GENERATOR.integers(0, 65536, (height, width), dtype=np.uint16)
            write(folder / f"{number}-16-bits.png", sixteen)  # pyrefly: ignore
            write(folder / f"{number}-as-colour.png", np.stack([pixels] * 3, axis=2))
        else:
            write(folder / f"{number}-alpha.png", noise(height, width, 4))
            Image.fromarray(pixels).quantize(16).save(folder / f"{number}-palette.png")


@pytest.mark.parametrize("image_size", [0, 31, 50, 97])
@pytest.mark.parametrize("grey", [False, True], ids=["colour", "grey"])
def test_validation_reads_exactly_what_prediction_reads(
    grey: bool, image_size: int, tmp_path: Path
) -> None:
    write_of_every_kind(tmp_path, grey)
    dataset = load(tmp_path, image_size)
    assert dataset.preprocessing.channels == (1 if grey else 3)
    assert dataset.unreadable == ()
    assert_inputs_are_what_prediction_reads(dataset)


def test_validation_reads_exactly_what_prediction_reads_at_the_own_size(tiny: Path) -> None:
    assert_inputs_are_what_prediction_reads(load(tiny))


def test_square_images_are_resized_by_pillows_bilinear_filter(tmp_path: Path) -> None:
    images = [noise(150, 150), noise(60, 60)]
    for label, pixels in zip("ab", images, strict=True):
        write(tmp_path / label / "x.png", pixels)
    dataset = load(tmp_path, 64)
    for stored, pixels in zip(dataset.images, images, strict=True):
        resized = Image.fromarray(pixels).resize((74, 74), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(stored, np.asarray(resized))
    np.testing.assert_array_equal(dataset.inputs(slice(None)), dataset.images[:, 5:69, 5:69])


def test_oblong_images_lose_their_ends_and_keep_their_proportions(tmp_path: Path) -> None:
    """A red square in the middle of black fills the stored image, whichever way it lies."""
    landscape = np.zeros((100, 300, 3), np.uint8)
    landscape[:, 100:200, 0] = 255
    write(tmp_path / "a" / "landscape.png", landscape)
    write(tmp_path / "b" / "portrait.png", landscape.transpose(1, 0, 2))
    dataset = load(tmp_path, 40)
    assert dataset.images.shape == (2, 46, 46, 3)
    assert (dataset.images[:, 1:-1, 1:-1] == (255, 0, 0)).all()


# Digest


def change_a_pixel(root: Path) -> None:
    path = sorted((root / "1").iterdir())[0]
    pixels = np.array(Image.open(path))
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save(path)


def rename_a_file(root: Path) -> None:
    path = sorted((root / "1").iterdir())[0]
    path.rename(path.with_name("zzzz.png"))


def rename_a_class(root: Path) -> None:
    (root / "1").rename(root / "one")


def swap_two_labels(root: Path) -> None:
    """Swap the folders' names: the same files, each under the other label."""
    (root / "1").rename(root / "kept")
    (root / "2").rename(root / "1")
    (root / "kept").rename(root / "2")


def move_to_another_class(root: Path) -> None:
    path = sorted((root / "1").iterdir())[0]
    path.rename(root / "2" / path.name)


def remove_a_file(root: Path) -> None:
    sorted((root / "1").iterdir())[0].unlink()


def test_digest_stays_where_the_data_moves_or_are_read_at_another_size(
    digit_files: Path, copied: Path
) -> None:
    digest = load(digit_files).digest
    assert len(digest) == 64
    assert load(copied).digest == digest
    assert load(copied, image_size=16).digest == digest


@pytest.mark.parametrize(
    "change",
    [
        change_a_pixel,
        rename_a_file,
        rename_a_class,
        swap_two_labels,
        move_to_another_class,
        remove_a_file,
    ],
)
def test_digest_changes_with_the_data(change: Callable[[Path], None], copied: Path) -> None:
    before = load(copied).digest
    change(copied)
    assert load(copied).digest != before


def test_an_image_that_is_left_out_does_not_count_in_the_digest(copied: Path) -> None:
    before = load(copied).digest
    (copied / "0" / "broken.png").write_bytes(b"no image")
    assert load(copied).digest == before


# Unreadable images


def break_images(root: Path, number: int) -> list[str]:
    """Damage some of class 3 in three ways; return their names."""
    chosen = sorted((root / "3").iterdir())[:number]
    for position, path in enumerate(chosen):
        content = path.read_bytes()
        damage = (b"", b"<html>404</html>", content[: len(content) // 2])
        path.write_bytes(damage[position % 3])
    return [f"3/{path.name}" for path in chosen]


def test_unreadable_images_are_listed_and_the_others_kept(copied: Path) -> None:
    whole = load(copied)
    broken = break_images(copied, 3)
    dataset = load(copied, max_bad_images=0.02)  # 3 of 160 are 1.9%
    assert [name for name, _ in dataset.unreadable] == broken
    assert all(reason for _, reason in dataset.unreadable)
    assert len(dataset) == len(dataset.names) == len(dataset.files) == 157
    kept = [position for position, name in enumerate(whole.names) if name not in broken]
    assert dataset.names == tuple(whole.names[position] for position in kept)
    np.testing.assert_array_equal(dataset.images, whole.images[kept])
    np.testing.assert_array_equal(dataset.labels, whole.labels[kept])
    assert dataset.preprocessing == whole.preprocessing


def test_too_many_unreadable_images_are_an_error_that_names_them_with_reasons(
    copied: Path,
) -> None:
    broken = break_images(copied, 3)
    with pytest.raises(ImgclfError) as caught:
        load(copied, max_bad_images=0.018)
    lines = caught.value.message.splitlines()
    assert "3 of 160 images" in lines[0]
    for line, name in zip(lines[1:], broken, strict=True):
        assert line.strip().startswith(f"{name}: ")
        assert len(line.strip()) > len(f"{name}: ")
    assert "--max-bad-images" in caught.value.hint


def test_share_of_unreadable_images_may_be_reached_but_not_passed(copied: Path) -> None:
    break_images(copied, 16)
    assert len(load(copied, max_bad_images=0.1)) == 144
    break_images(copied, 17)
    with pytest.raises(ImgclfError, match="17 of 160"):
        load(copied, max_bad_images=0.1)


def test_a_long_list_of_unreadable_images_is_cut(copied: Path) -> None:
    break_images(copied, 33)
    with pytest.raises(ImgclfError, match="and 23 more"):
        load(copied, max_bad_images=0.0)


def test_class_without_one_readable_image_is_an_error(copied: Path) -> None:
    break_images(copied, 40)
    dataset = load(copied, max_bad_images=1.0)  # it can still be evaluated
    with pytest.raises(ImgclfError, match="No image of class '3'"):
        split_dataset(dataset, 0.1, 0.2, 0)


def test_folder_without_one_readable_image_is_an_error(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "x.png").write_bytes(b"no image")
    with pytest.raises(ImgclfError, match="2 of 2 images"):
        load(tmp_path)
    with pytest.raises(ImgclfError, match="No image of class 'a'"):
        split_dataset(load(tmp_path, max_bad_images=1.0), 0.1, 0.2, 0)


# What is found


def test_empty_folder_is_an_error_that_shows_the_layout(tmp_path: Path) -> None:
    with pytest.raises(ImgclfError, match="has no images") as caught:
        load(tmp_path)
    assert f"{tmp_path.name}/<class>/<image>" in caught.value.hint


def test_images_beside_the_class_folders_have_no_class(tmp_path: Path) -> None:
    write(tmp_path / "x.png", noise(8, 8))
    with pytest.raises(ImgclfError, match="has no images"):
        load(tmp_path)


def test_one_class_can_be_looked_at_and_not_be_trained_on(tmp_path: Path) -> None:
    write(tmp_path / "cat" / "x.png", noise(8, 8))
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
        write(tiny / "cat" / hidden, noise(12, 10))
    write(tiny / ".git" / "x.png", noise(12, 10))
    after = load(tiny)
    assert (after.names, after.classes, after.digest) == (
        before.names,
        before.classes,
        before.digest,
    )


def test_nested_folders_belong_to_their_class(tiny: Path) -> None:
    write(tiny / "cat" / "2024" / "may" / "x.png", noise(12, 10))
    dataset = load(tiny)
    position = dataset.names.index("cat/2024/may/x.png")
    assert dataset.classes[dataset.labels[position]] == "cat"
    assert dataset.classes == ("cat", "dog")


def test_suffixes_may_be_in_capitals(tiny: Path) -> None:
    write(tiny / "cat" / "UPPER.PNG", noise(12, 10))
    write(tiny / "dog" / "Mixed.Jpeg", noise(12, 10))
    assert {"cat/UPPER.PNG", "dog/Mixed.Jpeg"} <= set(load(tiny).names)


def test_class_folder_may_be_a_link(tiny: Path, tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "x.png", noise(12, 10))
    (tiny / "bird").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    dataset = load(tiny)
    assert dataset.classes == ("bird", "cat", "dog")
    assert "bird/x.png" in dataset.names


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
