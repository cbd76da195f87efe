"""Disks that are full, for tests: a real one in a mount of its own, or a limit on every file."""

import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def files_up_to(num_bytes: int) -> Iterator[None]:
    """Let no file that this process writes grow beyond a size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def python_on_small_disk(code: str, disk: Path, kibibytes: int, *arguments: "str | Path") -> str:
    """Run code that finds a disk of so many KiB in a folder, and return what it prints.

    The mount is seen by that process alone. The test is skipped where none can be made.
    """
    mount = f'mount -t tmpfs -o size={kibibytes}k tmpfs "$0" && exec "$@"'
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, str(disk)]
    try:
        subprocess.run([*command, "true"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine lets nobody mount a disk")
    done = subprocess.run(
        [*command, sys.executable, "-c", code, str(disk), *map(str, arguments)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
