"""When a server loads its model: at the start, on SIGHUP, and when the file has changed."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

from imgclf.errors import ImgclfError
from imgclf.model_file import one_line
from imgclf.serving.measured import LOG, log
from imgclf.serving.served_model import ServedModel, file_state
from imgclf.serving.settings import ServerSettings
from imgclf.serving.signals import HANGUP, take_reloads

_SECONDS_BETWEEN_LOOKS = 1.0


@asynccontextmanager
async def model_in_service(
    settings: ServerSettings, served: ServedModel, give_up: Callable[[str], None]
) -> AsyncIterator[None]:
    """Load the model, and for the length of a block take up what comes in its place.

    Args:
        settings: whether others answer while the model is loaded, and whether its file is watched.
        served: the model.
        give_up: is told why, where the model cannot be loaded at the start.
    """
    loop = asyncio.get_running_loop()
    # The loop keeps no hold of a task that nobody holds.
    tasks: set[asyncio.Task[None]] = set()

    def begin(work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = loop.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task

    loading = begin(_load(served, give_up))
    if settings.workers > 1:
        # Others answer meanwhile: this process must not take their requests.
        await loading
    if settings.reload:
        begin(_watch(served))
    if HANGUP is not None:
        loop.add_signal_handler(HANGUP, lambda: begin(_reload(served)))
        take_reloads()
    yield
    for task in list(tasks):
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _load(served: ServedModel, give_up: Callable[[str], None]) -> None:
    fields = {"model": str(served.path)}
    try:
        loaded = await asyncio.to_thread(served.load)
    except ImgclfError as error:
        log("not loaded", logging.ERROR, **fields, reason=error.message)
        give_up(str(error))
    except Exception as error:  # noqa: BLE001 - else the server would wait for ever
        LOG.exception("not loaded", extra={"fields": fields})
        what = f"{type(error).__name__}: {one_line(error)}".rstrip(": ")  # some say nothing
        give_up(f"Cannot load the model '{served.path}': {what}")
    else:
        golden = loaded.verification.inputs
        log("ready", model=served.name, version=loaded.version, golden=golden)


async def _reload(served: ServedModel) -> None:
    """Answer with what the file holds now, if that proves itself."""
    before = served.current.version if served.current else ""
    try:
        loaded = await asyncio.to_thread(served.load)
    except ImgclfError as error:
        log("not reloaded", logging.ERROR, reason=error.message, still_serving=before)
    except Exception:  # noqa: BLE001 - the model before it stays, whatever it is
        LOG.exception("not reloaded", extra={"fields": {"still_serving": before}})
    else:
        log("reloaded", version=loaded.version, instead_of=before)


async def _watch(served: ServedModel) -> None:
    """Reload the file when it has changed, and has not changed since the look before."""
    seen = None
    while True:
        await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)
        state = file_state(served.path)
        # Not while it is being written, nor before the first one has been loaded.
        if state == seen and state != served.tried and served.current is not None:
            await _reload(served)
        seen = state
