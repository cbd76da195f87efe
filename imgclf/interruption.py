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
# Of a terminal that is closed; Windows has none. The shell in it may send another one, later.
_HANGUP = getattr(signal, "SIGHUP", None)
# What asks a process to end, and can be heard.
END_SIGNALS = (signal.SIGINT, signal.SIGTERM, *([_HANGUP] if _HANGUP else []))


class Interruption:
    """The first signal, and whether it is raised at once or waits to be asked for.

    SIGINT is raised as `KeyboardInterrupt`; others as `SystemExit` with the shell's code: 143 for
    SIGTERM, 129 for SIGHUP.
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
            is_interrupt = self._number == signal.SIGINT
            raise KeyboardInterrupt if is_interrupt else SystemExit(128 + self._number)

    def _hear(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if not self._number:
            self._number, self._since = number, now
            self._raise_unless_waiting()
            return
        is_asked_again = number == self._number != _HANGUP
        one_wish = _SECONDS_OF_ONE_SIGNAL if is_asked_again else _SECONDS_OF_ONE_WISH
        if now - self._since > one_wish:
            # Who asks twice does not want to wait.
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


def is_interrupted() -> bool:
    """Tell, in any thread, whether a signal was heard inside `interruptions`."""
    hearing = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return isinstance(hearing, Interruption) and hearing.requested()


@contextmanager
def interruptions() -> Iterator[Interruption]:
    """Hear SIGINT, SIGTERM and SIGHUP inside, in place of whoever hears them outside.

    SIGHUP stays ignored where ``nohup`` has it ignored, and with whoever else hears it. In another
    thread than the main one, nothing is heard: Python allows it there alone.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    before = {
        number: signal.signal(number, interruption._hear)
        for number in END_SIGNALS
        if number != _HANGUP or signal.getsignal(number) == signal.SIG_DFL
    }
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
