"""Trained runs and real images that tests share: importing torch and training cost seconds."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imgclf.config import TrainConfig
from imgclf.tracking import sender

_LONG = (
    "test_project.py",
    "test_concurrency.py",
    "test_outage.py",
    "test_resume.py",
    "test_sync.py",
    "test_tracker.py",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests that take minutes as well")


def pytest_configure(config: pytest.Config) -> None:
    """Give each of several test processes its share of the cores.

    All would take as many threads as there are cores, and their threads wait for each other.
    """
    worker = getattr(config, "workerinput", None)
    if worker is not None and hasattr(os, "sched_setaffinity"):
        number = int(worker["workerid"].removeprefix("gw"))
        share = sorted(os.sched_getaffinity(0))[number :: worker["workercount"]]
        if share:
            os.sched_setaffinity(0, share)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # Files that take minutes come first: of two processes one would wait for them at the end.
    items.sort(key=lambda item: item.path.name not in _LONG)
    if config.getoption("--slow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="takes minutes; run with --slow"))


@pytest.fixture(scope="session", autouse=True)
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of its own with an MLflow store of its own, for the whole session."""
    folder = tmp_path_factory.mktemp("workplace")
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        os.environ.pop(name, None)
    os.environ["IMGCLF_DATA_DIR"] = str(folder / "data")
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
    # Of a minute: the next training of the session may come later, and need not start another.
    sender._KEPT_SECONDS = 600.0
    os.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def trained(workplace: Path):
    """A short real run on the digits: a `TrainResult`."""
    import imgclf

    return imgclf.train(TrainConfig(epochs=3, run_name="shared"))


@pytest.fixture(scope="session")
def exported(trained):
    """The proved export of `trained`: an `ExportResult`."""
    import imgclf

    return imgclf.export(trained.run_id)


@pytest.fixture(scope="session")
def model(exported) -> Path:
    """The model file of `exported`."""
    return Path(exported.model).absolute()


@pytest.fixture(scope="session")
def predictor(model: Path):
    """A `Predictor` of `model`."""
    import imgclf

    return imgclf.Predictor(model)


@pytest.fixture(scope="session")
def digit_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real digits as PNG files, ``<root>/<class>/<number>.png``, 40 of each of 4 classes."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    root = tmp_path_factory.mktemp("digit_files")
    bunch: Any = load_digits()
    for label in range(4):
        (root / str(label)).mkdir()
        for position in np.flatnonzero(bunch.target == label)[:40]:
            pixels = np.round(bunch.images[position] * (255 / 16)).astype(np.uint8)
            Image.fromarray(pixels).save(root / str(label) / f"{position:04}.png")
    return root


@pytest.fixture(scope="session")
def digits(digit_files: Path) -> list[Path]:
    """160 real digits, of classes 0 to 3."""
    return sorted(digit_files.rglob("*.png"))


@pytest.fixture
def same_answer_to_sigterm() -> Iterator[None]:
    """`imgclf train` and `imgclf evaluate` set their own."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For small tensors: threads only wait for each other, the more so on a busy machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
