"""Every parameter of a training run: once, with its default, its range and one line of meaning.

Command-line options, logged parameters and the documentation derive from this module.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgclf.errors import UsageError
from imgclf.recipes import MODELS, NORMALIZATIONS, nearest, recipe_values

AUTO = "auto"


@dataclass(frozen=True)
class Option:
    """What is known of one parameter beside its type and its default.

    ``minimum`` and ``maximum`` are inclusive; ``alias`` is a second option name.
    """

    group: str
    help: str
    choices: tuple[str, ...] = ()
    minimum: float = -math.inf
    maximum: float = math.inf
    alias: str = ""

    @property
    def range_text(self) -> str:
        """The allowed values in words, or an empty string where anything goes."""
        if self.choices:
            return ", ".join(self.choices)
        if self.minimum > -math.inf and self.maximum < math.inf:
            return f"{_exact(self.minimum)} to {_exact(self.maximum)}"
        return f"{_exact(self.minimum)} or more" if self.minimum > -math.inf else ""


def _exact(number: float) -> str:
    """Write a number as a person would, without rounding it."""
    return repr(number).removesuffix(".0")


def _option(default: Any, group: str, help: str, **details: Any) -> Any:
    return dataclasses.field(
        default=default, metadata={"option": Option(group=group, help=help, **details)}
    )


@dataclass(frozen=True)
class TrainConfig:
    """One training run, whole. Values are checked on construction.

    Raises:
        UsageError: a value of the wrong type, out of its range or not among its choices.
    """

    recipe: str = _option(
        "",
        "Recipe",
        "Start from a recipe's values: a name ('imgclf recipes' lists them) or a YAML file.",
    )
    # Data
    dataset: str = _option(
        "digits",
        "Data",
        "A data set's name, a folder with one sub-folder of images per class (below train, val and"
        " test, or not), or a CSV file with the columns path, label and optionally split.",
    )
    data_dir: str = _option(
        "",
        "Data",
        "Folder for downloaded data sets; empty: IMGCLF_DATA_DIR, else the user's cache folder.",
    )
    image_size: int = _option(
        0,
        "Data",
        "Height and width of the network's input in pixels; 0: the images' own size where they"
        " share one of at most 128, else 128.",
        minimum=0,
        maximum=1024,
    )
    val_fraction: float = _option(
        0.1,
        "Data",
        "Share of the images kept for validation where the data gives no validation split; 0: no"
        " validation, and the last epoch is taken.",
        minimum=0.0,
        maximum=0.8,
    )
    test_fraction: float = _option(
        0.2,
        "Data",
        "Share of the images kept for the final test where the data gives no test split.",
        minimum=0.01,
        maximum=0.8,
    )
    split_seed: int = _option(
        0, "Data", "Seed of the split; independent of --seed.", minimum=0, maximum=2**31 - 1
    )
    max_bad_images: float = _option(
        0.01, "Data", "Largest share of unreadable images accepted.", minimum=0.0, maximum=1.0
    )
    normalization: str = _option(
        "dataset",
        "Data",
        "dataset: by mean and standard deviation of the training images; half: pixels from -1 to 1;"
        " unit: from 0 to 1.",
        choices=tuple(NORMALIZATIONS),
    )
    # Augmentation
    random_crop: bool = _option(
        True,
        "Augmentation",
        "Train on random windows where the stored images are larger than the input.",
    )
    crop_padding: int = _option(
        0,
        "Augmentation",
        "Pad each side by so many pixels before a random crop.",
        minimum=0,
        maximum=256,
    )
    horizontal_flip: bool = _option(
        False, "Augmentation", "Mirror half of the images left to right."
    )
    # Model
    model: str = _option(
        AUTO,
        "Model",
        "The network; auto: digits-cnn for digits, else small-cnn.",
        choices=(AUTO, *MODELS),
    )
    dropout: float = _option(
        0.1, "Model", "Dropout before the dense layers.", minimum=0.0, maximum=0.9
    )
    # Optimisation
    epochs: int = _option(10, "Optimisation", "Passes over the training images.", minimum=1)
    batch_size: int = _option(64, "Optimisation", "Images per step.", minimum=1)
    optimizer: str = _option(
        "adamw", "Optimisation", "The optimiser.", choices=("adam", "adamw", "sgd")
    )
    learning_rate: float = _option(
        0.003, "Optimisation", "The highest learning rate.", minimum=0.0, maximum=100.0, alias="lr"
    )
    momentum: float = _option(0.9, "Optimisation", "Momentum of SGD.", minimum=0.0, maximum=0.9999)
    nesterov: bool = _option(True, "Optimisation", "Nesterov momentum for SGD.")
    weight_decay: float = _option(
        0.01,
        "Optimisation",
        "Weight decay of convolutions and dense layers (never of biases and batch normalisation).",
        minimum=0.0,
        maximum=10.0,
    )
    schedule: str = _option(
        "one-cycle",
        "Optimisation",
        "How the learning rate changes from step to step.",
        choices=("constant", "cosine", "one-cycle"),
    )
    warmup_ratio: float = _option(
        0.2,
        "Optimisation",
        "Share of all steps in which the learning rate rises.",
        minimum=0.0,
        maximum=0.9,
    )
    label_smoothing: float = _option(
        0.0, "Optimisation", "Label smoothing of the loss.", minimum=0.0, maximum=0.9
    )
    ema: bool = _option(
        False,
        "Optimisation",
        "Average the weights (exponential moving average) and use the average.",
    )
    ema_decay: float = _option(
        0.999,
        "Optimisation",
        "Decay of the average a step, reached gradually.",
        minimum=0.0,
        maximum=0.999999,
    )
    early_stopping_patience: int = _option(
        0,
        "Optimisation",
        "Stop after so many epochs without a better validation accuracy; 0: never.",
        minimum=0,
    )
    seed: int = _option(
        0,
        "Optimisation",
        "Seed of weights, order, augmentation and dropout.",
        minimum=0,
        maximum=2**31 - 1,
    )
    # Machine
    device: str = _option(AUTO, "Machine", "Where to train.", choices=(AUTO, "cpu", "cuda", "mps"))
    precision: str = _option(
        AUTO,
        "Machine",
        "Arithmetic of the forward pass; auto: bf16 or fp16 where the GPU is built for it, else"
        " fp32.",
        choices=(AUTO, "fp32", "bf16", "fp16"),
    )
    threads: int = _option(
        0, "Machine", "CPU threads; 0: one for each core.", minimum=0, maximum=4096
    )
    # Tracking
    experiment: str = _option(
        "", "Tracking", "MLflow experiment; empty: MLFLOW_EXPERIMENT_NAME, else MLflow's default."
    )
    run_name: str = _option("", "Tracking", "The run's name in MLflow; empty: chosen for you.")
    runs_dir: str = _option("runs", "Tracking", "Folder that receives the run's local files.")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            checked = _checked(field, getattr(self, field.name))
            object.__setattr__(self, field.name, checked)
        for flag, value in (("--dataset", self.dataset), ("--runs-dir", self.runs_dir)):
            if not value.strip():
                raise UsageError(f"{flag} is empty.", "Give a value, or leave the option out.")
        if self.val_fraction + self.test_fraction >= 0.95:
            raise UsageError(
                f"--val-fraction {_exact(self.val_fraction)} and --test-fraction"
                f" {_exact(self.test_fraction)} leave too little to train on.",
                "Choose values whose sum is below 0.95.",
            )
        if self.optimizer == "sgd" and self.nesterov and self.momentum == 0:
            raise UsageError(
                "Nesterov momentum needs a momentum above 0.",
                "Pass --nesterov false, or a --momentum such as 0.9.",
            )
        if self.crop_padding and not self.random_crop:
            raise UsageError(
                "--crop-padding does nothing with --random-crop false.", "Drop one of the two."
            )
        if self.early_stopping_patience and self.val_fraction == 0:
            raise UsageError(
                "--early-stopping-patience needs validation images, but --val-fraction is 0.",
                "Drop one of the two options.",
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the parameters as a plain dictionary, in the order of their definition."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """Return the parameters as indented JSON."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainConfig":
        """Build a configuration from some parameters.

        The others come from the recipe that ``values["recipe"]`` names, if any, and else keep their
        defaults.

        Raises:
            UsageError: an unknown name or a wrong value.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        recipe = values.get("recipe", "")
        values = {**(recipe_values(recipe) if recipe else {}), **values}
        for name in values:
            if name not in names:
                raise UsageError(f"Unknown parameter '{name}'.{nearest(str(name), names)}")
        return cls(**values)

    def save_recipe(self, path: Path) -> None:
        """Write what decides a run's result to a YAML file that ``--recipe`` reads.

        Left out are the recipe's own name and the settings of a machine and its tracking server.

        Raises:
            UsageError: the file cannot be written.
        """
        import yaml

        groups = {field.name: option_of(field).group for field in dataclasses.fields(self)}
        left_out = {"Recipe", "Machine", "Tracking"}
        values = {k: v for k, v in self.to_dict().items() if groups[k] not in left_out}
        try:
            path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
        except OSError as error:
            raise UsageError(f"Cannot write '{path}': {error.strerror}.") from error

    def overridden(self) -> dict[str, Any]:
        """Return the parameters whose values differ from the recipe's."""
        recipe = TrainConfig.from_dict({"recipe": self.recipe}).to_dict()
        return {name: value for name, value in self.to_dict().items() if value != recipe[name]}


def option_of(field: "dataclasses.Field[Any]") -> Option:
    """Return the `Option` of one of `TrainConfig`'s fields."""
    option = field.metadata["option"]
    assert isinstance(option, Option)
    return option


_KINDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
}


def _checked(field: "dataclasses.Field[Any]", value: Any) -> Any:
    """Return ``value`` as the field's type, or say what is wrong with it."""
    flag = "--" + field.name.replace("_", "-")
    option = option_of(field)
    if type(value) is not field.type and not (field.type is float and type(value) is int):
        raise UsageError(f"{flag} takes {_KINDS[field.type]}, not {value!r}.")
    if option.choices and value not in option.choices:
        raise UsageError(
            f"{flag} '{value}' is unknown.{nearest(str(value), option.choices)}",
            f"Choose one of: {option.range_text}.",
        )
    if isinstance(value, int | float) and not option.minimum <= value <= option.maximum:
        raise UsageError(
            f"{flag} {_exact(value)} is out of range.", f"It takes {option.range_text}."
        )
    return float(value) if field.type is float else value
