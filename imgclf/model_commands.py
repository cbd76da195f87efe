"""Commands on an exported model: of the deployed half, they need no training library."""

import dataclasses
import json
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from imgclf.command import print_error
from imgclf.cores import SERVING_DEVICES
from imgclf.errors import ImgclfError

device_option = click.option(
    "--device",
    type=click.Choice(SERVING_DEVICES),
    default=SERVING_DEVICES[0],
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
@device_option
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
@device_option
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

        proof = prove(predictor, dataset, data_dir)
        click.echo(f"proved    {proof.summary} ({proof.split})")
        if proof.note:
            click.secho(f"Note: {proof.note}", fg="yellow", err=True)
