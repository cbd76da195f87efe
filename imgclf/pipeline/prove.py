"""The whole proof again, on labelled images: a file against the weights that it was made from."""

from dataclasses import dataclass

import torch

from imgclf.card import ModelCard
from imgclf.config import TrainConfig
from imgclf.data.dataset import SelectedImages
from imgclf.errors import ImgclfError
from imgclf.evaluation.inference import predict_logits
from imgclf.exporting.parity import compare
from imgclf.exporting.variants import VARIANTS, agree
from imgclf.pipeline.data import load_images
from imgclf.pipeline.subset import choose_subset
from imgclf.pipeline.trained import load_trained_model
from imgclf.predict import Predictor
from imgclf.progress import say
from imgclf.tracking.runs import TrainRun, download_model, find_run


@dataclass(frozen=True)
class RepeatedProof:
    """What came of the whole proof again.

    Attributes:
        split: which images: ``test``, or ``all`` of other data without a test split.
        summary: the figures in words.
        note: what to know before they are trusted; empty where there is nothing.
    """

    split: str
    summary: str
    note: str


def prove(predictor: Predictor, dataset: str, data_dir: str) -> RepeatedProof:
    """Compare an exported file with its training run's weights, from image files to answers.

    Args:
        predictor: holds the exported file.
        dataset: labelled images, as `TrainConfig.dataset`. Of the data that the model was trained
            on, the test split of the training; of other data the test split where it gives one,
            else all.
        data_dir: folder for downloaded data sets.

    Raises:
        ImgclfError: the file does not answer as the weights do, or they or the images cannot be
            had.
    """
    run = _training_run(predictor.card)
    with download_model(run) as folder:
        trained = load_trained_model(folder)
    config = TrainConfig(dataset=dataset, data_dir=data_dir)
    card = predictor.card
    if (card.classes, card.preprocessing) != (trained.card.classes, trained.card.preprocessing):
        raise ImgclfError(
            f"The model's classes or its input are not those of run {run.run_id}, which it names."
        )
    images = load_images(config, card.preprocessing)
    split = "test" if images.digest == card.provenance.get("dataset_digest") else ""
    subset = choose_subset(images, split, card, trained.config)
    inputs = SelectedImages(images, subset.positions, card.preprocessing)
    say(f"comparing the file with run {run.run_id} on {len(inputs):,} images ({subset.split})")
    reference = predict_logits(trained.model, inputs, torch.device("cpu"))
    stored = images.files or images.images
    sources = [stored[position] for position in subset.positions]
    kind = card.provenance.get("variant")
    if kind in VARIANTS:
        found = agree(reference, predictor.predict_logits(sources)[0], subset.labels)
        failures = found.failure(kind)
    else:
        found = compare(reference, predictor, inputs, sources, subset.labels, card.temperature)
        failures = "; ".join(found.failures)
    if failures:
        raise ImgclfError(
            f"The model does not answer as the weights of run {run.run_id} do: {failures}.",
            "Export the run again.",
        )
    return RepeatedProof(subset.split, found.summary, subset.note)


def _training_run(card: ModelCard) -> TrainRun:
    run_id = card.provenance.get("mlflow_run_id")
    if run_id is None:
        raise ImgclfError("The model does not say which run it was made from.", "Export it again.")
    try:
        return find_run(run_id)
    except ImgclfError as error:
        raise ImgclfError(
            f"The weights that the model was made from cannot be had: {error.message}",
            "Set MLFLOW_TRACKING_URI to the store that its training run was recorded in. Without"
            " --dataset, the file verifies itself alone.",
        ) from error
