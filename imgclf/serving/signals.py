"""SIGHUP takes up a changed model; whoever is not ready for it yet must not be ended by it."""

import signal


def hold_reloads() -> None:
    """Let SIGHUP wait, in this thread and in all threads and processes that it starts from now on.

    It ends a process where one thread of it takes it that way.
    """
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})


def take_reloads() -> None:
    """Take SIGHUP, and one that has waited."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
