"""Any image file -> exactly the pixels that a viewer would show."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from image_files import COLOUR, GREY, HEIGHT, WIDTH, Pixels, encode, png, textured_photo
from imgclf.card import Preprocessing
from imgclf.errors import BadImageError
from imgclf.preprocess import (
    open_image,
    to_array,
)


@pytest.fixture(scope="module")
def photo() -> Pixels:
    return textured_photo()


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
