"""The next command, ready to be typed in the shell that this one was typed in."""

import os
import shlex
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

from imgclf.tracking.identity import adopted_run


def next_command(command: str, **values: str) -> str:
    """Return a command of ours as it can be typed in the shell that this one was typed in.

    Args:
        command: ``train``, ``export`` or ``predict``.
        values: its options; for ``predict``, its arguments.
    """
    if _in_runners_environment():
        return _runner_command("-e", command, **values)
    own = ["imgclf"] if shutil.which("imgclf") else [shown_path(sys.executable), "-m", "imgclf"]
    if command == "predict":
        return shlex.join([*own, command, *values.values()])
    options = [part for name, value in values.items() for part in (f"--{name}", value)]
    return shlex.join([*own, command, *options])


def resume_command(run: str, runs_dir: Path, adopted: str = "") -> str:
    """Return the command that goes on with a run, as it can be typed.

    Args:
        run: imgclf's id of it.
        runs_dir: where its folder is.
        adopted: MLflow's id of the run that the runner is to open; empty: that of this process.
    """
    elsewhere = {} if runs_dir == Path("runs").resolve() else {"runs-dir": shown_path(runs_dir)}
    if adopted := adopted or adopted_run():
        # Without its id, the runner would open another run.
        return _runner_command("--run-id", adopted, resume=adopted, **elsewhere)
    return next_command("train", resume=run, **elsewhere)


def _runner_command(*options: str, **parameters: str) -> str:
    given = [part for pair in parameters.items() for part in ("-P", "=".join(pair))]
    manager = [] if _in_conda() else ["--env-manager", "uv"]
    return shlex.join([*mlflow_command(), "run", ".", *manager, *options, *given])


def mlflow_command() -> list[str]:
    """Return how mlflow is called."""
    if _in_runners_environment():
        return ["mlflow"] if _in_conda() else ["uvx", f"mlflow@{version('mlflow')}"]
    return ["mlflow"] if shutil.which("mlflow") else [shown_path(sys.executable), "-m", "mlflow"]


def _in_runners_environment() -> bool:
    """Tell whether the runner made the environment of this process; the shell has another."""
    return bool(adopted_run()) and not shutil.which("imgclf")


def _in_conda() -> bool:
    return os.environ.get("CONDA_PREFIX") == sys.prefix


def shown_path(path: "str | os.PathLike[str]") -> str:
    """Return a path as it can be typed: relative where it lies below the current folder.

    Under the runner it is absolute: the shell may be in another folder.
    """
    absolute = Path(os.path.abspath(path))
    if adopted_run() or not absolute.is_relative_to(Path.cwd()):
        return str(absolute)
    return str(absolute.relative_to(Path.cwd()))
