"""Training, from a configuration to a run that MLflow holds whole."""

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from imgclf.config import AUTO, TrainConfig
from imgclf.data.augment import Augmentation
from imgclf.data.dataset import ImageDataset, SelectedImages
from imgclf.data.loader import Batch, TrainLoader
from imgclf.data.scan import scan_dataset
from imgclf.data.splits import Split
from imgclf.errors import UsageError
from imgclf.evaluation.drawing import save
from imgclf.evaluation.image_grids import image_grid, target_titles
from imgclf.evaluation.inference import predict_logits
from imgclf.evaluation.metrics import Metrics, compute_metrics
from imgclf.models import (
    ImageClassifier,
    create_classifier,
    designed_norm_layer,
    num_parameters,
)
from imgclf.pipeline.data import load_and_split
from imgclf.pipeline.inputs import record_inputs
from imgclf.pipeline.outcome import record_outcome
from imgclf.pipeline.run import History, Run, end_early
from imgclf.progress import TrainingDisplay, print_start
from imgclf.tracking.identity import create_identity
from imgclf.tracking.tracker import FINISHED, Tracker
from imgclf.training.device import Compute, choose_compute
from imgclf.training.loop import EpochEnd, Snapshot, TrainState, train_epochs
from imgclf.training.selection import Selection
from imgclf.training.weights import save_weights

SHOWN_SAMPLES = 36
_IMAGES_AT_A_TIME = 4096
# Enough for the covariance of small patches: 2,000 images of 32x32.
_WHITENING_PIXELS = 2000 * 32**2


@dataclass(frozen=True)
class TrainResult:
    """What a training run came to.

    Attributes:
        run_id: imgclf's own id of the run; `imgclf.export` takes it.
        mlflow_run_id, url: in MLflow; None where the server has not answered.
        tracking_uri: of the store that the run was sent to.
        folder: the run's local files.
        best_epoch: whose weights were kept.
        metrics: of these weights, such as ``test/accuracy`` and ``best/val_accuracy``.
        timings: seconds of each stage, such as ``time/train_seconds``.
        not_sent: what MLflow did not take, in words; empty where it holds the whole run.
    """

    run_id: str
    mlflow_run_id: str | None
    url: str | None
    tracking_uri: str
    folder: Path
    best_epoch: int
    metrics: dict[str, float]
    timings: dict[str, float]
    not_sent: tuple[str, ...]


def train(config: TrainConfig | None = None) -> TrainResult:
    """Train a classifier, and record the whole run in MLflow and in its local folder.

    Args:
        config: the run's parameters; None for the defaults.

    Raises:
        UsageError: a name or an option that does not fit; nothing was recorded.
        ImgclfError: the data cannot be used, or training failed; the run ends as FAILED.
    """
    config = config or TrainConfig()
    overrides = config.overridden()
    compute = choose_compute(config)
    started = time.perf_counter()
    dataset, split = load_and_split(config)
    if not len(split.val) and (config.early_stopping_patience or config.monitor != "val/accuracy"):
        raise UsageError(
            "--monitor and --early-stopping-patience need validation images, and there are none.",
            "Raise --val-fraction, or drop both options.",
        )
    config = _resolve(config, compute, dataset)
    size = dataset.preprocessing
    augmentation = Augmentation.from_config(config, size.height, size.width)
    model = create_model(config, dataset, split)
    scan = scan_dataset(dataset, split)
    print_start(config, compute, dataset, split, scan, num_parameters(model))
    identity = create_identity(Path(config.runs_dir), "train", config.run_name, config.experiment)
    folder = Path(identity.folder)
    tracker = Tracker(identity, folder)
    try:
        run = Run(config, overrides, compute, dataset, split, scan, tracker, folder)
        record_inputs(run, model)
        begun = time.perf_counter()
        run.timings["time/data_seconds"] = begun - started
        selection, history = _fit(run, model, augmentation)
        run.timings["time/train_seconds"] = time.perf_counter() - begun
        metrics = record_outcome(run, model, selection, history)
    except BaseException as error:
        end_early(tracker, error)
        raise
    not_sent = tuple(tracker.finish(FINISHED))
    tracker.check()
    return TrainResult(
        run_id=identity.run_id,
        mlflow_run_id=tracker.mlflow_run_id,
        url=tracker.url,
        tracking_uri=tracker.tracking_uri,
        folder=folder,
        best_epoch=selection.best_epoch,
        metrics=metrics,
        timings=run.timings,
        not_sent=not_sent,
    )


def create_model(config: TrainConfig, dataset: ImageDataset, split: Split) -> ImageClassifier:
    """Build the classifier with fresh weights, drawn from the seed, on the CPU."""
    mean, std = _normalization(config.normalization, dataset, split)
    torch.manual_seed(config.seed)
    size = dataset.preprocessing
    model = create_classifier(config, size, len(dataset.classes), mean, std)
    if not model.whitens:
        return model
    count = min(len(split.train), max(1, _WHITENING_PIXELS // (size.height * size.width)))
    spread = np.linspace(0, len(split.train) - 1, count).astype(np.int64)
    model.fit_whitening(torch.from_numpy(dataset.inputs(split.train[spread])))
    return model


def _normalization(
    kind: str, dataset: ImageDataset, split: Split
) -> tuple[list[float], list[float]]:
    """Return what is subtracted from each channel's pixels and what they are divided by."""
    channels = dataset.preprocessing.channels
    if kind == "half":
        return [127.5] * channels, [127.5] * channels
    if kind == "unit":
        return [0.0] * channels, [255.0] * channels
    assert kind == "dataset"
    counts = np.zeros((channels, 256), np.int64)
    for start in range(0, len(split.train), _IMAGES_AT_A_TIME):
        images = dataset.inputs(split.train[start : start + _IMAGES_AT_A_TIME])
        for channel in range(channels):
            counts[channel] += np.bincount(images[..., channel].ravel(), minlength=256)
    means, stds = [], []
    for weights in counts:
        mean = float(np.average(np.arange(256), weights=weights))
        variance = float(np.average((np.arange(256) - mean) ** 2, weights=weights))
        means.append(mean)
        stds.append(max(variance**0.5, 1.0))  # images of one colour have no spread
    return means, stds


def _resolve(config: TrainConfig, compute: Compute, dataset: ImageDataset) -> TrainConfig:
    """Replace every ``auto`` by what it came to, so that the record can be read on its own."""
    automatic = "digits-cnn" if config.dataset == "digits" else "small-cnn"
    model = automatic if config.model == AUTO else config.model
    norm_layer = designed_norm_layer(model) if config.norm_layer == AUTO else config.norm_layer
    return dataclasses.replace(
        config,
        dataset=dataset.source if dataset.files else config.dataset,
        data_dir=str(Path(config.data_dir).expanduser().resolve()) if config.data_dir else "",
        model=model,
        norm_layer=norm_layer,
        device=compute.device.type,
        precision=compute.precision_name,
        threads=compute.threads,
    )


def _fit(run: Run, model: ImageClassifier, augmentation: Augmentation) -> tuple[Selection, History]:
    """Train; keep the best epoch's weights in ``model/weights.safetensors``."""
    config, dataset, split = run.config, run.dataset, run.split
    whole = augmentation.reads_beyond_the_centre
    stored = dataset.images if whole else dataset.inputs(slice(None))
    loader = TrainLoader(
        stored,
        split.train,
        dataset.labels,
        len(dataset.classes),
        augmentation,
        config,
        run.compute.device,
    )
    state = TrainState.start(model, config, run.compute)
    selection = Selection(config.monitor)
    history: History = {}
    val_images = SelectedImages(dataset, split.val)
    test_images = SelectedImages(dataset, split.test) if config.track_test else None
    _record_samples(run, next(loader.epoch(1))[0])
    run.tracker.wait_until_open()
    epoch_start = time.perf_counter()
    with TrainingDisplay(config.epochs, loader.steps_per_epoch) as display:
        for event in train_epochs(state, loader, config, run.compute):
            run.tracker.check()
            if isinstance(event, Snapshot):
                display.snapshot(event)
                continue
            validation = _validate(run, state, val_images)
            is_best = _select(selection, event, validation)
            if is_best:
                save_weights(state.selected_model, run.folder / "model" / "weights.safetensors")
            seconds = time.perf_counter() - epoch_start
            metrics = _epoch_metrics(event, validation, seconds, loader)
            if test_images is not None:
                metrics["epoch/test_accuracy"] = _test_accuracy(run, state, test_images)
            run.tracker.metrics(metrics, step=event.epoch, summary=selection.metrics())
            for name, value in metrics.items():
                history.setdefault(name, []).append((event.epoch, value))
            display.epoch_end(event, validation, is_best)
            if selection.exhausted(config.early_stopping_patience):
                display.say(f"stopped early: no better for {config.early_stopping_patience} epochs")
                break
            epoch_start = time.perf_counter()
    return selection, history


def _validate(run: Run, state: TrainState, images: SelectedImages) -> Metrics | None:
    if not len(images):
        return None
    logits = predict_logits(state.selected_model, images, run.compute.device)
    return compute_metrics(logits, run.dataset.labels[run.split.val])


def _test_accuracy(run: Run, state: TrainState, images: SelectedImages) -> float:
    """Evaluate an epoch on the test split, for curves; nothing may be chosen by it."""
    logits = predict_logits(state.selected_model, images, run.compute.device)
    return compute_metrics(logits, run.dataset.labels[run.split.test]).accuracy


def _record_samples(run: Run, batch: Batch) -> None:
    """Show what the network is about to see, so that wrong labels or crops are noticed early."""
    images = batch.images[:SHOWN_SAMPLES].cpu().numpy()
    titles = target_titles(batch.targets[:SHOWN_SAMPLES].cpu().numpy(), run.dataset.classes)
    heading = "First training batch, after augmentation"
    save(image_grid(images, titles, heading=heading), run.folder / "samples.png")
    run.tracker.artifact("samples.png")


def _select(selection: Selection, end: EpochEnd, validation: Metrics | None) -> bool:
    if validation is None:
        selection.keep_last(end.epoch)
        return True
    return selection.update(end.epoch, validation.scalars("val"))


def _epoch_metrics(
    end: EpochEnd, validation: Metrics | None, seconds: float, loader: TrainLoader
) -> dict[str, float]:
    images_per_step = loader.num_images / loader.steps_per_epoch
    metrics = {
        "train/loss": end.loss,
        "train/accuracy": end.accuracy,
        "lr": end.learning_rate,
        "images_per_second": end.images_per_second,
        "step_milliseconds": 1000 * images_per_step / end.images_per_second,
        "epoch_seconds": seconds,
    }
    return metrics if validation is None else metrics | validation.scalars("val")
