import numpy as np
import pytest

from detaux_pl.models.erased_probe import erase_groups, fit_erased_probe
from detaux_pl.models.erasure import fit_erasure
from detaux_pl.models.linear_probe import fit_linear_probe
from detaux_pl.models.principal_axes import principal_axes


def scene(n=120, d=30):
    rng = np.random.default_rng(0)
    classes, groups = rng.integers(3, size=n), rng.integers(4, size=n)
    features = rng.normal(size=(n, d)) + 2.0 * rng.normal(size=(4, d))[groups]
    features += rng.normal(size=(3, d))[classes] + 10.0
    return features, np.where(np.arange(n) < 30, classes, -1), classes, groups


@pytest.mark.parametrize("pca", [8, 200])
def test_the_folded_classifier_is_the_chain_of_its_steps(pca):
    features, labels, _, groups = scene()
    probe = fit_erased_probe(features, labels, 3, groups[:, None], pca=pca, shrinkage=0.05)
    mean, axes = principal_axes(features, pca)
    assert axes.shape == (30, min(pca, 30))
    erased = fit_erasure((features - mean) @ axes, groups, 0.05)((features - mean) @ axes)
    steps = fit_linear_probe(erased[:30], labels[:30], 3)
    np.testing.assert_allclose(probe.logits(features), steps.logits(erased), atol=1e-8)


def test_after_erasing_the_logits_say_nothing_of_the_group():
    features, labels, _, groups = scene()
    none = np.zeros((len(groups), 0), dtype=int)
    plain = fit_erased_probe(features, labels, 3, none).logits(features)
    erased = fit_erased_probe(features, labels, 3, groups[:, None]).logits(features)

    def spread(logits):
        return np.std([logits[groups == g].mean(axis=0) for g in range(4)], axis=0).max()

    assert spread(erased) < 1e-9 * np.abs(erased).max()
    assert spread(plain) > 0.1


def test_several_groupings_are_erased_by_the_mean_of_their_maps():
    features, _, classes, groups = scene()
    both = erase_groups(features, np.stack([groups, classes], axis=1), 0.1)
    single = [fit_erasure(features, labels, 0.1)(features) for labels in (groups, classes)]
    np.testing.assert_allclose(both(features), (single[0] + single[1]) / 2, atol=1e-9)
    weight = np.random.default_rng(1).normal(size=(2, 30))
    folded, bias = both.fold(weight, np.zeros(2))
    np.testing.assert_allclose(features @ folded.T + bias, both(features) @ weight.T, atol=1e-9)
    # A grouping without a group halves what the other one erases.
    half = erase_groups(features, np.stack([groups, np.full(120, -1)], axis=1), 0.1)
    np.testing.assert_allclose(half(features), (features + single[0]) / 2, atol=1e-9)


def test_the_leading_axes_are_those_of_the_largest_variance():
    features = scene()[0]
    for rows in (features, features[:20]):  # more rows than dimensions, and fewer
        mean, axes = principal_axes(rows, 3)
        variances = np.linalg.eigvalsh(np.cov(rows.T, bias=True))[::-1]
        np.testing.assert_allclose(((rows - mean) @ axes).var(axis=0), variances[:3])
