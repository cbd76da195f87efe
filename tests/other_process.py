"""Another process that holds something until the test has seen what comes of it."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def other_process(
    code: str, *arguments: "str | Path"
) -> "Iterator[tuple[subprocess.Popen[str], str]]":
    """Run code until the block is left; give its process, and the first line that it has said."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline()
    finally:
        process.kill()
        process.communicate()
