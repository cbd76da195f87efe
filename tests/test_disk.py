"""A file is whole at every moment, and who runs out of room is told how much is needed."""

import os
import re
import stat
from pathlib import Path

import pytest

from imgclf.disk import write_whole, writing
from imgclf.errors import ImgclfError
from small_disk import files_up_to, python_on_small_disk

pytestmark = pytest.mark.faults

REPLACE_ON_A_FULL_DISK = """
import sys
from pathlib import Path
from imgclf.disk import write_whole
from imgclf.errors import ImgclfError

path = Path(sys.argv[1]) / "weights"
write_whole(path, bytes(300 * 1024), "the weights")
try:
    write_whole(path, b"b" * 900 * 1024, "the weights")
except ImgclfError as error:
    print(error.message)
    print(error.hint)
print(path.read_bytes() == bytes(300 * 1024), [entry.name for entry in path.parent.iterdir()])
write_whole(path, b"c" * 600 * 1024, "the weights")
print(path.read_bytes() == b"c" * 600 * 1024)
"""


def test_what_stands_on_a_full_disk_stays_readable_and_the_room_is_told(tmp_path: Path):
    printed = python_on_small_disk(REPLACE_ON_A_FULL_DISK, tmp_path, 1024).splitlines()
    assert printed == [
        f"Cannot write the weights to '{tmp_path / 'weights'}': No space left on device."
        " Up to 900.0 KiB are needed; 724.0 KiB are free.",
        "Make room on that disk, or choose another one.",
        "True ['weights']",
        "True",
    ]


def test_a_file_larger_than_allowed_leaves_the_one_before_it(tmp_path: Path):
    path = tmp_path / "file"
    write_whole(path, b"before", "the file")
    with files_up_to(5000), pytest.raises(ImgclfError, match=r"too large\. Up to 5\.9 KiB are"):
        write_whole(path, bytes(6000), "the file")
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt", reason="folders cannot be opened there")
def test_a_new_name_is_brought_to_the_disk_after_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    fsync, seen = os.fsync, []

    def noted(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        seen.append((is_folder, sorted(os.listdir(tmp_path))))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    write_whole(tmp_path / "file", b"x", "the file")
    assert seen == [(False, ["file.part"]), (True, ["file"])]


def test_a_new_file_takes_the_place_of_a_link_and_leaves_what_it_leads_to(tmp_path: Path):
    precious, link = tmp_path / "precious", tmp_path / "link"
    precious.write_bytes(b"years of work")
    for name in ("link", "link.part"):
        (tmp_path / name).symlink_to(precious)
    write_whole(link, b"new", "the file")
    assert precious.read_bytes() == b"years of work"
    assert link.read_bytes() == b"new"
    assert not link.is_symlink()


@pytest.mark.parametrize(
    ("num_bytes", "needed"),
    [
        (0, ""),
        (100, "Up to 0.1 KiB are needed; "),
        (1536, "Up to 1.5 KiB are needed; "),
        (3 * 2**20, "Up to 3.0 MiB are needed; "),
        (5 * 2**30, "Up to 5.0 GiB are needed; "),
        (3 * 2**40, "Up to 3,072.0 GiB are needed; "),
    ],
)
def test_the_room_is_told_in_a_unit_that_suits_it(num_bytes: int, needed: str):
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no device that is always full")
    with (
        pytest.raises(ImgclfError) as caught,
        writing("the cache", full, num_bytes),
        full.open("w") as file,
    ):
        file.write("x")
    beginning = f"Cannot write the cache to '/dev/full': No space left on device. {needed}"
    assert caught.value.message.startswith(beginning)
    free = caught.value.message.removeprefix(beginning)
    assert re.fullmatch(r"[\d,.]+ [KMG]iB are free\.", free)


def test_another_reason_than_a_full_disk_tells_of_no_room(tmp_path: Path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "below", tmp_path / "absent" / "x", tmp_path):
        with pytest.raises(ImgclfError) as caught:
            write_whole(path, b"x", "the model", "Give another place.")
        assert caught.value.message.startswith(f"Cannot write the model to '{path}': ")
        assert "free" not in caught.value.message
        assert caught.value.hint == "Give another place."
    assert sorted(os.listdir(tmp_path)) == ["file"]


def test_what_is_no_fault_of_the_disk_passes(tmp_path: Path):
    with pytest.raises(ZeroDivisionError), writing("the model", tmp_path):
        _ = 1 / 0
