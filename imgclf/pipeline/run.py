"""A run in progress."""

from dataclasses import dataclass
from pathlib import Path

from imgclf.config import TrainConfig
from imgclf.data.dataset import ImageDataset
from imgclf.data.scan import Scan
from imgclf.data.splits import Split
from imgclf.tracking.tracker import Tracker
from imgclf.training.device import Compute

# Metric name -> (epoch, value) pairs.
History = dict[str, list[tuple[int, float]]]


@dataclass(frozen=True)
class Run:
    """A run in progress: what every stage of it needs."""

    config: TrainConfig
    compute: Compute
    dataset: ImageDataset
    split: Split
    scan: Scan
    tracker: Tracker
    folder: Path
