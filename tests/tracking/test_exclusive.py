"""Blocks for the same thing come one after the other, whatever ends the process of the first."""

import subprocess
from collections.abc import Iterator

import pytest

from imgclf.errors import ImgclfError
from imgclf.tracking import exclusive as module
from imgclf.tracking.exclusive import exclusive
from other_process import other_process

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
    with pytest.raises(ImgclfError, match=request.node.name), exclusive(request.node.name):
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
