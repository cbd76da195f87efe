"""Every parameter of a training run: once, with its default, its range and one line of meaning.

Command-line options, logged parameters and the documentation derive from this module.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from imgclf.contradictions import refuse_contradictions
from imgclf.disk import write_whole
from imgclf.errors import UsageError
from imgclf.options import checked, option_of, parameter
from imgclf.recipes import (
    LOSSES,
    MODELS,
    MONITORS,
    NORMALIZATIONS,
    SCHEDULES,
    check_recipe_file,
    nearest,
    recipe_values,
)

AUTO = "auto"

# A field of each group; the groups are the sections of help and reference.
_recipe = partial(parameter, "Recipe")
_data = partial(parameter, "Data")
_augmentation = partial(parameter, "Augmentation")
_imbalance = partial(parameter, "Imbalance")
_model = partial(parameter, "Model")
_optimisation = partial(parameter, "Optimisation")
_evaluation = partial(parameter, "Evaluation")
_machine = partial(parameter, "Machine")
_tracking = partial(parameter, "Tracking")


@dataclass(frozen=True)
class TrainConfig:
    """One training run, whole. Values are checked on construction.

    Raises:
        UsageError: a value of the wrong type, out of its range or not among its choices.
    """

    recipe: str = _recipe(
        "",
        "Start from a recipe's values: a name ('imgclf recipes' lists them) or a YAML file.",
    )
    dataset: str = _data(
        "digits",
        "A data set's name, a folder with one sub-folder of images per class (below train, val and"
        " test, or not), or a CSV file with the columns path, label and optionally split.",
    )
    data_dir: str = _data(
        "",
        "Folder for downloaded data sets and decoded images; empty: IMGCLF_DATA_DIR, else the"
        " user's cache folder.",
    )
    image_size: int = _data(
        0,
        "Height and width of the network's input in pixels; 0: the images' own size where they"
        " share one of at most 128, else 128.",
        minimum=0,
        maximum=1024,
    )
    val_fraction: float = _data(
        0.1,
        "Share of the images kept for validation where the data gives no validation split; 0: no"
        " validation, and the last epoch is taken.",
        minimum=0.0,
        maximum=0.8,
    )
    test_fraction: float = _data(
        0.2,
        "Share of the images kept for the final test where the data gives no test split.",
        minimum=0.01,
        maximum=0.8,
    )
    split_seed: int = _data(
        0, "Seed of the split; independent of --seed.", minimum=0, maximum=2**31 - 1
    )
    max_bad_images: float = _data(
        0.01, "Largest share of unreadable images accepted.", minimum=0.0, maximum=1.0
    )
    normalization: str = _data(
        "dataset",
        "dataset: by mean and standard deviation of the training images; half: pixels from -1 to 1;"
        " unit: from 0 to 1.",
        choices=tuple(NORMALIZATIONS),
    )
    random_crop: bool = _augmentation(
        True, "Train on random windows where the stored images are larger than the input."
    )
    crop_padding: int = _augmentation(
        0, "Pad each side by so many black pixels before a random crop.", minimum=0, maximum=256
    )
    horizontal_flip: bool = _augmentation(
        False,
        "Mirror half of the images left to right, each in every other epoch; with"
        " --balanced-sampling, at random.",
    )
    random_resized_crop: float = _augmentation(
        0.0,
        "Train on random parts of the image, resized to the input, of at least this share of its"
        " area, instead of --random-crop (Inception's crop; 0.35 is a start for photographs); 0:"
        " off.",
        minimum=0.0,
        maximum=1.0,
    )
    rotation: float = _augmentation(
        0.0,
        "Turn each image by at most so many degrees either way; what is then empty is black.",
        minimum=0.0,
        maximum=180.0,
    )
    color_jitter: float = _augmentation(
        0.0,
        "Change brightness, contrast and saturation by random factors between 1 - this and 1 +"
        " this; grey images have no saturation.",
        minimum=0.0,
        maximum=1.0,
    )
    hue: float = _augmentation(
        0.0,
        "Shift the hue of colour images either way by at most this share of the colour circle.",
        minimum=0.0,
        maximum=0.5,
    )
    cutout: int = _augmentation(
        0,
        "Blacken a square of so many pixels a side around a random position (Cutout); 0: off.",
        minimum=0,
        maximum=1024,
    )
    mixup: float = _augmentation(
        0.0,
        "MixUp: blend each image and its label with another by a share drawn from Beta(this, this);"
        " 0: off.",
        minimum=0.0,
        maximum=10.0,
    )
    cutmix: float = _augmentation(
        0.0,
        "CutMix: paste a box of another image into each and mix their labels by area, drawn from"
        " Beta(this, this); 0: off. With --mixup, half of the images get the one, half the other.",
        minimum=0.0,
        maximum=10.0,
    )
    class_weights: str = _imbalance(
        "none",
        "Weight of each class in the loss; balanced: inverse to its number of training images.",
        choices=("none", "balanced"),
    )
    balanced_sampling: bool = _imbalance(
        False,
        "Show every class as often as any other in each epoch: images of small classes come again.",
    )
    model: str = _model(
        AUTO,
        "The network; auto: digits-cnn for digits, else small-cnn.",
        choices=(AUTO, *MODELS),
    )
    dropout: float = _model(0.1, "Dropout before the dense layers.", minimum=0.0, maximum=0.9)
    norm_layer: str = _model(
        AUTO,
        "Normalisation after each convolution: batch normalisation or none; auto: as the network"
        " was designed.",
        choices=(AUTO, "batch", "none"),
    )
    epochs: int = _optimisation(10, "Passes over the training images.", minimum=1)
    batch_size: int = _optimisation(64, "Images per step.", minimum=1)
    optimizer: str = _optimisation(
        "adamw",
        "The optimiser; muon: Muon for convolution filters, AdamW for all else.",
        choices=("adam", "adamw", "muon", "sgd"),
    )
    learning_rate: float = _optimisation(
        0.003, "The highest learning rate.", minimum=0.0, maximum=100.0, alias="lr"
    )
    momentum: float = _optimisation(0.9, "Momentum of SGD and Muon.", minimum=0.0, maximum=0.9999)
    nesterov: bool = _optimisation(True, "Nesterov momentum for SGD and Muon.")
    adam_beta1: float = _optimisation(
        0.9, "Decay of Adam's average of gradients.", minimum=0.0, maximum=0.9999
    )
    adam_beta2: float = _optimisation(
        0.999, "Decay of Adam's average of squared gradients.", minimum=0.0, maximum=0.999999
    )
    weight_decay: float = _optimisation(
        0.01,
        "Weight decay of convolutions and dense layers (never of biases and batch normalisation).",
        minimum=0.0,
        maximum=10.0,
    )
    schedule: str = _optimisation(
        "one-cycle",
        "How the learning rate changes from step to step.",
        choices=tuple(SCHEDULES),
    )
    warmup_ratio: float = _optimisation(
        0.2,
        "Share of all steps in which the learning rate rises.",
        minimum=0.0,
        maximum=0.9,
    )
    step_epochs: int = _optimisation(
        0,
        "Epochs between two drops of the step schedule; 0: a third of all epochs.",
        minimum=0,
    )
    step_factor: float = _optimisation(
        0.1,
        "What the step schedule multiplies the learning rate by at each drop.",
        minimum=0.0,
        maximum=1.0,
    )
    gradient_clip_norm: float = _optimisation(
        0.0,
        "Scale the gradients of a step down to this Euclidean norm where theirs is larger; 0:"
        " never.",
        minimum=0.0,
        maximum=1e6,
    )
    gradient_accumulation_steps: int = _optimisation(
        1,
        "Batches whose gradients are averaged into one step: a larger batch in less memory.",
        minimum=1,
        maximum=100_000,
    )
    loss: str = _optimisation(
        "cross-entropy",
        "The training loss.",
        choices=tuple(LOSSES),
    )
    label_smoothing: float = _optimisation(
        0.0, "Label smoothing of the loss.", minimum=0.0, maximum=0.9
    )
    max_bad_steps: int = _optimisation(
        10,
        "Steps in a row whose loss may be infinite or no number; they leave the weights alone, and"
        " one more ends the run.",
        minimum=0,
        maximum=1_000_000,
    )
    ema: bool = _optimisation(
        False,
        "Average the weights (exponential moving average) and use the average.",
    )
    ema_decay: float = _optimisation(
        0.999,
        "Decay of the average a step, reached gradually.",
        minimum=0.0,
        maximum=0.999999,
    )
    monitor: str = _optimisation(
        "val/accuracy",
        "What the best epoch is best in; it decides which weights are kept and when to stop early.",
        choices=MONITORS,
    )
    early_stopping_patience: int = _optimisation(
        0,
        "Stop after so many epochs without a better --monitor; 0: never.",
        minimum=0,
    )
    seed: int = _optimisation(
        0,
        "Seed of weights, order, augmentation and dropout.",
        minimum=0,
        maximum=2**31 - 1,
    )
    track_test: bool = _evaluation(
        False,
        "Log the test accuracy of every epoch, for curves; it chooses nothing.",
    )
    device: str = _machine(AUTO, "Where to train.", choices=(AUTO, "cpu", "cuda", "mps"))
    precision: str = _machine(
        AUTO,
        "Arithmetic of the forward pass; auto: bf16 or fp16 where the GPU or the CPU is fast in"
        " it, else fp32.",
        choices=(AUTO, "fp32", "bf16", "fp16"),
    )
    compile: bool = _machine(
        False,
        "Generate code for the network (torch.compile); it takes half a minute or more and a C++"
        " compiler, and changes results by rounding only.",
    )
    checkpoint_minutes: float = _machine(
        10.0,
        "Minutes between two checkpoints at most; short epochs share one where writing is slow.",
        minimum=0.001,
        maximum=100_000.0,
    )
    threads: int = _machine(0, "CPU threads; 0: one for each core.", minimum=0, maximum=4096)
    experiment: str = _tracking(
        "", "MLflow experiment; empty: MLFLOW_EXPERIMENT_NAME, else MLflow's default."
    )
    run_name: str = _tracking("", "The run's name in MLflow; empty: chosen for you.")
    runs_dir: str = _tracking("runs", "Folder that receives the run's local files.")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, checked(field, getattr(self, field.name)))
        refuse_contradictions(self)

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

        Left out are the recipe's own name and the settings of a machine and its tracking server; a
        precision that was asked for is kept.

        Raises:
            UsageError: the file would not be read as a recipe.
            ImgclfError: it cannot be written.
        """
        import yaml

        groups = {field.name: option_of(field).group for field in dataclasses.fields(self)}
        left_out = {"Recipe", "Machine", "Tracking"}
        values = {k: v for k, v in self.to_dict().items() if groups[k] not in left_out}
        del values["data_dir"]
        if self.precision != AUTO:
            values["precision"] = self.precision
        check_recipe_file(path)
        write_whole(path, yaml.safe_dump(values, sort_keys=False).encode(), "the recipe")

    def overridden(self) -> dict[str, Any]:
        """Return the parameters whose values differ from the recipe's."""
        recipe = TrainConfig.from_dict({"recipe": self.recipe}).to_dict()
        return {name: value for name, value in self.to_dict().items() if value != recipe[name]}
