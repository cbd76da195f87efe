"""Blocks for the same thing come one after the other, whatever ends the process of the first."""

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgclf.tracking import exclusive as module
from imgclf.tracking.exclusive import LockError, exclusive
from other_process import other_process

pytestmark = pytest.mark.faults

HOLD = """
import sys
from imgclf.tracking.exclusive import exclusive
with exclusive(sys.argv[1]):
    print("in", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator["subprocess.Popen[str]"]:
    """A process that is in a block for the name of the test."""
    monkeypatch.setattr(module, "_PATIENCE_SECONDS", 0.2)
    with other_process(HOLD, request.node.name) as (process, said):
        assert said == "in\n"
        yield process


def test_whoever_waits_too_long_is_told_for_what(
    holder: "subprocess.Popen[str]", request: pytest.FixtureRequest
) -> None:
    with pytest.raises(LockError, match=request.node.name), exclusive(request.node.name):
        pytest.fail("two are in it")
    with exclusive("another thing"):
        pass


def test_a_process_that_is_killed_lets_the_next_one_in(
    holder: "subprocess.Popen[str]", request: pytest.FixtureRequest
) -> None:
    holder.kill()
    holder.wait()
    with exclusive(request.node.name):
        pass


def test_a_block_that_fails_lets_the_next_one_in() -> None:
    with pytest.raises(ValueError, match="within"), exclusive("a block that fails"):
        raise ValueError("within")
    with exclusive("a block that fails"):
        pass


def test_processes_with_other_folders_for_temporary_files_exclude_each_other(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Batch systems give each job one of its own."""
    monkeypatch.setattr(module, "_PATIENCE_SECONDS", 0.2)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with other_process(HOLD, request.node.name) as (_, said):
        assert said == "in\n"
        with pytest.raises(LockError, match=request.node.name), exclusive(request.node.name):
            pytest.fail("two are in it")


@pytest.mark.faults
def test_a_home_that_cannot_be_written_is_replaced_by_the_temporary_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with exclusive("a home that cannot be written"):
        assert list(tmp_path.glob("*/*.lock"))


@pytest.mark.faults
def test_without_any_folder_for_locks_a_person_is_told_which_one_to_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/dev/null"])
    with pytest.raises(LockError, match="No usable temporary directory") as caught:
        exclusive("no folder").__enter__()
    assert "TMPDIR" in caught.value.hint
