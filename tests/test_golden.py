import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgclf.errors import ImgclfError
from imgclf.golden import GoldenInput, GoldenInputs

CLASSES = ("cat", "dog")
GOLDEN = GoldenInputs((GoldenInput(b"\x89PNG", "0" * 64, "dog", (-1.25, 3.0)),), 1e-4)


def test_they_are_read_as_they_were_written():
    assert GoldenInputs.from_json(GOLDEN.to_json(), CLASSES) == GOLDEN


def values() -> dict:
    return json.loads(GOLDEN.to_json())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "[" * 100_000,
        '{"inputs": []}',
        json.dumps({**values(), "inputs": []}),
        json.dumps({**values(), "inputs": 3}),
        json.dumps({**values(), "scaled_tolerance": 1e9}),
        json.dumps({**values(), "scaled_tolerance": "nan"}),
        json.dumps({**values(), "inputs": [{**values()["inputs"][0], "label": "cow"}]}),
        json.dumps({**values(), "inputs": [{**values()["inputs"][0], "label": []}]}),
        json.dumps({**values(), "inputs": [{**values()["inputs"][0], "logits": [1.0]}]}),
        json.dumps({**values(), "inputs": [{**values()["inputs"][0], "logits": None}]}),
        json.dumps({**values(), "inputs": [{**values()["inputs"][0], "image": "%"}]}),
        json.dumps({**values(), "inputs": [{"image": ""}]}),
    ],
)
def test_anything_else_is_refused(text: str):
    with pytest.raises(ImgclfError, match="golden inputs of the model cannot be read"):
        GoldenInputs.from_json(text, CLASSES)


def read(text: str) -> GoldenInputs | ImgclfError:
    try:
        return GoldenInputs.from_json(text, CLASSES)
    except ImgclfError as error:
        return error


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    place=st.floats(0, 1),
    length=st.integers(0, 30),
    new=st.text('{}[]",:0129eE.-+=ntf\\\0\ud800', max_size=6),
)
def test_any_damage_to_the_text_is_refused_or_leaves_golden_inputs(place, length, new):
    text = GOLDEN.to_json()
    start = round(place * len(text))
    found = read(text[:start] + new + text[start + length :])
    if isinstance(found, ImgclfError):
        assert "\n" not in found.message
        return
    assert 0 < found.scaled_tolerance < 1
    assert all(one.label in CLASSES and len(one.logits) == 2 for one in found.inputs)
