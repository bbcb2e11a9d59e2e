"""Principal axes of rows."""

import numpy as np
import pytest

from detaux_pl.models.principal_axes import principal_axes, project


@pytest.mark.parametrize("d", [20, 80])  # more rows than features, and fewer
def test_they_are_those_of_the_singular_values_whatever_the_block(d, monkeypatch):
    features = np.random.default_rng(0).normal(size=(60, d)) * np.geomspace(3, 0.1, d) + 5
    features = features.astype(np.float32)
    rows = np.arange(0, 60, 2)
    monkeypatch.setattr("detaux_pl.models.principal_axes._BLOCK", 7)
    mean, axes = principal_axes(features, 5, rows)
    own = features[rows].astype(np.float64)
    np.testing.assert_allclose(mean, own.mean(axis=0))
    _, _, expected = np.linalg.svd(own - own.mean(axis=0))
    np.testing.assert_allclose(np.abs(np.sum(axes.T * expected[:5], axis=1)), 1, atol=1e-8)
    components, *same = project(features, 5, rows)
    np.testing.assert_array_equal(same[1], axes)
    np.testing.assert_allclose(components, (own - mean) @ axes, atol=1e-12)
    assert principal_axes(features, 100, rows)[1].shape == (d, min(d, 29))
