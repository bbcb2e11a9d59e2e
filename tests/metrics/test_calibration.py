"""Temperature and calibration error, on numbers that can be had by hand."""

from __future__ import annotations

import numpy as np
import pytest

from detaux_pl.metrics.calibration import (
    expected_calibration_error,
    fit_temperature,
    reliability,
    scale,
)


def _softmax(logits: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def test_scaled_probabilities_are_the_softmax_of_scaled_logits():
    logits = np.random.default_rng(0).normal(size=(50, 7))
    for temperature in (0.3, 1.0, 2.5):
        found = scale(_softmax(logits), temperature)
        np.testing.assert_allclose(found, _softmax(logits / temperature), rtol=1e-9)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_labels_were_drawn_at_is_found(temperature: float):
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=2.0, size=(20_000, 4))
    true = _softmax(logits)
    labels = (rng.random(len(true))[:, None] > true.cumsum(axis=1)).sum(axis=1)
    over_sure = _softmax(logits * temperature)
    found = fit_temperature(over_sure.astype(np.float32), labels)
    assert found == pytest.approx(temperature, rel=0.03)
    assert expected_calibration_error(scale(over_sure, found), labels) < 0.01


def test_without_labels_nothing_is_scaled():
    ignored = np.full(3, -1)
    sure = np.full((3, 2), 0.5)
    assert fit_temperature(sure, ignored) == 1.0
    assert np.isnan(expected_calibration_error(sure, ignored))
    assert reliability(sure, ignored) == []


def test_a_probability_that_underflowed_is_no_error():
    sure = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    temperature = fit_temperature(sure, np.array([0, 1, 1]))
    assert 1 < temperature <= 100
    assert np.isfinite(scale(sure, temperature)).all()


def test_the_error_is_the_mean_gap_of_bins_by_their_size():
    sure = np.array([[0.95, 0.05]] * 6 + [[0.65, 0.35]] * 4)
    labels = np.array([0] * 3 + [1] * 3 + [0] * 4)
    # 6 of 10 are .95 sure and half right, 4 of 10 are .65 sure and always right.
    assert expected_calibration_error(sure, labels, 10) == pytest.approx(0.6 * 0.45 + 0.4 * 0.35)
    assert reliability(sure, labels, 10) == [
        (pytest.approx(0.65), 1.0, 4),
        (pytest.approx(0.95), 0.5, 6),
    ]
