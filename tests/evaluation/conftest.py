"""Names that are hard to draw and to write, and the wish that nothing is warned of."""

import warnings
from collections.abc import Iterator

import pytest

HOSTILE_NAMES = [
    "cost_$5_and_$6",
    r"$\frac{broken",
    "<b>bold</b>",
    "line\nbreak",
    "猫犬",
    "犬猫",
    "dog 🐕",
    "right-to-left \u202e override",
    "not UTF-8 \udcff",
    "x" * 40,
    "W" * 40,
    " ",
    "",
]


@pytest.fixture
def hostile_names() -> list[str]:
    return list(HOSTILE_NAMES)


@pytest.fixture
def warnings_are_errors() -> Iterator[None]:
    """matplotlib warns of texts that it cannot draw, and of layouts that do not fit."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
