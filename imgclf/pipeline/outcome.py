"""What a run came to: the selected weights, tested once, with all that shows how good they are."""

import math
import time

import torch

from imgclf import __version__
from imgclf.card import ModelCard
from imgclf.data.dataset import SelectedImages
from imgclf.disk import write_whole
from imgclf.evaluation.drawing import save
from imgclf.evaluation.evaluation import Evaluation
from imgclf.evaluation.figures import curves
from imgclf.evaluation.inference import predict_logits
from imgclf.evaluation.page import write_html
from imgclf.evaluation.report import write_evaluation
from imgclf.models import ImageClassifier, num_parameters
from imgclf.pipeline.run import History, Run
from imgclf.pipeline.run_page import run_page
from imgclf.tracking.identity import EPOCHS_TAG
from imgclf.training.selection import Selection
from imgclf.training.weights import load_weights


def record_outcome(
    run: Run, model: ImageClassifier, selection: Selection, history: History
) -> dict[str, float]:
    """Test the selected weights once, and record them with all that shows how good they are."""
    started = time.perf_counter()
    tracker, folder = run.tracker, run.folder
    load_weights(model, folder / "model" / "weights.safetensors")
    evaluations = [_evaluate(run, model, "test")]
    metrics = selection.metrics() | evaluations[0].metrics.scalars("test")
    tracker.metrics({}, step=0, summary=metrics)
    tracker.tags({EPOCHS_TAG: str(selection.last_epoch)})

    card = _card(run, model, metrics)
    write_whole(folder / "model" / "card.json", f"{card.to_json()}\n".encode(), "the model's card")
    if len(run.split.val):
        # Only to files: as metrics, the epochs' figures say the same of every epoch.
        evaluations.append(_evaluate(run, model, "val"))
    for evaluation in evaluations:
        write_evaluation(evaluation, folder / evaluation.split)
    best_epoch = selection.best_epoch if len(run.split.val) else None
    save(curves(history, best_epoch=best_epoch), folder / "curves.png")
    run.timings["time/evaluation_seconds"] = time.perf_counter() - started
    tracker.metrics({}, step=0, summary=run.timings)
    page = run_page(run, evaluations, selection, num_parameters(model))
    write_html(folder / "report.html", page)
    for split in (evaluation.split for evaluation in evaluations):
        tracker.artifact(split, split)
    for path, artifact_folder in (("model", "model"), ("curves.png", ""), ("report.html", "")):
        tracker.artifact(path, artifact_folder)
    return metrics


def _evaluate(run: Run, model: ImageClassifier, split: str) -> Evaluation:
    positions = run.split.parts[split]
    images = SelectedImages(run.dataset, positions)
    return Evaluation(
        split=split,
        images=images,
        names=[run.dataset.names[position] for position in positions],
        labels=run.dataset.labels[positions],
        logits=predict_logits(model, images, run.compute.device),
        classes=run.dataset.classes,
    )


def _card(run: Run, model: ImageClassifier, metrics: dict[str, float]) -> ModelCard:
    provenance = {
        "run_id": run.folder.name,
        "dataset": run.dataset.name,
        "dataset_digest": run.dataset.digest,
        "split_digest": run.split.digest,
        "model": run.config.model,
        "imgclf": __version__,
        "torch": torch.__version__,
    }
    return ModelCard(
        classes=run.dataset.classes,
        preprocessing=run.dataset.preprocessing,
        mean=tuple(model.mean.flatten().tolist()),
        std=tuple(model.std.flatten().tolist()),
        provenance=provenance,
        # JSON has no other numbers.
        metrics={name: value for name, value in metrics.items() if math.isfinite(value)},
    )
