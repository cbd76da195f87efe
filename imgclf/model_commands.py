"""Commands on an exported model: of the deployed half, they need no training library."""

import dataclasses
import json
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import click

from imgclf.command import print_error
from imgclf.errors import ImgclfError
from imgclf.recipes import SERVING_DEVICES
from imgclf.serving.settings import ServerSettings

Decorator: TypeAlias = "Callable[[Callable[..., Any]], Callable[..., Any]]"

_device = click.option(
    "--device",
    type=click.Choice(SERVING_DEVICES),
    default=ServerSettings.device,
    show_default=True,
    help="cuda needs onnxruntime-gpu in place of onnxruntime.",
)


@contextmanager
def model_file(model: str) -> Iterator[Path]:
    """Give the path of a file, or of a download of an address; only an address needs mlflow."""
    from imgclf.tracking import MODEL_SCHEMES

    if not model.startswith(MODEL_SCHEMES):
        yield Path(model)
        return
    from imgclf.tracking.model_address import download_model_file

    with download_model_file(model) as path:
        yield path


@click.command()
@click.argument("model")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option(
    "--top-k", default=3, show_default=True, type=click.IntRange(min=1), help="Classes to list."
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@_device
def predict(model: str, images: tuple[str, ...], top_k: int, as_json: bool, device: str) -> None:
    """Classify images with an exported model.

    MODEL is a file, or an address in MLflow: models:/NAME@champion, models:/NAME/3, runs:/ID.
    IMAGE is a file, a folder, or - for an image on standard input.

    \b
    Examples:
      imgclf predict exports/digits/model.onnx exports/digits/example.png
      imgclf predict exports/digits/model.onnx photos/ --top-k 1 --json
      imgclf predict models:/imgclf-digits@champion exports/digits/example.png
    """
    from imgclf.predict import Predictor, Unreadable

    with model_file(model) as path:
        predictor = Predictor(path, device=device)
    sources = [sys.stdin.buffer.read() if image == "-" else image for image in images]
    standard_input = {f"#{position}" for position, image in enumerate(images) if image == "-"}
    number = unreadable = 0
    # A million answers need no memory: each is printed as it comes.
    for answer in predictor.stream(sources, top_k=top_k):
        if answer.image in standard_input:
            answer = dataclasses.replace(answer, image="-")
        number += 1
        unreadable += isinstance(answer, Unreadable)
        if as_json:
            entry = json.dumps(answer.to_dict(), indent=2)
            click.echo(f"{'[' if number == 1 else ','}\n{textwrap.indent(entry, '  ')}", nl=False)
        elif isinstance(answer, Unreadable):
            print_error(f"{answer.image}: {answer.error}")
        else:
            top = "  ".join(f"{label} {value:.2%}" for label, value in answer.top)
            click.echo(f"{answer.image}: {top}")
    if as_json:
        click.echo("\n]" if number else "[]")
    if not number:
        raise ImgclfError(f"No images in {', '.join(images)}.", "Give image files, or a folder.")
    if unreadable:
        sys.exit(1)


@click.command()
@click.argument("model")
@click.option(
    "--dataset",
    default="",
    metavar="NAME|FOLDER|CSV",
    help="Repeat the whole proof on labelled images, against the weights of the training run.",
)
@click.option("--data-dir", default="", help="Folder for downloaded data sets.")
@_device
def verify(model: str, dataset: str, data_dir: str, device: str) -> None:
    """Let a model file prove itself on this machine.

    Its bytes are compared with its seal, and the images that it carries are decoded and answered
    again. Exits with 1 where anything differs. MODEL is a file, or an address in MLflow.

    \b
    Examples:
      imgclf verify exports/digits/model.onnx
      imgclf verify models:/imgclf-digits@champion
      imgclf verify exports/digits/model.onnx --dataset digits
    """
    from imgclf.predict import Predictor
    from imgclf.verify import describe, replay

    with model_file(model) as path:
        predictor = Predictor(path, device=device)
        verification = replay(predictor)
        verification.require(model)
        for line in describe(path, predictor, verification):
            click.echo(line)
        if not dataset:
            return
        from imgclf.pipeline.prove import prove

        click.echo(f"proved    {prove(predictor, dataset, data_dir)}")


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
@_setting("timeout", click.FloatRange(0.1, 86_400), "Seconds that a request may take.")
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
    help="Web pages from there may call; may be repeated.",
)
@_device
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
