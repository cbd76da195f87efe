"""What a run starts from, recorded before its first step."""

import json
from pathlib import Path

from imgclf.data.dataset import ImageDataset
from imgclf.data.splits import Split
from imgclf.disk import write_whole, writing
from imgclf.evaluation.report import write_csv
from imgclf.models import ImageClassifier, num_parameters
from imgclf.pipeline.run import Run
from imgclf.tracking.identity import (
    DATASET_DIGEST_TAG,
    DATASET_TAG,
    MODEL_TAG,
    SPLIT_DIGEST_TAG,
)


def record_inputs(run: Run, model: ImageClassifier) -> None:
    """Log what the run starts from: parameters, data, split, environment."""
    config, dataset, split, tracker = run.config, run.dataset, run.split, run.tracker
    tracker.parameters(config.to_dict())
    tracker.tags(
        {
            DATASET_TAG: dataset.name,
            DATASET_DIGEST_TAG: dataset.digest,
            SPLIT_DIGEST_TAG: split.digest,
            MODEL_TAG: config.model,
            "imgclf.parameters": str(num_parameters(model)),
            **run.environment,
        }
    )
    size = dataset.preprocessing
    profile = {
        "images": len(dataset),
        "classes": len(dataset.classes),
        "input": [size.height, size.width, size.channels],
        "unreadable": len(dataset.unreadable),
    }
    tracker.dataset(dataset.name, dataset.digest, "training", dataset.source, profile)
    seeded = {**split.sizes, "split_seed": config.split_seed}
    tracker.dataset(f"{dataset.name}-split", split.digest, "split", dataset.source, seeded)
    if config.recipe:
        tracker.tags({"imgclf.recipe_overrides": json.dumps(run.overrides)})
    with writing("the run", run.folder):
        # It is there in a run that is resumed.
        (run.folder / "model").mkdir(exist_ok=True)
    write_whole(run.folder / "model" / "config.json", config.to_json().encode(), "the parameters")
    _write_split(run.folder / "split.csv", dataset, split)
    # In JSON, what a file's name has beside UTF-8 is escaped as Python would.
    scanned = run.scan.to_json().encode("utf-8", "backslashreplace")
    write_whole(run.folder / "scan.json", scanned, "what is known of the images")
    for name in ("split.csv", "scan.json"):
        tracker.artifact(name, "data")


def _write_split(path: Path, dataset: ImageDataset, split: Split) -> None:
    rows = [
        [dataset.names[position], dataset.classes[dataset.labels[position]], part]
        for part, positions in split.parts.items()
        for position in positions
    ]
    rows += [[name, "", f"unreadable: {reason}"] for name, reason in dataset.unreadable]
    write_csv(path, ["image", "label", "split"], rows)
