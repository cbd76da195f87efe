"""The trained network in MLflow's PyTorch flavour, as an exported program: graph and weights.

MLflow calls the format ``pt2``. Its loader takes such a file although it is told to refuse pickles
(MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false): nothing in it can run.
"""

import contextlib
import io
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import mlflow
import numpy as np
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from numpy.typing import NDArray

from imgclf.card import ModelCard
from imgclf.tracking.connection import connect, lock_name, readable_errors, tracking_uri
from imgclf.tracking.exclusive import exclusive
from imgclf.tracking.identity import RUN_ID_TAG, SHA256_TAG
from imgclf.tracking.logged_models import find_logged_model
from imgclf.tracking.runs import TrainRun

if TYPE_CHECKING:  # importing it costs seconds
    from torch import nn

PYTORCH_MODEL_NAME = "pytorch"


def log_pytorch_model(
    run: TrainRun, model: "nn.Module", card: ModelCard, example: NDArray[np.uint8], sha256: str
) -> None:
    """Log a trained network to its training run; one that is there already is left alone.

    It takes uint8 [batch, height, width, channels] and returns logits, float32 [batch, classes].

    Args:
        run: the training run that the network comes from.
        model: on the CPU, in evaluation mode.
        card: its card.
        example: uint8 [2, height, width, channels]; a batch of 1 would freeze the batch dimension.
        sha256: of the file that holds its weights.

    Raises:
        ImgclfError: the store cannot be reached or refuses, or another export does not end.
    """
    assert len(example) == 2
    size = card.preprocessing
    image = TensorSpec(np.dtype(np.uint8), (-1, size.height, size.width, size.channels))
    logits = TensorSpec(np.dtype(np.float32), (-1, len(card.classes)))
    options: dict[str, Any] = {"run_id": run.mlflow_run_id}
    writing = exclusive(f"{lock_name(tracking_uri())}, the network of run {run.run_id}")
    with readable_errors(), writing:
        if find_logged_model(connect(), run, PYTORCH_MODEL_NAME, sha256):
            return
        # MLflow announces on standard error what it does.
        with contextlib.redirect_stderr(io.StringIO()):
            mlflow.pytorch.log_model(
                model,
                name=PYTORCH_MODEL_NAME,
                serialization_format="pt2",
                signature=ModelSignature(Schema([image]), Schema([logits])),
                input_example=example,
                pip_requirements=[
                    # A build of torch for one device ("2.10.0+cpu") is not on every index.
                    f"{package}=={version(package).partition('+')[0]}"
                    for package in ("mlflow", "numpy", "torch")
                ],
                step=run.best_epoch,
                tags={RUN_ID_TAG: run.run_id, SHA256_TAG: sha256},
                **options,
            )
