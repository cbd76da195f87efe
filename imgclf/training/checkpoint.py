"""Checkpoints: all that changes while training, in one file that is whole or not there.

A file is safetensors, followed by the SHA-256 of all bytes before it: nothing in it can run, and a
changed or cut-off file is known as such. Random states are not in it, for there are none: order and
augmentation are drawn from (seed, epoch), dropout from (seed, step).
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from imgclf.disk import UNFINISHED, write_whole, writing
from imgclf.errors import ImgclfError
from imgclf.training.json_values import read_values
from imgclf.training.loop import EpochSums, TrainState

KEPT = 2
_SUFFIX = ".safetensors"
# Behind the name of one that was put aside.
_DAMAGED = ".damaged"
_DIGEST_BYTES = hashlib.sha256().digest_size
# safetensors' metadata maps text to text; this entry holds JSON.
_ENTRY = "imgclf"
_HINT = "Make room on that disk, and resume the run: the checkpoint before it is whole."


class DamagedError(Exception):
    """A file that is no checkpoint, or not as it was written."""


@dataclass(frozen=True)
class Counters:
    """What `TrainState` counts, the epoch in progress included, and its loss scaling."""

    epoch: int
    step: int
    step_in_epoch: int
    seconds: float
    bad_steps: int
    scaler: Mapping[str, float]


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Attributes:
        tensors: weights, averaged weights and memory of the optimiser by name, on the CPU.
        counters: what else `TrainState` holds.
        progress: what the caller has added; JSON.
    """

    tensors: Mapping[str, Tensor]
    counters: Counters
    progress: Mapping[str, Any]

    def group(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors of one kind, such as ``best``, by their names in it."""
        start = f"{prefix}."
        return {
            name.removeprefix(start): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(start)
        }


def write_checkpoint(
    folder: Path, state: TrainState, best: Mapping[str, Tensor], progress: Mapping[str, Any]
) -> Path:
    """Write a checkpoint, and remove all but the last two, and parts of others.

    It is written beside its place, brought to the disk and renamed: whatever happens meanwhile, the
    checkpoints before it stay as they are.

    Args:
        folder: is made in the run's folder where it is not there.
        state: in a moment between two steps.
        best: the selected weights so far.
        progress: JSON-ready values that `Checkpoint.progress` gives back.

    Raises:
        ImgclfError: it cannot be written; where the disk is full, how much is needed.
    """
    groups = {
        "model": state.model.state_dict(),
        "averaged": {} if state.averaged is None else state.averaged.state_dict(),
        "optimizer": _memory(state),
        "sums": {"sums": state.sums.sums},
        "best": best,
    }
    tensors = {
        f"{prefix}.{name}": tensor.detach().cpu().contiguous()
        for prefix, group in groups.items()
        for name, tensor in group.items()
    }
    counters = Counters(
        epoch=state.epoch,
        step=state.step,
        step_in_epoch=state.sums.steps,
        seconds=state.sums.seconds,
        bad_steps=int(state.bad_steps),
        scaler=state.scaler.state_dict(),
    )
    entry = json.dumps({"counters": asdict(counters), "progress": dict(progress)})
    content = save(tensors, {_ENTRY: entry})
    path = folder / f"step-{state.step:010}{_SUFFIX}"
    with writing("a checkpoint", folder):
        folder.mkdir(exist_ok=True)
    write_whole(path, content + hashlib.sha256(content).digest(), "a checkpoint", _HINT)
    # A process that was killed while it wrote has left a part under a name that may not come again.
    for old in (*_files(folder)[:-KEPT], *folder.glob(f"*{UNFINISHED}")):
        old.unlink(missing_ok=True)
    return path


def is_finite(tensors: Iterable[Tensor]) -> bool:
    """Tell whether all weights, or what else is given, are numbers: else nothing comes of them."""
    floating = [tensor for tensor in tensors if tensor.is_floating_point()]
    return bool(torch.stack([tensor.isfinite().all() for tensor in floating]).all())


def does_not_fit(reason: str) -> ImgclfError:
    """Return the error of a whole file that holds something else than what is to go on."""
    return ImgclfError(
        f"The checkpoint does not fit this run: {' '.join(reason.split())[:300]}",
        "Resume with the version of imgclf that has written it.",
    )


def newest_checkpoint(folder: Path, say: Callable[[str], None]) -> Checkpoint | None:
    """Read the newest checkpoint of a folder; None where there is none.

    One that is damaged is put aside, and the one before it is taken.

    Args:
        folder: of the checkpoints.
        say: is told of a damaged one.

    Raises:
        ImgclfError: there are some, and all are damaged; or `read_checkpoint` raises it.
    """
    files = _files(folder)
    for path in reversed(files):
        try:
            return read_checkpoint(path)
        except DamagedError as error:
            say(f"Note: the checkpoint '{path.name}' is damaged ({error}); it is put aside")
            with writing("the new name of a damaged checkpoint", path):
                path.rename(path.with_name(path.name + _DAMAGED))
    # Those that were put aside before count: a run that was refused must not begin anew.
    if files or any(folder.glob(f"*{_DAMAGED}")):
        raise ImgclfError(
            f"No checkpoint in '{folder}' can be used: all are damaged.",
            "Restore the folder from a copy, or train again.",
        )
    return None


def read_checkpoint(path: Path) -> Checkpoint:
    """Read one file.

    Raises:
        DamagedError: it is not as it was written.
        ImgclfError: the disk does not give it, or another version has written it.
    """
    try:
        content = path.read_bytes()
    except OSError as error:  # the file may be as good as ever
        raise ImgclfError(
            f"Cannot read the checkpoint '{path}': {error.strerror or error}.",
            "Resume the run once the disk can be read.",
        ) from error
    body, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        raise DamagedError("its digest does not fit")
    try:
        # safetensors gives the metadata of files only: its header is JSON behind its length.
        length = int.from_bytes(body[:8], "little")
        entry = json.loads(json.loads(body[8 : 8 + length])["__metadata__"][_ENTRY])
        tensors, counters, progress = load(body), entry["counters"], entry["progress"]
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedError(f"it is no checkpoint of imgclf: {error}") from error
    try:
        return Checkpoint(tensors, _read_counters(counters), progress)
    except ValueError as error:
        raise does_not_fit(f"its counters: {error}") from error


def _read_counters(values: object) -> Counters:
    counters = read_values(Counters, values)
    if min(counters.epoch, counters.step, counters.step_in_epoch, counters.bad_steps) < 0:
        raise ValueError("one is negative")
    return counters


def restore(state: TrainState, checkpoint: Checkpoint) -> None:
    """Bring a state that has just been started to where the checkpoint was taken.

    Raises:
        ImgclfError: it belongs to another network or optimiser; the state is then of no use.
    """
    counters, weights = checkpoint.counters, state.model.state_dict()
    averaged = {} if state.averaged is None else state.averaged.state_dict()
    best = checkpoint.group("best")
    _refuse_others("model", weights, checkpoint.group("model"))
    _refuse_others("averaged", averaged, checkpoint.group("averaged"))
    _refuse_others("best", weights if best else {}, best)
    _refuse_others("sums", {"sums": state.sums.sums}, checkpoint.group("sums"))
    if counters.scaler.keys() != state.scaler.state_dict().keys():
        raise does_not_fit("its loss scaling is of another kind")
    state.model.load_state_dict(checkpoint.group("model"))
    if state.averaged is not None:
        state.averaged.load_state_dict(checkpoint.group("averaged"))
    _restore_memory(state, checkpoint.group("optimizer"))
    state.scaler.load_state_dict(dict(counters.scaler))
    sums = checkpoint.tensors["sums.sums"].to(state.sums.sums.device)
    state.sums = EpochSums(sums, counters.step_in_epoch, counters.seconds)
    state.epoch, state.step = counters.epoch, counters.step
    state.bad_steps.fill_(counters.bad_steps)


def _refuse_others(group: str, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Refuse tensors of other names, shapes or types."""
    for name in sorted(expected.keys() | found.keys()):
        here, there = _described(expected.get(name)), _described(found.get(name))
        if here != there:
            raise does_not_fit(f"{group}.{name} is {there} in it, and {here} here")


def _described(tensor: Tensor | None) -> str:
    return "absent" if tensor is None else f"{tensor.dtype} {list(tensor.shape)}"


def _memory(state: TrainState) -> dict[str, Tensor]:
    """Return what the optimiser remembers, by the parameter's number and the name."""
    return {
        f"{number}.{name}": value
        for number, memory in state.optimizer.state_dict()["state"].items()
        for name, value in memory.items()
        if value is not None
    }


def _restore_memory(state: TrainState, tensors: Mapping[str, Tensor]) -> None:
    optimizer = state.optimizer
    parameters = [weight for group in optimizer.param_groups for weight in group["params"]]
    shapes = {str(number): weight.shape for number, weight in enumerate(parameters)}
    memory: dict[int, dict[str, Tensor]] = {}
    for full_name, tensor in tensors.items():
        number, _, name = full_name.partition(".")
        # Of all they remember, only the number of steps is one for the whole weight.
        shape = torch.Size() if name == "step" else shapes.get(number)
        if number not in shapes or tensor.shape != shape or not tensor.is_floating_point():
            raise does_not_fit(f"optimizer.{full_name} is {_described(tensor)} in it")
        memory.setdefault(int(number), {})[name] = tensor
    # Rates and decays come from the configuration.
    groups = optimizer.state_dict()["param_groups"]
    for group in groups:
        if len({frozenset(memory.get(number, ())) for number in group["params"]}) > 1:
            raise does_not_fit("the optimiser's memory of some weights differs from that of others")
    optimizer.load_state_dict({"state": memory, "param_groups": groups})
    for parameter, remembered in optimizer.state.items():
        for name, value in remembered.items():
            if value.shape == parameter.shape:
                # Fused optimisers walk through both in the order of memory: channels last.
                remembered[name] = torch.empty_like(parameter.detach()).copy_(value)


def _files(folder: Path) -> list[Path]:
    """Return the checkpoints, the oldest first."""
    return sorted(folder.glob(f"step-*{_SUFFIX}"))
