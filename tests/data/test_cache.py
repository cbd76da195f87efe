import dataclasses
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from PIL import Image

from image_folders import load_files as load
from imgclf.card import Preprocessing
from imgclf.data.builds import list_builds
from imgclf.data.cache import clear, list_entries
from imgclf.data.decode import Decoded
from imgclf.errors import ImgclfError
from imgclf.preprocess import centre_crop, to_array

GENERATOR = np.random.default_rng(0)

LOAD_IN_ANOTHER_PROCESS = """
import sys
from pathlib import Path
from imgclf.data.cache import load_decoded

files = sorted(Path(sys.argv[1]).iterdir())
tell = lambda done, total: print(done, flush=True)
stored = load_decoded(files, 64, Path(sys.argv[2]), "images", tell)
print(stored.pixels.shape[0], stored.pixels.sum())
"""


def test_files_are_decoded_once_and_their_pixels_mapped(images, tmp_path):
    first, decoded = load(images, tmp_path / "cache")
    assert decoded == 12
    again, decoded = load(images, tmp_path / "cache")
    assert decoded == 0
    size = again.preprocessing
    for stored in (first, again):
        assert isinstance(stored.pixels, np.memmap)
        assert not stored.pixels.flags.writeable
        assert stored.pixels.shape == (12, size.resize_height, size.resize_width, 3)
    centre = (size.resize_height - 16) // 2
    for pixels, path, outcome in zip(again.pixels, images, again.outcomes, strict=True):
        cut = pixels[centre : centre + 16, centre : centre + 16]
        np.testing.assert_array_equal(cut, to_array(path, size))
        assert isinstance(outcome, Decoded)
        assert outcome.size == Image.open(path).size
    assert first.outcomes == again.outcomes


def test_grey_images_keep_one_channel(tmp_path):
    for number in range(300):
        Image.fromarray(np.full((9, 7), number % 256, np.uint8)).save(tmp_path / f"{number:03}.png")
    files = sorted(tmp_path.glob("*.png"))
    stored, _ = load(files, tmp_path / "cache", 0)
    assert stored.preprocessing.channels == 1
    assert stored.pixels.shape == (300, 9, 7, 1)
    assert stored.pixels[:, 4, 4, 0].tolist() == [number % 256 for number in range(300)]


@pytest.mark.parametrize("change", ["content", "time", "name", "permission"])
def test_a_changed_file_makes_another_entry(change, images, tmp_path):
    load(images, tmp_path / "cache")
    if change == "content":
        Image.new("RGB", (25, 25), "red").save(images[3])
    elif change == "time":
        os.utime(images[3], (1, 1))
    elif change == "name":
        images[3] = images[3].rename(images[3].with_name("other.png"))
    else:
        images[3].chmod(0o600)
    stored, decoded = load(images, tmp_path / "cache")
    assert decoded == 12
    if change == "content":
        assert (stored.pixels[3] == (255, 0, 0)).all()


def test_another_input_size_makes_another_entry(images, tmp_path):
    small, _ = load(images, tmp_path / "cache", 16)
    large, decoded = load(images, tmp_path / "cache", 20)
    assert decoded == 12
    assert large.pixels.shape[1] > small.pixels.shape[1]


def write_alike(folder: Path, number: int) -> list[Path]:
    """Colour images of one size."""
    folder.mkdir()
    for position in range(number):
        pixels = GENERATOR.integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{position:03}.png")
    return sorted(folder.iterdir())


def test_a_last_image_of_another_size_counts_as_much_as_the_first(tmp_path):
    files = write_alike(tmp_path / "images", 150)
    alike, _ = load(files, tmp_path / "cache", 0)
    assert alike.preprocessing == Preprocessing.identity(20, 30, 3)
    for changed in (0, 149):
        original = files[changed].read_bytes()
        Image.new("RGB", (31, 20), "red").save(files[changed])
        cache = tmp_path / f"cache-{changed}"
        stored, _ = load(files, cache, 0)
        assert stored.preprocessing == Preprocessing(128, 128, 3, 148, 148)
        assert stored.pixels.shape == (150, 148, 148, 3)
        assert (stored.pixels[changed] == (255, 0, 0)).all()
        rule = Preprocessing.identity(148, 148, 3)
        np.testing.assert_array_equal(stored.pixels[1], to_array(files[1], rule))
        assert len(list(cache.iterdir())) == 1
        assert load(files, cache, 0)[1] == 0
        files[changed].write_bytes(original)


def test_an_image_that_cannot_be_read_has_no_say_in_the_size(tmp_path):
    files = write_alike(tmp_path / "images", 5)
    for changed in (0, 4):
        with Image.open(files[changed]) as image:
            image.rotate(90, expand=True).save(files[changed])
        files[changed].write_bytes(files[changed].read_bytes()[:500])  # the header is whole
    stored, _ = load(files, tmp_path / "cache", 0)
    assert len(stored.pixels) == 3
    assert stored.preprocessing == Preprocessing.identity(20, 30, 3)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_rule_that_is_given_is_kept_for_images_of_any_size_and_colour(channels, images, tmp_path):
    Image.new("L", (9, 9), 40).save(images[0])
    rule = Preprocessing(16, 18, channels, 20, 22)
    for files in (images, images[:1]):  # all of the latter are grey
        stored, decoded = load(files, tmp_path / "cache", rule)
        assert decoded == len(files)
        assert stored.preprocessing == rule
        for pixels, path in zip(stored.pixels, files, strict=True):
            np.testing.assert_array_equal(centre_crop(pixels, 16, 18), to_array(path, rule))
        assert load(files, tmp_path / "cache", rule)[1] == 0


@pytest.mark.parametrize("image_size", [0, 16])
def test_the_rule_of_a_model_finds_what_was_stored_for_its_training(image_size, images, tmp_path):
    for files in (images, images[:1]):  # of several sizes; of one, which is kept
        trained, _ = load(files, tmp_path / "cache", image_size)
        again, decoded = load(files, tmp_path / "cache", trained.preprocessing)
        assert decoded == 0
        np.testing.assert_array_equal(again.pixels, trained.pixels)
        assert again.outcomes == trained.outcomes
    other = dataclasses.replace(trained.preprocessing, channels=1)
    assert load(images, tmp_path / "cache", other)[1] == 12


def test_unreadable_files_have_a_reason_and_no_pixels(images, tmp_path):
    images[2].write_bytes(b"")
    images[5].unlink()
    for _ in range(2):
        stored, _ = load(images, tmp_path / "cache")
        assert len(stored.pixels) == 10
        reasons = [i for i, outcome in enumerate(stored.outcomes) if isinstance(outcome, str)]
        assert reasons == [2, 5]
    nothing, _ = load([images[2], images[5]], tmp_path / "cache")
    assert len(nothing.pixels) == 0


def start(folder: Path, cache: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", LOAD_IN_ANOTHER_PROCESS, str(folder), str(cache)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough photographs that decoding takes a while."""
    folder = tmp_path_factory.mktemp("many")
    for number in range(1500):
        pixels = np.full((200, 200, 3), number % 256, np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:04}.jpg")
    return folder


@pytest.mark.faults
def test_a_killed_build_leaves_nothing_that_is_taken_for_whole(many, tmp_path):
    cache = tmp_path / "cache"
    process = start(many, cache)
    assert process.stdout is not None
    process.stdout.readline()  # it has begun
    process.send_signal(signal.SIGKILL)
    process.wait()
    (left,) = cache.iterdir()
    (state,) = list_builds(cache)
    assert (state.folder, state.in_progress) == (left, False)
    stored, decoded = load(sorted(many.iterdir()), cache, 64)
    assert decoded == len(stored.pixels) == 1500
    assert not left.exists()
    assert len(list(cache.iterdir())) == 1


def test_two_processes_may_build_the_same_entry_at_once(many, tmp_path):
    cache = tmp_path / "cache"
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(lambda p: p.communicate()[0], [start(many, cache) for _ in "ab"]))
    sums = {answer.splitlines()[-1] for answer in answers}
    assert len(sums) == 1
    assert len(list(cache.iterdir())) == 1
    stored, decoded = load(sorted(many.iterdir()), cache, 64)
    assert decoded == 0
    assert sums == {f"1500 {stored.pixels.sum()}"}


@pytest.mark.faults
def test_a_full_disk_is_an_error_that_says_how_much_is_needed(many, tmp_path):
    """A limit on the size of files stands for the end of the disk."""
    code = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))\n"
    cache = tmp_path / "cache"
    done = subprocess.run(
        [sys.executable, "-c", code + LOAD_IN_ANOTHER_PROCESS, str(many), str(cache)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "ImgclfError: Cannot write decoded images" in done.stderr
    assert "GiB are free" in done.stderr
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_made_is_an_error_with_a_way_out(images, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ImgclfError) as caught:
        load(images, tmp_path / "file" / "cache")
    assert "--data-dir" in caught.value.hint


def test_entries_are_listed_and_cleared(images, tmp_path):
    cache = tmp_path / "cache"
    assert list_entries(cache) == []
    assert clear(cache) == 0
    load(images, cache, 16)
    load(images, cache, 24)
    entries = list_entries(cache)
    assert [entry.images for entry in entries] == [12, 12]
    assert entries[0].num_bytes > entries[1].num_bytes > 12 * 16 * 16 * 3
    assert {entry.source for entry in entries} == {"images"}
    (cache / "note.txt").write_text("not ours")
    assert clear(cache) == sum(entry.num_bytes for entry in entries)
    assert [path.name for path in cache.iterdir()] == ["note.txt"]


@pytest.mark.faults
def test_a_cache_that_is_cleared_again_and_again_disturbs_nobody(images, tmp_path):
    cache, sizes = tmp_path / "cache", range(8, 48)
    expected = [load(images, tmp_path / "left alone", size)[0].pixels.sum() for size in sizes]
    over = Event()

    def clear_on_and_on() -> None:
        while not over.is_set():
            clear(cache)

    with ThreadPoolExecutor(2) as pool:
        clearing = [pool.submit(clear_on_and_on) for _ in range(2)]
        try:
            found = [load(images, cache, size)[0].pixels.sum() for size in sizes]
        finally:
            over.set()
        for one in clearing:
            one.result()
    assert found == expected
