"""The loop never waits for the device but for a snapshot: else a GPU stands still in every step.

On a CPU nobody waits, but the operations that would are the same.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from imgclf.config import TrainConfig
from imgclf.training import loop
from imgclf.training.device import Compute
from imgclf.training.loop import EpochEnd, Snapshot, TrainState, train_epochs
from small_training import CPU, digits_cnn, loader_of

pytestmark = pytest.mark.usefixtures("one_thread")

# What brings a number to Python, and what needs one to know the size of its result.
READING_METHODS = {Tensor.tolist, Tensor.cpu, Tensor.numpy, Tensor.__array__}
READING_OPERATIONS = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten.bincount.default,
    torch.ops.aten._unique2.default,
    torch.ops.aten.repeat_interleave.Tensor,
}


class NotesMethods(TorchFunctionMode):
    def __init__(self, reads: list[Any]) -> None:
        super().__init__()
        self.reads = reads

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in READING_METHODS:
            self.reads.append(func)
        return func(*args, **(kwargs or {}))


class NotesOperations(TorchDispatchMode):
    def __init__(self, reads: list[Any]) -> None:
        super().__init__()
        self.reads = reads

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # An index of true and false is looked through for those that are true.
        by_mask = func is torch.ops.aten.index.Tensor and any(
            index is not None and index.dtype is torch.bool for index in args[1]
        )
        if by_mask or func in READING_OPERATIONS:
            self.reads.append(func)
        return func(*args, **(kwargs or {}))


@contextmanager
def noted_reads() -> Iterator[list[Any]]:
    reads: list[Any] = []
    with NotesMethods(reads), NotesOperations(reads):
        yield reads


@pytest.mark.parametrize(
    "read",
    [
        lambda tensor: tensor.tolist(),
        lambda tensor: float(tensor.sum()),
        lambda tensor: bool(tensor.isfinite().all()),
        lambda tensor: tensor[tensor > 0],
    ],
)
def test_what_would_wait_is_noted(read: Any) -> None:
    with noted_reads() as reads:
        read(torch.ones(3))
    assert len(reads) == 1


SETTINGS: list[dict[str, Any]] = [
    {},
    {"optimizer": "sgd", "gradient_clip_norm": 1.0, "ema": True},
    {"optimizer": "muon", "gradient_accumulation_steps": 2, "batch_size": 5},
    {"crop_padding": 2, "horizontal_flip": True, "rotation": 20.0, "color_jitter": 0.3},
    {"random_resized_crop": 0.4, "cutout": 3, "mixup": 0.4, "cutmix": 1.0},
    {"loss": "focal", "class_weights": "balanced", "label_smoothing": 0.1},
]


@pytest.mark.parametrize("precision", [torch.float32, torch.float16])
@pytest.mark.parametrize("options", SETTINGS)
def test_thirty_steps_are_queued_without_waiting_for_any(
    options: dict[str, Any], precision: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainConfig.from_dict({"epochs": 1, "batch_size": 10, **options})
    compute = Compute(CPU, precision, 1, "cpu")

    def reads_of_an_epoch(seconds: float) -> tuple[int, int]:
        monkeypatch.setattr(loop, "SECONDS_BETWEEN_SNAPSHOTS", seconds)
        state = TrainState.start(digits_cnn(config), config, compute)
        loader = loader_of(config, 300)
        with noted_reads() as reads:
            events = list(train_epochs(state, loader, config, compute))
        assert state.step == 30
        assert isinstance(events[-1], EpochEnd)
        return len(reads), len([event for event in events if isinstance(event, Snapshot)])

    at_the_end, none = reads_of_an_epoch(seconds=3600.0)
    assert none == 0
    # Classes are counted before the first step; the loss, its figures and bad steps at the end.
    assert at_the_end <= 3
    with_snapshots, snapshots = reads_of_an_epoch(seconds=0.0)
    assert snapshots == 30
    assert with_snapshots == at_the_end + 2 * snapshots


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("precision", [torch.float32, torch.float16])
@pytest.mark.parametrize("options", SETTINGS)
def test_a_gpu_is_not_waited_for(
    options: dict[str, Any],
    precision: torch.dtype,
    resident: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """CUDA itself refuses to be waited for, from the second step to the last but one."""
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_SNAPSHOTS", 3600.0)
    config = TrainConfig.from_dict({"epochs": 1, "batch_size": 10, **options})
    compute = Compute(torch.device("cuda"), precision, 1, "cuda")
    state = TrainState.start(digits_cnn(config), config, compute)
    loader = loader_of(config, 300, compute.device, resident)

    def refuse_waiting() -> bool:
        torch.cuda.set_sync_debug_mode("error" if state.step < 29 else "default")
        return False

    try:
        list(train_epochs(state, loader, config, compute, refuse_waiting))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert state.step == 30
