"""The published data sets, from files in their publishers' formats."""

import gzip
import hashlib
import math
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imgclf.config import TrainConfig
from imgclf.data import published
from imgclf.data.sources import load_dataset
from imgclf.data.splits import split_dataset
from imgclf.errors import ImgclfError


def write_idx(path: Path, array: np.ndarray, compress: bool) -> None:
    content = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()
    if compress:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(content, 1))
    else:
        path.write_bytes(content)


@pytest.fixture(scope="module", params=[True, False], ids=["gz", "unpacked"])
def mnist_like(request, tmp_path_factory):
    """Files of MNIST's shape: each image is filled with its own number, modulo 251."""
    root = tmp_path_factory.mktemp("mnist")
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part, start, count in (("train", 0, 60_000), ("t10k", 60_000, 10_000)):
        numbers = np.arange(start, start + count)
        images = np.broadcast_to((numbers % 251).astype(np.uint8)[:, None, None], (count, 28, 28))
        labels = (numbers % 10).astype(np.uint8)
        write_idx(folder / f"{part}-images-idx3-ubyte", images, request.param)
        write_idx(folder / f"{part}-labels-idx1-ubyte", labels, request.param)
    return root


def test_mnist_is_read_offline_with_its_published_test_split(mnist_like):
    dataset = load_dataset(TrainConfig(dataset="mnist", data_dir=str(mnist_like)))
    numbers = np.arange(70_000)
    np.testing.assert_array_equal(dataset.images[:, 5, 7, 0], numbers % 251)
    np.testing.assert_array_equal(dataset.labels, numbers % 10)
    split = split_dataset(dataset, 0.1, 0.5, seed=3)
    np.testing.assert_array_equal(split.test, numbers[60_000:])
    assert len(split.val) == 6_000
    assert split.train.max() < 60_000


def test_the_data_folder_may_come_from_the_environment(mnist_like, monkeypatch):
    monkeypatch.setenv("IMGCLF_DATA_DIR", str(mnist_like))
    assert len(load_dataset(TrainConfig(dataset="mnist"))) == 70_000


def test_a_truncated_file_is_named(mnist_like, tmp_path):
    import shutil

    shutil.copytree(mnist_like, tmp_path / "copy")
    path = next((tmp_path / "copy" / "MNIST" / "raw").glob("t10k-images*"))
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ImgclfError, match=r"t10k-images.*damaged"):
        load_dataset(TrainConfig(dataset="mnist", data_dir=str(tmp_path / "copy")))


@pytest.fixture
def small_mnist(tmp_path, monkeypatch):
    """Four small files in MNIST's format, packed."""
    shapes = {
        "train-images-idx3-ubyte": (20, 4, 4),
        "train-labels-idx1-ubyte": (20,),
        "t10k-images-idx3-ubyte": (10, 4, 4),
        "t10k-labels-idx1-ubyte": (10,),
    }
    monkeypatch.setattr(published, "_IDX_SHAPES", shapes)
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for stem, shape in shapes.items():
        write_idx(folder / stem, generator.integers(0, 10, shape, np.uint8), compress=True)
    return tmp_path


def packed(*array_shape: int, value: int = 1) -> bytes:
    header = struct.pack(f">HBB{len(array_shape)}I", 0, 8, len(array_shape), *array_shape)
    return gzip.compress(header + bytes([value]) * math.prod(array_shape))


GOOD = packed(10, 4, 4)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t10k-images-idx3-ubyte", b""),
        ("t10k-images-idx3-ubyte", b"no gzip"),
        ("t10k-images-idx3-ubyte", GOOD[:-4]),
        ("t10k-images-idx3-ubyte", GOOD[:20] + bytes(20) + GOOD[40:]),
        ("t10k-images-idx3-ubyte", gzip.compress(b"\0\0\x08\x03")),
        ("t10k-images-idx3-ubyte", packed(10, 16)),
        ("t10k-images-idx3-ubyte", packed(20, 4, 4)),
        ("t10k-images-idx3-ubyte", packed()),
        # Half a gigabyte of zeros, packed into half a megabyte.
        ("t10k-images-idx3-ubyte", gzip.compress(bytes(2**20)) * 512),
        ("t10k-labels-idx1-ubyte", packed(11)),
        ("t10k-labels-idx1-ubyte", packed(10, value=10)),
    ],
    ids=range(11),
)
def test_files_that_are_not_mnists_are_refused(name, content, small_mnist):
    assert len(published.load_mnist(small_mnist)[0]) == 30
    folder = small_mnist / "MNIST" / "raw"
    (folder / f"{name}.gz").write_bytes(content)
    with pytest.raises(ImgclfError, match="is damaged") as caught:
        published.load_mnist(small_mnist)
    assert str(folder) in caught.value.message


@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(place=st.floats(0, 0.999), new=st.binary(min_size=1, max_size=6), kept=st.floats(0, 1))
def test_any_damage_to_a_packed_file_is_found_or_harmless(place, new, kept, small_mnist):
    damaged = bytearray(GOOD)
    start = int(place * len(damaged))
    damaged[start : start + len(new)] = new
    del damaged[round(kept * len(damaged)) :]
    path = small_mnist / "MNIST" / "raw" / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(damaged)
    try:
        images, *_ = published.load_mnist(small_mnist)
    except ImgclfError:
        return
    # In gzip's header stand a time and a name, which count for nothing.
    assert (images[20:] == 1).all()


def test_a_file_that_may_not_be_read_is_named(cifar_like):
    root, _ = cifar_like
    path = root / "cifar-10-batches-py" / "data_batch_2"
    path.unlink()
    path.symlink_to("/proc/self/mem")
    with pytest.raises(ImgclfError, match=r"data_batch_2' is damaged"):
        published.load_cifar10(root)


@pytest.fixture
def cifar_like(tmp_path, monkeypatch):
    """Batches in CIFAR-10's pickled format, 4 images each, with the checksums to go with them."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    sums = {}
    generator = np.random.default_rng(0)
    pictures = []
    for name in published._CIFAR10_FILES:
        if name == "batches.meta":
            content = {b"label_names": [f"class {number}".encode() for number in range(10)]}
        else:
            data = generator.integers(0, 256, (4, 3072), np.uint8)
            pictures.append(data)
            content = {b"data": data, b"labels": [0, 1, 2, 3]}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(published, "_CIFAR10_FILES", sums)
    return tmp_path, np.concatenate(pictures)


def test_cifar_pixels_become_rows_of_colour(cifar_like):
    root, data = cifar_like
    images, labels, classes, num_test = published.load_cifar10(root)
    assert images.shape == (24, 32, 32, 3)
    assert num_test == 4
    assert classes[3] == "class 3"
    assert labels.tolist() == [0, 1, 2, 3] * 6
    # Red, green and blue planes of 1,024 pixels each, row by row.
    assert images[5, 3, 7].tolist() == [data[5, plane * 1024 + 3 * 32 + 7] for plane in range(3)]


def test_a_changed_cifar_file_is_refused_before_it_is_read(cifar_like):
    root, _ = cifar_like
    path = root / "cifar-10-batches-py" / "test_batch"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ImgclfError, match="checksum"):
        published.load_cifar10(root)


def test_a_pickle_that_would_run_code_is_refused_even_with_the_right_checksum(
    cifar_like, monkeypatch, tmp_path
):
    root, _ = cifar_like
    witness = tmp_path / "executed"

    class Payload:
        def __reduce__(self):
            return (Path.touch, (witness,))

    content = pickle.dumps({b"data": Payload()}, protocol=2)
    (root / "cifar-10-batches-py" / "data_batch_1").write_bytes(content)
    sums = {**published._CIFAR10_FILES, "data_batch_1": hashlib.md5(content).hexdigest()}
    monkeypatch.setattr(published, "_CIFAR10_FILES", sums)
    with pytest.raises(ImgclfError, match="refused to load"):
        published.load_cifar10(root)
    assert not witness.exists()


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
def test_without_files_and_network_the_error_says_what_to_put_where(name, tmp_path, monkeypatch):
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(ImgclfError, match="cannot be downloaded") as caught:
        load_dataset(TrainConfig(dataset=name, data_dir=str(tmp_path)))
    assert "--data-dir" in caught.value.hint
    assert str(tmp_path) in caught.value.hint


REAL = Path(os.environ.get("IMGCLF_TEST_DATA", Path(__file__).parents[3] / "shared" / "datasets"))


@pytest.mark.parametrize(
    ("name", "folder", "mean", "deviation"),
    [("mnist", "MNIST", 0.1307, 0.3081), ("fashion_mnist", "FashionMNIST", 0.2860, 0.3530)],
)
def test_the_real_files_have_the_published_mean_and_deviation(name, folder, mean, deviation):
    if not (REAL / folder / "raw").is_dir():
        pytest.skip(f"the real files are not at {REAL / folder}; IMGCLF_TEST_DATA names a folder")
    dataset = load_dataset(TrainConfig(dataset=name, data_dir=str(REAL)))
    pixels = dataset.images[:60_000] / np.float32(255)
    assert pixels.mean() == pytest.approx(mean, abs=5e-5)
    assert pixels.std() == pytest.approx(deviation, abs=5e-5)
    assert np.bincount(dataset.labels[60_000:]).sum() == 10_000
    assert dataset.classes[0] in ("0", "T-shirt/top")
