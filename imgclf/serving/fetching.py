"""Asks every so often whether there is another model, while a server runs."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from imgclf.errors import ImgclfError
from imgclf.serving.measured import LOG, log

SECONDS_BETWEEN_QUESTIONS = 30.0


@contextmanager
def keep_fetching(fetch: Callable[[], str]) -> Iterator[None]:
    """Call a function again and again for the length of a block, in a thread of its own.

    Args:
        fetch: replaces the file that is served, and returns the name of what it has put there;
            empty where there is nothing new. Whatever it raises is logged.
    """
    ending = threading.Event()

    def work() -> None:
        while not ending.wait(SECONDS_BETWEEN_QUESTIONS):
            try:
                fetched = fetch()
            except ImgclfError as error:
                log("not fetched", logging.ERROR, reason=error.message)
            except Exception:  # noqa: BLE001 - it must ask again, whatever it is
                LOG.exception("not fetched")
            else:
                if fetched:
                    log("fetched", model=fetched)

    # The end must not wait for a registry that does not answer.
    threading.Thread(target=work, name="imgclf-fetch", daemon=True).start()
    try:
        yield
    finally:
        ending.set()
