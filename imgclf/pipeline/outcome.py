"""What a run came to: the selected weights, tested once, with all that shows how good they are."""

import torch

from imgclf import __version__
from imgclf.card import ModelCard
from imgclf.evaluation import figures
from imgclf.evaluation.inference import predict_logits
from imgclf.evaluation.metrics import compute_metrics
from imgclf.evaluation.report import write_report
from imgclf.models import ImageClassifier
from imgclf.pipeline.run import History, Run
from imgclf.tracking.identity import EPOCHS_TAG
from imgclf.training.selection import Selection
from imgclf.training.weights import load_weights


def record_outcome(
    run: Run, model: ImageClassifier, selection: Selection, history: History
) -> dict[str, float]:
    """Test the selected weights once, and record them with all that shows how good they are."""
    dataset, tracker, folder = run.dataset, run.tracker, run.folder
    load_weights(model, folder / "model" / "weights.safetensors")
    images, labels = dataset.inputs(run.split.test), dataset.labels[run.split.test]
    logits = predict_logits(model, images, run.compute.device)
    test = compute_metrics(logits, labels)
    metrics = selection.metrics() | test.scalars("test")
    tracker.metrics({}, step=0, summary=metrics)
    tracker.tags({EPOCHS_TAG: str(selection.last_epoch)})

    card = _card(run, model, metrics)
    (folder / "model" / "card.json").write_text(card.to_json() + "\n", encoding="utf-8")
    names = [dataset.names[position] for position in run.split.test]
    write_report(folder / "test", images, names, labels, logits, dataset.classes, test)
    best_epoch = selection.best_epoch if len(run.split.val) else None
    figures.save(figures.curves(history, best_epoch=best_epoch), folder / "curves.png")
    for path, artifact_folder in (("model", "model"), ("test", "test"), ("curves.png", "")):
        tracker.artifact(path, artifact_folder)
    return metrics


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
        metrics=metrics,
    )
