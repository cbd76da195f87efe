"""Any image file -> exactly the pixels that a viewer would show, or a plain reason why not."""

import gc
import io
import random
import struct
import sys
import threading
import time
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, features

from imgclf.card import Preprocessing
from imgclf.errors import BadImageError
from imgclf.preprocess import (
    MAX_PIXELS,
    centre_crop,
    is_grey,
    open_image,
    to_array,
)

Pixels = NDArray[np.uint8]
HEIGHT, WIDTH = 24, 40
COLOUR = Preprocessing.identity(HEIGHT, WIDTH, 3)
GREY = Preprocessing.identity(HEIGHT, WIDTH, 1)


@pytest.fixture(scope="module")
def photo() -> Pixels:
    """Smooth areas, an edge and fine texture, different in every channel and corner."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    planes = [x * 6.0, y * 9.0 + 20 * np.sin(x / 3), 255 - x * y / 4.0]
    noise = np.random.default_rng(0).normal(0, 6, (HEIGHT, WIDTH, 3))
    pixels = np.stack(planes, axis=-1) + noise
    pixels[:8, :12] = (250, 30, 10)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def encode(image: Image.Image | Pixels, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(
    width: int, height: int, bits: int, colour: int, rows: bytes = b"", extra: bytes = b""
) -> bytes:
    """A PNG file written by hand: kinds that Pillow cannot write, and lies about the size."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + extra
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


# --- What is stored is what is read


def test_image_of_the_right_size_is_not_touched(photo: Pixels, tmp_path: Path):
    path = tmp_path / "photo.png"
    path.write_bytes(encode(photo, "PNG"))
    sources = (photo, Image.fromarray(photo), path, str(path), path.read_bytes())
    for source in sources:
        np.testing.assert_array_equal(to_array(source, COLOUR), photo)


def test_grey_image_of_the_right_size_is_not_touched(photo: Pixels):
    grey = photo[..., 1]
    for source in (grey, grey[..., None], Image.fromarray(grey), encode(grey, "PNG")):
        np.testing.assert_array_equal(to_array(source, GREY), grey[..., None])


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_lossless_formats_keep_every_pixel(kind: str, photo: Pixels):
    options = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(to_array(encode(photo, kind, **options), COLOUR), photo)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF"])
def test_lossy_formats_come_close(kind: str, photo: Pixels):
    smooth = np.asarray(Image.fromarray(photo[::12, ::20]).resize((WIDTH, HEIGHT)))
    difference = to_array(encode(smooth, kind), COLOUR).astype(int) - smooth
    assert np.abs(difference).mean() < 4


def test_model_for_grey_weighs_colours_as_the_eye_does(photo: Pixels):
    red, green, blue = np.moveaxis(photo.astype(np.int64), -1, 0)
    # ITU-R 601-2 luma: 0.299, 0.587 and 0.114 in 16 bits.
    luma = (19595 * red + 38470 * green + 7471 * blue + 2**15) >> 16
    np.testing.assert_array_equal(to_array(photo, GREY)[..., 0], luma)


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_stays_grey_in_any_model(channels: int, photo: Pixels):
    grey = photo[..., 1]
    expected = np.repeat(grey[..., None], channels, axis=2)
    for source in (grey, np.repeat(grey[..., None], 3, axis=2)):
        result = to_array(source, Preprocessing.identity(HEIGHT, WIDTH, channels))
        np.testing.assert_array_equal(result, expected)


def test_sliced_and_turned_arrays_are_read_as_they_look(photo: Pixels):
    view = photo[::-1, ::-1, ::-1]
    assert not view.flags.c_contiguous
    np.testing.assert_array_equal(to_array(view, COLOUR), view)


def test_given_image_is_left_as_it_was(photo: Pixels):
    for given in (photo.copy(), Image.fromarray(photo), Image.fromarray(photo).convert("P")):
        before = np.asarray(given).copy()
        to_array(given, Preprocessing.identity(8, 8, 1))
        np.testing.assert_array_equal(np.asarray(given), before)


# --- Modes


def test_16_bit_grey_is_scaled_not_cut_off():
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.rint(values / 257).astype(np.uint8)  # 65535 / 255 = 257: never half way
    assert (expected.flat[32768], expected.flat[65535]) == (128, 255)
    rule = Preprocessing.identity(256, 256, 1)
    big_endian = values.astype(">u2").tobytes()
    for source in (
        encode(Image.fromarray(values), "PNG"),
        encode(Image.fromarray(values), "TIFF"),
        b"P5 256 256 65535\n" + big_endian,
        Image.fromarray(values),
        Image.fromarray(values.astype(np.int32)),
    ):
        np.testing.assert_array_equal(to_array(source, rule)[..., 0], expected)


def test_16_bit_colour_keeps_its_brightness():
    levels = (0, 0x1234, 32768, 65535)
    row = b"".join(struct.pack(">HHH", level, 65535 - level, 0) for level in levels)
    result = to_array(png(4, 1, 16, 2, b"\0" + row), Preprocessing.identity(1, 4, 3))
    expected = [[level / 257, 255 - level / 257, 0] for level in levels]
    # 8 of 16 bits are kept: at most one level from the exact value.
    assert np.abs(result[0] - np.array(expected)).max() < 1


def test_transparency_lies_over_white():
    colour, alpha = np.meshgrid(np.arange(256), np.arange(256))
    expected = np.rint(colour * alpha / 255 + 255 - alpha).astype(np.uint8)
    assert expected[0, 0] == 255  # wholly transparent black
    rule = Preprocessing.identity(256, 256, 3)
    rgba = np.stack([colour, colour, colour, alpha], axis=-1).astype(np.uint8)
    la = Image.merge("LA", [Image.fromarray(rgba[..., channel]) for channel in (0, 3)])
    for source in (rgba, encode(rgba, "PNG"), encode(la, "PNG"), la, encode(rgba, "TIFF")):
        np.testing.assert_array_equal(
            to_array(source, rule), np.repeat(expected[..., None], 3, axis=2)
        )
        np.testing.assert_array_equal(
            to_array(source, Preprocessing.identity(256, 256, 1))[..., 0], expected
        )


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_transparent_palette_entry_is_white(kind: str):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    content = encode(image, kind, transparency=0)
    assert to_array(content, Preprocessing.identity(1, 2, 3)).tolist() == [
        [[255, 255, 255], [200, 100, 50]]
    ]


def test_transparent_colour_key_is_white():
    pixels = np.array([[[10, 20, 30], [10, 20, 31]]], dtype=np.uint8)
    content = encode(pixels, "PNG", transparency=(10, 20, 30))
    assert to_array(content, Preprocessing.identity(1, 2, 3)).tolist() == [
        [[255, 255, 255], [10, 20, 31]]
    ]


def test_palette_is_looked_up():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    for source in (image, encode(image, "PNG"), encode(image, "BMP")):
        assert to_array(source, Preprocessing.identity(1, 2, 3)).tolist() == [
            [[10, 20, 30], [200, 100, 50]]
        ]


def test_one_bit_image_is_black_and_white():
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    for source in (image, encode(image, "PNG"), encode(image, "TIFF"), encode(image, "PPM")):
        assert to_array(source, Preprocessing.identity(1, 2, 1)).ravel().tolist() == [0, 255]
    assert open_image(image).mode == "L"


@pytest.mark.parametrize(
    ("ink", "shown"),
    [
        ((0, 255, 255, 0), (255, 0, 0)),
        ((255, 0, 255, 0), (0, 255, 0)),
        ((0, 0, 0, 0), (255, 255, 255)),
        ((0, 0, 0, 255), (0, 0, 0)),
    ],
)
def test_printers_inks_become_the_colours_they_print(
    ink: tuple[int, int, int, int], shown: tuple[int, int, int]
):
    content = encode(Image.new("CMYK", (16, 16), ink), "JPEG", quality=100)
    result = to_array(content, Preprocessing.identity(16, 16, 3))
    assert np.abs(result.astype(int) - shown).max() <= 2  # JPEG


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG", "MPO"])
def test_of_several_frames_the_first_is_read(kind: str):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "lime")]
    options: dict[str, Any] = {"save_all": True, "append_images": frames[1:]}
    if kind == "WEBP":
        options["lossless"] = True
    result = to_array(encode(frames[0], kind, **options), Preprocessing.identity(16, 16, 3))
    assert np.abs(result.astype(int) - (255, 0, 0)).max() <= 2  # MPO holds JPEG


def test_floating_point_pixels_are_refused():
    with pytest.raises(BadImageError, match="no agreed range"):
        to_array(encode(Image.new("F", (8, 8), 0.5), "TIFF"), COLOUR)


# --- Orientation

UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: np.rot90(stored, 1),
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_photos_are_turned_upright(kind: str, orientation: int, photo: Pixels, tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    stored = to_array(encode(photo, kind, **options), COLOUR)
    path = tmp_path / "photo"
    path.write_bytes(encode(photo, kind, exif=exif, **options))
    expected = UPRIGHT[orientation](stored)
    height, width = expected.shape[:2]
    np.testing.assert_array_equal(
        to_array(path, Preprocessing.identity(height, width, 3)), expected
    )
    assert open_image(path).size == (width, height)


def test_unknown_orientation_leaves_the_photo_as_it_is(photo: Pixels):
    exif = Image.Exif()
    exif[0x0112] = 9
    np.testing.assert_array_equal(to_array(encode(photo, "PNG", exif=exif), COLOUR), photo)


# --- Size


def triangle(pixels: NDArray[np.float64], size: int, start: float, end: float) -> NDArray[Any]:
    """Resample the first axis' part start..end with a triangle filter, in exact arithmetic."""
    scale = (end - start) / size
    places = np.arange(len(pixels)) + 0.5
    rows = []
    for position in range(size):
        centre = start + (position + 0.5) * scale
        weights = np.clip(1 - np.abs(places - centre) / max(scale, 1.0), 0, None)
        rows.append(np.tensordot(weights / weights.sum(), pixels, axes=1))
    return np.stack(rows)


@pytest.mark.parametrize(
    ("size", "target"),
    [
        ((200, 300), (50, 50)),
        ((300, 200), (50, 50)),
        ((97, 61), (28, 40)),
        ((10, 7), (32, 32)),
        ((33, 500), (20, 10)),
        ((64, 96), (32, 48)),
    ],
)
def test_largest_centred_part_is_resized_with_an_antialiased_triangle_filter(
    size: tuple[int, int], target: tuple[int, int]
):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    expected = pixels.astype(np.float64)
    scale = max(target[0] / size[0], target[1] / size[1])
    for axis in (0, 1):
        half = target[axis] / scale / 2
        middle = size[axis] / 2
        resampled = triangle(expected.swapaxes(0, axis), target[axis], middle - half, middle + half)
        expected = resampled.swapaxes(0, axis)
    result = to_array(pixels, Preprocessing.identity(*target, 3))
    # Pillow rounds to whole levels twice, once for each axis.
    assert np.abs(result - expected).max() <= 1


def test_wide_photo_is_resized_by_its_height_and_cut_at_both_sides(photo: Pixels):
    wide = np.tile(photo, (10, 12, 1))  # 480 x 240
    whole = np.asarray(Image.fromarray(wide).resize((120, 60), Image.Resampling.BILINEAR))
    result = to_array(wide, Preprocessing.identity(60, 60, 3))
    np.testing.assert_array_equal(result, whole[:, 30:90])


def test_centre_is_cut_out_of_the_resized_image(photo: Pixels):
    large = to_array(photo, Preprocessing.identity(20, 26, 3))
    small = to_array(photo, Preprocessing(16, 18, 3, resize_height=20, resize_width=26))
    np.testing.assert_array_equal(small, large[2:18, 4:22])


def test_image_of_the_resized_size_is_only_cut(photo: Pixels):
    result = to_array(photo, Preprocessing(20, 30, 3, resize_height=HEIGHT, resize_width=WIDTH))
    np.testing.assert_array_equal(result, photo[2:22, 5:35])


@pytest.mark.parametrize("size", [(1, 1), (1, 50_000), (50_000, 1), (2, 9999), (9999, 3)])
def test_slivers_give_the_right_size_and_colour(size: tuple[int, int]):
    image = Image.new("RGB", (size[1], size[0]), (10, 200, 90))
    started = time.perf_counter()
    result = to_array(encode(image, "PNG"), Preprocessing(224, 224, 3, 256, 256))
    assert time.perf_counter() - started < 2
    assert result.shape == (224, 224, 3)
    assert (result == (10, 200, 90)).all()


def test_centre_crop_needs_no_copy_and_works_on_batches():
    batch = np.arange(2 * 6 * 7 * 1, dtype=np.uint8).reshape(2, 6, 7, 1)
    cropped = centre_crop(batch, 4, 3)
    np.testing.assert_array_equal(cropped, batch[:, 1:5, 2:5])
    assert np.shares_memory(cropped, batch)
    # An odd remainder goes below and to the right.
    np.testing.assert_array_equal(centre_crop(batch, 3, 4), batch[:, 1:4, 1:5])


def test_is_grey_sees_a_single_coloured_pixel():
    pixels = np.full((3, 4, 5, 3), 77, np.uint8)
    assert is_grey(pixels)
    for channel in range(3):
        tinted = pixels.copy()
        tinted[2, 3, 4, channel] = 78
        assert not is_grey(tinted)


# --- What cannot be read


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "PPM"])
def test_truncated_image_is_refused(kind: str, photo: Pixels):
    content = encode(photo, kind)
    with pytest.raises(BadImageError, match="cannot be decoded: "):
        to_array(content[: len(content) * 3 // 4], COLOUR)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"hello, I am no image",
        b"\0" * 10_000,
        b"%PDF-1.7\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    ],
)
def test_file_that_is_no_image_is_refused(content: bytes, tmp_path: Path):
    path = write(tmp_path / "photo.png", content)
    for source in (path, content):
        with pytest.raises(BadImageError, match="not an image, or damaged at its start"):
            to_array(source, COLOUR)


def test_formats_outside_the_list_are_refused(photo: Pixels):
    """Pillow reads dozens of formats, some with decoders of ill repute."""
    for kind in ("ICO", "PCX", "SGI", "TGA", "EPS"):
        with pytest.raises(BadImageError, match="not an image"):
            to_array(encode(photo, kind), COLOUR)


def test_missing_file_folder_and_impossible_names_have_plain_reasons(tmp_path: Path):
    for source, reason in (
        (tmp_path / "absent.png", "^no such file$"),
        (tmp_path, "^a folder, not an image$"),
        ("a" * 300, "^File name too long$"),
        ("null\0byte", "null byte"),
    ):
        with pytest.raises(BadImageError, match=reason):
            to_array(source, COLOUR)


@pytest.mark.parametrize("size", [(100_000, 100_000), (10_001, 10_000), (2**31 - 1, 2**31 - 1)])
def test_decompression_bomb_is_refused_from_its_header(size: tuple[int, int], tmp_path: Path):
    path = write(tmp_path / "bomb.png", png(*size, bits=8, colour=2, rows=bytes(1000)))
    started = time.perf_counter()
    with pytest.raises(BadImageError, match=rf"pixels; the limit is {MAX_PIXELS:,}"):
        to_array(path, COLOUR)
    assert time.perf_counter() - started < 1


def test_image_within_the_limit_is_let_through_without_a_warning(tmp_path: Path):
    rows = bytes(10_000 * (1 + 10_000 // 8))  # a filter's number and the pixels
    path = write(tmp_path / "large.png", png(10_000, 10_000, bits=1, colour=0, rows=rows))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_image(path).size == (10_000, 10_000)


def test_text_that_unpacks_to_gigabytes_is_refused():
    text = b"tEXt" + b"comment\0" + b"x" * 20
    bomb = b"zTXt" + b"comment\0\0" + zlib.compress(bytes(50_000_000))
    chunks = b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in (text, bomb)
    )
    with pytest.raises(BadImageError, match="cannot be decoded: "):
        to_array(png(1, 1, 8, 0, b"\0\0", extra=chunks), COLOUR)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((8, 8, 3), np.float32), "array of float32; pixels must be uint8"),
        (np.zeros((8, 8), np.int64), "array of int64"),
        (np.zeros((8, 8), bool), "array of bool"),
        (np.zeros(8, np.uint8), r"shape \(8,\)"),
        (np.zeros((8, 8, 2), np.uint8), r"shape \(8, 8, 2\)"),
        (np.zeros((8, 8, 5), np.uint8), r"shape \(8, 8, 5\)"),
        (np.zeros((2, 8, 8, 3), np.uint8), r"shape \(2, 8, 8, 3\)"),
        (np.zeros((3, 8, 8), np.uint8), r"shape \(3, 8, 8\)"),
        (np.zeros((0, 8, 3), np.uint8), r"empty array of shape \(0, 8, 3\)"),
        (np.uint8(7) + np.zeros((), np.uint8), r"uint8"),
    ],
)
def test_array_that_is_no_image_is_refused(array: Any, reason: str):
    with pytest.raises(BadImageError, match=reason):
        to_array(array, COLOUR)


def test_pillow_image_whose_file_is_closed_is_refused(photo: Pixels, tmp_path: Path):
    path = write(tmp_path / "photo.png", encode(photo, "PNG"))
    with Image.open(path) as image:
        pass
    with pytest.raises(BadImageError, match="closed"):
        to_array(image, COLOUR)


def damaged_files(photo: Pixels, number: int) -> "list[tuple[str, bytes]]":
    """Real files of every format, cut, overwritten, shortened or lengthened at random."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    palette = Image.fromarray(photo).convert("P")
    deep = Image.fromarray(photo[..., 0].astype(np.uint16) * 257)
    originals = {
        "jpeg": encode(photo, "JPEG", exif=exif),
        "progressive": encode(photo, "JPEG", progressive=True),
        "cmyk": encode(Image.fromarray(photo).convert("CMYK"), "JPEG"),
        "mpo": encode(photo, "MPO", save_all=True, append_images=[palette.convert("RGB")]),
        "png": encode(photo, "PNG", exif=exif),
        "palette": encode(palette, "PNG", transparency=3),
        "deep": encode(deep, "PNG"),
        "webp": encode(photo, "WEBP", exif=exif),
        "lossless": encode(photo, "WEBP", lossless=True),
        "gif": encode(palette, "GIF", save_all=True, append_images=[palette]),
        "bmp": encode(photo, "BMP"),
        "ppm": encode(photo, "PPM"),
        "tiff": encode(photo, "TIFF", exif=exif),
    }
    if features.check_codec("libtiff"):
        originals["lzw"] = encode(photo, "TIFF", compression="tiff_lzw")
    chance = random.Random(0)
    damaged = []
    for position in range(number):
        name = list(originals)[position % len(originals)]
        content = bytearray(originals[name])
        start = chance.randrange(len(content))
        kind = chance.randrange(5)
        if kind == 0:
            del content[start:]
        elif kind == 1:
            del content[start : start + chance.randrange(1, 40)]
        elif kind == 2:
            content[start:start] = chance.randbytes(chance.randrange(1, 40))
        else:  # anywhere, or in the header
            reach = len(content) if kind == 3 else min(len(content), 200)
            for _ in range(chance.choice((1, 3, 10, 50))):
                content[chance.randrange(reach)] = chance.choice((0, 127, 128, 255, 13))
        damaged.append((name, bytes(content)))
    return damaged


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # on EXIF data; the pixels are well
def test_random_damage_gives_an_image_or_a_plain_reason(photo: Pixels):
    rule = Preprocessing(8, 8, 3, 10, 10)
    read, refused, reasons = set(), set(), set()
    for name, content in damaged_files(photo, 1400):
        try:
            result = to_array(content, rule)
        except BadImageError as error:
            refused.add(name)
            reasons.add(error.message)
        else:
            assert result.shape == (8, 8, 3)
            assert result.dtype == np.uint8
            read.add(name)
    assert not [reason for reason in reasons if not reason or "\n" in reason]
    assert len(refused) >= 13  # every format was really damaged
    assert len(read) >= 8


# --- Good manners


def test_files_are_closed_whether_they_are_read_or_not(photo: Pixels, tmp_path: Path):
    good = encode(photo, "PNG")
    paths = [
        write(tmp_path / "good.png", good),
        write(tmp_path / "good.tif", encode(photo, "TIFF")),
        write(tmp_path / "animated.gif", encode(photo, "GIF", save_all=True)),
        write(tmp_path / "cut.png", good[:200]),
        write(tmp_path / "text.png", b"text"),
        write(tmp_path / "large.png", png(10_001, 10_000, bits=8, colour=2)),
        write(tmp_path / "bomb.png", png(100_000, 100_000, bits=8, colour=2)),
        write(tmp_path / "float.tif", encode(Image.new("F", (4, 4)), "TIFF")),
    ]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for path in paths:
            try:
                to_array(path, COLOUR)
            except BadImageError:
                continue
        gc.collect()
    assert [str(warning.message) for warning in caught] == []


def test_threads_that_decode_leave_the_programs_warnings_alone(tmp_path: Path, photo: Pixels):
    path = write(tmp_path / "photo.png", encode(photo, "PNG"))

    def decode() -> None:
        for _ in range(50):
            open_image(path)

    before, interval = list(warnings.filters), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(5):
            threads = [threading.Thread(target=decode) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert warnings.filters == before
    finally:
        sys.setswitchinterval(interval)
