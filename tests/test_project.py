"""The project as ``mlflow run`` sees it: real runner, real processes, a checkout of its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("imgclf", "mlflow_project"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("MLproject", "conda.yaml", "requirements.lock"):
        shutil.copy(ROOT / name, folder)
    return folder


def mlflow_run(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if "MLFLOW" not in key}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    return subprocess.run(
        [sys.executable, "-m", "mlflow", "run", ".", "--env-manager", "local", *arguments],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def runs_of_kind(client: MlflowClient, kind: str) -> list[Run]:
    return list(client.search_runs(["0"], f"tags.`imgclf.kind` = '{kind}'"))


def test_train_export_predict_and_evaluate_through_the_runner(checkout):
    done = mlflow_run(
        checkout,
        "-P",
        "epochs=2",
        "-P",
        "batch_size=32",
        "-P",
        "run_name=two words",
        "-P",
        "ema=true",
    )
    assert done.returncode == 0, done.stderr
    client = MlflowClient(tracking_uri=f"sqlite:///{checkout}/mlflow.db")
    (run,) = client.search_runs(["0"])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "two words"
    assert run.data.tags["imgclf.kind"] == "train"
    assert run.data.params["batch_size"] == "32"
    assert run.data.params["optimizer"] == "adamw", "what was not given is logged as well"
    (config_path,) = checkout.glob("runs/*/model/config.json")
    config = json.loads(config_path.read_text())
    assert (config["epochs"], config["batch_size"], config["ema"]) == (2, 32, True)
    run_id = run.data.tags["imgclf.run_id"]
    assert f"export --run {run_id}" in done.stdout

    done = mlflow_run(checkout, "-e", "export")
    assert done.returncode == 0, done.stderr
    (opened,) = runs_of_kind(client, "export")
    assert opened.data.tags["imgclf.training_run"] == run.info.run_id
    assert "export/max_scaled_difference" not in opened.data.metrics
    trained = client.get_run(run.info.run_id)
    assert trained.data.metrics["export/top1_agreement"] == 1
    assert trained.info.status == "FINISHED"
    assert trained.info.end_time == run.info.end_time, "an export does not reopen the run"
    champion = client.get_model_version_by_alias("imgclf-digits", "champion")
    assert champion.run_id == run.info.run_id

    folder = checkout / "exports" / "digits"
    model, image = folder / "model.onnx", folder / "example.png"
    for address in (str(model), "models:/imgclf-digits@champion"):
        parameters = ("-P", f"model={address}", "-P", f"image={image}")
        done = mlflow_run(checkout, "-e", "predict", *parameters)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"{image}: ")

    parameters = ("-P", f"run={run_id}", "-P", "dataset=digits", "-P", "split=test")
    parameters += ("-P", "tta=shift")
    done = mlflow_run(checkout, "-e", "evaluate", *parameters)
    assert done.returncode == 0, done.stderr
    (opened,) = runs_of_kind(client, "evaluate")
    assert opened.info.status == "FINISHED"
    assert opened.data.tags["imgclf.training_run"] == run.info.run_id
    assert opened.data.params["split"] == "test"
    assert opened.data.params["tta"] == "shift"
    assert "with test-time augmentation: shift" in done.stdout
    loss, plain_loss = opened.data.metrics["test/loss"], trained.data.metrics["test/loss"]
    assert loss != pytest.approx(plain_loss, rel=1e-3)
    assert loss < 2.3  # it answers: guessing costs ln 10
    assert client.list_artifacts(opened.info.run_id, "test")


def test_a_wrong_option_fails_under_the_runner_and_is_no_training_run(checkout):
    done = mlflow_run(checkout, "-P", "epochs=many", "--experiment-name", "wrong option")
    assert done.returncode != 0
    assert "'many' is not a valid integer" in done.stderr
    assert "Traceback" not in done.stderr.partition("ERROR mlflow")[0]
    client = MlflowClient(tracking_uri=f"sqlite:///{checkout}/mlflow.db")
    experiment = client.get_experiment_by_name("wrong option")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FAILED"


@pytest.mark.parametrize(
    ("signal_number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_a_stopped_training_is_recorded_as_killed(signal_number, exit_code, tmp_path):
    environment = {key: value for key, value in os.environ.items() if "MLFLOW" not in key}
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "imgclf", "train", "--epochs", "10000"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        # A shell's background jobs, the tests among them, begin with Ctrl-C ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "2/10000" in line:
            break
    process.send_signal(signal_number)
    assert "ending the run as KILLED" in process.stdout.read()
    assert process.wait(timeout=60) == exit_code
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    (run,) = client.search_runs(["0"])
    assert run.info.status == "KILLED"
    assert run.data.metrics["best/epoch"] >= 1
