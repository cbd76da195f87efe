import numpy as np
import pytest

from imgclf.card import Preprocessing
from imgclf.data.dataset import ImageDataset
from imgclf.data.splits import Split, split_dataset
from imgclf.errors import ImgclfError


def dataset_of(*class_sizes: int) -> ImageDataset:
    """Images of one pixel; the classes' images lie in a random order."""
    labels = np.repeat(np.arange(len(class_sizes)), class_sizes)
    labels = np.random.default_rng(0).permutation(labels).astype(np.int64)
    return ImageDataset(
        name="dots",
        images=np.zeros((len(labels), 1, 1, 1), np.uint8),
        labels=labels,
        parts=np.zeros(len(labels), np.int8),
        classes=tuple(f"class-{number}" for number in range(len(class_sizes))),
        names=tuple(f"image-{number}" for number in range(len(labels))),
        files=(),
        preprocessing=Preprocessing.identity(1, 1, 1),
        digests=tuple(map(str, range(len(labels)))),
        sizes=((2, 2),) * len(labels),
        digest="",
        source="",
    )


def assert_deals_out_everything_once(split: Split, dataset: ImageDataset) -> None:
    everything = np.concatenate([split.train, split.val, split.test])
    assert len(everything) == len(dataset)
    assert set(everything.tolist()) == set(range(len(dataset)))


def counts(part: np.ndarray, dataset: ImageDataset) -> list[int]:
    return np.bincount(dataset.labels[part], minlength=len(dataset.classes)).tolist()


def test_each_class_is_dealt_out_in_the_wanted_shares() -> None:
    dataset = dataset_of(1000, 100, 10)
    split = split_dataset(dataset, 0.1, 0.2, seed=0)
    assert_deals_out_everything_once(split, dataset)
    assert counts(split.val, dataset) == [100, 10, 1]
    assert counts(split.test, dataset) == [200, 20, 2]
    assert counts(split.train, dataset) == [700, 70, 7]
    assert split.sizes == {"train": 777, "val": 111, "test": 222}


def test_shares_are_kept_to_the_nearest_image() -> None:
    dataset = dataset_of(97, 51, 33)
    split = split_dataset(dataset, 0.15, 0.25, seed=3)
    assert_deals_out_everything_once(split, dataset)
    for size, val, test in zip(
        (97, 51, 33), counts(split.val, dataset), counts(split.test, dataset), strict=True
    ):
        assert abs(val - 0.15 * size) <= 0.5
        assert abs(test - 0.25 * size) <= 0.5


def test_positions_are_sorted() -> None:
    split = split_dataset(dataset_of(50, 50), 0.1, 0.2, seed=0)
    for part in (split.train, split.val, split.test):
        assert part.dtype == np.int64
        assert (np.diff(part) > 0).all()


def test_same_seed_gives_the_same_split_and_another_seed_another() -> None:
    dataset = dataset_of(60, 40)
    one, again, other = (split_dataset(dataset, 0.1, 0.2, seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(one.test, again.test)
    np.testing.assert_array_equal(one.val, again.val)
    assert one.digest == again.digest
    assert set(one.test.tolist()) != set(other.test.tolist())
    assert one.digest != other.digest


def test_images_are_chosen_at_random_not_by_position() -> None:
    """Over many seeds every image is tested about equally often."""
    dataset = dataset_of(20, 20)
    tested = np.zeros(40)
    for seed in range(500):
        tested[split_dataset(dataset, 0.1, 0.2, seed).test] += 1
    # 100 times each on average; six standard deviations of a binomial are 54.
    assert tested.sum() == 500 * 8
    assert tested.min() > 46
    assert tested.max() < 154


def test_digest_tells_the_parts_and_the_images_apart() -> None:
    dataset = dataset_of(50, 50)
    splits = [
        split_dataset(dataset, 0.1, 0.2, 0),
        split_dataset(dataset, 0.2, 0.1, 0),  # the same images, in other parts
        split_dataset(dataset, 0.0, 0.2, 0),
        split_dataset(dataset_of(50, 51), 0.1, 0.2, 0),
    ]
    assert len({split.digest for split in splits}) == 4


def test_split_knows_nothing_of_the_training_seed() -> None:
    from imgclf.config import TrainConfig
    from imgclf.pipeline.data import load_and_split

    digests = [
        load_and_split(TrainConfig(seed=seed, split_seed=split_seed))[1].digest
        for seed, split_seed in ((0, 0), (1, 0), (0, 1))
    ]
    assert digests[0] == digests[1] != digests[2]


def test_no_validation_share_leaves_validation_empty() -> None:
    dataset = dataset_of(50, 2)
    split = split_dataset(dataset, 0.0, 0.2, seed=0)
    assert_deals_out_everything_once(split, dataset)
    assert len(split.val) == 0
    assert counts(split.test, dataset) == [10, 1]


@pytest.mark.parametrize("size", [3, 4, 5])
def test_very_small_classes_have_an_image_in_every_part(size: int) -> None:
    dataset = dataset_of(size, 100)
    split = split_dataset(dataset, 0.1, 0.2, seed=0)
    assert_deals_out_everything_once(split, dataset)
    assert counts(split.val, dataset)[0] == 1
    assert counts(split.test, dataset)[0] == 1
    assert counts(split.train, dataset)[0] == size - 2


@pytest.mark.parametrize("size", [3, 4, 7, 10, 101])
@pytest.mark.parametrize(
    "fractions", [(0.001, 0.01), (0.8, 0.01), (0.01, 0.8), (0.47, 0.47), (0.14, 0.8)]
)
def test_no_fraction_empties_a_part(size: int, fractions: tuple[float, float]) -> None:
    dataset = dataset_of(size, size + 1)
    split = split_dataset(dataset, *fractions, seed=1)
    assert_deals_out_everything_once(split, dataset)
    for part in (split.train, split.val, split.test):
        assert min(counts(part, dataset)) >= 1


def test_class_smaller_than_the_number_of_parts_is_an_error() -> None:
    with pytest.raises(ImgclfError, match="'class-1' of 'dots' has 2 image") as caught:
        split_dataset(dataset_of(50, 2), 0.1, 0.2, seed=0)
    assert "--val-fraction 0" in caught.value.hint
    with pytest.raises(ImgclfError, match="'class-0' of 'dots' has 1 image") as caught:
        split_dataset(dataset_of(1, 50), 0.0, 0.2, seed=0)
    assert "--val-fraction" not in caught.value.hint  # it is 0 already
