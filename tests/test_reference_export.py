"""The export that stays in git: every upgrade of onnxruntime or Pillow is tried on it."""

import json
from pathlib import Path

import pytest

from imgclf.predict import Predictor
from imgclf.verify import replay

REFERENCE = Path(__file__).parents[1] / "exports" / "reference"


def test_the_reference_answers_its_golden_inputs():
    predictor = Predictor(REFERENCE / "model.onnx")
    verification = replay(predictor)
    assert verification.failures == ()
    assert verification.inputs == 11


def test_the_reference_answers_its_example_as_is_written_beside_it():
    (expected,) = json.loads((REFERENCE / "answer.json").read_text())
    (answer,) = Predictor(REFERENCE / "model.onnx")(REFERENCE / "example.png", top_k=3)
    assert answer.label == expected["label"]
    for (label, probability), entry in zip(answer.top, expected["top"], strict=True):
        assert label == entry["label"]
        assert probability == pytest.approx(entry["probability"], abs=1e-5)


def test_the_reference_is_small():
    assert sum(path.stat().st_size for path in REFERENCE.iterdir()) < 2**20
