"""The real command as a process of its own, and the model that it serves."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result

from command_line import imgclf
from imgclf.predict import Predictor
from imgclf.serving.signals import take_reloads
from server_process import REFERENCE, Server


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """`imgclf serve` of the reference export, with its defaults but for small limits."""
    limits = ("--max-body-mb", "1", "--max-images", "16", "--max-pixels", "100000")
    with Server(REFERENCE, *limits) as running:
        yield running


@pytest.fixture(scope="session")
def reference() -> Predictor:
    """The predictor of the model that is served: what it answers, the server must."""
    return Predictor(REFERENCE, threads=1)


@pytest.fixture(scope="session")
def files(reference: Predictor) -> list[bytes]:
    """Real digits as image files: ten PNG and one JPEG of another size."""
    return [one.image for one in reference.golden.inputs]


@pytest.fixture
def refused_serve() -> Iterator[Callable[..., Result]]:
    """Runs an `imgclf serve` that cannot start in this process, and leaves nothing behind."""
    root = logging.getLogger()
    handlers = root.handlers[:]
    yield lambda *options: imgclf("serve", REFERENCE, *options)
    take_reloads()
    root.handlers[:] = handlers


@pytest.fixture
def model_copy(tmp_path: Path) -> Path:
    """A copy of the model file, to be changed."""
    path = tmp_path / "model.onnx"
    path.write_bytes(REFERENCE.read_bytes())
    return path
