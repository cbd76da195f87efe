"""A model repository for NVIDIA Triton, which KServe serves as well."""

import json
import re
import shutil
from pathlib import Path

from imgclf.card import ModelCard
from imgclf.disk import writing
from imgclf.exporting.variants import VARIANTS

_LARGEST_BATCH = 64
# How long a request may wait for others to share its batch.
_QUEUE_MICROSECONDS = 2000
_FILES = {"1", "1/model.onnx", "labels.txt", "config.pbtxt"}


def write_model_repository(model: Path, card: ModelCard, name: str, folder: Path) -> Path:
    """Write ``<folder>/<name>/`` with configuration, labels and version 1 of a model.

    Args:
        model: the ``model.onnx``, or a variant of it.
        card: of the model.
        name: of the model in Triton; characters that have no place in an address are replaced.
        folder: receives the model's folder; this is the model repository.

    Returns:
        the model's folder.

    Raises:
        ImgclfError: there is no room for it.
    """
    name = re.sub(r"[^A-Za-z0-9_-]", "-", name)
    target = folder / name
    # One label a line: a class whose name holds a line break keeps its place.
    labels = [" ".join(label.split()) for label in card.classes]
    with writing("the model repository", target, model.stat().st_size + 2**20):
        (target / "1").mkdir(parents=True)
        shutil.copyfile(model, target / "1" / "model.onnx")
        (target / "labels.txt").write_text("\n".join(labels) + "\n", encoding="utf-8")
        (target / "config.pbtxt").write_text(_configuration(card, name), encoding="utf-8")
    return target


def is_model_repository(folder: Path) -> bool:
    """Tell whether a folder holds what `write_model_repository` writes, and nothing else.

    A model, and any of its variants under their names.
    """
    models = sorted(folder.iterdir(), key=lambda path: len(path.name))
    if not models:
        return False
    names = {models[0].name, *(variant_name(models[0].name, kind) for kind in VARIANTS)}
    return all(path.name in names and _files_below(path) == _FILES for path in models)


def variant_name(name: str, kind: str) -> str:
    """Return what a variant of a model is called beside it."""
    return f"{name}-{kind}"


def _files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def _configuration(card: ModelCard, name: str) -> str:
    size, classes = card.preprocessing, len(card.classes)
    outputs = ",\n".join(
        f'  {{ name: "{output}", data_type: TYPE_FP32, dims: [{classes}],'
        ' label_filename: "labels.txt" }'
        for output in ("logits", "probabilities")
    )
    return f"""\
# Pixels go in as they are: the image at {size.height}x{size.width}, normalised in the graph.
name: {json.dumps(name)}
backend: "onnxruntime"
max_batch_size: {_LARGEST_BATCH}
input [
  {{ name: "image", data_type: TYPE_UINT8, dims: [{size.height}, {size.width}, {size.channels}] }}
]
output [
{outputs}
]
# Requests that come within {_QUEUE_MICROSECONDS / 1000:g} ms of each other share a batch.
dynamic_batching {{ max_queue_delay_microseconds: {_QUEUE_MICROSECONDS} }}
# One session on each GPU where there are GPUs, else one on the CPU.
instance_group [ {{ count: 1, kind: KIND_AUTO }} ]
version_policy {{ latest {{ num_versions: 1 }} }}
"""
