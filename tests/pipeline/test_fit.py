"""How training ends that does not come to its end, and what is left of it."""

import itertools
import math
import re
import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from torch import Tensor, nn

import imgclf
from imgclf.config import TrainConfig
from imgclf.errors import ImgclfError
from imgclf.models import ImageClassifier
from imgclf.pipeline import fit, train
from imgclf.tracking.journal import JOURNAL_FILE, last_record, run_folders
from imgclf.tracking.system import SystemSampler
from imgclf.tracking.tracker import Tracker
from imgclf.training import loop
from imgclf.training.checkpoint import newest_checkpoint
from small_disk import files_up_to


def on_call(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, act: Callable[[], None], number: int = 1
) -> None:
    """Act before the so-many-th call of a function."""
    original, calls = getattr(owner, name), 0

    def counting(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            act()
        return original(*arguments, **named)

    monkeypatch.setattr(owner, name, counting)


def only_run(runs_dir: Path) -> Path:
    (folder,) = run_folders(runs_dir)
    return folder


def how_it_ended(folder: Path) -> str:
    last = last_record(folder / JOURNAL_FILE)
    assert last is not None
    return last.content["status"]


def unheard(text: str) -> None:
    raise AssertionError(text)


@pytest.mark.faults
def test_training_that_diverges_names_its_images_and_keeps_the_checkpoint_before(
    digit_files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """After a good epoch, at a rate that no weights bear. A checkpoint is due at each step."""

    def rate(step: int, steps_per_epoch: int, config: TrainConfig) -> float:
        return 0.01 if step < steps_per_epoch else 1e39

    monkeypatch.setattr(loop, "learning_rate_at", rate)
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_SNAPSHOTS", 0.0)
    monkeypatch.setattr(fit._Keeper, "due", lambda _: True)
    config = TrainConfig(
        dataset=str(digit_files),
        epochs=4,
        batch_size=16,
        optimizer="sgd",
        max_bad_steps=1,
        runs_dir=str(tmp_path),
        experiment="diverges",
    )
    with pytest.raises(ImgclfError, match="not finite in step") as caught:
        imgclf.train(config)
    named = re.compile(r"^ +([0-3]/\d{4}\.png)$", re.MULTILINE)
    assert len(named.findall(caught.value.message)) == 10
    assert "--learning-rate" in caught.value.hint
    assert capsys.readouterr().out.count("no checkpoint holds them") == 1

    folder = only_run(tmp_path)
    client = MlflowClient()
    experiment = client.get_experiment_by_name("diverges")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FAILED"
    files = [entry.path for entry in client.list_artifacts(run.info.run_id)]
    assert "traceback.txt" in files
    text = (folder / "traceback.txt").read_text()
    assert "NonFiniteLossError" in text
    # The whole batch, and the ten of the message again.
    assert len(set(named.findall(text))) == 16
    checkpoint = newest_checkpoint(folder / "checkpoints", unheard)
    assert checkpoint is not None
    assert checkpoint.counters.epoch == 1
    weights = checkpoint.group("model").values()
    assert all(tensor.isfinite().all() for tensor in weights if tensor.is_floating_point())


@pytest.mark.faults
def test_a_run_whose_last_step_loses_the_weights_does_not_finish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a loss that is finite, a gradient that is not."""
    create = train.create_model

    def with_lost_gradients(*arguments: Any) -> ImageClassifier:
        model = create(*arguments)
        for weight in model.parameters():
            weight.register_hook(lambda gradient: gradient * math.nan)
        return model

    monkeypatch.setattr(train, "create_model", with_lost_gradients)
    values = {"epochs": 1, "batch_size": 2000, "val_fraction": 0.0, "runs_dir": str(tmp_path)}
    with pytest.raises(ImgclfError, match=r"weights of epoch 1, .* are not finite"):
        imgclf.train(TrainConfig.from_dict(values))
    assert how_it_ended(only_run(tmp_path)) == "FAILED"


class Starved(nn.Module):
    """A network that finds no memory at one moment, where a GPU would say so."""

    def __init__(self, network: nn.Module, moment: str) -> None:
        super().__init__()
        self.network, self.moment, self.evaluations = network, moment, 0

    def _apply(self, *arguments: Any, **named: Any) -> "Starved":
        self._fail_at("start")
        return super()._apply(*arguments, **named)

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self._fail_at("step")
        else:
            self.evaluations += 1
            self._fail_at("validation" if self.evaluations == 1 else "test")
        return self.network(images)

    def _fail_at(self, moment: str) -> None:
        if moment == self.moment:
            raise torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 3.00 GiB. GPU 0 has a total capacity of"
                " 23.65 GiB of which 1.66 GiB is free."
            )


@pytest.mark.parametrize(
    ("moment", "told"),
    [
        ("start", "There is not enough memory to bring the network and the training images to"),
        ("step", "A step of --batch-size 512 does not fit into memory: 3.00 GiB more"),
        ("validation", "There is not enough memory to evaluate 512 images at a time: 3.00 GiB"),
        ("test", "There is not enough memory to evaluate 512 images at a time: 3.00 GiB"),
    ],
)
@pytest.mark.faults
def test_memory_that_is_lacking_is_told_for_what_it_was_wanted(
    moment: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = train.create_model

    def starved(*arguments: Any) -> ImageClassifier:
        model = create(*arguments)
        model.network = Starved(model.network, moment)
        return model

    monkeypatch.setattr(train, "create_model", starved)
    with pytest.raises(ImgclfError) as caught:
        imgclf.train(TrainConfig(epochs=1, batch_size=512, runs_dir=str(tmp_path)))
    assert caught.value.message.startswith(told)
    assert "--batch-size 256" in caught.value.hint or "more of it" in caught.value.hint
    assert how_it_ended(only_run(tmp_path)) == "FAILED"


def test_single_images_that_a_network_cannot_normalise_are_told_in_plain_words(
    digit_files: Path, tmp_path: Path
) -> None:
    """Three poolings leave one position of nine."""
    config = TrainConfig(
        dataset=str(digit_files),
        image_size=9,
        model="speed-cnn-16",
        batch_size=1,
        runs_dir=str(tmp_path),
    )
    with pytest.raises(ImgclfError, match="batch of one image") as caught:
        imgclf.train(config)
    assert "--batch-size 2" in caught.value.hint


# Signals. They are real, and heard by this process.


def press_ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def terminate() -> None:
    signal.raise_signal(signal.SIGTERM)


@pytest.mark.faults
def test_a_run_that_is_stopped_before_its_first_checkpoint_goes_on_as_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Between the first batch's picture and the word of it."""
    on_call(monkeypatch, Tracker, "artifact", press_ctrl_c, number=3)
    with pytest.raises(KeyboardInterrupt):
        imgclf.train(TrainConfig(epochs=1, batch_size=512, runs_dir=str(tmp_path)))
    folder = only_run(tmp_path)
    assert (folder / "samples.png").exists()
    assert not (folder / "checkpoints").exists()
    assert how_it_ended(folder) == "KILLED"
    assert f"train --resume {folder.name}" in capsys.readouterr().out

    result = imgclf.resume(folder.name, str(tmp_path))
    assert result.folder == folder
    assert result.not_sent == ()
    client, run_id = MlflowClient(), result.mlflow_run_id or ""
    assert "samples.png" in [entry.path for entry in client.list_artifacts(run_id)]
    assert client.get_run(run_id).info.status == "FINISHED"


@pytest.mark.faults
def test_a_signal_among_bad_steps_costs_no_step_before_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four good steps, and a signal in the second of the bad ones."""
    create, calls = train.create_model, itertools.count()

    def infinite_from_the_fifth_on(_: nn.Module, __: Any, logits: Tensor) -> Tensor:
        return logits * (1.0 if next(calls) < 4 else math.inf)

    def with_bad_steps(*arguments: Any) -> ImageClassifier:
        model = create(*arguments)
        model.register_forward_hook(infinite_from_the_fifth_on)
        return model

    monkeypatch.setattr(train, "create_model", with_bad_steps)
    on_call(monkeypatch, loop, "_step", terminate, number=6)
    with pytest.raises(SystemExit):
        imgclf.train(TrainConfig(epochs=1, runs_dir=str(tmp_path)))
    checkpoint = newest_checkpoint(only_run(tmp_path) / "checkpoints", unheard)
    assert checkpoint is not None
    assert (checkpoint.counters.step, checkpoint.counters.bad_steps) == (6, 2)


@pytest.mark.parametrize(
    ("owner", "name", "number"), [(loop, "_step", 5), (fit, "predict_logits", 1)]
)
@pytest.mark.faults
def test_a_signal_is_answered_where_the_disk_has_no_room_for_a_checkpoint(
    owner: Any,
    name: str,
    number: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with ExitStack() as full_disk:

        def fill_and_terminate() -> None:
            # The journal is smaller than that.
            full_disk.enter_context(files_up_to(100_000))
            terminate()

        on_call(monkeypatch, owner, name, fill_and_terminate, number)
        with pytest.raises(SystemExit) as caught:
            imgclf.train(TrainConfig(epochs=2, runs_dir=str(tmp_path)))
    assert caught.value.code == 143
    folder = only_run(tmp_path)
    assert how_it_ended(folder) == "KILLED"
    assert list((folder / "checkpoints").iterdir()) == []
    assert "Cannot write a checkpoint" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("owner", "name", "status"),
    [(SystemSampler, "start", "KILLED"), (SystemSampler, "stop", "FINISHED")],
)
@pytest.mark.faults
def test_a_signal_at_a_runs_first_or_last_moment_leaves_no_run_without_an_end(
    owner: Any, name: str, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_call(monkeypatch, owner, name, terminate)
    with pytest.raises(SystemExit) as caught:
        imgclf.train(TrainConfig(epochs=1, batch_size=512, runs_dir=str(tmp_path)))
    assert caught.value.code == 143
    assert how_it_ended(only_run(tmp_path)) == status
