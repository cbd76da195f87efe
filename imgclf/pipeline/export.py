"""Export, from a run in MLflow to a proved ONNX file, in ``exports/`` and in the registry."""

import dataclasses
import os
import shutil
import tempfile
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imgclf.card import ModelCard
from imgclf.config import TrainConfig
from imgclf.data.dataset import ImageDataset
from imgclf.data.splits import Split
from imgclf.disk import writing
from imgclf.errors import ImgclfError, UsageError
from imgclf.exporting import parity
from imgclf.exporting.triton import is_model_repository, variant_name, write_model_repository
from imgclf.exporting.variants import VARIANTS, Variant
from imgclf.pipeline.build import (
    EXPORTED_FILES,
    MODEL_FILE,
    TRITON_FOLDER,
    VARIANT_FILES,
    Building,
    build_model,
    build_variant,
    write_example,
)
from imgclf.pipeline.data import load_and_split, load_images
from imgclf.pipeline.output import ensure_writable
from imgclf.pipeline.trained import load_trained_model
from imgclf.predict import Predictor
from imgclf.progress import say
from imgclf.tracking.exclusive import exclusive
from imgclf.tracking.identity import TRAINING_RUN_TAG, adopted_run
from imgclf.tracking.model_registry import (
    Registration,
    log_export_files,
    log_export_metrics,
    register_export,
    registered_name,
    tag_runner_run,
)
from imgclf.tracking.pytorch_model import log_pytorch_model
from imgclf.tracking.runs import TrainRun, best_run, download_model, find_run


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
        variants: the smaller files that were asked for.
        triton: the model repository, where it was asked for.
    """

    folder: Path
    model: Path
    example_label: str
    run: TrainRun
    parity: parity.Parity
    registration: Registration
    variants: tuple[Variant, ...]
    triton: Path | None


def export(
    run: str | None = None,
    *,
    dataset: str = "",
    name: str = "",
    exports_dir: str | os.PathLike[str] = "exports",
    experiment: str = "",
    variants: Collection[str] = (),
    triton: bool = False,
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
        variants: smaller files to write beside the model: ``int8``, ``fp16``.
        triton: whether to write a model repository for NVIDIA Triton as well, with a model for
            each file.

    Raises:
        ImgclfError: there is no such run, the data is not what the run was trained on, or the proof
            failed.
    """
    for kind in variants:
        if kind not in VARIANTS:
            raise UsageError(
                f"There is no variant '{kind}'.", f"variants may hold: {', '.join(VARIANTS)}."
            )
    started = time.perf_counter()
    expanded = os.path.expanduser(dataset)
    moved = Path(expanded) if os.path.exists(expanded) else None
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
    if "int8" in variants and not len(split.val):
        raise ImgclfError(
            "int8 is accepted or refused on validation images, and this run had none.",
            "Train with a --val-fraction, or export without int8.",
        )
    provenance = {**trained.card.provenance, "mlflow_run_id": chosen.mlflow_run_id}
    card = dataclasses.replace(trained.card, provenance=provenance)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as workspace:
        built = Path(workspace) / "export"
        built.mkdir()
        building = Building.start(trained.model, card, images, split, built)
        proof, figures = build_model(building)
        built_variants = tuple(build_variant(building, kind) for kind in variants)
        label = write_example(building)
        if triton:
            model_name = registered_name(name or chosen.dataset)
            files = {model_name: built / MODEL_FILE}
            files |= {variant_name(model_name, one.kind): one.path for one in built_variants}
            for file_name, path in files.items():
                write_model_repository(path, card, file_name, built / TRITON_FOLDER)
        example = images.inputs(np.resize(split.test, 2))
        registration = register_export(chosen, built / MODEL_FILE, card, example)
        log_pytorch_model(chosen, trained.model, card, example, trained.sha256)
        log_export_files(chosen, built)
        log_export_metrics(chosen, figures | {"time/export_seconds": time.perf_counter() - started})
        with exclusive(f"'{target.parent.resolve() / target.name}'"):
            _refuse_other_model(target, card)  # another export may have come first
            _replace_folder(built, target)
    moved_variants = tuple(
        dataclasses.replace(variant, path=target / variant.path.name) for variant in built_variants
    )
    return ExportResult(
        target,
        target / MODEL_FILE,
        label,
        chosen,
        proof,
        registration,
        moved_variants,
        target / TRITON_FOLDER if triton else None,
    )


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
            f"'{name}' is no folder's name.",
            "Give one with --name; --exports-dir says where that folder goes.",
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


def _refuse_other_model(target: Path, card: ModelCard) -> None:
    """Replace an export of the same data set, never anything else."""
    if not target.exists():
        return
    if not (digest := card.provenance.get("dataset_digest")) or _exported_from(target) != digest:
        raise ImgclfError(
            f"'{target}' exists, and is no export of this data set.",
            "Choose another folder with --name, or remove it.",
        )


def _exported_from(folder: Path) -> str | None:
    """Return the digest of the data behind an export; None for a folder that is none."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if not {*EXPORTED_FILES} <= names <= {*EXPORTED_FILES, *VARIANT_FILES, TRITON_FOLDER}:
        return None
    if TRITON_FOLDER in names and not is_model_repository(folder / TRITON_FOLDER):
        return None
    try:
        return Predictor(folder / MODEL_FILE).card.provenance.get("dataset_digest")
    except ImgclfError:
        return None


def _replace_folder(built: Path, target: Path) -> None:
    """Put the finished folder in its place; an older one is put back if that fails."""
    outgoing = built.with_name("outgoing")
    with writing("the export", target):
        if not target.exists():
            os.rename(built, target)
            return
        try:
            os.rename(target, outgoing)
            os.rename(built, target)
        except BaseException:  # Ctrl-C, too: the older one would go with the temporary folder
            if os.path.lexists(outgoing) and not os.path.lexists(target):
                os.rename(outgoing, target)
            raise
    if outgoing.is_symlink():
        outgoing.unlink()  # what it leads to is not ours
    else:
        shutil.rmtree(outgoing)
