"""Export, from a run in MLflow to a proved ONNX file, in ``exports/`` and in the registry."""

import dataclasses
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from imgclf.card import ModelCard
from imgclf.config import TrainConfig
from imgclf.data.dataset import ImageDataset, SelectedImages
from imgclf.data.splits import Split
from imgclf.errors import ImgclfError, UsageError
from imgclf.evaluation.calibration import expected_calibration_error, fit_temperature
from imgclf.evaluation.inference import predict_logits
from imgclf.evaluation.metrics import softmax
from imgclf.exporting import graph, parity
from imgclf.exporting.golden import choose_golden_inputs
from imgclf.models import ImageClassifier
from imgclf.pipeline.data import load_and_split, load_images
from imgclf.pipeline.output import ensure_writable
from imgclf.pipeline.trained import load_trained_model
from imgclf.predict import Predictor
from imgclf.progress import say
from imgclf.tracking.identity import TRAINING_RUN_TAG, adopted_run
from imgclf.tracking.model_registry import (
    Registration,
    log_export_files,
    log_export_metrics,
    register_export,
    tag_runner_run,
)
from imgclf.tracking.pytorch_model import log_pytorch_model
from imgclf.tracking.runs import TrainRun, best_run, download_model, find_run
from imgclf.verify import replay

EXPORTED_FILES = MODEL_FILE, PARITY_FILE, EXAMPLE_FILE = "model.onnx", "parity.json", "example.png"


@dataclass(frozen=True)
class ExportResult:
    """What an export came to.

    Attributes:
        folder: holds ``model.onnx``, ``parity.json`` and ``example.png``, one of the test images.
        model: the ONNX file.
        example_label: what the example shows.
        run: the training run that the model comes from.
        parity: the proof.
        registration: the registered version.
    """

    folder: Path
    model: Path
    example_label: str
    run: TrainRun
    parity: parity.Parity
    registration: Registration


def export(
    run: str | None = None,
    *,
    dataset: str = "",
    name: str = "",
    exports_dir: str | os.PathLike[str] = "exports",
    experiment: str = "",
) -> ExportResult:
    """Turn a training run into one ONNX file, and prove that it answers as the trained model does.

    No file is left in ``exports_dir``, and no model in MLflow, unless the proof holds.

    Args:
        run: imgclf's or MLflow's id of a run; None for the experiment's best.
        dataset: choose among runs on this data set. A folder or CSV file stands for its content,
            and is where the images are read: for data that has moved since the training.
        name: of the folder in ``exports_dir``; empty for the data set's name.
        exports_dir: receives the folder.
        experiment: where to look for the best run; empty for MLflow's environment or default.

    Raises:
        ImgclfError: there is no such run, the data is not what the run was trained on, or the proof
            failed.
    """
    started = time.perf_counter()
    moved = Path(dataset).expanduser() if dataset and Path(dataset).expanduser().exists() else None
    chosen = _choose_run(run, dataset, moved, experiment)
    if adopted_run():
        tag_runner_run(adopted_run(), {TRAINING_RUN_TAG: chosen.mlflow_run_id})
    with download_model(chosen) as folder:
        trained = load_trained_model(folder)
    target = _target(Path(exports_dir), name or chosen.dataset)
    _refuse_other_model(target, trained.card)
    say(f"exporting run {chosen.run_id} ({chosen.dataset}, {chosen.model})")
    config = trained.config
    if moved:
        config = dataclasses.replace(config, dataset=str(moved))
    images, split = _load_data(chosen, config)
    more = {"mlflow_run_id": chosen.mlflow_run_id, "opset": str(graph.OPSET)}
    card = dataclasses.replace(trained.card, provenance={**trained.card.provenance, **more})
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as workspace:
        built = Path(workspace) / "export"
        built.mkdir()
        proof, figures = _build_and_prove(trained.model, card, images, split, built)
        label = _write_example(images, split, built)
        example = images.inputs(np.resize(split.test, 2))
        registration = register_export(chosen, built / MODEL_FILE, card, example)
        log_pytorch_model(chosen, trained.model, card, example, trained.sha256)
        log_export_files(chosen, built, EXPORTED_FILES)
        log_export_metrics(chosen, figures | {"time/export_seconds": time.perf_counter() - started})
        _replace_folder(built, target)
    return ExportResult(target, target / MODEL_FILE, label, chosen, proof, registration)


def _choose_run(run: str | None, dataset: str, moved: Path | None, experiment: str) -> TrainRun:
    if run is not None:
        if experiment or (dataset and moved is None):
            raise UsageError(
                "--run names one run; --dataset NAME and --experiment choose among several.",
                "Drop either. With --run, --dataset can only say where the images are now.",
            )
        return find_run(run)
    if moved is None:
        return best_run(experiment, dataset)
    # The folder may have had another name when it was trained on: its content decides.
    digest = load_images(TrainConfig(dataset=str(moved), max_bad_images=1.0)).digest
    return best_run(experiment, digest=digest)


def _target(exports_dir: Path, name: str) -> Path:
    """Return the folder to write, and make sure now that it can be written later."""
    if name in ("", ".", "..") or Path(name).name != name:
        raise UsageError(
            f"--name '{name}' is no folder's name.", "--exports-dir says where the folder goes."
        )
    ensure_writable(exports_dir, "", "--exports-dir")
    return exports_dir / name


def _load_data(run: TrainRun, config: TrainConfig) -> tuple[ImageDataset, Split]:
    """Load what the run was trained on, and make sure that it is the same."""
    path = Path(config.dataset)
    if path.is_absolute() and not path.exists():
        raise ImgclfError(
            f"The images of run {run.run_id} were at '{path}'; there is nothing now.",
            "If they have moved, say where to: --dataset FOLDER.",
        )
    images, split = load_and_split(config)
    if images.digest != run.dataset_digest:
        raise ImgclfError(
            f"The data at '{images.source}' is not what run {run.run_id} was trained on (digest"
            f" {images.digest[:12]}, then {run.dataset_digest[:12]}).",
            "Restore the images as they were, give their place with --dataset FOLDER, or train"
            " again.",
        )
    if split.digest != run.split_digest:
        raise ImgclfError(
            f"The test split of run {run.run_id} cannot be made again: its digest differs.",
            "Use the versions of imgclf and NumPy that it was trained with, or train again.",
        )
    return images, split


def _build_and_prove(
    model: ImageClassifier, card: ModelCard, images: ImageDataset, split: Split, folder: Path
) -> tuple[parity.Parity, dict[str, float]]:
    """Write the file, prove it, and write it again with the proof and the golden inputs in it.

    Returns:
        the proof, and the figures to log.
    """
    test, path = SelectedImages(images, split.test), folder / MODEL_FILE
    cpu, labels = torch.device("cpu"), images.labels[split.test]
    reference = predict_logits(model, test, cpu)
    val_logits = predict_logits(model, SelectedImages(images, split.val), cpu)
    temperature = fit_temperature(val_logits, images.labels[split.val])
    card = dataclasses.replace(card, temperature=temperature)
    say("tracing the network")
    example = np.ascontiguousarray(images.inputs(np.resize(split.test, 2)))
    proto = graph.build_onnx(model, example, temperature)
    graph.write_onnx(proto, card, path)
    say(f"comparing the file with the trained model on {len(test):,} test images")
    sources = [images.files[position] for position in split.test] if images.files else test
    proof = parity.compare(reference, Predictor(path), test, sources, labels, temperature)
    proof.require()
    card = dataclasses.replace(card, parity=proof.to_dict())
    tolerance = parity.SCALED_TOLERANCE
    golden = choose_golden_inputs(model, card, images, split.test, tolerance)
    graph.write_onnx(proto, card, path, golden)
    replay(Predictor(path)).require(MODEL_FILE)
    (folder / PARITY_FILE).write_text(proof.to_json(), encoding="utf-8")
    before, after = softmax(reference), softmax(reference / np.float32(temperature))
    figures = {
        "export/max_scaled_difference": proof.max_scaled_difference,
        "export/top1_agreement": proof.top1_agreement,
        "export/temperature": temperature,
        "export/test_calibration_error_before": expected_calibration_error(before, labels),
        "export/test_calibration_error": expected_calibration_error(after, labels),
    }
    return proof, figures


def _write_example(images: ImageDataset, split: Split, folder: Path) -> str:
    """Write a test image, so that a person has something to predict at once."""
    position = split.test[0]
    pixels = images.images[position]
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(folder / EXAMPLE_FILE)
    return images.classes[images.labels[position]]


def _refuse_other_model(target: Path, card: ModelCard) -> None:
    """Replace an export of the same data set, never anything else."""
    if not target.exists():
        return
    if _exported_from(target) != card.provenance["dataset_digest"]:
        raise ImgclfError(
            f"'{target}' exists, and is no export of this data set.",
            "Choose another folder with --name, or remove it.",
        )


def _exported_from(folder: Path) -> str | None:
    """Return the digest of the data behind an export; None for a folder that is none."""
    if not folder.is_dir() or {path.name for path in folder.iterdir()} != set(EXPORTED_FILES):
        return None
    try:
        return Predictor(folder / MODEL_FILE).card.provenance.get("dataset_digest")
    except ImgclfError:
        return None


def _replace_folder(built: Path, target: Path) -> None:
    """Put the finished folder in its place; an older one is put back if that fails."""
    if not target.exists():
        os.rename(built, target)
        return
    outgoing = built.with_name("outgoing")
    os.rename(target, outgoing)
    try:
        os.rename(built, target)
    except OSError:
        os.rename(outgoing, target)
        raise
    shutil.rmtree(outgoing)
