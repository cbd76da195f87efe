"""imgclf: train an image classifier, track it in MLflow, export it as one proved ONNX file."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imgclf.config import TrainConfig
    from imgclf.errors import ImgclfError
    from imgclf.pipeline.evaluate import EvaluationResult, evaluate
    from imgclf.pipeline.export import ExportResult, export
    from imgclf.pipeline.train import TrainResult, resume, train
    from imgclf.predict import Prediction, Predictor

__version__ = "0.1.0"

# Imported on first use: importing torch or mlflow takes seconds, and the predictor needs neither.
_HOMES = {
    "EvaluationResult": "imgclf.pipeline.evaluate",
    "ExportResult": "imgclf.pipeline.export",
    "ImgclfError": "imgclf.errors",
    "Prediction": "imgclf.predict",
    "Predictor": "imgclf.predict",
    "TrainConfig": "imgclf.config",
    "TrainResult": "imgclf.pipeline.train",
    "evaluate": "imgclf.pipeline.evaluate",
    "export": "imgclf.pipeline.export",
    "resume": "imgclf.pipeline.train",
    "train": "imgclf.pipeline.train",
}

__all__ = [  # noqa: RUF022 - in the order of use
    "TrainConfig",
    "train",
    "resume",
    "TrainResult",
    "export",
    "ExportResult",
    "evaluate",
    "EvaluationResult",
    "Predictor",
    "Prediction",
    "ImgclfError",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'imgclf' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
