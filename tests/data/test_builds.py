"""Builds that are in progress are left alone; those that were left are found and removed."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from image_folders import load_files
from imgclf.data.builds import building, list_builds, remove_abandoned
from imgclf.data.cache import clear, list_entries
from other_process import other_process

pytestmark = pytest.mark.faults

BUILDS_UNTIL_ITS_INPUT_ENDS = """
import sys
from pathlib import Path
from imgclf.data.builds import building

with building(Path(sys.argv[1])) as folder:
    (folder / "pixels").write_bytes(bytes(5000))
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def builder(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that is building; it has said where."""
    with other_process(BUILDS_UNTIL_ITS_INPUT_ENDS, tmp_path) as (process, said):
        assert Path(said.strip()).is_dir()
        yield process


def test_what_another_process_builds_is_shown_and_stays(builder, tmp_path: Path):
    for _ in range(2):
        (build,) = list_builds(tmp_path)
        assert build.in_progress
        assert build.num_bytes == 5000
        assert clear(tmp_path) == 0
    builder.communicate()  # its end
    assert list_builds(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_shown_and_removed(builder, tmp_path: Path):
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    (build,) = list_builds(tmp_path)
    assert not build.in_progress
    assert build.num_bytes == 5000
    assert list_builds(tmp_path) == [build]  # to look at it changes nothing
    assert clear(tmp_path) == 5000
    assert list(tmp_path.iterdir()) == []


def test_what_another_machine_or_container_left_is_removed_too(images, tmp_path: Path):
    """Of a process whose number lives here, on a host of this name: neither says anything."""
    left = tmp_path / f".building-{os.uname().nodename}-{os.getpid()}-abc"
    left.mkdir()
    (left / "pixels.raw").write_bytes(bytes(100))
    load_files(images, tmp_path)
    assert not left.exists()
    assert len(list_entries(tmp_path)) == 1


def test_a_folder_that_is_new_is_never_taken_for_one_that_was_left(tmp_path: Path):
    done = Event()

    def remove_all_the_time() -> int:
        rounds = 0
        while not done.is_set():
            remove_abandoned(tmp_path)
            rounds += 1
        return rounds

    with ThreadPoolExecutor(2) as pool:
        rounds = [pool.submit(remove_all_the_time) for _ in range(2)]
        try:
            for number in range(500):
                with building(tmp_path) as folder:
                    (folder / "pixels").write_text(str(number))
                    assert (folder / "pixels").read_text() == str(number)
        finally:
            done.set()
    assert min(future.result() for future in rounds) > 10
    remove_abandoned(tmp_path)
    assert list(tmp_path.iterdir()) == []


WITHOUT_LOCKS = """
import errno, fcntl, os, sys
from pathlib import Path

def flock(*_):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

fcntl.flock = flock
from imgclf.data.builds import building, list_builds, remove_abandoned
cache = Path(sys.argv[1])
with building(cache) as folder:
    (folder / "pixels").write_text("5")
    (build,) = list_builds(cache)
    assert build.in_progress
    assert remove_abandoned(cache) == 0
    assert (folder / "pixels").read_text() == "5"
assert list(cache.iterdir()) == []
"""


def test_where_the_file_system_has_no_locks_nothing_of_others_is_removed(tmp_path: Path):
    """As NFS without its lock service; the error is the one that the kernel gives there."""
    subprocess.run([sys.executable, "-c", WITHOUT_LOCKS, str(tmp_path)], check=True)
