"""A real checkpoint that was changed, its digest made to fit again, is read whole or refused."""

import copy
import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from imgclf.errors import ImgclfError
from imgclf.pipeline.trained import load_trained_model
from imgclf.pipeline.training_progress import Progress
from imgclf.training.checkpoint import newest_checkpoint, restore
from imgclf.training.device import Compute
from imgclf.training.loop import TrainState

pytestmark = pytest.mark.faults

CPU = Compute(torch.device("cpu"), torch.float32, 1, "cpu")
DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "U8", "BOOL", "C64", "F8_E4M3", "F4")
VALUES = (
    *(None, True, -1, 0, 1, 3, 2**63, 10**400, 0.5, float("nan"), float("inf"), "", "x", "F32"),
    *([], [1], [[1, 2]], {}, {"x": 1}, {"x": [[1, 2.0]]}),
)
Place = tuple[Any, Any]


@dataclass
class Parts:
    """What a file is made of: safetensors' header, the entry of imgclf in it, the numbers."""

    header: dict[str, Any] = field(repr=False)
    entry: dict[str, Any] = field(repr=False)
    numbers: bytes = field(repr=False)

    @classmethod
    def of(cls, content: bytes) -> "Parts":
        end = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:end])
        entry = json.loads(header.pop("__metadata__")["imgclf"])
        return cls(header, entry, content[end:-32])

    def sealed(self) -> bytes:
        metadata = {"__metadata__": {"imgclf": json.dumps(self.entry)}}
        header = json.dumps(metadata | self.header).encode()
        body = len(header).to_bytes(8, "little") + header + self.numbers
        return body + hashlib.sha256(body).digest()


def places(tree: Any) -> Iterator[Place]:
    """Every value in a tree of JSON: what holds it, and its key or number there."""
    if isinstance(tree, dict | list):
        for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
            yield tree, key
            yield from places(tree[key])


def change(data: st.DataObject, parts: Parts) -> None:
    tree = data.draw(st.sampled_from([parts.header, parts.entry]))
    if not tree:
        return
    holder, key = data.draw(st.sampled_from(list(places(tree))))
    kind = data.draw(st.sampled_from(["remove", "replace", "rename", "retype", "reshape"]))
    if kind == "retype" and isinstance(holder, dict) and "dtype" in holder:
        holder["dtype"] = data.draw(st.sampled_from(DTYPES))
    elif kind == "reshape" and isinstance(holder, dict) and isinstance(holder.get("shape"), list):
        holder["shape"] = data.draw(st.permutations([*holder["shape"], 1]))
    elif kind == "rename" and isinstance(holder, dict):
        holder[data.draw(st.sampled_from([*holder, "x", "optimizer.0.x"]))] = holder.pop(key)
    elif kind == "remove":
        del holder[key]
    else:
        holder[key] = copy.deepcopy(data.draw(st.sampled_from(VALUES)))


@pytest.fixture(scope="module")
def state(trained: Any) -> TrainState:
    loaded = load_trained_model(trained.folder / "model")
    return TrainState.start(loaded.model, loaded.config, CPU)


@pytest.fixture(scope="module")
def parts(trained: Any) -> Parts:
    return Parts.of(max((trained.folder / "checkpoints").iterdir()).read_bytes())


def restored(folder: Path, state: TrainState) -> Progress:
    checkpoint = newest_checkpoint(folder, lambda _: None)
    assert checkpoint is not None
    restore(state, checkpoint)
    return Progress.from_checkpoint(checkpoint, "val/accuracy")


def test_what_was_taken_apart_and_put_together_is_the_same(
    trained: Any, parts: Parts, state: TrainState, tmp_path: Path
) -> None:
    (tmp_path / "step-1.safetensors").write_bytes(parts.sealed())
    progress = restored(tmp_path, state)
    assert progress.to_dict() == restored(trained.folder / "checkpoints", state).to_dict()
    assert progress.selection.best_epoch == trained.best_epoch


@given(st.data())
def test_a_changed_checkpoint_is_read_or_refused_in_words(
    parts: Parts, state: TrainState, data: st.DataObject
) -> None:
    changed = copy.deepcopy(parts)
    for _ in range(data.draw(st.integers(1, 3))):
        change(data, changed)
    folder = Path("fuzzed-checkpoints")
    folder.mkdir(exist_ok=True)
    (folder / "step-1.safetensors").write_bytes(changed.sealed())
    with suppress(ImgclfError):
        restored(folder, state)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("counters",), []),
        (("counters", "epoch"), "3"),
        (("counters", "step"), -1),
        (("counters", "scaler"), {"scale": 1.0}),
        (("progress",), None),
        (("progress", "selection"), {"monitor": "val/accuracy"}),
        (("progress", "selection", "monitor"), "val/loss"),
        (("progress", "selection", "best"), {"x": 1.0}),
        (("progress", "history"), []),
        (("progress", "history", "train/loss"), [[1]]),
        (("progress", "pending"), {"epoch": 1}),
        (("progress", "seconds"), None),
    ],
)
def test_an_entry_of_another_kind_is_refused_with_a_way_out(
    path: tuple[str, ...], value: object, parts: Parts, state: TrainState, tmp_path: Path
) -> None:
    changed = copy.deepcopy(parts)
    holder: Any = changed.entry
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    (tmp_path / "step-1.safetensors").write_bytes(changed.sealed())
    with pytest.raises(ImgclfError, match="does not fit") as caught:
        restored(tmp_path, state)
    assert caught.value.hint


@pytest.mark.parametrize("name", ["sums.sums", "model.mean", "optimizer.0.exp_avg"])
def test_tensors_that_are_absent_or_of_another_kind_are_refused(
    name: str, parts: Parts, state: TrainState, tmp_path: Path
) -> None:
    path = tmp_path / "step-1.safetensors"
    for other in ({"dtype": "I32"}, {"shape": [*parts.header[name]["shape"], 1]}):
        changed = copy.deepcopy(parts)
        changed.header[name] |= other
        path.write_bytes(changed.sealed())
        with pytest.raises(ImgclfError, match="does not fit"):
            restored(tmp_path, state)
    changed = copy.deepcopy(parts)
    changed.header["x"] = changed.header.pop(name)
    path.write_bytes(changed.sealed())
    with pytest.raises(ImgclfError, match="does not fit"):
        restored(tmp_path, state)
