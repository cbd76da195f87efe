"""The same seed gives the same run: in another process, with or without MLflow, and resumed."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import imgclf
from imgclf.config import TrainConfig
from imgclf.data.augment import Augmentation
from imgclf.data.loader import TrainLoader
from imgclf.errors import UsageError
from imgclf.pipeline.data import load_and_split
from imgclf.pipeline.train import create_model
from imgclf.pipeline.trained import read_config
from imgclf.tracking import sender
from imgclf.tracking.journal import JOURNAL_FILE, read_records, run_folders
from imgclf.training.device import choose_compute
from imgclf.training.loop import EpochEnd, TrainState, train_epochs
from tracking_server import free_port

EPOCHS = 3
OPTIONS: dict[str, Any] = {
    "model": "small-cnn",
    "image_size": 32,
    "epochs": EPOCHS,
    "batch_size": 30,
    "ema": True,
    "crop_padding": 2,
    "mixup": 0.2,
    "dropout": 0.3,
    # So that the last weights are kept.
    "val_fraction": 0.0,
    "track_test": True,
}
SPEEDS = ("images_per_second", "step_milliseconds", "epoch_seconds")

Train = Callable[..., imgclf.TrainResult]


@pytest.fixture(scope="module")
def train(digit_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Train in this process."""

    def train_here(**values: Any) -> imgclf.TrainResult:
        runs_dir = tmp_path_factory.mktemp("runs")
        given = {"dataset": str(digit_files), "runs_dir": str(runs_dir)} | OPTIONS | values
        return imgclf.train(TrainConfig.from_dict(given))

    return train_here


@pytest.fixture(scope="module")
def one_thread_run(train: Train) -> imgclf.TrainResult:
    return train(threads=1)


def weights(folder: Path) -> bytes:
    return (folder / "model" / "weights.safetensors").read_bytes()


def figures(folder: Path) -> dict[tuple[str, int], float]:
    """All that a run has measured, except times and what the machine did."""
    found = {
        (name, step): value
        for record in read_records(folder / JOURNAL_FILE)
        if record.kind == "metrics"
        for part, step in (("values", record.content["step"]), ("summary", 0))
        for name, value in record.content[part].items()
        if not name.startswith(("system/", "time/")) and name not in SPEEDS
    }
    expected = {("train/loss", EPOCHS), ("epoch/test_accuracy", 1), ("test/loss", 0)}
    assert expected <= found.keys()
    return found


def start_process(digit_files: Path, runs_dir: Path, threads: int) -> "subprocess.Popen[bytes]":
    options = OPTIONS | {"dataset": digit_files, "runs_dir": runs_dir, "threads": threads}
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    return subprocess.Popen(
        [sys.executable, "-m", "imgclf", "train", *arguments],
        # Sets and dictionaries must not come in another order with it.
        env=os.environ | {"PYTHONHASHSEED": str(threads)},
        stdout=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("threads", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_another_process_with_as_many_threads_comes_to_the_same_weights_and_figures(
    digit_files: Path, train: Train, tmp_path: Path, threads: int
) -> None:
    """Both are busy at once, so that threads are interrupted at other places."""
    process = start_process(digit_files, tmp_path, threads)
    ours = train(threads=threads).folder
    assert process.wait() == 0
    (other,) = run_folders(tmp_path)
    assert weights(other) == weights(ours)
    assert figures(other) == figures(ours)


def test_a_run_whose_server_is_absent_comes_to_the_same_weights_and_figures(
    train: Train, one_thread_run: imgclf.TrainResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imgclf.tracking.tracker.PATIENCE_SECONDS", 1.0)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    sender.stop_kept_senders()
    alone = train(threads=1)
    assert alone.mlflow_run_id is None
    assert one_thread_run.mlflow_run_id is not None
    assert weights(alone.folder) == weights(one_thread_run.folder)
    assert figures(alone.folder) == figures(one_thread_run.folder)


def test_the_loop_alone_comes_to_the_same_weights_as_a_tracked_run(
    one_thread_run: imgclf.TrainResult,
) -> None:
    config = read_config(one_thread_run.folder / "model" / "config.json")
    compute = choose_compute(config)
    dataset, split = load_and_split(config)
    model = create_model(config, dataset, split)
    loader = TrainLoader(
        dataset.images,
        split.train,
        dataset.labels,
        len(dataset.classes),
        Augmentation.from_config(config, 32, 32),
        config,
        compute.device,
    )
    state = TrainState.start(model, config, compute)
    events = train_epochs(state, loader, config, compute)
    losses = [event.loss for event in events if isinstance(event, EpochEnd)]
    logged = figures(one_thread_run.folder)
    assert losses == [logged["train/loss", epoch] for epoch in range(1, EPOCHS + 1)]
    saved = load_file(one_thread_run.folder / "model" / "weights.safetensors")
    ours = state.selected_model.state_dict()
    assert saved.keys() == ours.keys()
    assert all(torch.equal(tensor, ours[name]) for name, tensor in saved.items())


def test_a_resumed_run_keeps_its_threads_and_refuses_others(
    train: Train,
    one_thread_run: imgclf.TrainResult,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The machine that it goes on may have more cores."""
    from imgclf.pipeline import fit

    predict, calls = fit.predict_logits, []

    def interrupted_the_second_time(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return predict(*arguments)

    monkeypatch.setattr(fit, "predict_logits", interrupted_the_second_time)
    with pytest.raises(KeyboardInterrupt):
        train(threads=1, runs_dir=str(tmp_path))
    (folder,) = run_folders(tmp_path)
    with pytest.raises(UsageError, match=r"--threads 2 \(the run's: 1\)"):
        imgclf.resume(folder.name, str(tmp_path), {"threads": 2})
    torch.set_num_threads(2)
    resumed = imgclf.resume(folder.name, str(tmp_path), {"threads": 0})
    assert resumed.folder == folder
    assert torch.get_num_threads() == 1
    assert weights(folder) == weights(one_thread_run.folder)
    assert figures(folder) == figures(one_thread_run.folder)
