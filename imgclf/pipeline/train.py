"""Training, from a configuration to a run that MLflow holds whole."""

import dataclasses
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imgclf.config import AUTO, TrainConfig
from imgclf.data.augment import Augmentation
from imgclf.data.dataset import ImageDataset, images_at_a_time
from imgclf.data.scan import scan_dataset
from imgclf.data.splits import Split
from imgclf.errors import UsageError
from imgclf.interruption import Interruption, interruptions
from imgclf.models import (
    ImageClassifier,
    create_classifier,
    designed_norm_layer,
    num_parameters,
)
from imgclf.pipeline.data import load_and_split
from imgclf.pipeline.fit import fit
from imgclf.pipeline.inputs import record_inputs
from imgclf.pipeline.outcome import record_outcome
from imgclf.pipeline.resume import Interrupted, find_interrupted, write_start
from imgclf.pipeline.run import Run, record
from imgclf.pipeline.training_progress import Progress
from imgclf.progress import print_start, say
from imgclf.tracking.identity import create_identity
from imgclf.tracking.tracker import Tracker
from imgclf.training.device import Compute, choose_compute

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

    SIGINT, SIGTERM and SIGHUP end it between two steps, with a checkpoint: as `KeyboardInterrupt`
    and `SystemExit` (143 and 129), once MLflow is told.

    Args:
        config: the run's parameters; None for the defaults.

    Raises:
        UsageError: a name or an option that does not fit; nothing was recorded.
        ImgclfError: the data cannot be used, or training failed; the run ends as FAILED.
    """
    config = config or TrainConfig()
    with interruptions() as interruption:
        return _train(config, config.overridden(), interruption, None)


def resume(run: str, runs_dir: str = "runs", given: dict[str, Any] | None = None) -> TrainResult:
    """Go on with a run that was ended before its time, from its last checkpoint.

    On a CPU it comes to the same weights and metrics as one that was never ended, bit for bit.

    Args:
        run: its id, imgclf's or MLflow's.
        runs_dir: where its folder is.
        given: parameters by name, which must be the run's own.

    Raises:
        UsageError: parameters differ, or the run has finished; nothing was recorded.
        ImgclfError: as `train`; and there is no such run, it is running, or its data differ.
    """
    interrupted = find_interrupted(run, Path(runs_dir), given or {})
    with interruptions() as interruption:
        return _train(interrupted.config, interrupted.overrides, interruption, interrupted)


def _train(
    config: TrainConfig,
    overrides: dict[str, Any],
    interruption: Interruption,
    interrupted: Interrupted | None,
) -> TrainResult:
    started = time.perf_counter()
    compute = choose_compute(config)
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
    if interrupted is None:
        identity = create_identity(
            Path(config.runs_dir), "train", config.run_name, config.experiment
        )
        write_start(Path(identity.folder), config, overrides)
    else:
        interrupted.check_data(dataset.digest, split.digest)
        identity = interrupted.identity
    timings: dict[str, float] = {}

    def carry_out(tracker: Tracker) -> tuple[Progress, dict[str, float]]:
        folder = Path(identity.folder)
        run = Run(config, overrides, compute, dataset, split, scan, tracker, folder, timings)
        record_inputs(run, model)
        checkpoint = interrupted.checkpoint(say) if interrupted else None
        timings["time/data_seconds"] = time.perf_counter() - started
        progress = fit(run, model, augmentation, interruption, checkpoint)
        timings["time/train_seconds"] = progress.seconds
        return progress, record_outcome(run, model, progress.selection, progress.history)

    resumed = interrupted is not None
    tracker, (progress, metrics), not_sent = record(identity, interruption, carry_out, resumed)
    return TrainResult(
        run_id=identity.run_id,
        mlflow_run_id=tracker.mlflow_run_id,
        url=tracker.url,
        tracking_uri=tracker.tracking_uri,
        folder=Path(identity.folder),
        best_epoch=progress.selection.best_epoch,
        metrics=metrics,
        timings=timings,
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
    together = images_at_a_time(dataset.images)
    for start in range(0, len(split.train), together):
        images = dataset.inputs(split.train[start : start + together])
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
        data_dir=str(Path(os.path.expanduser(config.data_dir)).resolve())
        if config.data_dir
        else "",
        model=model,
        norm_layer=norm_layer,
        device=compute.device.type,
        precision=compute.precision_name,
        threads=compute.threads,
    )
