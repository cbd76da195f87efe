"""How training ends that does not come to its end, and what is left of it."""

import re
from pathlib import Path

import pytest
from mlflow import MlflowClient

import imgclf
from imgclf.config import TrainConfig
from imgclf.errors import ImgclfError
from imgclf.training.checkpoint import newest_checkpoint


@pytest.mark.faults
def test_diverging_training_names_its_images_and_keeps_the_checkpoint_before(
    digit_files: Path, tmp_path: Path
) -> None:
    """At this rate the loss overflows after some steps."""
    config = TrainConfig(
        dataset=str(digit_files),
        epochs=200,
        batch_size=16,
        optimizer="sgd",
        learning_rate=10.0,
        momentum=0.0,
        nesterov=False,
        weight_decay=10.0,
        max_bad_steps=1,
        runs_dir=str(tmp_path),
        experiment="diverges",
    )
    with pytest.raises(ImgclfError, match="not finite in step") as caught:
        imgclf.train(config)
    assert len(re.findall(r"^  [0-3]/\d{4}\.png$", caught.value.message, re.MULTILINE)) == 10
    assert "--learning-rate" in caught.value.hint

    (folder,) = tmp_path.iterdir()
    client = MlflowClient()
    experiment = client.get_experiment_by_name("diverges")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FAILED"
    files = [entry.path for entry in client.list_artifacts(run.info.run_id)]
    assert "traceback.txt" in files
    assert "NonFiniteLossError" in (folder / "traceback.txt").read_text()
    checkpoint = newest_checkpoint(folder / "checkpoints", print)
    # What comes in between may be lost already without a loss that says so.
    if checkpoint is not None:
        weights = checkpoint.group("model").values()
        assert all(tensor.isfinite().all() for tensor in weights if tensor.is_floating_point())


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


@pytest.mark.faults
def test_a_full_disk_ends_the_run_and_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third checkpoint does not fit any more; with room again, the run goes on."""
    from imgclf import disk
    from imgclf.training import checkpoint

    written = 0

    def fails_the_third_time(path: Path, content: bytes, what: str, hint: str = "") -> None:
        nonlocal written
        written += 1
        if written == 3:
            raise ImgclfError("Cannot write a checkpoint: no room.", hint)
        disk.write_whole(path, content, what, hint)

    monkeypatch.setattr(checkpoint, "write_whole", fails_the_third_time)
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
