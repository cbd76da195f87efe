"""Every benchmark answers ``--help``, and comes to its table in its smallest form."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

FOLDER = Path(__file__).parents[1] / "benchmarks"
# What the others share has no command.
SHARED = ("http_clients", "notebook", "rounds", "served_models")
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in SHARED)


def commands(command: click.Command) -> list[list[str]]:
    names = list(command.commands) if isinstance(command, click.Group) else []
    return [[], *([name] for name in names)]


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_answers_help(name: str, monkeypatch: pytest.MonkeyPatch):
    """Whatever it compares with: neither Lightning nor timm is needed for that."""
    monkeypatch.syspath_prepend(str(FOLDER))
    main = runpy.run_path(str(FOLDER / f"{name}.py"))["main"]
    for path in commands(main):
        result = CliRunner().invoke(main, [*path, "--help"])
        assert result.exit_code == 0, result.output
        assert "Usage:" in result.output


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small images, ``train/<class>/<number>.jpg``."""
    root = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for label in "abc":
        (root / "train" / label).mkdir(parents=True)
        for number in range(40):
            pixels = generator.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(root / "train" / label / f"{number}.jpg")
    return root


SMALLEST = {
    "augmentation_speed": "--size 16 --batch 4 --threads 1",
    "cost_by_size": "--size 1000 --size 1500 --images 2000 --rounds 1",
    "digits_accuracy": "--seeds 1",
    "folder_data": "{photos}/train --epochs 2 --rounds 1",
    "kept_memory": "--recipe mnist-cnn --rounds 1",
    "loop_efficiency": "--images 256 --repeats 1",
    "precisions": "--rounds 1",
    "prediction": "--processes 1 --rounds 1 --seconds 0.01",
    "recipes": "{photos} --recipe cifar10-cnn --cifar10 {photos}/train --seeds 1 --tta flip",
    "serving": "--network mnist-cnn --seconds 0.5 --rounds 1 --without-mlflow",
    "start_up": "--repeats 1",
    "tracking_cost": "--dataset {photos}/train --epochs 1 --repeats 1",
    "outage_cost": "--dataset {photos}/train --epochs 2 --repeats 1",
    "peers": "photos {photos} --images 64 --threads 1 --repeats 1",
}


def test_every_benchmark_has_a_smallest_form():
    assert sorted(SMALLEST) == NAMES


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLEST)
def test_every_benchmark_comes_to_its_table(name: str, photos: Path, tmp_path: Path):
    if name == "peers":  # nothing else here needs them
        pytest.importorskip("lightning")
        pytest.importorskip("timm")
    arguments = SMALLEST[name].format(photos=photos).split()
    done = subprocess.run(
        [sys.executable, str(FOLDER / f"{name}.py"), *arguments],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    table = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert len(table) >= 3  # headings, rule, a row
    assert len({line.count("|") for line in table[:3]}) == 1
    assert "nan" not in done.stdout
