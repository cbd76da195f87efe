"""What ``report.html`` says of a training run."""

import dataclasses
from collections.abc import Container, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from imgclf.config import AUTO, TrainConfig
from imgclf.evaluation.evaluation import SPLIT_TITLES, Evaluation
from imgclf.evaluation.page import Page, Parameter
from imgclf.pipeline.run import Run
from imgclf.training.selection import Selection

FILES = {
    "model/weights.safetensors": "the selected weights",
    "model/config.json": "all parameters",
    "model/card.json": "classes, preprocessing, provenance and figures of the model",
    "scan.json": "copies, sizes and numbers of the images, whole (in MLflow: data/scan.json)",
    "split.csv": "the part of each image: train, val or test (in MLflow: data/split.csv)",
    "journal.jsonl": "all that the run had to tell, line by line (in the run's folder only)",
}


def run_page(
    run: Run, evaluations: Sequence[Evaluation], selection: Selection, num_parameters: int
) -> Page:
    """Gather what the page says.

    Args:
        run: almost at its end.
        evaluations: of the selected weights; the test split first, then validation if there is one.
            Each was written into the folder of its split's name.
        selection: which epoch was kept.
        num_parameters: the network's number of weights.
    """
    dataset, folder = run.dataset, run.folder
    counts = {
        SPLIT_TITLES[part]: [parts[part] for parts in run.scan.counts.values()]
        for part in run.split.parts
    }
    return Page(
        title=f"{dataset.name}: {run.config.model}",
        evaluations={Path(evaluation.split): evaluation for evaluation in evaluations},
        headline=_headline(evaluations, selection),
        facts=_facts(run, selection, num_parameters),
        classes=dataset.classes,
        counts=counts,
        notes=run.scan.notes(most=20, config=run.config),
        curves=folder / "curves.png",
        samples=folder / "samples.png",
        parameters=parameters(run.config, run.overrides),
        files=FILES,
    )


def _headline(evaluations: Sequence[Evaluation], selection: Selection) -> dict[str, str]:
    test, *validation = (evaluation.metrics for evaluation in evaluations)
    headline = {
        "Test accuracy": f"{test.accuracy:.2%}",
        "Test F1, macro": f"{test.f1:.4f}",
        "Test loss": f"{test.loss:.4f}",
    }
    if test.top5 is not None:
        headline["Test top-5"] = f"{test.top5:.2%}"
    for metrics in validation:
        headline["Validation accuracy"] = f"{metrics.accuracy:.2%}"
    kept = "Best epoch" if validation else "Last epoch"
    return headline | {kept: f"{selection.best_epoch} of {selection.last_epoch}"}


def _facts(run: Run, selection: Selection, num_parameters: int) -> dict[str, str]:
    config, dataset, environment = run.config, run.dataset, run.environment
    facts = {
        "Run": run.folder.name,
        "Name": config.run_name,
        "MLflow run": run.tracker.mlflow_run_id or "",
        "Recipe": config.recipe,
        "Data set": f"{dataset.name}: {len(dataset):,} images, {len(dataset.classes)} classes",
        "Data digest": f"{dataset.digest[:12]}, split {run.split.digest[:12]}",
        "Input": str(dataset.preprocessing),
        "Model": f"{config.model}, {num_parameters:,} parameters",
        "Epochs": f"{selection.last_epoch} of {config.epochs}",
        "Time": stage_times(run.timings),
        "Device": f"{run.compute.device_name}, {config.precision}, {config.threads} threads",
        "Platform": environment["platform"],
        "Versions": ", ".join(
            f"{name.removeprefix('version.')} {version}"
            for name, version in environment.items()
            if name.startswith("version.")
        ),
        "Git commit": _commit(environment),
    }
    return {label: value for label, value in facts.items() if value}


def stage_times(timings: Mapping[str, float]) -> str:
    """Say how long each stage took, such as "data 2.5 s, train 1:02:03".

    Args:
        timings: seconds, by the names of their metrics, such as ``time/data_seconds``.
    """
    return ", ".join(
        f"{name.removeprefix('time/').removesuffix('_seconds')} {_duration(seconds)}"
        for name, seconds in timings.items()
    )


def _duration(seconds: float) -> str:
    """Write a minute and more as hours, minutes and seconds."""
    return f"{seconds:.1f} s" if seconds < 59.95 else str(timedelta(seconds=round(seconds)))


def _commit(environment: dict[str, str]) -> str:
    changed = " and changes not committed" if environment.get("git.dirty") == "true" else ""
    return environment.get("git.commit", "") + changed


def parameters(config: TrainConfig, overrides: Container[str]) -> list[Parameter]:
    """Say of every parameter who chose it: the run, its recipe, or nobody."""
    described = []
    for field in dataclasses.fields(TrainConfig):
        value = getattr(config, field.name)
        given = field.name in overrides or (field.name == "recipe" and config.recipe)
        # What was left to be chosen ("auto") is no choice of the recipe's.
        by_recipe = config.recipe and value != field.default and field.default != AUTO
        described.append(
            Parameter(
                name="--" + field.name.replace("_", "-"),
                value=_text(value),
                default=_text(field.default),
                origin="run" if given else "recipe" if by_recipe else "default",
            )
        )
    return described


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
