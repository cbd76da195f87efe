"""A run that is killed and goes on ends as one that was never stopped, bit for bit."""

import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient

from faulty_proxy import ERROR, PASS, FaultyProxy
from imgclf.config import TrainConfig
from imgclf.errors import ImgclfError, UsageError
from imgclf.pipeline.resume import find_interrupted, write_start
from imgclf.tracking.identity import RUN_ID_TAG
from imgclf.tracking.journal import FINISHED, JOURNAL_FILE, last_record, read_records, run_folders
from imgclf.tracking.sent import Sent, read_sent, write_sent
from imgclf.tracking.sync import sync_runs
from tracking_server import TrackingServer, wait_until, write_run
from trainings import VALUES, Trainings

pytestmark = pytest.mark.faults

TIMINGS = ("images_per_second", "step_milliseconds", "epoch_seconds")


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainings]:
    trainings = Trainings(tmp_path_factory.mktemp("said") / "output")
    yield trainings
    trainings.close()


@pytest.fixture(scope="module")
def undisturbed(trainings: Trainings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs_dir = tmp_path_factory.mktemp("undisturbed")
    assert trainings.run(runs_dir) == 0
    return only_run(runs_dir)


def only_run(runs_dir: Path) -> Path:
    (folder,) = run_folders(runs_dir)
    return folder


def in_mlflow(folder: Path) -> dict[str, Any]:
    """All that MLflow holds of a run, except times and what the machine did."""
    sent = read_sent(folder)
    client, run_id = MlflowClient(tracking_uri=sent.tracking_uri), sent.mlflow_run_id
    assert run_id is not None
    run = client.get_run(run_id)
    metrics = {
        name: sorted((point.step, point.value) for point in client.get_metric_history(run_id, name))
        for name in run.data.metrics
        if not name.startswith(("system/", "time/")) and name not in TIMINGS
    }
    tags = {name: value for name, value in run.data.tags.items() if name.startswith("imgclf.")}
    del tags[RUN_ID_TAG]
    tags.pop("imgclf.error", None)
    assert run.inputs is not None
    inputs = [(one.dataset.name, one.dataset.digest) for one in run.inputs.dataset_inputs]
    return {
        "status": run.info.status,
        "metrics": metrics,
        "parameters": {k: v for k, v in run.data.params.items() if k != "runs_dir"},
        "tags": tags,
        "inputs": sorted(inputs),
        "artifacts": sorted(artifacts(client, run_id)),
    }


def artifacts(client: MlflowClient, run_id: str, path: str = "") -> Iterator[str]:
    for entry in client.list_artifacts(run_id, path):
        if entry.is_dir:
            yield from artifacts(client, run_id, entry.path)
        else:
            yield entry.path


def assert_equal_runs(folder: Path, undisturbed: Path) -> None:
    weights = "model/weights.safetensors"
    assert (folder / weights).read_bytes() == (undisturbed / weights).read_bytes()
    ours, theirs = in_mlflow(folder), in_mlflow(undisturbed)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert value == theirs[name], name
    assert ours["status"] == "FINISHED"
    # None twice, and none lacking.
    steps = [step for step, _ in ours["metrics"]["train/loss"]]
    assert steps == [1, 2, 3, 4]


MOMENTS = [("half of a checkpoint", 3)]
MORE_MOMENTS = [
    ("third artifact", 3),
    ("half of a record", 6),
    ("step", 30),
    ("before a checkpoint has its name", 2),
    ("between checkpoint and journal", 1),
    ("validation", 1),
    ("best weights", 1),
    ("evaluation at the end", 2),
    ("sending the rest", 1),
]


@pytest.mark.parametrize("moments", [MOMENTS, pytest.param(MORE_MOMENTS, marks=pytest.mark.slow)])
def test_a_run_that_is_killed_again_and_again_ends_as_if_it_never_was(
    moments: list[tuple[str, int]], trainings: Trainings, undisturbed: Path, tmp_path: Path
) -> None:
    run = ""
    for moment, count in moments:
        assert trainings.run(tmp_path, moment, count, resume=run) == -signal.SIGKILL, moment
        run = only_run(tmp_path).name
    assert trainings.run(tmp_path, resume=run) == 0
    assert_equal_runs(only_run(tmp_path), undisturbed)


def has_finished(folder: Path) -> bool:
    last = last_record(folder / JOURNAL_FILE)
    return last is not None and last.content.get("status") == FINISHED


def checkpoints(folder: Path) -> list[Path]:
    return list((folder / "checkpoints").iterdir())


def says(folder: Path, word: str) -> list[int]:
    """Return the times of a run's records that speak of something, in milliseconds since 1970."""
    records = read_records(folder / JOURNAL_FILE)
    return [record.time_ms for record in records if word in str(record.content)]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_a_run_that_is_killed_at_any_moment_ends_as_if_it_never_was(
    seed: int, trainings: Trainings, undisturbed: Path, tmp_path: Path
) -> None:
    """In training at first, then at random moments until one process comes to the end."""
    chance = random.Random(seed)
    times, epochs = says(undisturbed, ""), says(undisturbed, "train/loss")
    steps = max(int(path.stem.removeprefix("step-")) for path in checkpoints(undisturbed))
    longest = (times[-1] - times[0]) / 1000
    step_seconds = (epochs[-1] - epochs[0]) / 1000 / (steps * 3 / 4)
    status = trainings.run(
        tmp_path,
        "step",
        count=chance.randint(1, steps * 3 // 4),
        seconds=chance.uniform(0.01, 1) * step_seconds,
    )
    assert status == -signal.SIGKILL
    assert says(only_run(tmp_path), "samples.png")
    assert len(says(only_run(tmp_path), "train/loss")) < VALUES["epochs"]
    while status == -signal.SIGKILL:
        # Where the machine has become busier, none would come to its end without more time.
        longest *= 1.25
        run = only_run(tmp_path).name
        if has_finished(only_run(tmp_path)):
            # It was killed while the rest was sent: there is nothing to train any more.
            assert [result.failing for result in sync_runs([only_run(tmp_path)])] == [""]
            status = 0
            break
        status = trainings.run(tmp_path, seconds=chance.uniform(0.1, 1) * longest, resume=run)
    assert status == 0
    assert_equal_runs(only_run(tmp_path), undisturbed)


@pytest.mark.slow
def test_a_run_whose_sender_is_killed_with_it_inside_an_upload_loses_nothing(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the server has the file and nobody hears of it, once it has not."""
    server = TrackingServer(tmp_path)
    server.start()
    proxy = FaultyProxy(server.address)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.address)
    trainings = Trainings(tmp_path / "output")
    faults = {"samples.png": PASS, "weights.safetensors": ERROR}

    def kill_both(path: str) -> str:
        fault = faults.pop(path.rpartition("/")[2], "") if "mlflow-artifacts" in path else ""
        if fault:
            for process in psutil.Process(trainings.process.pid).children(recursive=True):
                process.kill()
        return fault or PASS

    proxy.fault = kill_both
    runs_dir = tmp_path / "runs"
    assert trainings.run(runs_dir) == -signal.SIGKILL
    assert list(faults) == ["weights.safetensors"]
    folder = only_run(runs_dir)
    assert trainings.run(runs_dir, resume=folder.name) == -signal.SIGKILL
    assert not faults
    # There was nothing left to train.
    assert has_finished(folder)
    assert [result.failing for result in sync_runs([folder])] == [""]
    assert_equal_runs(folder, undisturbed)
    trainings.close()
    proxy.close()
    server.kill()


@pytest.mark.slow
def test_a_run_that_fails_or_is_asked_twice_to_end_is_over_at_once_and_goes_on(
    trainings: Trainings, undisturbed: Path, tmp_path: Path
) -> None:
    assert trainings.run(tmp_path, "failing step", 30) == 1
    folder = only_run(tmp_path)
    recorded = in_mlflow(folder)
    assert recorded["status"] == "FAILED"
    assert "traceback.txt" in recorded["artifacts"]
    assert "RuntimeError: a mistake of ours" in (folder / "traceback.txt").read_text()

    twice = [signal.SIGTERM, signal.SIGTERM]
    assert trainings.run(tmp_path, "step", 5, twice, resume=folder.name) == -signal.SIGTERM
    wait_until(lambda: in_mlflow(folder)["status"] == "KILLED")
    assert trainings.run(tmp_path, resume=folder.name) == 0
    finished = in_mlflow(folder)
    finished["artifacts"].remove("traceback.txt")
    assert finished == in_mlflow(undisturbed)


def test_a_second_run_of_the_runner_is_refused_with_a_command_that_finds_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_run(tmp_path, ended=False)
    write_start(folder, TrainConfig(), {})
    write_sent(folder, Sent(mlflow_run_id="abc"))
    monkeypatch.setenv("MLFLOW_RUN_ID", "def")
    with pytest.raises(UsageError, match="new, empty run") as caught:
        find_interrupted("abc", tmp_path, {})
    assert caught.value.hint.endswith(f"--run-id abc -P resume=abc -P runs-dir={tmp_path}")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"[" * 100_000,
        b'{"config": {"epochs": "three"}, "overrides": {}}',
        b'{"config": {"epochs": -3}, "overrides": {}}',
        b'{"config": {"surprise": 1}, "overrides": {}}',
        b'{"config": {}, "overrides": [["epochs", 1]]}',
        b'{"config": {}, "overrides": {"surprise": 1}}',
        b'{"config": {}}',
        b"\xff\xfe",
    ],
    ids=range(10),
)
def test_what_a_run_was_to_do_is_refused_where_it_was_changed(
    content: bytes, undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / undisturbed.name
    folder.mkdir()
    for name in (JOURNAL_FILE, "start.json"):
        shutil.copy(undisturbed / name, folder)
    with pytest.raises(UsageError, match="has finished"):
        find_interrupted(folder.name, tmp_path, {})
    (folder / "start.json").write_bytes(content)
    with pytest.raises(ImgclfError, match="missing or damaged") as caught:
        find_interrupted(folder.name, tmp_path, {})
    assert caught.value.hint
