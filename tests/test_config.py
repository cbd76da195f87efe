"""Every parameter: its default, its range, and what a person reads who misses it."""

import dataclasses
import json
import math
from typing import Any

import pytest

from imgclf.config import TrainConfig
from imgclf.errors import UsageError
from imgclf.options import option_of

FIELDS = dataclasses.fields(TrainConfig)
NAMES = [field.name for field in FIELDS]
# Two shares of the images must leave some to train on: the other one gives way.
MAKE_ROOM = {"val_fraction": {"test_fraction": 0.01}, "test_fraction": {"val_fraction": 0.0}}


def build(**values: Any) -> TrainConfig:
    """A configuration from values of any type, as a sweep or a JSON file would give."""
    return TrainConfig(**values)


def other_value(field: "dataclasses.Field[Any]") -> Any:
    """A valid value that is not the default."""
    option, default = option_of(field), getattr(TrainConfig(), field.name)
    if option.choices:
        return next(choice for choice in option.choices if choice != default)
    if isinstance(default, bool):
        return not default
    if isinstance(default, str):
        return f"{default}/größer 日本"
    step = 1 if field.type is int else 0.001953125
    return default + step if default + step <= option.maximum else default - step


def bounds() -> list[Any]:
    found = []
    for field in FIELDS:
        option = option_of(field)
        for bound, beyond in ((option.minimum, -math.inf), (option.maximum, math.inf)):
            if math.isfinite(bound):
                step = math.copysign(1, beyond)
                outside = int(bound + step) if field.type is int else math.nextafter(bound, beyond)
                found.append(pytest.param(field.name, bound, outside, id=f"{field.name} {bound}"))
    return found


@pytest.mark.parametrize("field", FIELDS, ids=NAMES)
def test_every_parameter_has_a_meaning_and_a_group(field: "dataclasses.Field[Any]"):
    option = option_of(field)
    assert option.help.endswith(".")
    assert option.group
    assert field.type in (bool, int, float, str)


def test_defaults_are_valid_and_keep_their_types():
    values = TrainConfig().to_dict()
    assert list(values) == NAMES
    for field in FIELDS:
        assert values[field.name] == field.default
        assert type(values[field.name]) is field.type


def test_every_number_has_a_range():
    for field in FIELDS:
        if field.type in (int, float):
            assert option_of(field).range_text, field.name


@pytest.mark.parametrize(("name", "bound", "outside"), bounds())
def test_bounds_are_inclusive_and_nothing_lies_beyond(name: str, bound: float, outside: float):
    room = MAKE_ROOM.get(name, {})
    assert getattr(build(**{name: bound}, **room), name) == bound
    with pytest.raises(UsageError, match="is out of range") as caught:
        build(**{name: outside}, **room)
    assert caught.value.message.startswith(f"--{name.replace('_', '-')} ")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("values", "message", "hint"),
    [
        ({"val_fraction": 1.5}, "--val-fraction 1.5 is out of range.", "It takes 0 to 0.8."),
        ({"epochs": 0}, "--epochs 0 is out of range.", "It takes 1 or more."),
        ({"seed": 2**31}, "--seed 2147483648 is out of range.", "It takes 0 to 2147483647."),
        # Rounded for display, this would read "1 is out of range; it takes 0 to 1".
        (
            {"ema_decay": 0.9999999},
            "--ema-decay 0.9999999 is out of range.",
            "It takes 0 to 0.999999.",
        ),
        ({"epochs": 3.5}, "--epochs takes a whole number, not 3.5.", ""),
        ({"epochs": True}, "--epochs takes a whole number, not True.", ""),
        ({"epochs": "3"}, "--epochs takes a whole number, not '3'.", ""),
        ({"ema": 1}, "--ema takes true or false, not 1.", ""),
        ({"learning_rate": "0.1"}, "--learning-rate takes a number, not '0.1'.", ""),
        ({"learning_rate": False}, "--learning-rate takes a number, not False.", ""),
        ({"run_name": None}, "--run-name takes text, not None.", ""),
        ({"dataset": "  "}, "--dataset is empty.", "Give a value, or leave the option out."),
        ({"runs_dir": ""}, "--runs-dir is empty.", "Give a value, or leave the option out."),
        (
            {"optimizer": "adamW"},
            "--optimizer 'adamW' is unknown. Did you mean 'adamw'?",
            "Choose one of: adam, adamw, muon, sgd.",
        ),
        (
            {"model": "digit_cnn"},
            "--model 'digit_cnn' is unknown. Did you mean 'digits-cnn'?",
            "Choose one of: auto, digits-cnn,",
        ),
        ({"schedule": "zzz"}, "--schedule 'zzz' is unknown.", "Choose one of: constant, linear,"),
        ({"device": ""}, "--device '' is unknown.", "Choose one of: auto, cpu, cuda, mps."),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(
    values: dict[str, Any], message: str, hint: str
):
    with pytest.raises(UsageError) as caught:
        build(**values)
    assert caught.value.message == message
    assert caught.value.hint.startswith(hint)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400])
@pytest.mark.parametrize("name", [field.name for field in FIELDS if field.type is float])
def test_no_share_or_rate_is_infinite_or_undefined(name: str, value: float):
    with pytest.raises(UsageError, match="is out of range"):
        build(**{name: value})


def test_a_seed_of_400_digits_is_refused_like_any_other():
    with pytest.raises(UsageError, match=r"--seed 10+ is out of range"):
        build(seed=10**400)


def test_a_whole_number_serves_as_a_rate():
    config = build(learning_rate=1)
    assert config == TrainConfig(learning_rate=1.0)
    assert type(config.learning_rate) is float
    assert config.to_json() == TrainConfig(learning_rate=1.0).to_json()


def test_configuration_survives_json_with_every_value_changed():
    # They would forbid other values.
    skipped = ("recipe", "random_crop", "random_resized_crop", "balanced_sampling")
    changed = {field.name: other_value(field) for field in FIELDS if field.name not in skipped}
    config = TrainConfig.from_dict(changed)
    assert all(value != getattr(TrainConfig(), name) for name, value in changed.items())
    assert TrainConfig.from_dict(json.loads(config.to_json())) == config


def test_from_dict_keeps_the_defaults_of_what_is_not_given():
    assert TrainConfig.from_dict({"epochs": 3}) == TrainConfig(epochs=3)


@pytest.mark.parametrize(
    ("name", "suggestion"), [("epoch", "epochs"), ("batchsize", "batch_size"), ("LR_rate", None)]
)
def test_unknown_parameter_is_named_with_the_nearest(name: str, suggestion: str | None):
    with pytest.raises(UsageError) as caught:
        TrainConfig.from_dict({name: 1})
    assert caught.value.message.startswith(f"Unknown parameter '{name}'.")
    if suggestion:
        assert caught.value.message.endswith(f"Did you mean '{suggestion}'?")


def test_configuration_cannot_be_changed_behind_its_checks():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().epochs = -1  # type: ignore


@pytest.mark.parametrize(
    ("values", "message", "hint"),
    [
        (
            {"val_fraction": 0.5, "test_fraction": 0.45},
            "--val-fraction 0.5 and --test-fraction 0.45 leave too little to train on.",
            "below 0.95",
        ),
        (
            {"optimizer": "sgd", "momentum": 0.0},
            "Nesterov momentum needs a momentum above 0.",
            "--nesterov false",
        ),
        (
            {"random_crop": False, "crop_padding": 4},
            "--crop-padding does nothing with --random-crop false.",
            "Drop one",
        ),
        (
            {"random_resized_crop": 0.35, "crop_padding": 4},
            "--crop-padding does nothing with --random-resized-crop.",
            "Drop one",
        ),
        (
            {"batch_size": 1, "mixup": 0.2},
            "--mixup and --cutmix mix the images of a batch, but --batch-size is 1.",
            "larger --batch-size",
        ),
        (
            {"batch_size": 1, "cutmix": 1.0},
            "--mixup and --cutmix mix the images of a batch, but --batch-size is 1.",
            "larger --batch-size",
        ),
        (
            {"balanced_sampling": True, "class_weights": "balanced"},
            "--balanced-sampling true and --class-weights balanced would correct twice.",
            "Drop one",
        ),
    ],
)
def test_values_that_contradict_each_other_are_refused(
    values: dict[str, Any], message: str, hint: str
):
    with pytest.raises(UsageError) as caught:
        build(**values)
    assert caught.value.message == message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    "values",
    [
        {"val_fraction": 0.5, "test_fraction": 0.44},
        {"optimizer": "sgd", "momentum": 0.0, "nesterov": False},
        {"optimizer": "adamw", "momentum": 0.0},
        {"val_fraction": 0.0},
        {"val_fraction": 0.0, "early_stopping_patience": 3},  # the data may give validation images
        {"random_resized_crop": 0.35, "random_crop": False},
        {"batch_size": 2, "mixup": 0.2, "cutmix": 1.0},
    ],
)
def test_values_just_short_of_a_contradiction_are_accepted(values: dict[str, Any]):
    assert build(**values).to_dict().items() >= values.items()
