"""The commands as a person types them: help, answers, mistakes and exit codes."""

import dataclasses
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from imgclf import __version__
from imgclf.cli import main
from imgclf.config import TrainConfig
from imgclf.options import option_of
from imgclf.recipes import DATASETS, MODELS

COMMANDS = sorted(main.commands)
FIELDS = dataclasses.fields(TrainConfig)


@pytest.fixture(autouse=True)
def same_answer_to_sigterm() -> Iterator[None]:
    """`imgclf train` sets its own."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def imgclf(*arguments: "str | os.PathLike[str]", **options: Any) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(main, [os.fspath(argument) for argument in arguments], **options)


def process(
    *arguments: "str | os.PathLike[str]", blocked: str = ""
) -> "subprocess.CompletedProcess[str]":
    """Run a command in a process of its own, where some modules cannot be imported."""
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {blocked.split()!r}:\n"
        "            raise ModuleNotFoundError(f\"No module named '{name}'\", name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from imgclf.cli import main\n"
        "main(prog_name='imgclf')\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        timeout=120,
    )


@pytest.fixture(scope="module")
def model(exported) -> Path:
    return Path(exported.model).absolute()


@pytest.fixture
def folder(digit_files: Path, tmp_path: Path) -> Path:
    """Three images, the second of which cannot be read."""
    for name, content in (
        ("a.png", next((digit_files / "0").iterdir()).read_bytes()),
        ("b.png", b"no image"),
        ("c.png", next((digit_files / "2").iterdir()).read_bytes()),
    ):
        (tmp_path / name).write_bytes(content)
    return tmp_path


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
        parsed = main.commands[command]
        parsed.make_context(command, shlex.split(example)[2:])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_help(command: str):
    for parameter in main.commands[command].params:
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
    assert hint == "Install it with: pip install 'imgclf[train]'"


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


# --- Predict


def test_json_answers_every_image_and_reports_the_unreadable_one(model: Path, folder: Path):
    result = imgclf("predict", model, folder, "--json", "--top-k", "2")
    assert result.exit_code == 1
    first, second, third = json.loads(result.stdout)
    assert set(second) == {"image", "error"}
    assert second["image"] == str(folder / "b.png")
    assert second["error"].startswith("not an image")
    for answer, name, label in ((first, "a.png", "0"), (third, "c.png", "2")):
        assert list(answer) == ["image", "label", "probability", "top"]
        assert answer["image"] == str(folder / name)
        assert answer["label"] == label
        assert 0.5 < answer["probability"] <= 1
        assert [list(entry) for entry in answer["top"]] == [["label", "probability"]] * 2
        assert answer["top"][0] == {"label": label, "probability": answer["probability"]}
    assert result.stderr == ""


def test_people_read_one_line_for_each_image_and_errors_apart(model: Path, folder: Path):
    result = imgclf("predict", model, folder / "a.png", folder / "b.png", folder / "c.png")
    assert result.exit_code == 1
    expected = json.loads(imgclf("predict", model, folder, "--json").stdout)
    lines = [
        f"{answer['image']}: "
        + "  ".join(f"{entry['label']} {entry['probability']:.2%}" for entry in answer["top"])
        for answer in (expected[0], expected[2])
    ]
    assert result.stdout.splitlines() == lines
    assert len(expected[0]["top"]) == 3
    assert result.stderr == f"Error: {folder / 'b.png'}: {expected[1]['error']}\n"


def test_all_images_answered_exits_with_0(model: Path, folder: Path):
    assert imgclf("predict", model, folder / "a.png", folder / "c.png").exit_code == 0


def test_dash_reads_an_image_from_standard_input(model: Path, folder: Path):
    content = (folder / "c.png").read_bytes()
    result = imgclf("predict", model, folder / "a.png", "-", "--json", input=content)
    assert result.exit_code == 0
    first, second = json.loads(result.stdout)
    assert first["image"] == str(folder / "a.png")
    assert (second["image"], second["label"]) == ("-", "2")


def test_nothing_on_standard_input_is_an_unreadable_image(model: Path):
    result = imgclf("predict", model, "-", input=b"")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: -: not an image")


def test_folder_without_images_is_an_error_and_json_all_the_same(model: Path, tmp_path: Path):
    result = imgclf("predict", model, tmp_path, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == []
    assert result.stderr.startswith(f"Error: No images in {tmp_path}.\n")


def test_names_that_are_no_text_are_answered(model: Path, folder: Path):
    """On Linux a file's name is bytes; as here, not always UTF-8."""
    odd = folder / os.fsdecode(b"caf\xe9.png")
    try:
        odd.write_bytes((folder / "a.png").read_bytes())
    except OSError:
        pytest.skip("this file system wants names in UTF-8")
    plain = process("predict", model, odd, "x" * 300)
    assert plain.returncode == 1
    assert plain.stdout.startswith(f"{odd}: 0 ")
    assert plain.stderr == f"Error: {'x' * 300}: File name too long\n"
    answers = json.loads(process("predict", model, odd, "x" * 300, "--json").stdout)
    assert [answer["image"] for answer in answers] == [str(odd), "x" * 300]


def test_damaged_exif_data_is_no_warning(model: Path, folder: Path):
    from PIL import Image

    exif = Image.Exif()
    exif[0x010F] = "x" * 100
    with Image.open(folder / "a.png") as image:
        image.convert("RGB").save(folder / "photo.jpg", exif=exif.tobytes()[:-90])
    result = process("predict", model, folder / "photo.jpg")
    assert result.returncode == 0
    assert result.stderr == ""


def test_an_address_in_mlflow_answers_as_its_file(model: Path, exported, folder: Path):
    address = f"models:/{exported.registration.name}/{exported.registration.version}"
    result = imgclf("predict", address, folder / "a.png", "--json")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == imgclf("predict", model, folder / "a.png", "--json").stdout


# --- Evaluate


def test_an_evaluation_prints_figures_what_they_are_worth_and_where_it_is(
    exported, model: Path, tmp_path: Path
):
    arguments = ("--dataset", "digits", "--runs_dir", tmp_path / "runs")
    result = imgclf("evaluate", "--model", model, *arguments)
    assert result.exit_code == 0, result.output
    (folder,) = (tmp_path / "runs").iterdir()
    assert f"files     {folder / 'all'}" in result.stdout
    assert f"run       {folder.name}" in result.stdout
    metrics = [
        json.loads(line)["content"]["summary"]
        for line in (folder / "journal.jsonl").read_text().splitlines()
        if '"all/accuracy"' in line
    ]
    assert f"all accuracy {metrics[0]['all/accuracy']:.2%}" in result.stdout
    assert "(1,797 images of digits)" in result.stdout
    assert result.stderr.startswith("Note: the model was trained on this data")
    chosen = imgclf("evaluate", "--model", model, *arguments, "--split", "test")
    assert "(359 images of digits)" in chosen.stdout
    assert chosen.stderr == ""
    augmented = imgclf("evaluate", "--model", model, *arguments, "--split", "test", "--tta", "flip")
    assert "(359 images of digits, with test-time augmentation: flip)" in augmented.stdout


def test_help_names_every_kind_of_test_time_augmentation():
    from imgclf.evaluation.test_time_augmentation import KINDS

    assert "|".join(KINDS) in imgclf("evaluate", "--help").output.split()


# --- Runs


def test_runs_lists_the_trained_run(trained):
    result = imgclf("runs", "--json")
    assert result.exit_code == 0
    (run,) = [run for run in json.loads(result.stdout) if run["run_id"] == trained.run_id]
    assert run["dataset"] == "digits"
    assert run["status"] == "FINISHED"
    assert run["val_accuracy"] == trained.metrics["best/val_accuracy"]
    assert trained.run_id in imgclf("runs").stdout


def test_datasets_lists_the_names_and_describes_a_folder(digit_files: Path, tmp_path: Path):
    listed = CliRunner().invoke(main, ["datasets"]).output
    assert {line.split()[0] for line in listed.splitlines()} == set(DATASETS)

    root = tmp_path / "parts"
    for part in ("train", "test"):
        shutil.copytree(digit_files, root / part)
    shutil.rmtree(root / "test" / "2")
    picture = tmp_path / "samples.png"
    result = CliRunner().invoke(main, ["datasets", str(root), "--picture", str(picture)])
    assert result.exit_code == 0, result.output
    rows = {line.split()[0]: line.split()[1:] for line in result.output.splitlines()[2:7]}
    assert rows["2"] == ["36", "4", "0"]
    assert rows["all"] == ["144", "16", "120"]
    assert "the test images lack the classes: 2" in result.output
    with Image.open(picture) as image:
        assert image.format == "PNG"
        assert min(image.size) > 300


def test_datasets_names_every_unreadable_image(digit_files: Path, tmp_path: Path):
    root = shutil.copytree(digit_files, tmp_path / "digits")
    for path in sorted(root.glob("0/*.png"))[:20]:
        path.write_bytes(b"broken")
    result = CliRunner().invoke(main, ["datasets", str(root)])
    assert result.exit_code == 1
    result = CliRunner().invoke(main, ["datasets", str(root), "--max-bad-images", "1"])
    assert result.exit_code == 0
    assert result.output.count("\n  0/") == 20


def test_datasets_shows_and_clears_what_is_kept_of_decoded_images(
    digit_files: Path, tmp_path: Path
):
    def datasets(*arguments: str) -> str:
        result = CliRunner().invoke(main, ["datasets", *arguments, "--data-dir", str(tmp_path)])
        assert result.exit_code == 0, result.output
        return result.output

    datasets(str(digit_files))
    (entry, total) = datasets("--cache").splitlines()
    assert "160 images" in entry
    assert entry.endswith(str(digit_files.resolve()))
    assert str(tmp_path / "decoded") in total
    assert "removed 0.00 MiB" not in datasets("--clear-cache")
    assert len(datasets("--cache").splitlines()) == 1
    assert list((tmp_path / "decoded").iterdir()) == []


def test_models_lists_every_network_with_its_size():
    result = CliRunner().invoke(main, ["models"])
    for name in MODELS:
        assert name in result.output
    # The two convolutions and dense layers of mnist-cnn on 3x32x32, counted by hand.
    multiply_adds = 32 * 27 * 32 * 32 + 64 * 288 * 14 * 14 + 64 * 7 * 7 * 128 + 128 * 10
    assert f"{multiply_adds:,}" in result.output


def test_a_recipe_is_saved_before_training_starts(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    arguments = ["--dataset", "nowhere", "--epochs", "7", "--save-recipe", str(path)]
    result = CliRunner().invoke(main, ["train", *arguments])
    assert result.exit_code == 2
    assert "epochs: 7" in path.read_text()
