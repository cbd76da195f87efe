"""A recipe is a whole configuration by name or from a file."""

import pytest
import yaml
from click.testing import CliRunner

from imgclf.cli import main
from imgclf.config import TrainConfig
from imgclf.errors import UsageError
from imgclf.recipes import RECIPES, nearest


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


def test_a_saved_recipe_gives_the_same_configuration(tmp_path):
    path = tmp_path / "mine.yaml"
    config = TrainConfig(epochs=7, ema=True, learning_rate=0.02, crop_padding=1)
    config.save_recipe(path)
    again = TrainConfig.from_dict({"recipe": str(path)})
    assert {**again.to_dict(), "recipe": ""} == config.to_dict()
    assert "threads" not in yaml.safe_load(path.read_text())


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
    ],
)
def test_a_faulty_recipe_file_is_a_clear_error(content, message, tmp_path):
    path = tmp_path / "faulty.yaml"
    path.write_text(content)
    with pytest.raises(UsageError, match=message):
        TrainConfig.from_dict({"recipe": str(path)})


def test_an_unknown_recipe_suggests_the_nearest():
    with pytest.raises(UsageError, match="Did you mean 'mnist-cnn'"):
        TrainConfig.from_dict({"recipe": "mnist_cn"})
    result = CliRunner().invoke(main, ["recipes", "fashion-cn"])
    assert result.exit_code == 2
    assert "Did you mean 'fashion-cnn'" in result.output


def test_nearest_sees_through_hyphens_and_capitals():
    assert nearest("Fashion-MNIST", ["fashion_mnist", "mnist"]) == " Did you mean 'fashion_mnist'?"
    assert nearest("zebra", ["fashion_mnist", "mnist"]) == ""
