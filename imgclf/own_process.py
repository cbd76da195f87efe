"""Starts a module of imgclf in a process of its own.

By its name: not forked, for a process with threads must not be, and not by `multiprocessing`, which
would run a person's script a second time where it has no ``__main__`` guard.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from types import MappingProxyType

from imgclf.errors import ImgclfError


def can_start_python() -> bool:
    """Tell whether there is an interpreter to start: a program may carry Python inside itself."""
    return bool(sys.executable) and not getattr(sys, "frozen", False)


def visible_packages() -> str:
    """Return a ``PYTHONPATH`` with which a process sees the packages that this one sees."""
    # An empty entry stands for the working folder.
    return os.pathsep.join(path or os.getcwd() for path in sys.path)


def start_python(
    module: str,
    argument: str,
    purpose: str,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> subprocess.Popen[bytes]:
    """Start a module, with pipes to its standard input and from its standard output.

    Args:
        module: its full name; it sees the packages that this process sees.
        argument: its one argument.
        purpose: what the process is for, as the end of a sentence.
        variables: environment variables beside this process's own.

    Raises:
        ImgclfError: no process can be started.
    """
    assert can_start_python()
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", module, argument],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": visible_packages(), **variables},
            # Ctrl-C is for this process, which then ends those that it has started.
            start_new_session=True,
        )
    except OSError as error:
        raise ImgclfError(
            f"Cannot start a process {purpose}: {error.strerror or error}.",
            "Close other programs, or raise the limits of memory and of processes.",
        ) from error


def how_it_ended(code: int) -> str:
    """Word a process's exit status, as ``subprocess`` gives it."""
    if code >= 0:
        return f"ended with {code}"
    named = -code in set(signal.Signals)  # real-time signals have no names
    return f"was ended by {signal.Signals(-code).name if named else f'signal {-code}'}"
