"""A run's images and their split: the same for training, evaluation and export."""

from imgclf.card import Preprocessing
from imgclf.config import TrainConfig
from imgclf.data.dataset import ImageDataset
from imgclf.data.sources import load_dataset
from imgclf.data.splits import Split, given_split, split_dataset
from imgclf.errors import ImgclfError
from imgclf.progress import decoding_bar


def load_images(config: TrainConfig, preprocessing: Preprocessing | None = None) -> ImageDataset:
    """Load images, with a bar on a terminal while files are decoded.

    Args:
        config: says what to load.
        preprocessing: as `load_dataset` takes it.

    Raises:
        ImgclfError: as `load_dataset`.
    """
    with decoding_bar() as decoded:
        return load_dataset(config, decoded, preprocessing)


def load_and_split(config: TrainConfig) -> tuple[ImageDataset, Split]:
    """Load a run's images and deal them out.

    Raises:
        ImgclfError: as `load_dataset` and `split_dataset`.
    """
    dataset = load_images(config)
    split = split_dataset(dataset, config.val_fraction, config.test_fraction, config.split_seed)
    return dataset, split


def describe(config: TrainConfig) -> tuple[ImageDataset, Split, ImgclfError | None]:
    """Load images to look at them, and deal them out if that can be done.

    Returns:
        the images; their split, or where that cannot be made the one that the data gives; and the
        reason why they cannot be trained on, None where they can.

    Raises:
        ImgclfError: as `load_dataset`.
    """
    dataset = load_images(config)
    try:
        split = split_dataset(dataset, config.val_fraction, config.test_fraction, config.split_seed)
        return dataset, split, None
    except ImgclfError as problem:
        return dataset, given_split(dataset), problem
