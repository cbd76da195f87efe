"""Models that answer as the reference does, and have another digest."""

from pathlib import Path

import onnx

from model_files import write_sealed
from server_process import REFERENCE


def another_model(path: Path, name: str) -> None:
    """Replace a model at once by one that answers alike and has another digest."""
    proto = onnx.load(REFERENCE)
    proto.doc_string = name
    write_sealed(proto, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)
