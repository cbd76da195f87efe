import json

import pytest

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
