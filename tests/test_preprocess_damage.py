"""What is no image, or a damaged one, has a plain reason why it is not read."""

import gc
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
from PIL import Image, features

from image_files import COLOUR, HEIGHT, WIDTH, Pixels, encode, png, textured_photo, write
from imgclf.card import Preprocessing
from imgclf.errors import BadImageError, TooManyPixelsError, UnknownFormatError
from imgclf.preprocess import (
    MAX_PIXELS,
    image_size,
    open_image,
    to_array,
)


@pytest.fixture(scope="module")
def photo() -> Pixels:
    return textured_photo()


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


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_size_is_read_from_the_header(kind: str, photo: Pixels):
    assert image_size(encode(photo, kind)) == (WIDTH, HEIGHT)


def test_size_is_read_where_no_pixels_are_and_refused_as_the_image_is():
    assert image_size(png(300, 200, bits=8, colour=0)) == (300, 200)
    assert image_size(png(10, 10, bits=8, colour=0), max_pixels=100) == (10, 10)
    with pytest.raises(TooManyPixelsError, match="11 x 10 pixels; the limit is 100"):
        image_size(png(11, 10, bits=8, colour=0), max_pixels=100)
    with pytest.raises(UnknownFormatError, match="not an image"):
        image_size(b"no image")


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


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("size", [(0, 0), (5, 0), (0, 5)])
def test_pillow_image_without_pixels_is_refused(mode: str, size: tuple[int, int]):
    with pytest.raises(BadImageError, match=f"empty image, {size[0]} x {size[1]} pixels"):
        to_array(Image.new(mode, size), COLOUR)


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
