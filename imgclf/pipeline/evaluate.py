"""Evaluation: a finished model answers labelled images, and a run of its own holds the outcome."""

import os
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from imgclf.config import TrainConfig
from imgclf.data.dataset import ImageDataset, SelectedImages
from imgclf.disk import write_whole
from imgclf.errors import UsageError
from imgclf.evaluation.evaluation import Evaluation
from imgclf.evaluation.page import Page, write_html
from imgclf.evaluation.report import write_evaluation
from imgclf.evaluation.test_time_augmentation import KINDS, augmented_logits
from imgclf.interruption import interruptions
from imgclf.pipeline.data import load_images
from imgclf.pipeline.open_model import OpenedModel, open_model
from imgclf.pipeline.output import ensure_writable
from imgclf.pipeline.run import record
from imgclf.pipeline.run_page import stage_times
from imgclf.pipeline.subset import SPLITS, Subset, choose_subset
from imgclf.progress import say
from imgclf.recipes import nearest
from imgclf.tracking.environment import software_tags
from imgclf.tracking.identity import (
    DATASET_DIGEST_TAG,
    DATASET_TAG,
    MODEL_TAG,
    SHA256_TAG,
    TRAINING_RUN_TAG,
    create_identity,
)
from imgclf.tracking.tracker import Tracker


@dataclass(frozen=True)
class EvaluationResult:
    """What an evaluation came to.

    Attributes:
        run_id: imgclf's own id of the evaluation's run.
        mlflow_run_id, url: in MLflow; None where the server has not answered.
        tracking_uri: of the store that the run was sent to.
        folder: holds tables and pictures.
        dataset, split: what was evaluated on.
        tta: the kind of test-time augmentation; ``none`` without.
        images: how many.
        metrics: such as ``test/accuracy``, by the split's name.
        note: what to know before the figures are trusted; empty where there is nothing.
        not_sent: what MLflow did not take, in words; empty where it holds the whole run.
    """

    run_id: str
    mlflow_run_id: str | None
    url: str | None
    tracking_uri: str
    folder: Path
    dataset: str
    split: str
    tta: str
    images: int
    metrics: dict[str, float]
    note: str
    not_sent: tuple[str, ...]


@dataclass(frozen=True)
class _Plan:
    """Who answers, on which images, and how: what an evaluation's figures depend on.

    Attributes:
        tta: the kind of test-time augmentation.
    """

    model: OpenedModel
    images: ImageDataset
    subset: Subset
    tta: str


def evaluate(
    model: "str | os.PathLike[str]" = "",
    *,
    run: str | None = None,
    dataset: str,
    split: str = "",
    tta: str = "none",
    data_dir: str = "",
    max_bad_images: float = TrainConfig.max_bad_images,
    output_dir: "str | os.PathLike[str]" = "",
    runs_dir: "str | os.PathLike[str]" = "runs",
    experiment: str = "",
    run_name: str = "",
) -> EvaluationResult:
    """Measure a model on labelled images, and record that in MLflow as training records its test.

    The data may hold some of the model's classes, in any order: they are matched by name.

    Args:
        model: a ``model.onnx``, or its address in MLflow (``models:/…``, ``runs:/…``).
        run: instead of a model, imgclf's or MLflow's id of a training run: its exported model
            where there is one, else its trained weights.
        dataset: a data set's name, a folder or a CSV file, as `TrainConfig.dataset`.
        split: ``test``, ``val``, ``train`` or ``all``; empty for ``test`` where the data gives a
            test split, else ``all``. A split that the data does not give is dealt out as in the
            training run ``run``, else by the defaults of `TrainConfig`.
        tta: test-time augmentation: ``none``, ``flip``, ``shift`` or ``flip-shift``, as
            `augmented_logits` says. It changes the figures of this evaluation alone.
        data_dir: folder for downloaded data sets.
        max_bad_images: largest share of unreadable images accepted.
        output_dir: receives a copy of tables and pictures; empty for none.
        runs_dir: receives the run's own folder.
        experiment, run_name: as in `TrainConfig`.

    Raises:
        UsageError: options that do not fit; nothing was recorded.
        ImgclfError: the model or the data cannot be used, or the model does not know a class.
    """
    _check_choice("--split", split or SPLITS[0], SPLITS)
    _check_choice("--tta", tta, KINDS)
    answering = open_model(os.fspath(model), run)
    started = time.perf_counter()
    config = TrainConfig(dataset=dataset, data_dir=data_dir, max_bad_images=max_bad_images)
    preprocessing = answering.card.preprocessing
    images = load_images(config, preprocessing)
    subset = choose_subset(images, split, answering.card, answering.config)
    plan = _Plan(answering, images, subset, tta)
    inputs = SelectedImages(images, subset.positions, preprocessing)
    data_seconds = time.perf_counter() - started
    if output_dir:
        ensure_writable(Path(output_dir), "the folder ", "--output-dir")
    copies = "" if tta == "none" else f", with test-time augmentation: {tta}"
    chosen = f"{len(inputs):,} images of {images.name} ({subset.split})"
    say(f"evaluating {answering.name} on {chosen}{copies}")

    identity = create_identity(Path(runs_dir), "evaluate", run_name, experiment)
    report = Path(identity.folder) / subset.split

    def carry_out(tracker: Tracker) -> dict[str, float]:
        parameters = {
            "model": answering.name,
            "dataset": images.source if images.files else dataset,
            "split": subset.split,
            "tta": tta,
            "max_bad_images": max_bad_images,
        }
        tracker.parameters(parameters)
        _record_inputs(tracker, plan)
        metrics = _record_outcome(tracker, plan, inputs, data_seconds, report)
        if output_dir:
            for path in report.iterdir():
                write_whole(Path(output_dir) / path.name, path.read_bytes(), "the evaluation")
        return metrics

    with interruptions() as interruption:
        tracker, metrics, not_sent = record(identity, interruption, carry_out)
    return EvaluationResult(
        run_id=identity.run_id,
        mlflow_run_id=tracker.mlflow_run_id,
        url=tracker.url,
        tracking_uri=tracker.tracking_uri,
        folder=Path(output_dir) if output_dir else report,
        dataset=images.name,
        split=subset.split,
        tta=tta,
        images=len(inputs),
        metrics=metrics,
        note=subset.note,
        not_sent=not_sent,
    )


def _check_choice(option: str, value: str, choices: Collection[str]) -> None:
    if value not in choices:
        raise UsageError(
            f"{option} '{value}' is unknown.{nearest(value, choices)}",
            f"Choose one of: {', '.join(choices)}.",
        )


def _record_inputs(tracker: Tracker, plan: _Plan) -> None:
    model, images, subset = plan.model, plan.images, plan.subset
    tags = {
        DATASET_TAG: images.name,
        DATASET_DIGEST_TAG: images.digest,
        MODEL_TAG: model.card.provenance.get("model", ""),
        SHA256_TAG: model.sha256,
        TRAINING_RUN_TAG: model.training_run,
        "imgclf.note": subset.note,
        **software_tags(),
    }
    tracker.tags({name: text for name, text in tags.items() if text})
    profile = {
        "images": len(subset.positions),
        "split": subset.split,
        "unreadable": len(images.unreadable),
    }
    tracker.dataset(images.name, images.digest, "evaluation", images.source, profile)


def _record_outcome(
    tracker: Tracker,
    plan: _Plan,
    inputs: SelectedImages,
    data_seconds: float,
    report: Path,
) -> dict[str, float]:
    """Let the model answer, and record how good the answers are."""
    started = time.perf_counter()
    subset = plan.subset
    evaluation = Evaluation(
        split=subset.split,
        images=inputs,
        names=[plan.images.names[position] for position in subset.positions],
        labels=subset.labels,
        logits=augmented_logits(plan.model.answer, inputs, plan.tta),
        classes=plan.model.card.classes,
        temperature=plan.model.card.temperature,
    )
    write_evaluation(evaluation, report)
    timings = {
        "time/data_seconds": data_seconds,
        "time/evaluation_seconds": time.perf_counter() - started,
    }
    write_html(report / "report.html", _page(plan, evaluation, timings))
    tracker.artifact(report.name, report.name)
    values = evaluation.metrics.scalars(subset.split)
    tracker.metrics({}, step=0, summary=values | timings)
    return values


def _page(plan: _Plan, evaluation: Evaluation, timings: Mapping[str, float]) -> Page:
    model, images = plan.model, plan.images
    facts = {
        "Model": model.name,
        "Training run": model.training_run,
        "SHA-256": model.sha256,
        "Data set": f"{images.name}: {images.source}",
        "Data digest": images.digest[:12],
        "Time": stage_times(timings),
    }
    if plan.tta != "none":
        facts["Test-time augmentation"] = f"{plan.tta}: {KINDS[plan.tta].meaning}"
    notes = [plan.subset.note] if plan.subset.note else []
    return Page(
        title=f"{model.name} on {images.name}",
        evaluations={Path(): evaluation},
        facts={label: value for label, value in facts.items() if value},
        notes=[*notes, *(f"unreadable: {name}: {reason}" for name, reason in images.unreadable)],
    )
