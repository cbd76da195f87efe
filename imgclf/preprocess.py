"""Any image -> the uint8 array that a model card asks for.

The one place where this happens: validation, test, export and prediction all pass through here.
"""

import io
import os
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from imgclf.card import Preprocessing
from imgclf.errors import BadImageError, TooManyPixelsError, UnknownFormatError

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8]"

# Format -> Pillow's module for it, and how its files begin. Pillow would import all of its decoders
# to find the right one, which takes longer than to decode a small image.
FORMATS = {
    "JPEG": ("JpegImagePlugin", (b"\xff\xd8\xff",)),
    "PNG": ("PngImagePlugin", (b"\x89PNG\r\n\x1a\n",)),
    "WEBP": ("WebPImagePlugin", (b"RIFF",)),
    "BMP": ("BmpImagePlugin", (b"BM",)),
    "GIF": ("GifImagePlugin", (b"GIF87a", b"GIF89a")),
    "TIFF": ("TiffImagePlugin", (b"II", b"MM")),
    "PPM": ("PpmImagePlugin", (b"P",)),
}
_SUFFIXES = "jpg", "jpeg", "jfif", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm", "pbm"
SUFFIXES = frozenset(f".{suffix}" for suffix in _SUFFIXES)
MAX_PIXELS = 100_000_000
_ORIENTATION = 0x0112  # the EXIF tag
# So many are converted at once: an image that is almost too large has no room for copies of it.
_PART_PIXELS = 2**18

# What Pillow's decoders are known to raise on damaged files.
_DECODER_ERRORS = (
    OSError,
    ValueError,
    AssertionError,
    SyntaxError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
)
# Filters of warnings belong to the process, not to a thread.
_WARNING_FILTERS = threading.Lock()


def to_array(
    source: ImageSource, preprocessing: Preprocessing, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """Decode, orient and resize one image.

    Args:
        source: a path, the bytes of a file, a Pillow image, or a uint8 array [height, width] or
            [height, width, 1 | 3 | 4].
        preprocessing: the model card's rule.
        max_pixels: a file with more is not decoded.

    Returns:
        uint8 [height, width, channels], as ``preprocessing`` says.

    Raises:
        BadImageError: the image cannot be read; `UnknownFormatError` and `TooManyPixelsError` say
            that it is none, or too large.
    """
    return fit_image(open_image(source, max_pixels), preprocessing)


def open_image(source: ImageSource, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode an image as a viewer shows it: upright, over white, 8 bits; mode L or RGB.

    Raises:
        BadImageError: as `to_array` does.
    """
    with _told_as_bad_image(max_pixels):
        if isinstance(source, np.ndarray):
            return _as_seen(from_array(source))
        if isinstance(source, Image.Image):
            _check_size(source, max_pixels)
            return _as_seen(_upright(source))
        with _opened(source, max_pixels) as image:
            return _as_seen(_upright(image))


def image_size(file: bytes, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Return width and height as an image file's header says them, without decoding it.

    Raises:
        BadImageError: as `to_array` does, where the header shows it.
    """
    with _told_as_bad_image(max_pixels), _opened(file, max_pixels) as image:
        return image.size


@contextmanager
def _told_as_bad_image(max_pixels: int) -> Iterator[None]:
    """Make a `BadImageError` of whatever Pillow raises on an image."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise UnknownFormatError(
            "not an image, or damaged at its start (JPEG, PNG, WebP, BMP, GIF, TIFF, PPM are read)"
        ) from error
    except Image.DecompressionBombError as error:
        raise TooManyPixelsError(f"too many pixels; the limit is {max_pixels:,}") from error
    except _DECODER_ERRORS as error:
        raise BadImageError(_reason(error)) from error


def fit_image(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Resize an image that `open_image` has opened, and cut out its centre.

    Returns:
        uint8 [height, width, channels], as ``preprocessing`` says.

    Raises:
        BadImageError: it does not fit into memory.
    """
    mode = "L" if preprocessing.channels == 1 else "RGB"
    try:
        return _fit(image if image.mode == mode else image.convert(mode), preprocessing)
    except _DECODER_ERRORS as error:
        raise BadImageError(_reason(error)) from error


def _opened(source: "str | os.PathLike[str] | bytes", max_pixels: int) -> Image.Image:
    """Read the header, and refuse an image that is empty or too large to decode."""
    file = io.BytesIO(source) if isinstance(source, bytes) else Path(source)
    name = _format_of(source)
    import_module(f"PIL.{FORMATS[name][0]}")
    with _WARNING_FILTERS, warnings.catch_warnings():
        # Pillow warns of large images at a threshold of its own; ours is checked below.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = Image.open(file, formats=[name])
    try:
        _check_size(image, max_pixels)
    except BadImageError:
        image.close()
        raise
    return image


def _upright(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF data say; the same image where they say nothing."""
    image.load()  # a PNG may say so at its end
    if image.getexif().get(_ORIENTATION, 1) == 1:
        return image
    # Seldom needed, and slow to import beside one image.
    from PIL import ImageOps

    return ImageOps.exif_transpose(image)


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if not width * height:
        raise BadImageError(f"an empty image, {width} x {height} pixels")
    if width * height > max_pixels:
        raise TooManyPixelsError(f"{width} x {height} pixels; the limit is {max_pixels:,}")


def _format_of(source: "str | os.PathLike[str] | bytes") -> str:
    """Tell a file's format by its first bytes."""
    if isinstance(source, bytes):
        beginning = source[:16]
    else:
        with open(source, "rb") as file:
            beginning = file.read(16)
    for name, (_, beginnings) in FORMATS.items():
        if beginning.startswith(beginnings):
            return name
    raise UnidentifiedImageError


def _as_seen(image: Image.Image) -> Image.Image:
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I"):
        return _in_8_bits(image)
    if image.mode == "F":
        raise BadImageError("floating-point pixels have no agreed range; save it with 8 or 16 bits")
    if image.has_transparency_data:
        return _over_white(image)
    return (
        image if image.mode in ("L", "RGB") else image.convert("L" if image.mode == "1" else "RGB")
    )


def _in_8_bits(image: Image.Image) -> Image.Image:
    """Scale 65535 to 255. Pillow's own conversion from 16 bits cuts off instead."""
    pixels = np.empty((image.height, image.width), np.uint8)
    for (left, top, right, bottom), part in _parts(image):
        values = np.asarray(part.convert("I")).clip(0, 65535)
        pixels[top:bottom, left:right] = (values * 255 + 32767) // 65535
    return Image.fromarray(pixels)


def _over_white(image: Image.Image) -> Image.Image:
    seen = Image.new("RGB", image.size)
    for box, part in _parts(image):
        white = Image.new("RGBA", part.size, "white")
        seen.paste(Image.alpha_composite(white, part.convert("RGBA")).convert("RGB"), box)
    return seen


def _parts(image: Image.Image) -> Iterator[tuple[tuple[int, int, int, int], Image.Image]]:
    """Give a decoded image in parts, each with where it lies: left, top, right, bottom."""
    width = min(image.width, _PART_PIXELS)
    height = _PART_PIXELS // width
    for top in range(0, image.height, height):
        for left in range(0, image.width, width):
            right, bottom = min(left + width, image.width), min(top + height, image.height)
            yield (left, top, right, bottom), image.crop((left, top, right, bottom))


def is_grey(pixels: NDArray[np.uint8]) -> bool:
    """Tell whether an array [..., 3] holds nothing but shades of grey."""
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    return bool((red == green).all() and (green == blue).all())


def centre_crop(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Cut [..., height, width, channels] out of the middle of a larger array; no copy."""
    top = (pixels.shape[-3] - height) // 2
    left = (pixels.shape[-2] - width) // 2
    return pixels[..., top : top + height, left : left + width, :]


def _fit(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    target = (preprocessing.resize_width, preprocessing.resize_height)
    if image.size != target:
        # The largest centred box with the target's aspect ratio. Cutting it out while resizing
        # keeps a 50,000 x 1 image from becoming a huge one on the way.
        scale = max(target[0] / image.width, target[1] / image.height)
        half_width = min(target[0] / scale, image.width) / 2
        half_height = min(target[1] / scale, image.height) / 2
        x, y = image.width / 2, image.height / 2
        box = (x - half_width, y - half_height, x + half_width, y + half_height)
        image = image.resize(target, Image.Resampling.BILINEAR, box=box)
    pixels = np.asarray(image, dtype=np.uint8).reshape(target[1], target[0], preprocessing.channels)
    return centre_crop(pixels, preprocessing.height, preprocessing.width)


def from_array(array: NDArray[np.uint8]) -> Image.Image:
    """Make a Pillow image of uint8 pixels [height, width] or [height, width, 1 | 3 | 4].

    Raises:
        BadImageError: the array is something else.
    """
    if array.dtype != np.uint8:
        raise BadImageError(f"an array of {array.dtype}; pixels must be uint8, from 0 to 255")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise BadImageError(
            f"an array of shape {array.shape}; it must be [height, width] or [height, width, 1|3|4]"
        )
    if array.size == 0:
        raise BadImageError(f"an empty array of shape {array.shape}")
    return Image.fromarray(np.ascontiguousarray(array))


def _reason(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "a folder, not an image"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, AssertionError):
        return "the image's file is closed"
    return f"cannot be decoded: {' '.join(str(error).split()) or type(error).__name__}"
