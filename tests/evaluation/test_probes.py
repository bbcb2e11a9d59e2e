from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from detaux_pl.artifacts.codes import Codes, FactorInfo
from detaux_pl.artifacts.errors import UserError
from detaux_pl.evaluation.probes import (
    fit_logistic_regression,
    linear_probe,
    n_probes,
    probe_codes,
)

INFO = FactorInfo(("digit", "hue", "same"), (5, 3, 4), "digit")


def clusters(n, dims, n_classes, spread=1.0, seed=0):
    """Overlapping groups on correlated features."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, n)
    x = rng.normal(size=(n_classes, dims))[y] + spread * rng.normal(size=(n, dims))
    return (x @ rng.normal(size=(dims, dims))).astype(np.float32), y


def digits():
    x, y = load_digits(return_X_y=True)
    return x.astype(np.float32), y


def halves(x, y):
    middle = len(x) // 2
    return x[:middle], y[:middle], x[middle:], y[middle:]


def make(n=240, name="z", seed=0):
    """Slice 0 knows the digit, slice 1 the hue, both with errors; the third factor is constant."""
    rng = np.random.default_rng(seed)
    factors = np.stack([rng.integers(0, 5, n), rng.integers(0, 3, n), np.full(n, 2)], axis=1)
    values = np.stack(
        [np.random.default_rng(1).normal(size=(5, 4))[factors[:, k]] for k in (0, 1)], axis=1
    )
    values = (values + 0.5 * rng.normal(size=values.shape)).astype(np.float32)
    splits = rng.permutation(np.arange(n) % 3).astype(np.int8)
    return Codes(values, np.arange(n), splits, factors, INFO, name)


@pytest.mark.parametrize("c", [0.1, 1.0, 10.0])
def test_fit_is_the_minimum_that_scikit_learn_finds(c):
    x, y = clusters(150, 4, 3)
    x = StandardScaler().fit_transform(x).astype(np.float32)
    weights, intercepts = fit_logistic_regression(x, y, 3, c)
    model = LogisticRegression(C=c, tol=1e-10, max_iter=10_000).fit(x.astype(np.float64), y)
    np.testing.assert_allclose(weights, model.coef_, atol=0.02 * np.abs(model.coef_).max())
    np.testing.assert_allclose(intercepts, model.intercept_, atol=0.02)


def test_gradient_of_the_fit_vanishes():
    x, y = clusters(60, 3, 4)
    c = 2.0
    weights, intercepts = fit_logistic_regression(x, y, 4, c)
    gradient, by_class = weights.copy(), np.zeros(4)
    for features, label in zip(x.astype(np.float64), y, strict=True):
        raised = np.exp(weights @ features + intercepts)
        for k in range(4):
            error = raised[k] / raised.sum() - (k == label)
            gradient[k] += c * error * features
            by_class[k] += c * error
    # The fit ends at 1e-4, told apart from it by what float32 adds.
    assert np.abs(gradient).max() / (c * len(x)) < 1.1e-4
    assert np.abs(by_class).max() / (c * len(x)) < 1.1e-4


@pytest.mark.parametrize(
    "data", [digits(), clusters(2000, 16, 10), clusters(1200, 64, 5, 3.0), clusters(900, 8, 2)]
)
def test_accuracy_is_scikit_learns(data):
    train_x, train_y, test_x, test_y = halves(*data)
    scaler = StandardScaler().fit(train_x)
    c = 2.0 if len(np.unique(train_y)) == 2 else 1.0  # it has one vector of weights then
    model = LogisticRegression(C=c, max_iter=1000).fit(scaler.transform(train_x), train_y)
    expected = model.score(scaler.transform(test_x), test_y)
    assert linear_probe(train_x, train_y, test_x, test_y) == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_units_of_the_features_do_not_matter(kind):
    train_x, train_y, test_x, test_y = halves(*clusters(600, 6, 4))
    expected = linear_probe(train_x, train_y, test_x, test_y)
    scale = np.array([1e-30, 1e-3, 1.0, 2.0, 1e3, 1e15], dtype=kind)
    moved = [x.astype(kind) * scale + (1e8 * scale if kind is np.float64 else scale) for x in
             (train_x, test_x)]  # fmt: skip
    assert linear_probe(moved[0], train_y, moved[1], test_y) == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize("value", [0.0, 0.1, -3e8])
def test_constant_codes_give_the_majority_class(value):
    train_y = np.array([4, 4, 7, 7, 7, 2])
    test_y = np.array([7, 4, 4, 2, 7, 4, 9, 4])
    train_x = np.full((6, 3), value, dtype=np.float32)
    test_x = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    assert linear_probe(train_x, train_y, test_x, test_y) == 2 / 8
    assert linear_probe(train_x, np.full(6, 4), test_x, test_y) == 4 / 8


def test_a_class_that_is_never_seen_is_never_predicted():
    x, y = clusters(400, 8, 4, 0.1)
    seen = y[:200] != 2
    accuracy = linear_probe(x[:200][seen], y[:200][seen], x[200:], y[200:])
    assert accuracy == (y[200:] != 2).mean()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("split", [0, 2])
def test_refuses_codes_that_are_not_finite(bad, split):
    data = list(halves(*clusters(40, 3, 2)))
    data[split] = data[split].copy()
    data[split][3, 1] = bad
    with pytest.raises(UserError, match="the features hold NaN or infinite values"):
        linear_probe(*data)


def test_refuses_what_does_not_fit_together():
    x, y = clusters(40, 3, 2)
    with pytest.raises(ValueError, match=r"\(40, 3\) and \(40, 2\) .* do not fit together"):
        linear_probe(x, y, x[:, :2], y)
    with pytest.raises(ValueError, match="do not fit together"):
        linear_probe(x, y[1:], x, y)
    with pytest.raises(ValueError, match="needs train and test samples"):
        linear_probe(x, y, x[:0], y[:0])
    with pytest.raises(ValueError, match="c is 0: the inverse strength"):
        linear_probe(x, y, x, y, c=0)


def test_every_slice_is_probed_for_every_task():
    z, r = make(), replace(make(seed=3), name="r", factors=make().factors, splits=make().splits)
    z = replace(z, values=np.concatenate([z.values, np.ones((240, 1, 4), np.float32)], axis=1))
    calls = []
    probes = probe_codes([z, r], progress=lambda: calls.append(1))
    assert len(calls) == n_probes([z, r]) == 2 * (4 + 3)
    assert (probes["tasks"], probes["n_train"], probes["n_test"]) == (["digit", "hue"], 80, 80)
    train, test = z.rows("train"), z.rows("test")
    for codes in (z, r):
        entry = probes["inputs"][codes.name]
        assert len(entry["slices"]) == codes.values.shape[1]
        for task in ("digit", "hue"):
            y = codes.factor(task)
            for k, part in enumerate([None, *range(codes.values.shape[1])]):
                x = codes.values[:, slice(None) if part is None else part].reshape(240, -1)
                found = (entry["full"] if part is None else entry["slices"][part])[task]
                # A view of the standardised whole is multiplied in another order.
                assert found == pytest.approx(
                    linear_probe(x[train], y[train], x[test], y[test]), abs=0.0126
                ), (codes.name, task, k)
    for task in ("digit", "hue"):
        values = z.factor(task)[test].tolist()
        assert probes["chance"][task] == max(map(values.count, values)) / len(values)
    own, other = (probes["inputs"]["z"]["slices"][k]["digit"] for k in (0, 1))
    assert own > 0.75 > 0.4 > other
    majority = np.bincount(z.factor("hue")[train]).argmax()
    dead = probes["inputs"]["z"]["slices"][2]["hue"]
    assert dead == (z.factor("hue")[test] == majority).mean()


def test_at_most_so_many_samples_are_drawn_by_the_seed():
    z = make()
    probes = [probe_codes([z], ["hue"], max_samples=30, seed=seed) for seed in (0, 0, 1)]
    assert (probes[0]["n_train"], probes[0]["n_test"]) == (30, 30)
    assert probes[0] == probes[1]
    assert probes[0] != probes[2]
    assert probe_codes([z], max_samples=80) == probe_codes([z])
    with pytest.raises(ValueError, match="max_samples is 0: give at least 1"):
        probe_codes([z], max_samples=0)


def test_a_task_that_is_asked_for_is_probed_in_the_order_given():
    probes = probe_codes([make()], ["same", "digit"])
    assert probes["tasks"] == list(probes["inputs"]["z"]["full"]) == ["same", "digit"]
    assert probes["inputs"]["z"]["full"]["same"] == probes["chance"]["same"] == 1.0


def test_refuses_codes_that_cannot_be_probed():
    z = make()
    for ask in (probe_codes, n_probes):
        with pytest.raises(UserError, match=r"task 'size' is no factor: .* digit, hue, same"):
            ask([z], ["hue", "size"])
        with pytest.raises(UserError, match="none of the factors digit, hue, same has two values"):
            ask([replace(z, factors=np.zeros_like(z.factors))])
    with pytest.raises(UserError, match="hold no test sample"):
        probe_codes([replace(z, splits=np.minimum(z.splits, 1))])
    with pytest.raises(ValueError, match="codes z, z have a name in common"):
        probe_codes([z, z])
    with pytest.raises(ValueError, match="different samples"):
        probe_codes([z, replace(z, name="r", ids=z.ids + 1)])
    values = z.values.copy()
    values[5, 1, 2] = np.nan
    splits = np.zeros_like(z.splits)
    splits[:10] = 2
    with pytest.raises(UserError, match="the codes z hold NaN or infinite values"):
        probe_codes([replace(z, values=values, splits=splits)])
