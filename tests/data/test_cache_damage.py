"""An entry that was damaged or tampered with is built again; a full disk leaves the others."""

import json

import numpy as np
import pytest

from image_folders import load_files as load
from imgclf.card import Preprocessing
from imgclf.data.cache import list_entries
from small_disk import python_on_small_disk

# Of what `load` stores.
SIZE = {"height": 16, "width": 16, "channels": 3, "resize_height": 20, "resize_width": 20}


@pytest.mark.parametrize("damage", ["pixels", "images", "half"])
@pytest.mark.faults
def test_a_damaged_entry_is_built_again(damage, images, tmp_path):
    expected, _ = load(images, tmp_path / "cache")
    pixels = expected.pixels.copy()
    (entry,) = (tmp_path / "cache").iterdir()
    if damage == "pixels":
        (entry / "pixels.raw").write_bytes(b"\0" * 100)
    elif damage == "images":
        (entry / "images.json").write_text("[]")
    else:
        (entry / "images.json").unlink()
    again, decoded = load(images, tmp_path / "cache")
    assert decoded == 12
    np.testing.assert_array_equal(again.pixels, pixels)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("preprocessing", {"height": 10**9}),
        ("preprocessing", {**SIZE, "resize_width": 10**9}),
        ("preprocessing", {**SIZE, "channels": 7}),
        ("preprocessing", {**SIZE, "resize_height": "x"}),
        # Of the right length for images of another size.
        (
            "preprocessing",
            {"height": 10, "width": 10, "channels": 3, "resize_height": 10, "resize_width": 40},
        ),
        ("images", []),
        ("images", None),
        ("images", 12),
        ("images", [["0" * 64, [30, 20], True]] * 11),
        ("images", [*[["0" * 64, [30, 20], True]] * 12, "no such file"]),
        ("images", [["0" * 64, ["30", 20], True]] * 12),
        ("images", [["0" * 64, [30], True]] * 12),
        ("images", [[7, [30, 20], True]] * 12),
        ("images", [{"digest": "0" * 64}] * 12),
    ],
)
def test_an_entry_that_was_tampered_with_is_built_again(name, value, images, tmp_path):
    expected, _ = load(images, tmp_path / "cache")
    pixels, outcomes = expected.pixels.copy(), expected.outcomes
    (entry,) = (tmp_path / "cache").iterdir()
    described = json.loads((entry / "images.json").read_text())
    assert described["preprocessing"] == SIZE
    (entry / "images.json").write_text(json.dumps({**described, name: value}))
    stored, decoded = load(images, tmp_path / "cache")
    assert decoded == 12
    assert stored.outcomes == outcomes
    np.testing.assert_array_equal(stored.pixels, pixels)


@pytest.mark.parametrize("text", ["", "null", "[" * 100_000, "\ud800", '{"images": '])
def test_a_description_that_is_no_json_is_written_anew(text, images, tmp_path):
    load(images, tmp_path / "cache")
    (entry,) = (tmp_path / "cache").iterdir()
    (entry / "images.json").write_text(text, encoding="utf-8", errors="surrogatepass")
    assert list_entries(tmp_path / "cache") == []
    assert load(images, tmp_path / "cache")[1] == 12


def test_a_rule_that_is_given_is_never_answered_with_another(images, tmp_path):
    rule = Preprocessing(16, 18, 3, 20, 22)
    load(images, tmp_path / "cache", rule)
    (entry,) = (tmp_path / "cache").iterdir()
    text = (entry / "images.json").read_text()
    (entry / "images.json").write_text(text.replace('"height": 16', '"height": 17'))
    stored, decoded = load(images, tmp_path / "cache", rule)
    assert (stored.preprocessing, decoded) == (rule, 12)


LOAD_ON_A_FULL_DISK = """
import sys
from pathlib import Path
from imgclf.data.cache import load_decoded
from imgclf.errors import ImgclfError

cache, files = Path(sys.argv[1]), sorted(Path(sys.argv[2]).iterdir())

def load(image_size):
    told = []
    stored = load_decoded(files, image_size, cache, "images", lambda done, total: told.append(done))
    return stored.pixels.shape, bool(told)

print(*load(64))
try:
    load(256)
except ImgclfError as error:
    print(error.message)
    print(error.hint)
print(*load(64))
print(len(list(cache.iterdir())))
"""


@pytest.mark.faults
def test_what_was_decoded_before_the_disk_was_full_is_still_read(images, tmp_path):
    (tmp_path / "disk").mkdir()
    folder = images[0].parent
    printed = python_on_small_disk(LOAD_ON_A_FULL_DISK, tmp_path / "disk", 1024, folder)
    first, message, hint, again, entries = printed.splitlines()
    assert first == "(12, 74, 74, 3) True"
    assert again == "(12, 74, 74, 3) False"
    assert "No space left on device. Up to 3.0 MiB are needed; " in message
    assert message.endswith("KiB are free.")
    assert "--data-dir" in hint
    assert entries == "1"
