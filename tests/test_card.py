"""The card: what goes in comes out, and what is damaged is refused in plain words."""

import copy
import dataclasses
import json
import math
import random
from typing import Any

import pytest

from imgclf.card import CARD_VERSION, ModelCard, Preprocessing
from imgclf.errors import ImgclfError

CARD = ModelCard(
    classes=("cat", "größe", "日本 語", "🦜", 'a "quoted", name'),
    preprocessing=Preprocessing(height=32, width=48, channels=3, resize_height=36, resize_width=56),
    mean=(1.25, 127.5, 0.1),
    std=(3.0, 1e-3, 255.0),
    provenance={"run_id": "20261121-090144-3f2a", "data set": "фото"},
    metrics={"test/accuracy": 0.9166666666666666},
    parity={"images": 359, "batch_sizes": [1, 2, 7], "failures": [], "proved": True},
)


_MAY_BE_ABSENT = ("version", "temperature")


def values() -> dict[str, Any]:
    return json.loads(CARD.to_json())


def test_card_survives_json_exactly():
    assert ModelCard.from_json(CARD.to_json()) == CARD


def test_json_carries_its_version_and_readable_names():
    assert values()["version"] == CARD_VERSION
    assert "日本 語" in CARD.to_json()


@pytest.mark.parametrize(
    "sizes",
    [
        (0, 8, 3, 8, 8),
        (8, 8, 3, 8, 8193),
        (8, -8, 3, 8, 8),
        (8.0, 8, 3, 8, 8),
        (True, 8, 3, 8, 8),
        (8, 8, 2, 8, 8),
        (8, 8, 4, 8, 8),
        (8, 8, 3, 7, 8),
        (8, 8, 3, 8, 7),
    ],
)
def test_impossible_preprocessing_is_refused(sizes: tuple[Any, ...]):
    with pytest.raises(ValueError):
        Preprocessing(*sizes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ("cat",)}, "two or more classes"),
        ({"classes": ("cat", "")}, "a name each"),
        ({"classes": ("cat", 7)}, "a name each"),
        ({"classes": ("cat", "dog", "cat")}, "repeat"),
        # A folder's name that is no UTF-8: it cannot be written to an ONNX file.
        ({"classes": ("cat", "caf\udce9")}, "surrogates not allowed"),
        ({"mean": (1.0,)}, "one number per channel"),
        ({"std": (1.0, 1.0, 1.0, 1.0)}, "one number per channel"),
        ({"mean": (1.0, math.nan, 1.0)}, "finite"),
        ({"std": (1.0, math.inf, 1.0)}, "finite"),
        ({"std": (1.0, 0.0, 1.0)}, "std positive"),
        ({"std": (1.0, -1.0, 1.0)}, "std positive"),
        ({"metrics": {"test/accuracy": "high"}}, "metrics must be finite numbers"),
        ({"metrics": {"test/loss": math.nan}}, "metrics must be finite numbers"),
        ({"provenance": {"run_id": 7}}, "must be text"),
        ({"temperature": math.nan}, "temperature must be positive"),
    ],
)
def test_impossible_card_is_refused(change: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CARD, **change)


def test_card_of_another_version_says_which_and_what_to_do():
    newer = {**values(), "version": CARD_VERSION + 1, "classes": "written another way"}
    with pytest.raises(ImgclfError) as caught:
        ModelCard.from_json(json.dumps(newer))
    assert f"version {CARD_VERSION + 1};" in caught.value.message
    assert f"reads version {CARD_VERSION}" in caught.value.message
    assert "Upgrade imgclf" in caught.value.hint


def test_a_card_of_before_there_were_temperatures_has_none():
    older = values()
    del older["temperature"]
    assert ModelCard.from_json(json.dumps(older)).temperature == 1


@pytest.mark.parametrize("name", [name for name in values() if name not in _MAY_BE_ABSENT])
def test_missing_part_is_named(name: str):
    partial = values()
    del partial[name]
    with pytest.raises(ImgclfError) as caught:
        ModelCard.from_json(json.dumps(partial))
    assert caught.value.message == f"The model card cannot be read: it lacks '{name}'."


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "null",
        "[]",
        "3",
        '"card"',
        "{}",
        "{",
        "[" * 100_000,
        '{"version": ' * 100_000,
        '{"version": 1}',
        '{"version": 1' + "0" * 5000 + "}",
        "\x00",
        "\ud800",
        CARD.to_json()[:-1],
        CARD.to_json() + "}",
    ],
)
def test_text_that_is_no_card_is_refused(text: str):
    with pytest.raises(ImgclfError) as caught:
        ModelCard.from_json(text)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("classes", "cat"),
        ("classes", {"cat": 0, "dog": 1}),
        ("classes", [["cat"], ["dog"]]),
        ("classes", None),
        ("preprocessing", None),
        ("preprocessing", [32, 48, 3, 36, 56]),
        ("preprocessing", {"height": 32}),
        ("preprocessing", {**values()["preprocessing"], "crop": 1}),
        ("preprocessing", {**values()["preprocessing"], "height": 10**400}),
        ("preprocessing", {**values()["preprocessing"], "height": "32"}),
        ("mean", "123"),
        ("mean", [10**400, 1, 1]),
        ("mean", [None, 1, 1]),
        ("std", 1.0),
        ("provenance", 3),
        ("metrics", "abc"),
        ("parity", None),
    ],
)
def test_wrong_part_is_refused(name: str, value: object):
    with pytest.raises(ImgclfError, match="The model card cannot be read: "):
        ModelCard.from_json(json.dumps({**values(), name: value}))


def read(text: str) -> bool:
    """Tell whether a text is a card; one that is must survive being written again."""
    try:
        card = ModelCard.from_json(text)
    except ImgclfError:
        return False
    assert ModelCard.from_json(card.to_json()) == card
    return True


def test_random_damage_to_the_text_never_escapes_as_another_error():
    chance = random.Random(0)
    text = CARD.to_json()
    outcomes = set()
    for _ in range(3000):
        start = chance.randrange(len(text))
        end = start + chance.choice((0, 1, 1, 1, 5, 40))
        inserted = "".join(
            chance.choices('{}[]",:0129eE.-+ntf\\u\x00é\ud800', k=chance.randrange(4))
        )
        outcomes.add(read(text[:start] + inserted + text[end:]))
    assert outcomes == {True, False}


def test_random_damage_to_the_values_never_escapes_as_another_error():
    chance = random.Random(0)
    hostile = [None, True, -1, 0, 1, 3, 0.5, 10**400, 1e999, "", "x", "\ud800", [], {}, [[]]]
    hostile += [[1, 2, 3], ["a", "b"], [["a", 1]], [[{}, 1]], {"a": 1}]
    outcomes = set()
    for _ in range(3000):
        damaged = values()
        for _ in range(chance.randrange(1, 3)):
            place = damaged
            while True:
                keys: list[Any] = list(place if isinstance(place, dict) else range(len(place)))
                key = chance.choice(keys)
                if (
                    not isinstance(place[key], dict | list)
                    or not place[key]
                    or chance.random() < 0.3
                ):
                    break
                place = place[key]
            place[key] = copy.deepcopy(chance.choice(hostile))
        outcomes.add(read(json.dumps(damaged)))
    assert outcomes == {True, False}
