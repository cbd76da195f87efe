"""JSON becomes a dataclass, or is refused."""

from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from imgclf.training.json_values import read_values


@dataclass(frozen=True)
class Point:
    name: str
    count: int
    size: float
    figures: Mapping[str, float]


GOOD = {"name": "x", "count": 3, "size": 1, "figures": {"a": 1, "b": float("nan")}}


def test_values_become_the_fields() -> None:
    assert read_values(Point, GOOD) == Point(**GOOD)


@pytest.mark.parametrize(
    "changed",
    [
        {"name": 1},
        {"count": 3.0},
        {"count": True},
        {"count": 2**63},
        {"size": None},
        {"size": "1"},
        {"size": 10**400},
        {"figures": []},
        {"figures": {"a": "1"}},
        {"figures": {"a": {}}},
        {"another": 1},
    ],
)
def test_other_types_and_names_are_refused(changed: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        read_values(Point, {**GOOD, **changed})


@pytest.mark.parametrize("values", [None, [], "x", 1, {}, {"name": "x"}])
def test_what_is_no_such_object_is_refused(values: object) -> None:
    with pytest.raises(ValueError):
        read_values(Point, values)
