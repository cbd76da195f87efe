"""The project as ``mlflow run`` sees it: real runner, real processes, a checkout of its own."""

import fcntl
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from other_process import other_process

ROOT = Path(__file__).parent.parent
RUNNER = [sys.executable, "-u", "-m", "mlflow", "run", ".", "--env-manager", "local"]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("imgclf", "mlflow_project"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("MLproject", "conda.yaml", "requirements.lock"):
        shutil.copy(ROOT / name, folder)
    return folder


def without_mlflow() -> dict[str, str]:
    """This process's environment, with this Python first and no word of MLflow."""
    environment = {key: value for key, value in os.environ.items() if "MLFLOW" not in key}
    place = Path(sys.executable).parent
    return {**environment, "PATH": f"{place}{os.pathsep}{environment['PATH']}"}


def mlflow_run(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*RUNNER, *arguments],
        cwd=checkout,
        env=without_mlflow(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def runs_of_kind(client: MlflowClient, kind: str) -> list[Run]:
    return list(client.search_runs(["0"], f"tags.`imgclf.kind` = '{kind}'"))


@pytest.fixture(scope="module")
def client(checkout: Path) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{checkout}/mlflow.db")


@pytest.fixture(scope="module")
def training(checkout: Path) -> str:
    """What a training through the runner has printed."""
    options = ("epochs=2", "batch_size=32", "run_name=two words", "ema=true")
    done = mlflow_run(checkout, *(part for option in options for part in ("-P", option)))
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def trained(training: str, client: MlflowClient) -> Run:
    """Its run, the runner's own and the only one, as it ended."""
    (run,) = client.search_runs(["0"])
    return run


@pytest.fixture(scope="module")
def exported(checkout: Path, trained: Run) -> Path:
    """The folder of its export through the runner."""
    done = mlflow_run(checkout, "-e", "export")
    assert done.returncode == 0, done.stderr
    return checkout / "exports" / "digits"


def test_a_training_through_the_runner_is_recorded_with_all_options(checkout, training, trained):
    assert trained.info.status == "FINISHED"
    assert trained.info.run_name == "two words"
    assert trained.data.tags["imgclf.kind"] == "train"
    assert trained.data.params["batch_size"] == "32"
    assert trained.data.params["optimizer"] == "adamw", "what was not given is logged as well"
    run_id = trained.data.tags["imgclf.run_id"]
    config = json.loads((checkout / "runs" / run_id / "model" / "config.json").read_text())
    assert (config["epochs"], config["batch_size"], config["ema"]) == (2, 32, True)
    assert f"export --run {run_id}" in training


def test_an_export_through_the_runner_has_a_run_of_its_own(client, trained, exported):
    assert (exported / "model.onnx").exists()
    (opened,) = runs_of_kind(client, "export")
    assert opened.data.tags["imgclf.training_run"] == trained.info.run_id
    assert "export/max_scaled_difference" not in opened.data.metrics
    run = client.get_run(trained.info.run_id)
    assert run.data.metrics["export/top1_agreement"] == 1
    assert run.info.status == "FINISHED"
    assert run.info.end_time == trained.info.end_time, "an export does not reopen the run"
    champion = client.get_model_version_by_alias("imgclf-digits", "champion")
    assert champion.run_id == run.info.run_id


@pytest.mark.slow
def test_the_champion_answers_through_the_runner(checkout, exported):
    image = exported / "example.png"
    parameters = ("-P", "model=models:/imgclf-digits@champion", "-P", f"image={image}")
    done = mlflow_run(checkout, "-e", "predict", *parameters)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{image}: ")


@pytest.mark.slow
def test_an_evaluation_through_the_runner_has_a_run_of_its_own(checkout, client, trained):
    run_id = trained.data.tags["imgclf.run_id"]
    options = (f"run={run_id}", "dataset=digits", "split=test", "tta=shift")
    given = [part for option in options for part in ("-P", option)]
    done = mlflow_run(checkout, "-e", "evaluate", *given)
    assert done.returncode == 0, done.stderr
    (opened,) = runs_of_kind(client, "evaluate")
    assert opened.info.status == "FINISHED"
    assert opened.data.tags["imgclf.training_run"] == trained.info.run_id
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


def stopped(
    folder: Path, number: signal.Signals, until: str, *options: str, unread: bool = False
) -> tuple[str, int]:
    """Start a training, send a signal after a line, and return what it prints and its exit code.

    Args:
        folder: where it is started.
        number: the signal; it is answered within ten seconds.
        until: what the line holds.
        options: of the training.
        unread: whether nobody reads any more when the signal comes.
    """
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "imgclf", "train", *options],
        cwd=folder,
        env=without_mlflow(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A shell's background jobs, the tests among them, begin with Ctrl-C ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if until in line:
            break
    if unread:
        process.stdout.close()
    process.send_signal(number)
    exit_code = process.wait(timeout=10)
    return said if unread else said + process.stdout.read(), exit_code


@pytest.mark.faults
def test_a_stopped_training_is_recorded_as_killed_and_goes_on_where_it_was(tmp_path):
    """By SIGTERM; then by Ctrl-C, of which ``tee`` dies first."""
    said, exit_code = stopped(tmp_path, signal.SIGTERM, "2/10000", "--epochs", "10000")
    assert exit_code == 143
    assert "ending the run as KILLED" in said
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    (run,) = client.search_runs(["0"])
    assert run.info.status == "KILLED"
    run_id = run.data.tags["imgclf.run_id"]
    command = next(line for line in said.splitlines() if line.startswith("resume it:"))
    assert command.endswith(f"train --resume {run_id}")
    stopped_in = client.get_metric_history(run.info.run_id, "train/loss")[-1].step
    assert stopped_in >= 2

    until = f"{stopped_in + 2}/10000"
    options = ("--resume", run.info.run_id)
    said, exit_code = stopped(tmp_path, signal.SIGINT, until, *options, unread=True)
    assert exit_code == 130
    assert f"resuming run {run_id} in epoch {stopped_in + 1}" in said
    (run,) = client.search_runs(["0"])
    assert run.info.status == "KILLED"
    steps = [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) >= stopped_in + 2
    samples = client.get_metric_history(run.info.run_id, "system/cpu_utilization_percentage")
    numbers = [point.step for point in samples]
    assert numbers == list(range(len(numbers)))


@pytest.mark.slow
@pytest.mark.faults
def test_a_training_whose_terminal_is_closed_is_recorded_as_killed(tmp_path):
    ours, its = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "imgclf", "train", "--epochs", "10000"],
        cwd=tmp_path,
        env=without_mlflow(),
        stdin=its,
        stdout=its,
        stderr=its,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(its)
    said = b""
    while b"2/10000" not in said:
        said += os.read(ours, 10_000)
    os.close(ours)
    assert process.wait(timeout=10) == 129
    assert list(tmp_path.glob("runs/*/checkpoints/*.safetensors"))
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    (run,) = client.search_runs(["0"])
    assert run.info.status == "KILLED"


@pytest.mark.slow
@pytest.mark.faults
def test_a_run_goes_on_through_the_runner_in_its_own_run_alone(checkout):
    """Ctrl-C reaches the runner and the trainer; the runner passes it on once more."""
    process = subprocess.Popen(
        [*RUNNER, "--experiment-name", "goes on", "-P", "epochs=60"],
        cwd=checkout,
        env=without_mlflow(),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "2/60" in line:
            break
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does it
    said = process.stdout.read()
    assert process.wait(timeout=60) != 0
    client = MlflowClient(tracking_uri=f"sqlite:///{checkout}/mlflow.db")
    experiment = client.get_experiment_by_name("goes on")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    own = ("--run-id", run.info.run_id, "-P", f"resume={run.info.run_id}")
    assert " ".join(own) in said

    refused = mlflow_run(checkout, "--experiment-name", "goes on", *own[2:])
    assert refused.returncode != 0
    assert re.search(rf"mlflow run \. .*{' '.join(own)}", refused.stderr)
    done = mlflow_run(checkout, *own)
    assert done.returncode == 0, done.stderr
    run = client.get_run(run.info.run_id)
    assert run.info.status == "FINISHED"
    steps = [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")]
    assert steps == list(range(1, 61))


STARTS_A_STEP = """
import subprocess, sys

process = subprocess.Popen(
    [sys.executable, "-c", sys.argv[2]], cwd=sys.argv[1], stdout=subprocess.PIPE
)
process.stdout.readline()
print(process.pid, flush=True)
sys.stdin.read()
"""

SLEEPS = """
import time
from mlflow_project.step import _end_with_runner

_end_with_runner()
print("runs", flush=True)
time.sleep(100)
"""

TAKES_ITS_TIME_TO_END = """
import time
from pathlib import Path
from imgclf.interruption import interruptions
from mlflow_project.step import _end_with_runner

_end_with_runner()
with interruptions() as interruption, interruption.held():
    print("runs", flush=True)
    while not interruption.requested():
        time.sleep(0.1)
    time.sleep(3)  # longer than it takes to see that the runner is gone
    Path({witness!r}).touch()
"""


@pytest.mark.faults
def test_a_step_does_not_outlive_its_runner():
    with other_process(STARTS_A_STEP, ROOT, SLEEPS) as (process, said):
        step = psutil.Process(int(said))
        process.kill()
    assert psutil.wait_procs([step], timeout=60)[1] == []


@pytest.mark.faults
def test_a_step_that_was_asked_to_end_with_its_runner_is_not_asked_twice(tmp_path):
    """As where a batch system signals all processes of a job."""
    witness = tmp_path / "witness"
    step_code = TAKES_ITS_TIME_TO_END.format(witness=str(witness))
    with other_process(STARTS_A_STEP, ROOT, step_code) as (process, said):
        step = psutil.Process(int(said))
        step.terminate()
        process.terminate()
    assert psutil.wait_procs([step], timeout=60)[1] == []
    assert witness.exists()


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_training_ends_as_killed_where_the_runner_alone_is_ended(checkout, number):
    name = f"ended by {number.name}"
    process = subprocess.Popen(
        [*RUNNER, "--experiment-name", name, "-P", "epochs=10000"],
        cwd=checkout,
        env=without_mlflow(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "2/10000" in line:
            break
    (trainer, *_) = psutil.Process(process.pid).children()
    process.send_signal(number)
    said = process.stdout.read()  # until the trainer has closed it, too
    assert psutil.wait_procs([trainer], timeout=60)[1] == []
    process.wait(timeout=60)
    assert "resume=" in said
    client = MlflowClient(tracking_uri=f"sqlite:///{checkout}/mlflow.db")
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "KILLED"
