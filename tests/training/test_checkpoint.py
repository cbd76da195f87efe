"""A run that goes on from a checkpoint equals one never stopped; a damaged one is found."""

import hashlib
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from imgclf.config import TrainConfig
from imgclf.errors import ImgclfError
from imgclf.training.checkpoint import (
    DamagedError,
    newest_checkpoint,
    read_checkpoint,
    restore,
    write_checkpoint,
)
from imgclf.training.loop import EpochEnd, NonFiniteLossError, TrainState, train_epochs
from imgclf.training.schedules import schedule_names
from imgclf.training.weights import weights_of
from small_disk import files_up_to
from small_training import (
    FP32,
    Event,
    WithBadSteps,
    assert_same_weights,
    digits_cnn,
    loader_of,
)

pytestmark = pytest.mark.usefixtures("one_thread")

COMMON: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 50,
    "dropout": 0.4,
    "crop_padding": 1,
    "mixup": 0.2,
}
KINDS: dict[str, dict[str, Any]] = {
    "adamw, average": {"ema": True},
    "adam": {"optimizer": "adam", "gradient_clip_norm": 1.0},
    "sgd": {"optimizer": "sgd", "momentum": 0.9, "learning_rate": 0.1},
    "sgd without momentum": {"optimizer": "sgd", "momentum": 0.0, "nesterov": False},
    "muon": {"optimizer": "muon", "learning_rate": 0.02},
    "accumulated": {"batch_size": 20, "gradient_accumulation_steps": 3, "balanced_sampling": True},
}


def started(config: TrainConfig) -> TrainState:
    return TrainState.start(digits_cnn(config), config, FP32)


def trained_until(config: TrainConfig, step: int) -> tuple[TrainState, list[Event]]:
    state = started(config)
    loader = loader_of(config, 300)
    return state, list(train_epochs(state, loader, config, FP32, lambda: state.step == step))


def ends(events: list[Event]) -> list[tuple[int, float, float, float]]:
    return [
        (e.epoch, e.loss, e.accuracy, e.learning_rate) for e in events if isinstance(e, EpochEnd)
    ]


def unheard(text: str) -> None:
    raise AssertionError(text)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_goes_on_equals_one_that_was_never_stopped(kind: str, tmp_path: Path) -> None:
    config = TrainConfig.from_dict(COMMON | KINDS[kind])
    whole, all_events = trained_until(config, -1)
    steps = whole.step // 3
    # Inside the first epoch, after its last step, inside the second one, before the last step.
    for stop in (1, steps, steps + 2, 3 * steps - 1):
        first, events = trained_until(config, stop)
        folder = tmp_path / str(stop)
        write_checkpoint(folder, first, {}, {})

        torch.manual_seed(12345)  # a new process has another random state
        second = started(TrainConfig.from_dict(config.to_dict()))
        checkpoint = newest_checkpoint(folder, unheard)
        assert checkpoint is not None
        restore(second, checkpoint)
        assert (second.epoch, second.step) == (first.epoch, stop)
        events += list(train_epochs(second, loader_of(config, 300), config, FP32))

        assert_same_weights(second.model, whole.model)
        assert_same_weights(second.selected_model, whole.selected_model)
        assert ends(events) == ends(all_events)


def noted(state: TrainState, steps: list[tuple[bytes, float]]) -> TrainState:
    """Note the images of each step, as the network sees them, and its learning rate."""
    seen: list[bytes] = []
    state.model.register_forward_pre_hook(lambda _, given: seen.append(given[0].numpy().tobytes()))
    state.optimizer.register_step_pre_hook(
        lambda optimizer, *_: steps.append((seen[-1], optimizer.param_groups[0]["lr"]))
    )
    return state


@pytest.mark.parametrize("schedule", schedule_names())
def test_images_and_learning_rates_go_on_where_a_run_was_stopped(
    schedule: str, tmp_path: Path
) -> None:
    config = TrainConfig.from_dict(COMMON | {"schedule": schedule})
    loader = loader_of(config, 300)
    whole: list[tuple[bytes, float]] = []
    list(train_epochs(noted(started(config), whole), loader, config, FP32))

    parts: list[tuple[bytes, float]] = []
    first = noted(started(config), parts)
    list(train_epochs(first, loader, config, FP32, lambda: first.step == 8))
    assert len(parts) == 8
    second = noted(started(config), parts)
    restore(second, read_checkpoint(write_checkpoint(tmp_path, first, {}, {})))
    list(train_epochs(second, loader_of(config, 300), config, FP32))

    assert parts == whole
    assert len({images for images, _ in whole}) == 18  # no two steps see the same
    assert len({rate for _, rate in whole}) > 1


@pytest.mark.parametrize("stop", [8, 9, 10])
@pytest.mark.faults
def test_bad_steps_are_counted_on_where_a_run_was_stopped(stop: int, tmp_path: Path) -> None:
    """From the eighth step on, of which three in a row are borne."""
    config = TrainConfig.from_dict(COMMON | {"max_bad_steps": 3})
    bad = set(range(7, 20))
    first = TrainState.start(WithBadSteps(digits_cnn(config), bad), config, FP32)
    loader = loader_of(config, 300)
    list(train_epochs(first, loader, config, FP32, lambda: first.step == stop))
    path = write_checkpoint(tmp_path, first, {}, {})

    model = WithBadSteps(digits_cnn(config), {call - stop for call in bad})
    second = TrainState.start(model, config, FP32)
    restore(second, read_checkpoint(path))
    with pytest.raises(NonFiniteLossError) as caught:
        list(train_epochs(second, loader, config, FP32, lambda: second.step == 11))
    assert (caught.value.step, caught.value.bad_steps) == (7, 4)


def test_memory_of_the_optimiser_lies_as_the_weights_lie(tmp_path: Path) -> None:
    """Fused optimisers read both in the order of memory, whatever their strides say."""
    config = TrainConfig.from_dict(COMMON)
    state, _ = trained_until(config, 3)
    write_checkpoint(tmp_path, state, {}, {})
    other = started(config)
    restore(other, read_checkpoint(next(tmp_path.iterdir())))
    for parameter, memory in other.optimizer.state.items():
        assert memory["exp_avg"].stride() == parameter.stride()
    filters = [weight for weight in other.model.parameters() if weight.ndim == 4]
    assert any(not weight.is_contiguous() for weight in filters)


def test_what_the_caller_adds_comes_back(tmp_path: Path) -> None:
    state = started(TrainConfig())
    best = weights_of(state.model)
    progress = {"name": "Größe \N{SNOWMAN}", "loss": float("nan"), "numbers": [[1, 0.1]]}
    checkpoint = read_checkpoint(write_checkpoint(tmp_path, state, best, progress))
    assert np.isnan(checkpoint.progress["loss"])
    assert {**checkpoint.progress, "loss": 0} == {**progress, "loss": 0}
    assert checkpoint.group("best").keys() == best.keys()
    assert all(torch.equal(checkpoint.group("best")[name], best[name]) for name in best)


def write_three(folder: Path) -> list[Path]:
    state = started(TrainConfig())
    paths = []
    for step in (1, 20, 300):
        state.step = step
        paths.append(write_checkpoint(folder, state, {}, {"step": step}))
    return paths


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    _, older, newer = write_three(tmp_path)
    assert sorted(tmp_path.iterdir()) == [older, newer]
    found = newest_checkpoint(tmp_path, unheard)
    assert found is not None
    assert found.progress == {"step": 300}


@pytest.mark.faults
def test_a_part_that_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "step-0000000007.safetensors.part").write_bytes(b"half of it")
    _, older, newer = write_three(tmp_path)
    assert sorted(tmp_path.iterdir()) == [older, newer]


def test_there_need_not_be_one(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "absent", unheard) is None


@pytest.mark.faults
def test_a_damaged_one_is_put_aside_and_the_one_before_is_taken(tmp_path: Path) -> None:
    _, older, newer = write_three(tmp_path)
    newer.write_bytes(newer.read_bytes()[:-1000])
    heard: list[str] = []
    found = newest_checkpoint(tmp_path, heard.append)
    assert found is not None
    assert found.progress == {"step": 20}
    assert newer.name in heard[0]
    # What is written next must not be taken for older than the damaged one.
    assert sorted(path.name for path in tmp_path.iterdir()) == [older.name, newer.name + ".damaged"]

    older.write_bytes(b"")
    for _ in range(2):  # nor does it begin anew when it is asked again
        with pytest.raises(ImgclfError, match="all are damaged"):
            newest_checkpoint(tmp_path, heard.append)


@pytest.mark.faults
def test_one_that_the_disk_does_not_give_stays_where_it_is(tmp_path: Path) -> None:
    """It may be as good as ever. A folder is what no disk gives as a file."""
    _, older, newer = write_three(tmp_path)
    newer.unlink()
    newer.mkdir()
    with pytest.raises(ImgclfError, match="Cannot read the checkpoint") as caught:
        newest_checkpoint(tmp_path, unheard)
    assert "once the disk can be read" in caught.value.hint
    assert sorted(tmp_path.iterdir()) == [older, newer]


@pytest.mark.faults
def test_one_of_another_version_is_refused_and_stays_where_it_is(tmp_path: Path) -> None:
    """Such as one that does not count bad steps."""
    path = write_checkpoint(tmp_path, started(TrainConfig()), {}, {})
    content = path.read_bytes()[:-32]
    other = content.replace(rb"\"bad_steps\": 0", rb"\"sad_steps\": 0")
    assert other != content
    path.write_bytes(sealed(other))
    with pytest.raises(ImgclfError, match="does not fit"):
        newest_checkpoint(tmp_path, unheard)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.faults
def test_every_changed_byte_is_found(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, started(TrainConfig()), {}, {})
    content = bytearray(path.read_bytes())
    places = {0, 7, 8, len(content) - 1, len(content) - 33, *range(9, len(content), 997)}
    for place in places:
        content[place] ^= 1
        path.write_bytes(content)
        with pytest.raises(DamagedError):
            read_checkpoint(path)
        content[place] ^= 1
    path.write_bytes(content)
    read_checkpoint(path)


class Payload:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


# Deeper than any parser goes.
DEEP = b"[" * 100_000


def sealed(content: bytes) -> bytes:
    return content + hashlib.sha256(content).digest()


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    planted = pickle.dumps(Payload(tmp_path / "executed"))
    path = tmp_path / "step-1.safetensors"
    for content in (
        planted,
        save({"model.a": torch.zeros(1)}, {"imgclf": planted.decode("latin-1")}),
        save({"model.a": torch.frombuffer(bytearray(planted), dtype=torch.uint8)}),
        save({"model.a": torch.zeros(1)}, {"imgclf": "[" * 100_000}),
        len(DEEP).to_bytes(8, "little") + DEEP,
    ):
        path.write_bytes(sealed(content))
        with pytest.raises(DamagedError):
            read_checkpoint(path)
    assert not (tmp_path / "executed").exists()


@given(st.binary(max_size=300), st.booleans(), st.booleans())
def test_any_bytes_are_read_or_refused(content: bytes, with_length: bool, whole: bool) -> None:
    if with_length:
        content = len(content).to_bytes(8, "little") + content
    path = Path("fuzzed-checkpoint")
    path.write_bytes(sealed(content) if whole else content)
    with pytest.raises(DamagedError):
        read_checkpoint(path)


def test_another_network_is_refused(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, started(TrainConfig()), {}, {})
    other = TrainState.start(torch.nn.Linear(3, 3), TrainConfig(), FP32)
    with pytest.raises(ImgclfError, match="does not fit"):
        restore(other, read_checkpoint(path))


@pytest.mark.faults
def test_a_full_disk_leaves_the_checkpoint_before_as_it_is(tmp_path: Path) -> None:
    state = started(TrainConfig())
    write_checkpoint(tmp_path, state, {}, {"number": 1})
    state.step += 1
    with files_up_to(10_000), pytest.raises(ImgclfError, match="are needed"):
        write_checkpoint(tmp_path, state, {}, {"number": 2})
    found = newest_checkpoint(tmp_path, unheard)
    assert found is not None
    assert found.progress == {"number": 1}
    assert len(list(tmp_path.iterdir())) == 1


def test_the_header_is_json_of_safetensors(tmp_path: Path) -> None:
    """Any reader of safetensors can look into a file, once its last 32 bytes are cut off."""
    path = write_checkpoint(tmp_path, started(TrainConfig()), {}, {"a": 1})
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert json.loads(header["__metadata__"]["imgclf"])["progress"] == {"a": 1}
