"""Separated attribute predictability."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.errors import UserError
from detaux_pl.metrics.inputs import (
    Floats,
    Ints,
    Per,
    as_dims,
    check,
    draw_split,
    in_threads,
    quiet_fits,
)
from detaux_pl.metrics.metric import Metric, Score
from detaux_pl.metrics.support_vectors import fit_line


def sap(
    codes: NDArray[np.floating],
    factors: NDArray[np.integer],
    *,
    seed: int = 0,
    n_train: int = 10_000,
    n_test: int = 5_000,
    per: Per = "dim",
    n_jobs: int = 1,
    progress: Callable[[float], None] | None = None,
) -> dict[str, float]:
    """Return how much better the best code predicts a factor than the second best.

    Mean over factors of the difference of the two highest test accuracies of linear support vector
    machines on a single code. A perfect code does not reach 1: on one dimension, one-against-rest
    machines cannot single out a value in the middle. It depends on the scale of the codes. A
    constant code predicts the most frequent value, as codes do that tell nothing: codes that are
    all constant have SAP 0.

    Args:
        codes: Codes, shape (N, C) or (N, K, D).
        factors: Factors, integers, shape (N, F).
        seed: Seed of the samples and of the machines.
        n_train: Number of samples to fit on. disentanglement_lib: 10,000.
        n_test: Number of samples to test on; two to one where there are too few.
        per: Whether a code is a `dim` or a `subspace`, whose D dimensions a machine sees together.
        n_jobs: Number of threads.
        progress: Called with the share of the work after each machine.

    Returns:
        `sap`.

    Raises:
        UserError: If there are fewer than two codes, one is not finite, or a factor is continuous
            or has one value only.

    Example:
        >>> factors = np.indices((3, 4)).reshape(2, -1).T.repeat(50, axis=0)
        >>> turned = factors @ [[0.6, 0.8], [-0.8, 0.6]]
        >>> [round(sap(codes, factors)["sap"], 1) for codes in (1.0 * factors, turned)]
        [0.5, 0.1]

    References:
        Kumar et al. 2018, arXiv 1711.00848, section 3; disentanglement_lib: C = 0.01, balanced
        classes.
    """
    values, given = check(codes, factors)
    if per == "dim":
        values = as_dims(values)[..., None]
    n_codes, n_factors = values.shape[1], given.shape[1]
    if n_codes < 2:
        raise UserError(
            "SAP compares the best code with the second best, and there is one code: give at "
            "least 2, or leave sap out."
        )
    train, test = draw_split(len(values), n_train, n_test, np.random.default_rng(seed))

    def accuracy(pair: tuple[int, int]) -> float:
        code, factor = values[:, pair[0]], given[:, pair[1]]
        return _accuracy(code[train], factor[train], code[test], factor[test], seed)

    pairs = list(product(range(n_codes), range(n_factors)))
    with quiet_fits():
        found = np.array(in_threads(accuracy, pairs, n_jobs, progress))
    ranked = np.sort(found.reshape(n_codes, n_factors), axis=0)
    return {"sap": float((ranked[-1] - ranked[-2]).mean())}


def _accuracy(train_x: Floats, train_y: Ints, test_x: Floats, test_y: Ints, seed: int) -> float:
    """Test accuracy of machines on codes of shape (n, D)."""
    classes, labels, counts = np.unique(train_y, return_inverse=True, return_counts=True)
    if len(classes) == 1 or (train_x.std(axis=0) <= 1e-6 * np.abs(train_x).max(axis=0)).all():
        return float((test_y == classes[counts.argmax()]).mean())
    if train_x.shape[1] == 1:
        weights, intercepts = fit_line(train_x[:, 0], labels, len(classes))
        found = classes[(test_x * weights + intercepts).argmax(axis=1)]
        return float((found == test_y).mean())
    from sklearn.svm import LinearSVC

    machine = LinearSVC(C=0.01, class_weight="balanced", random_state=seed, dual=False)
    return float(machine.fit(train_x, train_y).score(test_x, test_y))


METRIC = Metric(
    key="sap",
    function=sap,
    scores={
        "sap": Score(
            "SAP",
            "the same gap in accuracy of linear classifiers; below 1 even for perfect codes",
            perfect=0.3,
        ),
    },
    place=2,
    least_codes=2,
    per_subspace=True,
    jobs="threads",
)
