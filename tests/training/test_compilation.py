"""Compiled training is the same training; generating the code takes a minute here and there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from imgclf.config import TrainConfig
from imgclf.training.compilation import compiled_forward
from imgclf.training.loop import EpochEnd, TrainState, train_epochs
from small_training import FP32, digits_cnn, loader_of

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def trained(compile: bool) -> tuple[TrainState, list[EpochEnd]]:
    """Two epochs of batches of 32, 32, 32 and 14, with all that is random."""
    config = TrainConfig(
        epochs=2,
        batch_size=32,
        dropout=0.4,
        crop_padding=1,
        ema=True,
        optimizer="sgd",
        learning_rate=0.05,
        compile=compile,
    )
    state = TrainState.start(digits_cnn(config), config, FP32)
    events = train_epochs(state, loader_of(config, 110), config, FP32)
    return state, [event for event in events if isinstance(event, EpochEnd)]


def test_compiled_training_gives_the_weights_of_plain_training_and_compiles_once() -> None:
    torch._dynamo.reset()
    counters.clear()
    compiled, compiled_ends = trained(compile=True)
    assert counters["stats"]["unique_graphs"] == 1
    plain, plain_ends = trained(compile=False)
    for one, other in (
        (compiled.model, plain.model),
        (compiled.selected_model, plain.selected_model),
    ):
        assert list(one.state_dict()) == list(other.state_dict())
        for name, tensor in one.state_dict().items():
            torch.testing.assert_close(tensor, other.state_dict()[name], rtol=1e-4, atol=1e-5)
    for end, expected in zip(compiled_ends, plain_ends, strict=True):
        assert end.loss == pytest.approx(expected.loss, rel=1e-4)
        assert end.accuracy == expected.accuracy


def test_only_batches_of_one_size_run_generated_code() -> None:
    """A resumed run may begin with the last batch of an epoch."""
    calls: list[int] = []

    class Doubling(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            if not torch.compiler.is_compiling():
                calls.append(len(images))
            return images * 2

    forward = compiled_forward(Doubling(), 6)
    for size in (4, 6, 7, 6):
        images = torch.arange(size, dtype=torch.float32)
        torch.testing.assert_close(forward(images), 2 * images)
    assert calls == [4, 7]


def test_without_a_compiler_training_ends_before_it_starts(tmp_path: Path) -> None:
    environment = os.environ | {"CXX": "/nowhere/g++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "imgclf", "train", "--compile", "true", "--device", "cpu"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2, done.stderr
    assert "--compile true does not work here: " in done.stderr
    assert "No working C++ compiler" in done.stderr
    assert "apt install g++" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()
