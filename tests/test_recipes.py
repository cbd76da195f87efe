"""A recipe is a whole configuration by name or from a file."""

import dataclasses
import tempfile
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from imgclf.cli import main
from imgclf.config import TrainConfig
from imgclf.errors import ImgclfError, UsageError
from imgclf.recipes import RECIPES, nearest
from small_disk import files_up_to


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_a_valid_configuration_that_says_what_to_expect(name):
    config = TrainConfig.from_dict({"recipe": name})
    assert config.overridden() == {}
    assert "%" in RECIPES[name].description
    shown = CliRunner().invoke(main, ["recipes", name]).output
    assert f"imgclf train --recipe {name}" in shown


def test_given_options_override_the_recipe_and_are_known():
    config = TrainConfig.from_dict({"recipe": "mnist-cnn", "epochs": 3, "batch_size": 64})
    assert (config.epochs, config.optimizer, config.dataset) == (3, "adam", "mnist")
    assert config.overridden() == {"epochs": 3}


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_can_be_saved_and_is_the_same_afterwards(name, tmp_path):
    path = tmp_path / "mine.yaml"
    config = TrainConfig.from_dict({"recipe": name})
    config.save_recipe(path)
    again = TrainConfig.from_dict({"recipe": str(path)})
    assert {**again.to_dict(), "recipe": name} == config.to_dict()


def test_a_saved_recipe_gives_the_same_configuration(tmp_path):
    path = tmp_path / "mine.yaml"
    config = TrainConfig(epochs=7, ema=True, learning_rate=0.02, crop_padding=1)
    config.save_recipe(path)
    again = TrainConfig.from_dict({"recipe": str(path)})
    assert {**again.to_dict(), "recipe": ""} == config.to_dict()
    assert "threads" not in yaml.safe_load(path.read_text())


@pytest.mark.faults
def test_a_recipe_that_cannot_be_written_leaves_the_one_that_is_there(tmp_path):
    path = tmp_path / "mine.yaml"
    TrainConfig(epochs=7).save_recipe(path)
    before = path.read_bytes()
    with files_up_to(100), pytest.raises(ImgclfError, match="Cannot write the recipe to"):
        TrainConfig(epochs=8).save_recipe(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("epochs: 3\nepoch: 4\n", "Unknown parameter 'epoch'"),
        ("epochs: many\n", "--epochs takes a whole number"),
        ("- 1\n- 2\n", "no list of parameters"),
        ("recipe: mnist-cnn\n", "no list of parameters"),
        ("{", "Cannot read the recipe"),
        ("!!python/object/apply:os.system ['true']", "Cannot read the recipe"),
        ("", "no list of parameters"),
        ("epochs: 2024-13-45\n", "Cannot read the recipe .*month must be in"),
        ("epochs: " + "9" * 5000, "Cannot read the recipe .*digits"),
        ("[" * 100_000, "Cannot read the recipe .*recursion"),
        ('epochs: !!int ""\n', "Cannot read the recipe"),
        ("epochs: !!bool perhaps\n", "Cannot read the recipe .*perhaps"),
        ("epochs: !!timestamp noon\n", "Cannot read the recipe"),
        ("epochs: &a [1, *a]\n", "one value each"),
        ("epochs: !!binary AAAA\n", "one value each"),
        ("epochs:\n", "one value each"),
        ("1: 2\n", "Unknown parameter '1'"),
        ("epochs: .nan\n", "--epochs takes a whole number"),
        ("epochs: 3\n\0", "Cannot read the recipe"),
    ],
)
def test_a_faulty_recipe_file_is_a_clear_error(content, message, tmp_path):
    path = tmp_path / "faulty.yaml"
    path.write_text(content)
    with pytest.raises(UsageError, match=message):
        TrainConfig.from_dict({"recipe": str(path)})


def test_a_list_that_stands_for_a_billion_is_not_even_shown(tmp_path):
    """Each line holds the one before nine times over; written out, the last has 9**9 entries."""
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]" for old, new in pairwise("abcdefghi")]
    path = tmp_path / "bomb.yaml"
    path.write_text("\n".join([*lines, "epochs: *i"]))
    with pytest.raises(UsageError, match="one value each") as caught:
        TrainConfig.from_dict({"recipe": str(path)})
    assert len(caught.value.message) < 500


def test_a_recipe_that_is_no_text_or_no_file_is_a_clear_error(tmp_path):
    (tmp_path / "bytes.yaml").write_bytes(b"epochs: caf\xe9\n")
    (tmp_path / "folder.yaml").mkdir()
    for name in ("bytes.yaml", "folder.yaml", "absent.yaml", "x" * 300 + ".yaml"):
        with pytest.raises(UsageError, match="Cannot read the recipe"):
            TrainConfig.from_dict({"recipe": str(tmp_path / name)})
    with pytest.raises(UsageError, match="Cannot read the recipe"):
        TrainConfig.from_dict({"recipe": "~nobody-of-that-name/x.yaml"})


def read(path: Path) -> TrainConfig | UsageError:
    try:
        return TrainConfig.from_dict({"recipe": str(path)})
    except UsageError as error:
        return error


NAMES = st.sampled_from([field.name for field in dataclasses.fields(TrainConfig)])
VALUES = "1 -1 0x1f 0o17 1e-3 1.5 .inf .nan true no ~ null '' 2001-02-30 12:30 ="
SCALARS = st.one_of(
    st.sampled_from(VALUES.split()),
    st.text("0123456789abcdefx:.-+_!&*{}[]?|>%@`#'\" \t", max_size=12),
)
TAGS = "int float bool null binary timestamp omap pairs set str seq map python/name:os.system"
TAGGED = st.builds("!!{} {}".format, st.sampled_from(TAGS.split()), SCALARS)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(lines=st.lists(st.tuples(NAMES, st.one_of(SCALARS, TAGGED)), max_size=3))
def test_any_yaml_is_a_configuration_or_a_clear_error(lines):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.yaml")
        path.write_text("".join(f"{name}: {value}\n" for name, value in lines), encoding="utf-8")
        config = read(path)
    if isinstance(config, UsageError):
        assert "\n" not in config.message
        return
    assert type(config.epochs) is int


def test_an_unknown_recipe_suggests_the_nearest():
    with pytest.raises(UsageError, match="Did you mean 'mnist-cnn'"):
        TrainConfig.from_dict({"recipe": "mnist_cn"})
    result = CliRunner().invoke(main, ["recipes", "fashion-cn"])
    assert result.exit_code == 2
    assert "Did you mean 'fashion-cnn'" in result.output


def test_nearest_sees_through_hyphens_and_capitals():
    assert nearest("Fashion-MNIST", ["fashion_mnist", "mnist"]) == " Did you mean 'fashion_mnist'?"
    assert nearest("zebra", ["fashion_mnist", "mnist"]) == ""
