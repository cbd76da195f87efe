"""Signals that ask a process to end: when they are heard, and what they leave time for."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# A terminal sends Ctrl-C to all of its processes, and a runner passes it on as SIGTERM: MLflow's a
# quarter of a second later, on a busy machine later still.
_SECONDS_OF_ONE_WISH = 10.0
# The shell's ``timeout`` sends its signal to the process and, right after, to its whole group.
_SECONDS_OF_ONE_SIGNAL = 0.1


class Interruption:
    """The first SIGINT or SIGTERM, and whether it is raised at once or waits to be asked for.

    It is raised as `KeyboardInterrupt` or ``SystemExit(143)``, as Python and the shell have it.
    """

    def __init__(self) -> None:
        self._number = 0
        self._since = 0.0
        self._waits = False

    def requested(self) -> bool:
        """Tell whether a signal waits."""
        return self._number != 0

    @contextmanager
    def held(self, waits: bool = True) -> Iterator[None]:
        """Let a signal wait inside, or with ``waits=False`` raise it there at once.

        Where it has waited, it is raised once that is over.
        """
        before, self._waits = self._waits, waits
        try:
            self._raise_unless_waiting()
            yield
        finally:
            self._waits = before
        self._raise_unless_waiting()

    def _raise_unless_waiting(self) -> None:
        if self._number and not self._waits:
            raise KeyboardInterrupt if self._number == signal.SIGINT else SystemExit(143)

    def _hear(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if not self._number:
            self._number, self._since = number, now
            self._raise_unless_waiting()
            return
        is_same = number == self._number
        if now - self._since > (_SECONDS_OF_ONE_SIGNAL if is_same else _SECONDS_OF_ONE_WISH):
            # Who asks twice does not want to wait.
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


def is_interrupted() -> bool:
    """Tell, in any thread, whether a signal was heard inside `interruptions`."""
    hearing = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return isinstance(hearing, Interruption) and hearing.requested()


@contextmanager
def interruptions() -> Iterator[Interruption]:
    """Hear SIGINT and SIGTERM inside, in place of whoever hears them outside.

    In another thread than the main one, nothing is heard: Python allows it there alone.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, interruption._hear) for number in numbers}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
