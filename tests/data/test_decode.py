"""What a file decodes to, or the plain reason why it does not, whatever the file is."""

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_image

from image_files import encode, png
from imgclf.card import Preprocessing
from imgclf.data.decode import Decoded, Outcome, decode_batch, first_size
from imgclf.errors import BadImageError
from imgclf.preprocess import to_array
from nobody import as_nobody

RULE = Preprocessing.identity(16, 16, 3)
PHOTOGRAPH = load_sample_image("flower.jpg")[200:260, 300:380]


def decode(path: Path) -> Outcome:
    (outcome,) = decode_batch([path], RULE).outcomes
    return outcome


def test_pipes_and_devices_are_never_opened(tmp_path: Path) -> None:
    """A pipe that nobody writes to would be waited for, and /dev/zero has no end."""
    pipe, photo = tmp_path / "pipe.png", tmp_path / "photo.png"
    os.mkfifo(pipe)
    photo.write_bytes(encode(PHOTOGRAPH, "PNG"))
    for path in (pipe, Path("/dev/zero"), tmp_path):
        assert decode(path) == "not a file: a folder, a pipe or a device"
    assert first_size([pipe, Path("/dev/zero"), tmp_path, photo]) == (80, 60)


def test_a_file_larger_than_any_image_is_not_read(tmp_path: Path) -> None:
    """A terabyte of nothing takes no room on the disk, and would take all memory."""
    path = tmp_path / "x.png"
    with path.open("wb") as file:
        file.write(encode(PHOTOGRAPH, "PNG"))
        file.truncate(2**40)
    assert decode(path) == "1,024.0 GiB; files of up to 1 GiB are read"


def test_a_file_that_may_not_be_read_and_one_that_is_not_there_are_named() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder, "x.png")
        path.write_bytes(encode(PHOTOGRAPH, "PNG"))
        path.chmod(0)
        with as_nobody():
            assert decode(path) == "Permission denied"
        assert decode(Path(folder, "absent.png")) == "No such file or directory"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_the_content_decides_what_a_misnamed_file_is(kind: str, tmp_path: Path) -> None:
    content = encode(PHOTOGRAPH, kind)
    pixels, outcomes = decode_batch([_written(tmp_path / "x.jpg", content)], RULE)
    assert isinstance(outcomes[0], Decoded)
    np.testing.assert_array_equal(pixels[0], to_array(content, RULE))


@pytest.mark.parametrize("size", [(1, 1), (50_000, 1), (1, 50_000)])
def test_slivers_are_images_like_others(size: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.new("RGB", size, (200, 30, 40)).save(path)
    pixels, outcomes = decode_batch([path], RULE)
    assert isinstance(outcomes[0], Decoded)
    assert outcomes[0].size == size
    assert (pixels == (200, 30, 40)).all()


def test_bombs_and_empty_files_leave_the_good_images_beside_them(tmp_path: Path) -> None:
    good = encode(PHOTOGRAPH, "PNG")
    contents = [good, b"", png(100_000, 100_000, 8, 2), good[:500], b"GIF89a", good]
    files = [_written(tmp_path / f"{n}.png", content) for n, content in enumerate(contents)]
    pixels, outcomes = decode_batch(files, RULE)
    readable = [number for number, one in enumerate(outcomes) if isinstance(one, Decoded)]
    assert readable == [0, 5]
    assert "the limit is" in str(outcomes[2])
    np.testing.assert_array_equal(pixels, np.stack([to_array(good, RULE)] * 2))


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


ENCODED = [
    encode(PHOTOGRAPH, "JPEG"),
    encode(PHOTOGRAPH, "PNG"),
    encode(PHOTOGRAPH, "WEBP"),
    encode(PHOTOGRAPH, "TIFF", compression="tiff_lzw"),
    encode(Image.fromarray(PHOTOGRAPH).convert("P"), "GIF"),
    encode(PHOTOGRAPH, "BMP"),
]
# Where in a file, as a share of it, and what is written there.
EDITS = st.lists(st.tuples(st.floats(0, 0.999), st.binary(min_size=1, max_size=8)), max_size=6)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # on EXIF data; the pixels are well
@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    content=st.one_of(st.sampled_from(ENCODED), st.binary(max_size=300)),
    edits=EDITS,
    kept=st.floats(0.01, 1),
)
def test_any_bytes_are_an_image_as_prediction_reads_it_or_have_a_reason(
    content: bytes, edits: list[tuple[float, bytes]], kept: float
) -> None:
    damaged = bytearray(content)
    for place, new in edits:
        start = int(place * len(damaged))
        damaged[start : start + len(new)] = new
    del damaged[int(kept * len(damaged)) + 1 :]
    with tempfile.TemporaryDirectory() as folder:
        path = _written(Path(folder, "x.png"), bytes(damaged))
        pixels, (outcome,) = decode_batch([path], RULE)
    if isinstance(outcome, Decoded):
        np.testing.assert_array_equal(pixels[0], to_array(bytes(damaged), RULE))
        return
    assert outcome
    assert "\n" not in outcome
    assert not len(pixels)
    with pytest.raises(BadImageError):
        to_array(bytes(damaged), RULE)
