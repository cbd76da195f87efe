import numpy as np
import pytest
import torch

from imgclf.evaluation.calibration import expected_calibration_error, fit_temperature
from imgclf.evaluation.metrics import softmax


def sampled(temperature: float, number: int = 100_000):
    """Logits and labels for which that temperature is the right one."""
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 2, (number, 5)).astype(np.float32)
    probabilities = softmax(logits / temperature)
    labels = (generator.random((number, 1)) > probabilities.cumsum(axis=1)).sum(axis=1)
    return logits, labels.clip(0, 4)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_labels_were_drawn_with_is_found(temperature: float):
    logits, labels = sampled(temperature)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(temperature, rel=0.05)
    before = expected_calibration_error(softmax(logits), labels)
    after = expected_calibration_error(softmax(logits / found), labels)
    assert after < 0.01
    assert before > 0.05 or temperature == 1


def test_the_temperature_is_where_torchs_cross_entropy_is_smallest():
    logits, labels = sampled(2.0, 500)
    found = fit_temperature(logits, labels)

    def loss(temperature: float) -> float:
        scaled = torch.from_numpy(logits).double() / temperature
        return torch.nn.functional.cross_entropy(scaled, torch.from_numpy(labels)).item()

    assert loss(found) < min(loss(found * 1.01), loss(found / 1.01))


def test_answers_that_are_all_right_or_all_wrong_say_nothing_of_the_temperature():
    logits = np.eye(4, dtype=np.float32)
    assert fit_temperature(logits, np.arange(4)) == 1
    assert fit_temperature(logits, np.arange(4)[::-1].copy()) == 1


def test_calibration_error_is_the_gap_of_each_bin_weighted_by_its_images():
    # Two images of confidence 0.8, one right: gap 0.3; one of 0.6, right: gap 0.4.
    probabilities = np.array([[0.8, 0.2], [0.8, 0.2], [0.4, 0.6]])
    labels = np.array([0, 1, 1])
    assert expected_calibration_error(probabilities, labels) == pytest.approx((2 * 0.3 + 0.4) / 3)
    certain = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert expected_calibration_error(certain, np.array([0, 1])) == 0
    assert expected_calibration_error(certain, np.array([1, 0])) == 1
