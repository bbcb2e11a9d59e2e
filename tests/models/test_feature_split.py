"""Codes that are linear in features: what tells the classes, and what is left."""

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf_shrinkage

from detaux_pl.artifacts.errors import UserError
from detaux_pl.models.erasure import fit_erasure
from detaux_pl.models.feature_split import optimal_shrinkage, split_features

CLASSES = 4


def draw(n=300, d=30, seed=0):
    """Features in which a class and a hidden group each shift the mean; features of unlike size."""
    rng = np.random.default_rng(seed)
    labels, groups = rng.integers(0, CLASSES, n), rng.integers(0, 3, n)
    shifts = rng.normal(size=(CLASSES, d)), 2 * rng.normal(size=(3, d))
    features = rng.normal(size=(n, d)) + shifts[0][labels] + shifts[1][groups] + 5
    return (features * np.geomspace(3, 0.1, d)).astype(np.float32), labels, groups


def codes_of(split, features):
    return np.einsum("nf,kcf->nkc", features - split.mean, split.analysis)


def split_of(features, labels, rows=None, **kwargs):
    rows = np.arange(len(features)) if rows is None else rows
    given = {"pca": 20, "subspace_dim": 6} | kwargs
    return split_features(features, rows, labels[rows], CLASSES, **given)


@pytest.mark.parametrize("shrinkage", [0.0, 0.05, None])
@pytest.mark.parametrize("n", [300, 25])  # fewer rows than features, too
def test_the_rest_is_uncorrelated_with_the_classes_and_the_other_part_tells_them(n, shrinkage):
    features, labels, _ = draw(n)
    split = split_of(features, labels, shrinkage=shrinkage)
    codes = codes_of(split, features)
    one_hot = np.eye(CLASSES)[labels] - np.bincount(labels, minlength=CLASSES) / n
    covariance = one_hot.T @ codes[:, 1] / n
    assert np.abs(covariance).max() < 1e-5 * codes[:, 1].std()
    # Rank C - 1: three dimensions are filled, in falling order, the others are zero.
    variances = codes[:, 0].var(axis=0)
    assert (np.diff(variances[:3]) <= 0).all()
    assert variances[2] > 0
    assert not variances[3:].any()
    rest = codes[:, 1].var(axis=0)
    assert (np.diff(rest) <= 0).all()
    assert (rest > 0).all()
    means = np.stack([codes[labels == c, 0].mean(axis=0) for c in range(CLASSES)])
    assert np.abs(means).max() > 0.3 * codes[:, 0].std()


def test_codes_are_the_principal_axes_of_what_is_erased_and_left():
    features, labels, _ = draw()
    split = split_of(features, labels, pca=30, subspace_dim=3, shrinkage=0.0)
    x = features.astype(np.float64)
    erasure = fit_erasure(x, labels)
    for index, part in ((1, erasure(x)), (0, x - erasure(x))):
        centred = part - part.mean(axis=0)
        _, _, axes = np.linalg.svd(centred, full_matrices=False)
        expected = centred @ axes[:3].T
        expected *= np.sign(axes[np.arange(3), np.abs(axes[:3]).argmax(axis=1)])
        found = codes_of(split, features)[:, index]
        np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-4)


def test_the_principal_subspace_is_the_one_that_is_asked_for():
    features, labels, _ = draw()
    first, second = (split_of(features, labels, principal=k) for k in (0, 1))
    np.testing.assert_array_equal(first.analysis, second.analysis[::-1])


def test_rows_without_label_get_that_of_a_probe():
    features, labels, _ = draw(400)
    known = np.where(np.random.default_rng(1).random(400) < 0.5, labels, -1)
    split = split_of(features, known)
    whole = split_of(features, labels)
    rest, of_all = (codes_of(s, features)[:, 1] for s in (split, whole))
    one_hot = np.eye(CLASSES)[labels] - 0.25

    def told(codes):
        return np.abs(one_hot.T @ codes / len(codes)).max() / codes.std()

    only = split_of(features, known, rows=np.flatnonzero(known >= 0))
    # Labelled rows alone leave more of the class in the others than all rows with guesses do.
    assert told(of_all) < told(rest) < told(codes_of(only, features)[:, 1])


def test_the_shrinkage_is_that_of_ledoit_and_wolf():
    rng = np.random.default_rng(0)
    few, many = rng.normal(size=(30, 40)), rng.normal(size=(4000, 10)) * np.arange(1, 11)
    a = ledoit_wolf_shrinkage(few)
    assert optimal_shrinkage(few) == pytest.approx(min(a / (1 - a), 1))
    assert optimal_shrinkage(many) < 0.01


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            [0, 1, 2],
            "^3 training images have a label, of 3 of the 4 classes: give at least as many",
        ),
        ([1, 1, 1, 1, 1], "^5 training images have a label, of 1 of the 4 classes: give at least"),
        ([], "^0 training images have a label, of 0 of the 4 classes: give at least as many"),
    ],
)
def test_too_few_labels_are_one_line(labels, message):
    features, _, _ = draw(20)
    given = np.full(20, -1)
    given[: len(labels)] = labels
    with pytest.raises(UserError, match=message):
        split_of(features, given)
