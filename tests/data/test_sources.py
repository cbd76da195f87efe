import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from imgclf.card import Preprocessing
from imgclf.config import TrainConfig
from imgclf.data.sources import load_dataset, source_names
from imgclf.errors import UsageError
from imgclf.models import network_names
from imgclf.recipes import DATASETS, MODELS


def test_names_that_a_person_can_type_are_the_registered_ones() -> None:
    assert source_names() == tuple(DATASETS)
    assert network_names() == tuple(MODELS)


def test_digits_are_the_real_ones_scaled_to_bytes() -> None:
    bunch: Any = load_digits()
    dataset = load_dataset(TrainConfig())
    assert len(dataset) == 1797
    expected = [[[[round(v * 255 / 16)] for v in row] for row in image] for image in bunch.images]
    np.testing.assert_array_equal(dataset.images, expected)
    assert dataset.images.dtype == np.uint8
    assert dataset.images.max() == 255  # bright on black
    np.testing.assert_array_equal(dataset.labels, bunch.target)
    assert dataset.labels.dtype == np.int64
    assert dataset.classes == tuple("0123456789")
    assert dataset.preprocessing == Preprocessing.identity(8, 8, 1)
    assert dataset.files == ()
    assert dataset.unreadable == ()
    assert len(set(dataset.names)) == 1797


def test_digits_keep_their_digest_so_that_recorded_runs_stay_comparable() -> None:
    digest = load_dataset(TrainConfig()).digest
    assert digest == "2b6cde211bea2fdc7a3da91e8cbad839116d061db521edf8d1e58a12c9dac360"


def test_inputs_are_the_centre_of_what_is_stored() -> None:
    digits = load_dataset(TrainConfig())
    dataset = dataclasses.replace(digits, preprocessing=Preprocessing(4, 2, 1, 8, 8))
    chosen = np.array([5, 3])
    np.testing.assert_array_equal(dataset.inputs(chosen), digits.images[[5, 3], 2:6, 3:5])
    np.testing.assert_array_equal(dataset.inputs(slice(None)), digits.images[:, 2:6, 3:5])


def test_digits_refuse_another_image_size() -> None:
    with pytest.raises(UsageError, match="--image-size is for folders"):
        load_dataset(TrainConfig(image_size=16))


def test_unknown_name_is_told_with_the_nearest_right_one() -> None:
    with pytest.raises(UsageError, match=r"'digit'.*Did you mean 'digits'\?"):
        load_dataset(TrainConfig(dataset="digit"))


def test_file_is_no_folder_of_images(tmp_path: Path) -> None:
    path = tmp_path / "images.zip"
    path.write_bytes(b"PK")
    with pytest.raises(UsageError, match="folder or CSV file named"):
        load_dataset(TrainConfig(dataset=str(path)))


@pytest.mark.parametrize(
    "name", ["~nobody-of-that-name/x", "x" * 300, "a\0b", "digits/", "caf\udce9"]
)
def test_impossible_names_are_no_data_sets(name: str) -> None:
    with pytest.raises(UsageError, match="no data set, folder or CSV file named"):
        load_dataset(TrainConfig(dataset=name))


def test_tilde_is_the_home_folder(digit_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(digit_files.parent))
    dataset = load_dataset(TrainConfig(dataset=f"~/{digit_files.name}"))
    assert dataset.source == str(digit_files.resolve())
    assert len(dataset) == 160
