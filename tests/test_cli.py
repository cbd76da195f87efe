"""The commands as a person types them: help, mistakes and exit codes, and options of a run."""

import dataclasses
import json
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from command_line import imgclf, process
from imgclf import __version__
from imgclf.cli import main
from imgclf.config import TrainConfig
from imgclf.options import option_of

pytestmark = pytest.mark.usefixtures("same_answer_to_sigterm")

COMMANDS = main.list_commands(click.Context(main))
FIELDS = dataclasses.fields(TrainConfig)


def command_of(name: str) -> click.Command:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    return command


# --- Help


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example_that_parses(command: str):
    result = imgclf(command, "--help")
    assert result.exit_code == 0
    lines = [line.strip() for line in result.output.splitlines()]
    examples = [line for line in lines if line.startswith(f"imgclf {command}")]
    assert "Examples:" in lines or "Example:" in lines
    assert examples
    for example in examples:
        # Raises where an option or a number of arguments is wrong; runs nothing.
        main.make_context("imgclf", shlex.split(example)[1:])
        parsed = command_of(command)
        parsed.make_context(command, shlex.split(example)[2:])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_help(command: str):
    for parameter in command_of(command).params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


def test_help_lists_every_command_and_where_to_start():
    result = imgclf("-h")
    assert result.exit_code == 0
    for command in COMMANDS:
        assert f"\n  {command} " in result.output
    assert "imgclf train" in result.output


def test_every_parameter_of_a_run_is_an_option_with_its_meaning_default_and_range():
    shown = " ".join(imgclf("train", "--help", terminal_width=1000).output.split())
    for field in FIELDS:
        option = option_of(field)
        default = str(field.default) or "empty"
        if field.type is bool:
            default = default.lower()
        limits = f"; {option.range_text}" if option.range_text else ""
        text = f"{option.help} [default: {default}{limits}]"
        assert f" --{field.name.replace('_', '-')}" in shown
        assert " ".join(text.split()) in shown, field.name


def test_help_names_every_kind_of_test_time_augmentation():
    from imgclf.evaluation.test_time_augmentation import KINDS

    assert "|".join(KINDS) in imgclf("evaluate", "--help").output.split()


def test_version_is_printed():
    assert imgclf("--version").output == f"imgclf, version {__version__}\n"


def test_help_names_the_command_under_python_m():
    result = subprocess.run(
        [sys.executable, "-m", "imgclf", "--help"], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0
    assert result.stdout.startswith("Usage: imgclf [OPTIONS] COMMAND")


# --- Mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("trian", "No such command 'trian'. Did you mean 'train'?"),
        ("predcit", "No such command 'predcit'. Did you mean 'predict'?"),
        ("train --epoch 3", "No such option '--epoch'. (Did you mean one of: '--epochs',"),
        (
            "train --batchsize 3",
            "No such option '--batchsize'. (Did you mean one of: '--batch-size',",
        ),
        ("train --epochs 3.5", "Invalid value for '--epochs': '3.5' is not a valid integer."),
        ("train --epochs", "Option '--epochs' requires an argument."),
        ("train --ema perhaps", "Invalid value for '--ema': 'perhaps' is not a valid boolean."),
        ("train --epochs 0", "--epochs 0 is out of range."),
        ("train --epochs -1", "--epochs -1 is out of range."),
        ("train --batch_size 0", "--batch-size 0 is out of range."),
        ("train --lr nan", "--learning-rate nan is out of range."),
        ("train --seed 9" + "0" * 400, "--seed 9" + "0" * 400 + " is out of range."),
        ("train --model digit_cnn", "--model 'digit_cnn' is unknown. Did you mean 'digits-cnn'?"),
        ("train --optimizer Adamw", "--optimizer 'Adamw' is unknown. Did you mean 'adamw'?"),
        ("train --val-fraction 0.8", "--val-fraction 0.8 and --test-fraction 0.2 leave too"),
        ("train --dataset ''", "--dataset is empty."),
        ("train extra", "Got unexpected extra argument (extra)"),
        ("predict", "Missing argument 'MODEL'."),
        ("predict model.onnx", "Missing argument 'IMAGE...'."),
        ("evaluate --model model.onnx", "Missing option '--dataset'."),
        ("evaluate --dataset digits", "Say what to evaluate: either --model or --run."),
        ("predict models:/digits image.png", "'models:/digits' is no address of a model."),
        ("predict m i --top-k 0", "Invalid value for '--top-k': 0 is not in the range x>=1."),
    ],
)
def test_wrong_usage_exits_with_2_and_says_what_was_meant(arguments: str, message: str):
    result = imgclf(*shlex.split(arguments))
    assert result.exit_code == 2
    assert f"\nError: {message}" in f"\n{result.stderr}"
    assert result.stdout == ""
    assert "Traceback" not in result.output


@pytest.mark.parametrize("name", ["digit", "Digits", "no-such-folder/"])
def test_unknown_data_set_exits_with_2(trained, name: str):
    result = imgclf("train", "--dataset", name)
    assert result.exit_code == 2
    assert f"Error: There is no data set, folder or CSV file named '{name}'" in result.stderr
    assert ("Did you mean 'digits'?" in result.stderr) == name.lower().startswith("digit")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("predict absent.onnx image.png", "Cannot open the model 'absent.onnx': no such file."),
        ("predict . image.png", "Cannot open the model '.': it is a folder."),
        ("export --run 20000101-000000-0000", ""),
    ],
)
def test_failure_exits_with_1_and_one_line_with_a_hint(trained, arguments: str, message: str):
    result = imgclf(*shlex.split(arguments))
    assert result.exit_code == 1
    assert result.stdout == ""
    error, hint = result.stderr.splitlines()
    assert error.startswith(f"Error: {message}")
    assert hint


@pytest.mark.parametrize(
    ("arguments", "blocked", "module"),
    [
        ("train", "torch", "torch"),
        ("train --epochs 1", "mlflow torch torchvision sklearn matplotlib onnx rich", ""),
        ("export", "mlflow torch torchvision sklearn matplotlib onnx rich", ""),
        ("runs", "mlflow torch torchvision sklearn matplotlib onnx rich", ""),
        ("evaluate --model m --dataset d", "mlflow torch torchvision sklearn rich psutil", ""),
        ("train", "psutil", "psutil"),
        ("predict models:/imgclf-digits@champion image.png", "mlflow", "mlflow"),
    ],
)
def test_missing_extra_is_named_with_the_command_that_installs_it(
    arguments: str, blocked: str, module: str
):
    result = process(*arguments.split(), blocked=blocked)
    assert result.returncode == 1
    error, hint = result.stderr.splitlines()
    assert error.startswith(f"Error: This command needs '{module}")
    assert error.endswith("', which is not installed.")
    assert hint == "In imgclf's repository: pip install '.[train]'"


@pytest.mark.parametrize(
    "module", ["fastapi", "uvicorn", "httptools", "prometheus_client", "python_multipart"]
)
def test_missing_part_of_the_server_is_named_with_what_installs_it(module: str):
    result = process("serve", "model.onnx", blocked=module)
    assert result.returncode == 1
    error, hint = result.stderr.splitlines()
    assert error == f"Error: This command needs '{module}', which is not installed."
    assert hint == "In imgclf's repository: pip install '.[serve]'"


def test_broken_installation_is_not_hidden_behind_an_extra():
    result = process("predict", "model.onnx", "image.png", blocked="onnxruntime")
    assert result.returncode == 1
    assert "ModuleNotFoundError: No module named 'onnxruntime'" in result.stderr


# --- Train


def test_options_reach_the_run(trained, tmp_path: Path):
    """Dashes and underscores, the alias, and a boolean with a value, as MLflow passes them."""
    given = shlex.split(
        "--epochs 1 --batch_size 128 --lr 0.004 --ema true --weight-decay=0.02"
        " --label_smoothing=0.125 --run-name 'by hand'"
    )
    result = imgclf("train", *given, "--runs-dir", tmp_path)
    assert result.exit_code == 0, result.output
    expected = TrainConfig(
        epochs=1,
        batch_size=128,
        learning_rate=0.004,
        ema=True,
        weight_decay=0.02,
        label_smoothing=0.125,
        run_name="by hand",
        runs_dir=str(tmp_path),
    ).to_dict()
    (journal,) = tmp_path.glob("*/journal.jsonl")
    entries = [json.loads(line) for line in journal.read_text().splitlines()]
    (recorded,) = [entry["content"]["values"] for entry in entries if entry["kind"] == "parameters"]
    # What was "auto" is recorded as what it came to.
    settled = {"model", "norm_layer", "device", "precision", "threads"}
    assert set(recorded) == set(expected)
    assert {name: recorded[name] for name in recorded if name not in settled} == {
        name: str(expected[name]) for name in expected if name not in settled
    }


def test_a_recipe_is_saved_before_training_starts(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    arguments = ["--dataset", "nowhere", "--epochs", "7", "--save-recipe", str(path)]
    result = CliRunner().invoke(main, ["train", *arguments])
    assert result.exit_code == 2
    assert "epochs: 7" in path.read_text()


# --- Ctrl-C


@pytest.mark.parametrize("command", ["train", "export"])
def test_ctrl_c_while_a_library_is_imported_is_one_line_and_the_exit_code_of_shells(command: str):
    code = (
        "import os, signal, sys\n"
        "class PressesCtrlC:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('imgclf.tracking', 'imgclf.pipeline'):\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sys.meta_path.insert(0, PressesCtrlC())\n"
        "from imgclf.cli import main\n"
        "main(prog_name='imgclf')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, command], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Interrupted.\n")
