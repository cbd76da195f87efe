"""Threads and processes decode alike, and no process outlives the one that has started it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray
from PIL import Image

from imgclf.card import Preprocessing
from imgclf.data import parallel_decode
from imgclf.data.decode import Decoded
from imgclf.data.parallel_decode import decode_files
from imgclf.errors import ImgclfError
from imgclf.preprocess import to_array

RULE = Preprocessing(32, 32, 3, 36, 38)
ENOUGH = 100

# Like a person's script: no guard around what it does.
SCRIPT = """
import os, signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job begins without it
from imgclf.card import Preprocessing
from imgclf.data import parallel_decode

print("begins", flush=True)
parallel_decode.available_cores, parallel_decode._MANY_FILES = (lambda: 2), 4000
files = sorted(Path(sys.argv[1]).iterdir()) * int(sys.argv[2])
decoded = 0
for batch in parallel_decode.decode_files(files, Preprocessing.identity(64, 64, 3)):
    decoded += len(batch.outcomes)
    if decoded == len(batch.outcomes):
        print("works", flush=True)
print(decoded, sorted({"torch", "mlflow"} & set(sys.modules)), flush=True)
"""


@pytest.fixture
def files(photographs: NDArray[np.uint8], tmp_path: Path) -> list[Path]:
    """Photographs in several formats, some of them damaged, one with a name that is not UTF-8."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(ENOUGH):
        image = Image.fromarray(photographs[number % len(photographs)][number % 9 :])
        image.save(folder / f"{number:03}.{('jpg', 'png', 'webp')[number % 3]}")
    found = sorted(folder.iterdir())
    found[3].write_bytes(b"no image")
    found[51].write_bytes(found[51].read_bytes()[:300])
    found[70].unlink()
    if sys.platform == "linux":
        found[80] = found[80].rename(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.jpg"))
    return found


@pytest.fixture
def two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a hundred files be many."""
    monkeypatch.setattr(parallel_decode, "_MANY_FILES", ENOUGH)
    monkeypatch.setattr(parallel_decode, "_FILES_PER_PROCESS", ENOUGH // 2)
    monkeypatch.setattr(parallel_decode, "available_cores", lambda: 2)


def children() -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process().children()
        if "imgclf.data.decode_worker" in child.cmdline()
    ]


@pytest.mark.parametrize("channels", [1, 3])
def test_processes_and_threads_give_what_prediction_reads(
    files, channels, two_processes, monkeypatch
):
    rule = Preprocessing(36, 38, channels, 36, 38)
    results = []
    for many in (ENOUGH, ENOUGH + 1):
        monkeypatch.setattr(parallel_decode, "_MANY_FILES", many)
        batches = decode_files(files, rule)
        first = next(batches)
        assert len(children()) == (2 if many == ENOUGH else 0)
        batches = [first, *batches]
        outcomes = [outcome for batch in batches for outcome in batch.outcomes]
        results.append((np.concatenate([batch.pixels for batch in batches]), outcomes))
    (pixels, outcomes), (by_threads, outcomes_of_threads) = results
    assert outcomes == outcomes_of_threads
    np.testing.assert_array_equal(pixels, by_threads)
    assert [i for i, outcome in enumerate(outcomes) if isinstance(outcome, str)] == [3, 51, 70]
    readable = [path for i, path in enumerate(files) if isinstance(outcomes[i], Decoded)]
    for image, path in zip(pixels, readable, strict=True):
        np.testing.assert_array_equal(image, to_array(path, rule))


@pytest.mark.faults
def test_a_process_that_is_killed_is_an_error_that_says_so(files, two_processes):
    batches = decode_files(files * 20, RULE)
    next(batches)
    killed = children()
    for child in killed:
        child.kill()
    with pytest.raises(ImgclfError, match="was ended by SIGKILL") as caught:
        list(batches)
    assert str(files[0].parent) in caught.value.message
    assert "memory" in caught.value.hint
    assert not children()


def test_a_process_that_cannot_be_started_is_an_error(files, two_processes, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "absent"))
    with pytest.raises(ImgclfError, match="Cannot start a process to decode images"):
        next(decode_files(files, RULE))


def test_without_an_interpreter_threads_decode(files, two_processes, monkeypatch):
    monkeypatch.setattr(sys, "executable", "")
    assert sum(len(batch.outcomes) for batch in decode_files(files, RULE)) == ENOUGH


def test_processes_end_with_the_decoding_whether_it_is_finished_or_not(files, two_processes):
    batches = decode_files(files * 20, RULE)
    next(batches)
    assert len(children()) == 2
    batches.close()
    assert not children()
    assert sum(len(batch.outcomes) for batch in decode_files(files, RULE)) == ENOUGH
    assert not children()


@pytest.fixture
def photos(photographs: NDArray[np.uint8], tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, pixels in enumerate(photographs):
        Image.fromarray(pixels).save(folder / f"{number:02}.jpg")
    return folder


def start(photos: Path, times: int, **options) -> "subprocess.Popen[str]":
    script = photos.parent / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(photos), str(times)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def test_a_script_without_a_guard_runs_once_and_imports_no_training_library(photos, tmp_path):
    process = start(photos, 200)
    output, errors = process.communicate()
    assert output.splitlines() == ["begins", "works", "4000 []"]
    assert errors == ""


def test_a_file_beside_the_person_is_not_taken_for_a_module(photos, tmp_path, two_processes):
    """The processes start in the person's folder, where there may be a random.py."""
    for name in ("json.py", "numpy.py", "random.py"):
        (tmp_path / name).write_text("raise SystemExit('not meant to be imported')")
    files = sorted(photos.iterdir()) * 5
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        assert sum(len(batch.outcomes) for batch in decode_files(files, RULE)) == len(files)
    finally:
        os.chdir(before)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.faults
def test_processes_end_with_the_one_that_has_started_them(how, photos):
    process = start(photos, 20_000, start_new_session=True)
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["begins\n", "works\n"]
    workers = psutil.Process(process.pid).children()
    assert len(workers) == 2
    os.killpg(process.pid, how)  # as a terminal does it
    _, errors = process.communicate()
    gone, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive
    assert len(gone) == 2
    assert process.returncode == -how
    assert "decode_worker" not in errors
    assert errors.count("Traceback") == (1 if how == signal.SIGINT else 0)
