"""What each command answers: on a real model, a real run and real images."""

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from command_line import imgclf, process
from imgclf.cli import main
from imgclf.data.builds import building
from imgclf.recipes import DATASETS, MODELS

pytestmark = pytest.mark.usefixtures("same_answer_to_sigterm")


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


# --- Verify


def test_a_verified_file_tells_what_it_is(model: Path, exported):
    result = imgclf("verify", model)
    assert result.exit_code == 0
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert lines["verified"].startswith("11 golden inputs")
    assert lines["file"].endswith(hashlib.sha256(model.read_bytes()).hexdigest())
    assert "digits-cnn on digits: 10 classes, 8x8 grey, any batch size, opset 20" in lines["model"]
    assert "CPUExecutionProvider; onnxruntime" in lines["runs"]
    assert exported.run.run_id in lines["from"]
    assert lines["proof"] == exported.parity.summary


def test_the_copy_in_the_registry_is_verified_and_proved_again(exported):
    name, version = exported.registration.name, exported.registration.version
    result = imgclf("verify", f"models:/{name}/{version}", "--dataset", "digits")
    assert result.exit_code == 0, result.output
    assert f"SHA-256 {hashlib.sha256(exported.model.read_bytes()).hexdigest()}" in result.stdout
    # The images of the proof that the export made: none that it was trained on.
    assert f"proved    {exported.parity.summary} (test)" in result.stdout
    assert exported.parity.images == 359
    assert result.stderr == ""


def test_a_changed_file_is_not_verified(model: Path, tmp_path: Path):
    content = bytearray(model.read_bytes())
    content[1000] ^= 1
    (tmp_path / "model.onnx").write_bytes(content)
    result = imgclf("verify", tmp_path / "model.onnx")
    assert result.exit_code == 1
    assert "has been changed since it was exported" in result.stderr
    assert result.stdout == ""


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


# --- Runs


def test_runs_lists_the_trained_run(trained):
    result = imgclf("runs", "--json")
    assert result.exit_code == 0
    (run,) = [run for run in json.loads(result.stdout) if run["run_id"] == trained.run_id]
    assert run["dataset"] == "digits"
    assert run["status"] == "FINISHED"
    assert run["val_accuracy"] == trained.metrics["best/val_accuracy"]
    assert trained.run_id in imgclf("runs").stdout


# --- Datasets and models


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


@pytest.mark.skipif(sys.platform != "linux", reason="file names there are always Unicode")
@pytest.mark.parametrize(
    "encoding",
    [
        "ascii",
        pytest.param("utf-8:strict", marks=pytest.mark.slow),
        pytest.param("utf-8:surrogateescape", marks=pytest.mark.slow),
    ],
)
def test_names_that_a_terminal_cannot_show_end_no_command(
    encoding: str, digit_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    root = tmp_path / os.fsdecode(b"caf\xe9")
    shutil.copytree(digit_files, root)
    (root / "0").rename(root / "犬")
    (root / "1" / "broken.png").write_bytes(b"")
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    data = ("--data-dir", str(tmp_path / "data"))
    for arguments in ((root, *data), ("--cache", *data)):
        result = process("datasets", *arguments)
        assert result.returncode == 0, result.stderr
        assert "160 images" in result.stdout or "161 images" in result.stdout


def test_names_are_printed_as_they_are(digit_files: Path, tmp_path: Path):
    """Not as codes of emoji, colours or styles."""
    names = [":dog:", "[red]cat", "[link=x]", "{x}"]
    for label, name in enumerate(names):
        shutil.copytree(digit_files / str(label), tmp_path / name)
    result = CliRunner().invoke(main, ["datasets", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert {line.split()[0] for line in result.output.splitlines()[2:6]} == set(names)


def test_samples_of_hostile_names_and_of_no_images_are_a_picture(tmp_path: Path):
    picture = tmp_path / "samples.png"
    options = ("--picture", str(picture), "--max-bad-images", "1")
    (tmp_path / "broken.png").write_bytes(b"")
    Image.new("L", (8, 8)).save(tmp_path / "good.png")
    lines = "\n" * 5000
    (tmp_path / "x.csv").write_text(f'path,label\ngood.png,"many{lines}lines"\nbroken.png,y\n')
    (tmp_path / "none.csv").write_text("path,label\nbroken.png,x\nabsent.png,y\n")
    for name in ("x.csv", "none.csv"):
        result = CliRunner().invoke(main, ["datasets", str(tmp_path / name), *options])
        assert result.exit_code == 1  # there is too little to train on
        assert isinstance(result.exception, SystemExit)
        with Image.open(picture) as image:
            assert max(image.size) < 3000
        picture.unlink()


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

    left = tmp_path / "decoded" / ".building-left"
    left.mkdir()
    (left / "pixels.raw").write_bytes(bytes(2**20))
    with building(tmp_path / "decoded") as folder:
        for _ in range(2):
            builds = datasets("--cache").splitlines()[:-1]
            assert f"      0.00 MiB  being decoded: {folder.name}" in builds
            assert "      1.00 MiB  left half decoded: .building-left" in builds
        assert "removed 1.00 MiB" in datasets("--clear-cache")
        assert list((tmp_path / "decoded").iterdir()) == [folder]


def test_models_lists_every_network_with_its_size():
    result = CliRunner().invoke(main, ["models"])
    for name in MODELS:
        assert name in result.output
    # The two convolutions and dense layers of mnist-cnn on 3x32x32, counted by hand.
    multiply_adds = 32 * 27 * 32 * 32 + 64 * 288 * 14 * 14 + 64 * 7 * 7 * 128 + 128 * 10
    assert f"{multiply_adds:,}" in result.output
