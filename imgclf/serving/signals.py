"""SIGHUP takes up a changed model; whoever is not ready for it yet must not be ended by it."""

import signal

# Windows has no such signal, nor what it takes to hand a socket to other processes.
HANGUP: signal.Signals | None = getattr(signal, "SIGHUP", None)


def hold_reloads() -> None:
    """Let SIGHUP wait, in this thread and in all threads and processes that it starts from now on.

    It ends a process where one thread of it takes it that way.
    """
    if HANGUP is not None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {HANGUP})


def take_reloads() -> None:
    """Take SIGHUP, and one that has waited."""
    if HANGUP is not None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {HANGUP})
