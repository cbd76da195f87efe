"""What a command prints at its end: what came of it, and the next command, ready to be typed."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from imgclf.errors import printable
from imgclf.next_command import mlflow_command, next_command, shown_path
from imgclf.recipes import MODELS
from imgclf.tracking.user_interface import ui_arguments

if TYPE_CHECKING:  # importing them loads torch or mlflow
    from imgclf.data.dataset import ImageDataset
    from imgclf.data.splits import Split
    from imgclf.pipeline.evaluate import EvaluationResult
    from imgclf.pipeline.export import ExportResult
    from imgclf.pipeline.train import TrainResult
    from imgclf.tracking.runs import TrainRun


def print_training(result: "TrainResult") -> None:
    """Print a finished run: its figures, where it is, and how to look at it and export it."""
    metrics = result.metrics
    kept = f"kept the weights of epoch {result.best_epoch}"
    best = [
        f"validation {name.removeprefix('best/val_')} {value:.4g}"
        if name == "best/val_loss"
        else f"validation {name.removeprefix('best/val_')} {value:.2%}"
        for name, value in metrics.items()
        if name.startswith("best/val_")
    ]
    click.echo(kept + (f" ({', '.join(best)})" if best else ""))
    click.secho(_figures(metrics, "test"), bold=True)
    if _print_record(result):
        _print_ui_command(result.tracking_uri)
        click.echo(f"export it:   {next_command('export', run=result.run_id)}")


def print_evaluation(result: "EvaluationResult") -> None:
    """Print an evaluation: its figures, what they are worth, and where it is."""
    metrics, split = result.metrics, result.split
    on = f"{result.images:,} images of {result.dataset}"
    copies = "" if result.tta == "none" else f", with test-time augmentation: {result.tta}"
    click.secho(f"{_figures(metrics, split)}   ({on}{copies})", bold=True)
    if result.note:
        click.secho(f"Note: {result.note}", fg="yellow", err=True)
    if _print_record(result):
        _print_ui_command(result.tracking_uri)


def _figures(metrics: Mapping[str, float], split: str) -> str:
    """Write the figures of a split that matter most, in one line."""
    top5 = metrics.get(f"{split}/top5")
    return "   ".join(
        [
            f"{split} accuracy {metrics[f'{split}/accuracy']:.2%}",
            *([f"top-5 {top5:.2%}"] if top5 is not None else []),
            f"F1 {metrics[f'{split}/f1']:.4f}",
            f"loss {metrics[f'{split}/loss']:.4f}",
        ]
    )


def _print_record(result: "TrainResult | EvaluationResult") -> bool:
    """Print where a run is; return whether MLflow holds the whole of it."""
    click.echo()
    click.echo(f"run       {result.run_id}")
    if result.url:
        click.echo(f"MLflow    {result.url}")
    click.echo(f"files     {shown_path(result.folder)}")
    for problem in result.not_sent:
        click.secho(f"not sent  {problem}", fg="yellow", err=True)
    if result.not_sent:
        click.echo(f"MLflow lacks a part of this run; all of it is in {shown_path(result.folder)}")
    return not result.not_sent


def _print_ui_command(tracking_uri: str) -> None:
    click.echo()
    arguments = ui_arguments(tracking_uri)
    if arguments is not None:
        click.echo(f"look at it:  {shlex.join([*mlflow_command(), *arguments])}")


def print_export(result: "ExportResult") -> None:
    """Print an export: the proof, the files, the registered version and how to predict."""
    registration = result.registration
    click.echo()
    click.secho(f"proved    {result.parity.summary}", bold=True)
    champion = "champion" if registration.is_champion else "not champion"
    click.echo(
        f"MLflow    {registration.name} version {registration.version},"
        f" {champion}: {registration.reason}"
    )
    size = result.model.stat().st_size / 1024
    click.echo(f"model     {shown_path(result.model)} ({size:,.0f} KiB)")
    if result.triton is not None:
        folder = shlex.quote(str(result.triton.resolve()))
        models = sorted(path.name for path in result.triton.iterdir())
        click.echo(f"triton    tritonserver --model-repository={folder}")
        click.echo(f"          serves {', '.join(models)}")
    for variant in result.variants:
        click.echo(
            f"{variant.kind:<9} {shown_path(variant.path)} ({variant.size / 1024:,.0f} KiB):"
            f" {variant.test.summary}; {variant.speedup:.2f} times the speed on this CPU"
        )
    click.echo()
    example = shown_path(result.folder / "example.png")
    command = next_command("predict", model=shown_path(result.model), image=example)
    click.echo(f"predict (the example shows '{result.example_label}'):  {command}")


def print_runs(runs: "Sequence[TrainRun]") -> None:
    """Print a table of runs, best first."""
    if not runs:
        click.echo(f"No training runs here yet. Train one:  {next_command('train')}")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    # The id must be whole to be of use; names give way where a terminal is narrow.
    for title in ("data set", "model"):
        table.add_column(title, overflow="ellipsis", no_wrap=True, min_width=6)
    for title in ("epochs", "val acc.", "test acc.", "time"):
        table.add_column(title, justify="right", min_width=len(title))
    table.add_column("status", min_width=8)
    table.add_column("id", min_width=20)
    for run in runs:
        table.add_row(
            run.dataset,
            run.model,
            str(run.epochs or ""),
            _percent(run.val_accuracy),
            _percent(run.test_accuracy),
            _duration(run.seconds),
            run.status,
            run.run_id,
        )
    # Names are no markup; and a pipe or a file has no width to keep to.
    console = Console(highlight=False, markup=False, emoji=False)
    wide = Console(highlight=False, markup=False, emoji=False, width=200)
    (console if console.is_terminal else wide).print(table)


def print_dataset(dataset: "ImageDataset", split: "Split") -> None:
    """Print what a data set holds: images per class and part, sizes, what is amiss."""
    from imgclf.data.scan import scan_dataset

    click.echo(
        f"{dataset.name}: {len(dataset):,} images, {len(dataset.classes)} classes; the network"
        f" reads {dataset.preprocessing}"
    )
    scan = scan_dataset(dataset, split)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("class")
    for part in split.sizes:
        table.add_column(part, justify="right")
    for name, counts in scan.counts.items():
        table.add_row(name, *(f"{count:,}" for count in counts.values()))
    table.add_row("all", *(f"{count:,}" for count in split.sizes.values()), style="bold")
    Console(highlight=False, markup=False, emoji=False).print(table)
    for note in scan.notes(most=len(dataset) + len(dataset.unreadable)):
        click.echo(note)
    click.echo(f"digest {dataset.digest[:12]}, split {split.digest[:12]}")


def print_cache(data_dir: str, clear: bool) -> None:
    """Print what is kept of decoded images, and remove it if that is wanted."""
    from imgclf.data import cache
    from imgclf.data.builds import list_builds
    from imgclf.data.sources import decoded_folder

    folder = decoded_folder(data_dir)
    if clear:
        click.echo(f"removed {cache.clear(folder) / 2**20:,.2f} MiB of decoded images")
        return
    entries = cache.list_entries(folder)
    for entry in entries:
        click.echo(
            f"{entry.num_bytes / 2**20:10,.2f} MiB  {entry.images:9,} images"
            f"  {printable(entry.source)}"
        )
    builds = list_builds(folder)
    for build in builds:
        state = "being decoded" if build.in_progress else "left half decoded"
        click.echo(f"{build.num_bytes / 2**20:10,.2f} MiB  {state}: {build.folder.name}")
    total = sum(kept.num_bytes for kept in (*entries, *builds)) / 2**20
    click.echo(f"{total:10,.2f} MiB  in {folder}; 'imgclf datasets --clear-cache' removes them")


def save_samples(dataset: "ImageDataset", path: Path, each: int = 4, most: int = 40) -> None:
    """Write a picture of the first images of each class.

    Raises:
        ImgclfError: it cannot be written.
    """
    import numpy as np

    from imgclf.evaluation.drawing import save
    from imgclf.evaluation.image_grids import image_grid, target_titles

    chosen = [
        position
        for label in range(len(dataset.classes))
        for position in np.flatnonzero(dataset.labels == label)[:each]
    ][:most]
    positions = np.array(chosen, np.int64)
    titles = target_titles(dataset.labels[positions], dataset.classes)
    heading = f"Samples of {dataset.name}"
    save(image_grid(dataset.inputs(positions), titles, heading=heading), path)


def print_models() -> None:
    """Print the networks with parameters and multiply-adds for one common input."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from imgclf.models import (
        InputShape,
        NetworkSettings,
        create_network,
        designed_norm_layer,
        num_parameters,
        smallest_input,
    )

    shape = InputShape(3, 32, 32)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("model")
    for title in ("parameters", "multiply-adds", "smallest input"):
        table.add_column(title, justify="right")
    table.add_column("what it is")
    for name, meaning in MODELS.items():
        settings = NetworkSettings(10, 0.0, designed_norm_layer(name))
        network = create_network(name, shape, settings).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.zeros(1, *shape))
        multiply_adds = counter.get_total_flops() // 2
        smallest = smallest_input(name)
        table.add_row(
            name,
            f"{num_parameters(network):,}",
            f"{multiply_adds:,}",
            f"{smallest}x{smallest}",
            meaning,
        )
    Console(highlight=False).print(table)
    click.echo("\nfor 32x32 colour images of 10 classes")


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
