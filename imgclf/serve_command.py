"""The command that serves a model."""

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import click

from imgclf.model_commands import device_option, model_file
from imgclf.serving.settings import ServerSettings

Decorator: TypeAlias = "Callable[[Callable[..., Any]], Callable[..., Any]]"


class _Seconds(click.FloatRange):
    """A length of time; unlike click's own, no nan."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        seconds = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value!r} is no number.", param, ctx)
        return seconds


def _checked_origins(_: Any, param: click.Parameter, origins: tuple[str, ...]) -> tuple[str, ...]:
    """Return what browsers can send as their page's origin; nothing else would ever match."""
    for origin in origins:
        if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#\s@A-Z]+", origin):
            raise click.BadParameter(
                f"{origin!r} is no origin; write it like https://pages.example:8443, in lower"
                " case and with nothing behind.",
                param=param,
            )
    return origins


def _setting(name: str, type: click.ParamType, help: str) -> Decorator:
    """Return the option for a number of `ServerSettings`, with the default that stands there."""
    return click.option(
        f"--{name.replace('_', '-')}",
        type=type,
        default=getattr(ServerSettings, name),
        show_default=True,
        help=help,
    )


@click.command()
@click.argument("model")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=8000,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0: any that is free.",
)
@click.option(
    "--name",
    default=ServerSettings.name,
    help="What clients call the model; else the data set's name.",
)
@_setting("workers", click.IntRange(1, 256), "Processes that share the port.")
@_setting(
    "threads",
    click.IntRange(0, 1024),
    "CPU threads of each process's session; 0: the cores over the workers.",
)
@_setting(
    "max_connections",
    click.IntRange(1, 1_000_000),
    "Most clients at once of each process; others are refused with 503.",
)
@_setting("max_body_mb", click.IntRange(1, 4096), "Largest request, in MiB.")
# Past it Pillow itself refuses.
@_setting("max_pixels", click.IntRange(1, 178_956_970), "Largest image, in pixels.")
@_setting("max_images", click.IntRange(1), "Most images in a request.")
@_setting(
    "max_batch",
    click.IntRange(1),
    "Most images that are answered together; a larger request is split; 1: none are.",
)
@_setting(
    "max_queue",
    click.IntRange(1),
    "Most images that wait, decoded or not, or are answered; past it a request gets 429.",
)
@_setting("timeout", _Seconds(0.1, 86_400), "Seconds that a request may take.")
@click.option(
    "--api-key-file",
    default=ServerSettings.api_key_file,
    metavar="FILE",
    help="Ask for one of the keys in this file, one a line.",
)
@click.option(
    "--cors-origin",
    "cors_origins",
    default=ServerSettings.cors_origins,
    multiple=True,
    metavar="ORIGIN",
    callback=_checked_origins,
    help="Web pages from there may call, such as https://pages.example; may be repeated.",
)
@device_option
@click.option(
    "--reload",
    is_flag=True,
    default=ServerSettings.reload,
    help="Take up the file whenever it has changed, or what models:/NAME@ALIAS stands for.",
)
def serve(model: str, host: str, port: int, **settings: Any) -> None:
    """Serve a model: a web page, JSON, and the Open Inference Protocol v2.

    MODEL is a file, or an address in MLflow. SIGTERM finishes what is being answered; SIGHUP takes
    up a changed file, once its golden inputs are answered as they must be.

    \b
    Examples:
      imgclf serve exports/digits/model.onnx
      imgclf serve exports/digits/model.onnx --host 0.0.0.0 --port 8080 --workers 2
      imgclf serve models:/imgclf-digits@champion --reload
      curl --data-binary @exports/digits/example.png http://127.0.0.1:8000/predict
    """
    from imgclf.serving.signals import hold_reloads

    # Before a library starts a thread: that would take the signal, and end the server.
    hold_reloads()
    from imgclf.serving.run import serve as run_server

    with _followed_file(model) if settings["reload"] else model_file(model) as path:
        run_server(ServerSettings(str(path.absolute()), **settings), host, port)


@contextmanager
def _followed_file(model: str) -> Iterator[Path]:
    """Give the path of a file; of an alias, one that changes when the alias moves."""
    from imgclf.tracking import MODEL_SCHEMES

    if not model.startswith(MODEL_SCHEMES):
        yield Path(model)
        return
    from imgclf.serving.fetching import keep_fetching
    from imgclf.tracking.model_address import AliasedModel

    # A thread may be writing into it at the end.
    with TemporaryDirectory(prefix="imgclf-", ignore_cleanup_errors=True) as folder:
        aliased = AliasedModel(model, Path(folder))
        with keep_fetching(aliased.fetch_if_moved):
            yield aliased.path
