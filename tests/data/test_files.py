"""Image files become the pixels that prediction reads, and a digest; unreadable ones are named."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from image_folders import GENERATOR, load, noise, write_pixels
from imgclf.card import Preprocessing
from imgclf.data.dataset import ImageDataset
from imgclf.data.splits import split_dataset
from imgclf.errors import ImgclfError
from imgclf.preprocess import to_array


@pytest.fixture
def copied(digit_files: Path, tmp_path: Path) -> Path:
    return shutil.copytree(digit_files, tmp_path / "digits-copied")


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
    write_pixels(copied / "2" / "zzz.png", colour)
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
        write_pixels(tmp_path / label / "x.png", pixels)
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
        write_pixels(tmp_path / label / "x.png", noise(height, width))
    dataset = load(tmp_path, image_size)
    assert dataset.preprocessing == expected
    assert dataset.images.shape[1:] == (expected.resize_height, expected.resize_width, 3)


def test_mixed_sizes_are_128_pixels(tiny: Path) -> None:
    write_pixels(tiny / "dog" / "other.png", noise(13, 10))
    assert load(tiny).preprocessing == Preprocessing(128, 128, 3, 148, 148)


@pytest.mark.parametrize("image_size", [1, 2, 7, 8, 20, 33, 64, 97, 100, 128, 224])
def test_stored_margin_gives_random_crops_room_on_both_sides_alike(
    image_size: int, tmp_path: Path
) -> None:
    write_pixels(tmp_path / "a" / "x.png", noise(9, 11))
    write_pixels(tmp_path / "b" / "x.png", noise(11, 9))
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
        write_pixels(folder / f"{number}.png", pixels)
        write_pixels(folder / f"{number}.jpg", pixels, quality=90)
        write_pixels(folder / f"{number}.webp", pixels, lossless=grey)
        write_pixels(folder / f"{number}.bmp", pixels)
        orientation = Image.Exif()
        orientation[0x0112] = 6  # lies on its side
        write_pixels(folder / f"{number}-turned.jpg", pixels, exif=orientation)
        if grey:
            sixteen = GENERATOR.integers(0, 65536, (height, width), dtype=np.uint16)
            write_pixels(folder / f"{number}-16-bits.png", sixteen)  # pyrefly: ignore
            write_pixels(folder / f"{number}-as-colour.png", np.stack([pixels] * 3, axis=2))
        else:
            write_pixels(folder / f"{number}-alpha.png", noise(height, width, 4))
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
        write_pixels(tmp_path / label / "x.png", pixels)
    dataset = load(tmp_path, 64)
    for stored, pixels in zip(dataset.images, images, strict=True):
        resized = Image.fromarray(pixels).resize((74, 74), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(stored, np.asarray(resized))
    np.testing.assert_array_equal(dataset.inputs(slice(None)), dataset.images[:, 5:69, 5:69])


def test_oblong_images_lose_their_ends_and_keep_their_proportions(tmp_path: Path) -> None:
    """A red square in the middle of black fills the stored image, whichever way it lies."""
    landscape = np.zeros((100, 300, 3), np.uint8)
    landscape[:, 100:200, 0] = 255
    write_pixels(tmp_path / "a" / "landscape.png", landscape)
    write_pixels(tmp_path / "b" / "portrait.png", landscape.transpose(1, 0, 2))
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
