"""When a run writes checkpoints, and what it goes on from where one is missing."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow import MlflowClient

import imgclf
from imgclf import disk
from imgclf.config import TrainConfig
from imgclf.errors import ImgclfError
from imgclf.pipeline import fit
from imgclf.pipeline.training_progress import Progress
from imgclf.tracking.journal import run_folders
from imgclf.training import checkpoint
from imgclf.training.selection import Selection


def val_losses(mlflow_run_id: str | None) -> list[tuple[int, float]]:
    history = MlflowClient().get_metric_history(mlflow_run_id or "", "val/loss")
    return [(point.step, point.value) for point in history]


@pytest.mark.faults
def test_a_full_disk_ends_the_run_and_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third checkpoint does not fit any more; with room again, the run goes on."""
    written = 0

    def fails_the_third_time(path: Path, content: bytes, what: str, hint: str = "") -> None:
        nonlocal written
        written += 1
        if written == 3:
            raise ImgclfError("Cannot write a checkpoint: no room.", hint)
        disk.write_whole(path, content, what, hint)

    monkeypatch.setattr(checkpoint, "write_whole", fails_the_third_time)
    monkeypatch.setattr(fit._Keeper, "due_after_epoch", lambda _: True)
    with pytest.raises(ImgclfError, match="no room") as caught:
        imgclf.train(TrainConfig(epochs=5, runs_dir=str(tmp_path)))
    assert "resume" in caught.value.hint
    (folder,) = tmp_path.iterdir()
    result = imgclf.resume(folder.name, str(tmp_path))
    assert result.folder == folder
    assert result.not_sent == ()
    assert result.mlflow_run_id is not None
    history = MlflowClient().get_metric_history(result.mlflow_run_id, "train/loss")
    assert [point.step for point in history] == [1, 2, 3, 4, 5]
    epochs = MlflowClient().get_metric_history(result.mlflow_run_id, "epoch_seconds")
    assert result.timings["time/train_seconds"] >= sum(point.value for point in epochs)
    assert MlflowClient().get_run(result.mlflow_run_id).info.status == "FINISHED"


@pytest.mark.parametrize(
    ("took", "since", "minutes", "due"),
    [
        (0.09, 0.1, 10.0, True),  # quick: whatever its share
        (0.5, 9.0, 10.0, False),
        (0.5, 10.1, 10.0, True),  # less than 5%
        (40.0, 590.0, 10.0, False),
        (40.0, 601.0, 10.0, True),  # as inside an epoch
    ],
)
def test_the_end_of_an_epoch_is_worth_a_checkpoint_that_takes_little_of_the_time(
    took: float, since: float, minutes: float, due: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(fit.time, "perf_counter", lambda: now)
    run: Any = SimpleNamespace(config=TrainConfig(checkpoint_minutes=minutes))
    state: Any = None
    keeper = fit._Keeper(run, state, Progress(Selection()), now, print)
    keeper._took = took
    now += since
    assert keeper.due_after_epoch() is due


def test_short_epochs_share_a_checkpoint_on_a_slow_disk_and_all_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run breaks between two checkpoints, and goes on from the first."""
    written: list[int] = []

    def write_slowly(path: Path, content: bytes, what: str, hint: str = "") -> None:
        written.append(int(path.stem.removeprefix("step-")))
        time.sleep(0.2)
        disk.write_whole(path, content, what, hint)

    predict_logits, calls = fit.predict_logits, 0

    def break_off_once(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 7:
            raise RuntimeError("a mistake of ours")
        return predict_logits(*arguments)

    epochs = 12
    undisturbed = imgclf.train(TrainConfig(epochs=epochs, threads=1, runs_dir=str(tmp_path / "a")))
    monkeypatch.setattr(checkpoint, "write_whole", write_slowly)
    monkeypatch.setattr(fit, "_LARGEST_SHARE", 1e-3)
    monkeypatch.setattr(fit, "predict_logits", break_off_once)
    runs_dir = tmp_path / "b"
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        imgclf.train(TrainConfig(epochs=epochs, threads=1, runs_dir=str(runs_dir)))
    broken, *_ = MlflowClient().search_runs(["0"], "attributes.status = 'FAILED'")
    expected = val_losses(undisturbed.mlflow_run_id)
    assert [step for step, _ in expected] == list(range(1, epochs + 1))
    # What no checkpoint holds is not told.
    assert val_losses(broken.info.run_id) == expected[:1]
    (folder,) = run_folders(runs_dir)
    result = imgclf.resume(folder.name, str(runs_dir))
    # Of each process the first epoch, and the last of all. An epoch takes 20 steps.
    assert written == [20, 40, 20 * epochs]
    assert result.metrics == undisturbed.metrics
    assert result.mlflow_run_id == broken.info.run_id
    assert val_losses(result.mlflow_run_id) == expected
