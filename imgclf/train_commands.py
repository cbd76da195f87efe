"""Commands that train, and those on runs, data sets, recipes and networks."""

import dataclasses
import json
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from imgclf.config import TrainConfig
from imgclf.config_command import ConfigCommand, config_options
from imgclf.errors import UsageError
from imgclf.recipes import DATASETS, RECIPES, nearest
from imgclf.sync_command import end_dead_runs


@click.command(cls=ConfigCommand)
@config_options
@click.option("--save-recipe", metavar="FILE", help="Write the options to a YAML file as well.")
@click.option("--resume", metavar="ID", help="Go on with a run that was ended before its time.")
def train(save_recipe: str | None, resume: str | None, **given: Any) -> None:
    """Train a classifier and record the run in MLflow.

    SIGINT, SIGTERM and SIGHUP end it between two steps, with a checkpoint.

    \b
    Examples:
      imgclf train
      imgclf train --recipe mnist-cnn --epochs 5
      imgclf train --dataset photos --epochs 30 --horizontal-flip true
      imgclf train --resume 20261121-090144-3f2a
    """
    # SIGTERM ends the run as Ctrl-C does, so that MLflow is told.
    signal.signal(signal.SIGTERM, _terminate)
    values = {name: value for name, value in given.items() if value is not None}
    if resume and save_recipe:
        raise UsageError("--save-recipe writes options down; a resumed run has its own.")
    config = None if resume else TrainConfig.from_dict(values)
    if config and save_recipe:
        config.save_recipe(Path(save_recipe))
    from imgclf.tracking.sender import prepare_sender

    # mlflow is imported by the process that sends, torch meanwhile by this one.
    prepare_sender()
    from imgclf.pipeline import train as training

    if config:
        result = training.train(config)
    else:
        assert resume
        result = training.resume(resume, values.get("runs_dir", "runs"), values)
    from imgclf.summary import print_training

    print_training(result)


def _terminate(*_: object) -> None:
    sys.exit(143)


# What `end_dead_runs` looks at.
_RUNS_DIR = click.option(
    "--runs-dir",
    default=TrainConfig.runs_dir,
    show_default=True,
    help="Folder of the runs' files: runs there whose process was killed are ended first.",
)


@click.command()
@click.option("--run", metavar="ID", help="A run's id; without it, the best run.")
@click.option(
    "--dataset",
    default="",
    metavar="NAME|FOLDER",
    help="Choose among runs on this data set; a folder is where its images are now.",
)
@click.option("--name", default="", help="Folder to write; without it, the data set's name.")
@click.option(
    "--exports-dir", default="exports", show_default=True, help="Where that folder is written."
)
@click.option("--experiment", default="", help="MLflow experiment to look in.")
@_RUNS_DIR
@click.option(
    "--quantize",
    type=click.Choice(["int8"]),
    help="Write a file of 8-bit integers as well, a quarter of the size, for CPUs.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16"]),
    default="fp32",
    show_default=True,
    help="fp16 writes a file of 16-bit floating point as well, half of the size, for GPUs.",
)
@click.option(
    "--format",
    type=click.Choice(["onnx", "triton"]),
    default="onnx",
    show_default=True,
    help="triton writes a model repository for NVIDIA Triton and KServe as well, with a model for"
    " each file: NAME, NAME-int8, NAME-fp16.",
)
def export(
    run: str | None,
    quantize: str | None,
    precision: str,
    format: str,
    runs_dir: str,
    **options: Any,
) -> None:
    """Turn the best run, or a given one, into one proved ONNX file.

    \b
    Examples:
      imgclf export
      imgclf export --run 20261121-090144-3f2a
      imgclf export --quantize int8
    """
    from imgclf.pipeline.export import export as run_export
    from imgclf.summary import print_export

    end_dead_runs(runs_dir)
    smaller = [kind for kind in (quantize, precision) if kind not in (None, "fp32")]
    print_export(run_export(run, variants=smaller, triton=format == "triton", **options))


@click.command()
@click.option(
    "--model",
    default="",
    metavar="FILE|ADDRESS",
    help="A model.onnx, or its address in MLflow (models:/NAME@champion, runs:/ID).",
)
@click.option("--run", metavar="ID", help="A training run: its exported model, or its weights.")
@click.option("--dataset", required=True, metavar="NAME|FOLDER|CSV", help="The labelled images.")
@click.option(
    "--split",
    default="",
    metavar="test|val|train|all",
    help="Images to evaluate; without it, test where the data gives a test split, else all.",
)
@click.option(
    "--tta",
    default="none",
    show_default=True,
    metavar="none|flip|shift|flip-shift",
    help="Test-time augmentation: average the answers for each image and its mirror image, its"
    " shifts by one pixel, or both.",
)
@click.option("--data-dir", default="", help="Folder for downloaded data sets.")
@click.option(
    "--max-bad-images",
    default=TrainConfig.max_bad_images,
    show_default=True,
    help="Largest share of unreadable images accepted.",
)
@click.option("--output-dir", default="", help="Folder that receives tables and pictures as well.")
@click.option(
    "--runs-dir", default="runs", show_default=True, help="Folder that receives the run's files."
)
@click.option("--experiment", default="", help="MLflow experiment of the evaluation's run.")
@click.option("--run-name", default="", help="The run's name in MLflow.")
def evaluate(model: str, run: str | None, **options: Any) -> None:
    """Measure a model on labelled images and record that in MLflow.

    Classes are matched by name; the images may show some of the model's classes only.

    \b
    Examples:
      imgclf evaluate --model exports/digits/model.onnx --dataset photos
      imgclf evaluate --run 20261121-090144-3f2a --dataset digits --split test
      imgclf evaluate --model models:/imgclf-cifar10@champion --dataset cifar10 --tta flip
    """
    signal.signal(signal.SIGTERM, _terminate)
    from imgclf.pipeline.evaluate import evaluate as run_evaluation
    from imgclf.summary import print_evaluation

    end_dead_runs(options["runs_dir"])
    print_evaluation(run_evaluation(model, run=run, **options))


@click.command()
@click.option("--experiment", default="", help="MLflow experiment to look in.")
@_RUNS_DIR
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def runs(experiment: str, runs_dir: str, as_json: bool) -> None:
    """List the training runs, best first.

    \b
    Example:
      imgclf runs
    """
    from imgclf.summary import print_runs
    from imgclf.tracking.runs import list_runs

    end_dead_runs(runs_dir)
    found = list_runs(experiment)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(run) for run in found], indent=2))
    else:
        print_runs(found)


@click.command()
@click.argument("name", required=False)
def recipes(name: str | None) -> None:
    """List the recipes, or describe one.

    \b
    Examples:
      imgclf recipes
      imgclf recipes mnist-cnn
    """
    if name is None:
        _print_names({name: recipe.summary for name, recipe in RECIPES.items()})
        return
    if name not in RECIPES:
        hint = f"Choose one of: {', '.join(RECIPES)}."
        raise UsageError(f"There is no recipe '{name}'.{nearest(name, RECIPES)}", hint)
    recipe = RECIPES[name]
    click.echo(f"{recipe.summary}\n\n{click.wrap_text(recipe.description, 80)}\n")
    click.echo(f"imgclf train --recipe {name}\n")
    _print_names({f"--{key.replace('_', '-')}": str(value) for key, value in recipe.values.items()})


@click.command()
@click.argument("dataset", required=False)
@click.option("--data-dir", default="", help="Folder for downloaded data sets.")
@click.option(
    "--max-bad-images",
    default=TrainConfig.max_bad_images,
    show_default=True,
    help="Largest share of unreadable images accepted.",
)
@click.option("--picture", metavar="FILE", help="Write a picture of samples to a PNG file.")
@click.option("--cache", is_flag=True, help="List the decoded images that are kept.")
@click.option("--clear-cache", is_flag=True, help="Remove the decoded images that are kept.")
def datasets(
    dataset: str | None,
    data_dir: str,
    max_bad_images: float,
    picture: str | None,
    cache: bool,
    clear_cache: bool,
) -> None:
    """List the data sets by name, or describe one: a name, a folder or a CSV file.

    \b
    Examples:
      imgclf datasets
      imgclf datasets photos --picture samples.png
      imgclf datasets --cache
    """
    if cache or clear_cache:
        from imgclf.summary import print_cache

        print_cache(data_dir, clear_cache)
        return
    if dataset is None:
        _print_names(DATASETS)
        return
    from imgclf.pipeline.data import describe
    from imgclf.summary import print_dataset, save_samples

    config = TrainConfig(dataset=dataset, data_dir=data_dir, max_bad_images=max_bad_images)
    images, split, problem = describe(config)
    print_dataset(images, split)
    if picture:
        save_samples(images, Path(picture))
    if problem:
        raise problem


@click.command()
def models() -> None:
    """List the networks with their size.

    \b
    Example:
      imgclf models
    """
    from imgclf.summary import print_models

    print_models()


def _print_names(meanings: Mapping[str, str]) -> None:
    width = max(map(len, meanings))
    for name, meaning in meanings.items():
        click.echo(f"{name:<{width}}  {meaning}")
