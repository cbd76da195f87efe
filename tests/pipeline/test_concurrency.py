"""Trainings, exports and a user interface at once: on one database, one cache, for one alias."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

import imgclf
from imgclf.predict import Predictor
from imgclf.tracking.journal import run_folders
from imgclf.tracking.sent import read_sent
from imgclf.verify import replay
from model_files import write_sealed
from tracking_server import TrackingServer, holds_all

pytestmark = pytest.mark.faults

EPOCHS = 4
# What tells a person of a fault that is none of theirs.
FAULTS = ("locked", "traceback", "integrityerror", "sqlalchemy", "not sent", "not recorded")


class Command:
    """A command of imgclf in a process of its own."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "imgclf", *arguments],
            cwd=folder,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end(self) -> str:
        """Wait for its end, make sure that all went well, and return what it said."""
        said, _ = self._process.communicate()
        assert self._process.returncode == 0, said
        assert_no_faults(said)
        return said


def assert_no_faults(said: str) -> None:
    assert [fault for fault in FAULTS if fault in said.lower()] == [], said


class Reader:
    """A person who looks at the user interface all the time."""

    def __init__(self, server: TrackingServer) -> None:
        self._server = server
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.seen: list[str] = []
        self.errors: list[Exception] = []

    def __enter__(self) -> "Reader":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        client = self._server.client()
        while not self._ended.wait(0.5):
            try:
                requests.get(self._server.address, timeout=60).raise_for_status()
                ids = [found.experiment_id for found in client.search_experiments()]
                for run in client.search_runs(ids):
                    self.seen.append(run.info.status)
                    for name in run.data.metrics:
                        client.get_metric_history(run.info.run_id, name)
            except (requests.RequestException, MlflowException) as error:
                self.errors.append(error)


def train_command(place: Path, photos: Path, *options: str, **environment: str) -> Command:
    arguments = ["--dataset", str(photos), "--data-dir", str(place / "data"), "--threads", "1"]
    return Command(place, "train", *arguments, *options, **environment)


def assert_decoded_once(place: Path) -> None:
    (entry,) = (place / "data" / "decoded").iterdir()
    assert {path.name for path in entry.iterdir()} == {"pixels.raw", "images.json"}


def assert_answers_as_proved(file: Path) -> None:
    assert replay(Predictor(file)).failures == ()


def assert_whole(client: MlflowClient, folder: Path, epochs: int) -> None:
    run = holds_all(client, folder)
    assert run.info.status == "FINISHED"
    for name in ("train/loss", "val/accuracy", "lr"):
        history = client.get_metric_history(run.info.run_id, name)
        assert [point.step for point in history] == list(range(1, epochs + 1))


@dataclass(frozen=True)
class Trained:
    """Two runs on the same images, by imgclf's ids."""

    worse: str
    better: str
    place: Path


@pytest.fixture(scope="module")
def photos(digit_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images under a name that no other test trains on: the alias is this file's own."""
    return Path(shutil.copytree(digit_files, tmp_path_factory.mktemp("images") / "at-once"))


@pytest.fixture(scope="module")
def at_once(
    trained: imgclf.TrainResult, photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    """Two trainings and an export at once, on a database whose user interface somebody reads."""
    place = tmp_path_factory.mktemp("at_once")
    server = TrackingServer(place, os.environ["MLFLOW_TRACKING_URI"])
    server.start()
    try:
        with Reader(server) as reader:
            runs = {"worse": ("--learning-rate", "1e-8"), "better": ("--learning-rate", "3e-3")}
            trainings = [
                train_command(place, photos, "--epochs", str(EPOCHS), "--runs-dir", name, *options)
                for name, options in runs.items()
            ]
            export = Command(place, "export", "--run", trained.run_id)
            said = export.end()
            for training in trainings:
                training.end()
    finally:
        server.kill()
    assert "proved" in said
    assert reader.errors == []
    assert {"RUNNING", "FINISHED"} <= set(reader.seen)
    assert_no_faults(server.log.read_text())
    worse, better = (run_folders(place / name)[0].name for name in runs)
    return Trained(worse, better, place)


@pytest.mark.slow
def test_trainings_and_an_export_at_once_are_recorded_whole(
    at_once: Trained, trained: imgclf.TrainResult
) -> None:
    client = MlflowClient()
    for name in ("worse", "better"):
        (folder,) = run_folders(at_once.place / name)
        assert_whole(client, folder, EPOCHS)
    assert_decoded_once(at_once.place)
    assert_answers_as_proved(at_once.place / "exports" / "digits" / "model.onnx")
    versions = client.search_model_versions("name = 'imgclf-digits'")
    assert [v for v in versions if v.run_id == trained.mlflow_run_id]


class Exports:
    """A process that starts exports at the very same moment."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("simultaneous.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def run(self, orders: list[dict[str, Any]], rounds: int = 1) -> list[list[dict[str, Any]]]:
        """Return, for each order, what came of it in each round."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = json.dumps({"orders": orders, "rounds": rounds}).encode()
        self._process.stdin.write(line + b"\n")
        self._process.stdin.flush()
        answers = json.loads(self._process.stdout.readline())
        for answer in answers:
            assert_no_faults(answer["printed"])
            assert [one["error"] for one in answer["rounds"]] == [""] * rounds
        return [answer["rounds"] for answer in answers]

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module")
def exports() -> Iterator[Exports]:
    exports = Exports()
    yield exports
    exports.close()


def logged_models(client: MlflowClient, mlflow_run_id: str) -> Counter[tuple[str, str]]:
    experiment_id = client.get_run(mlflow_run_id).info.experiment_id
    found = client.search_logged_models([experiment_id], f"source_run_id = '{mlflow_run_id}'")
    return Counter((model.name, str(model.status)) for model in found)


def mlflow_id(place: Path, name: str) -> str:
    (folder,) = run_folders(place / name)
    return read_sent(folder).mlflow_run_id or ""


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [1, 3])
def test_exports_of_the_same_runs_at_once_leave_one_model_each_and_the_better_champion(
    rounds: int, at_once: Trained, exports: Exports, tmp_path: Path
) -> None:
    """Into one folder: whoever comes last, it holds one whole export."""
    client, model_name = MlflowClient(), "imgclf-at-once"
    ids = {name: mlflow_id(at_once.place, name) for name in ("worse", "better")}
    for _ in range(rounds):
        orders = [
            {"action": "export", "run": run, "exports_dir": str(tmp_path)}
            for run in (at_once.worse, at_once.better) * 2
        ]
        answers = [answer for (answer,) in exports.run(orders)]
        found = client.search_model_versions(f"name = '{model_name}'")
        versions = {version.run_id: version for version in found}
        assert set(versions) == set(ids.values())
        assert len(found) == len(ids)
        for (name, mlflow_run_id), pair in zip(
            ids.items(), (answers[::2], answers[1::2]), strict=True
        ):
            registered = str(versions[mlflow_run_id].version)
            assert [answer["version"] for answer in pair] == [registered, registered], name
            one_each = {("onnx", "READY"): 1}
            one_each[("pytorch", "READY")] = 1
            assert logged_models(client, mlflow_run_id) == one_each
        champion = client.get_model_version_by_alias(model_name, "champion")
        assert champion.run_id == ids["better"]
        assert all(answer["is_champion"] for answer in answers[1::2])
        assert [path.name for path in tmp_path.iterdir()] == ["at-once"]
        assert_answers_as_proved(tmp_path / "at-once" / "model.onnx")
        remove_all(client, model_name, ids.values())


def remove_all(client: MlflowClient, model_name: str, mlflow_run_ids: Any) -> None:
    client.delete_registered_model(model_name)
    for mlflow_run_id in mlflow_run_ids:
        experiment_id = client.get_run(mlflow_run_id).info.experiment_id
        query = f"source_run_id = '{mlflow_run_id}'"
        for model in client.search_logged_models([experiment_id], query):
            client.delete_logged_model(model.model_id)


@pytest.mark.parametrize("rounds", [20, pytest.param(500, marks=pytest.mark.slow)])
def test_of_exports_that_race_for_the_alias_the_better_one_gets_it(
    rounds: int,
    trained: imgclf.TrainResult,
    exported: imgclf.ExportResult,
    exports: Exports,
    tmp_path: Path,
) -> None:
    """After each round the alias is taken away, so that each of them may be the first."""
    proto = onnx.load_from_string(exported.model.read_bytes())
    orders = []
    for accuracy in (0.9, 0.7, 0.8):
        proto.doc_string = str(accuracy)
        file = tmp_path / f"{accuracy}.onnx"
        write_sealed(proto, file)
        orders.append(
            {
                "action": "register",
                "run": trained.run_id,
                "file": str(file),
                "dataset": f"race of {rounds}",
                "val_accuracy": accuracy,
            }
        )
    best, *others = exports.run(orders, rounds)
    (best_version,) = {answer["version"] for answer in best}
    # The alias stays after the last round.
    assert {answer["champion"] for answer in best[:-1]} == {best_version}
    champion = MlflowClient().get_model_version_by_alias(f"imgclf-race of {rounds}", "champion")
    assert str(champion.version) == best_version
    assert all(answer["is_champion"] for answer in best)
    # The race was one: the better one was not always the first.
    reasons = Counter(answer["reason"] == "the first version" for answer in best)
    assert rounds < 500 or min(reasons[True], reasons[False]) > 0
    assert {answer["version"] for other in others for answer in other}.isdisjoint({best_version})


@pytest.mark.slow
@pytest.mark.parametrize("number", range(3))
def test_four_trainings_create_the_database_and_the_cache_together(
    number: int, photos: Path, tmp_path: Path
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    server = TrackingServer(tmp_path, uri)
    trainings = [
        train_command(
            tmp_path,
            photos,
            "--epochs",
            str(1 + seed),
            "--seed",
            str(seed),
            "--runs-dir",
            f"runs{seed}",
            MLFLOW_TRACKING_URI=uri,
        )
        for seed in range(4)
    ]
    for training in trainings:
        training.end()
    server.start()
    try:
        folders = [run_folders(tmp_path / f"runs{seed}")[0] for seed in range(4)]
        exporting = [
            Command(tmp_path, "export", "--run", folder.name, MLFLOW_TRACKING_URI=uri)
            for folder in folders
        ]
        for export in exporting:
            assert "proved" in export.end()
    finally:
        server.kill()
    assert_no_faults(server.log.read_text())
    assert_decoded_once(tmp_path)
    client = MlflowClient(tracking_uri=uri)
    accuracies = {}
    for folder in folders:
        mlflow_run_id = read_sent(folder).mlflow_run_id or ""
        accuracies[mlflow_run_id] = client.get_run(mlflow_run_id).data.metrics["best/val_accuracy"]
    versions = client.search_model_versions("name = 'imgclf-at-once'")
    assert Counter(version.run_id for version in versions) == Counter(accuracies.keys())
    champion = client.get_model_version_by_alias("imgclf-at-once", "champion")
    assert accuracies[champion.run_id or ""] == max(accuracies.values())
    assert_answers_as_proved(tmp_path / "exports" / "at-once" / "model.onnx")
