"""A run's images and their split: the same for training, evaluation and export."""

from imgclf.config import TrainConfig
from imgclf.data.dataset import ImageDataset
from imgclf.data.sources import load_dataset
from imgclf.data.splits import Split, split_dataset
from imgclf.progress import DecodingDisplay


def load_and_split(config: TrainConfig) -> tuple[ImageDataset, Split]:
    """Load a run's images and deal them out.

    Raises:
        ImgclfError: as `load_dataset` and `split_dataset`.
    """
    with DecodingDisplay() as display:
        dataset = load_dataset(config, display.decoded)
    split = split_dataset(dataset, config.val_fraction, config.test_fraction, config.split_seed)
    return dataset, split
