"""Disentanglement, completeness and informativeness."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.errors import UserError
from detaux_pl.metrics.boosting import fit_boosting, sort_columns
from detaux_pl.metrics.inputs import (
    Floats,
    Ints,
    Per,
    as_dims,
    check,
    draw_split,
)
from detaux_pl.metrics.metric import Metric, Score, SharedFit

_TINY = 1e-11
"""Added to shares, as in disentanglement_lib: their logarithms are finite."""


class Importances(NamedTuple):
    """What gradient-boosted trees take the factors from.

    Args:
        matrix: Importance of each code for each factor, shape (C, F); columns sum to 1, or are 0
            where the trees found nothing.
        train_accuracy: Accuracy on the samples fitted on, shape (F,).
        test_accuracy: Accuracy on others, shape (F,).
    """

    matrix: Floats
    train_accuracy: Floats
    test_accuracy: Floats


def dci(
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
    """Score how one-to-one codes and factors are by the importances of boosted trees.

    With R the importances, shares of a row or column as p and the entropy H to the base of their
    number: disentanglement `sum_i rho_i (1 - H(R_i.))`, rho the share of code i in all importance;
    completeness `sum_j w_j (1 - H(R_.j))` likewise; informativeness the mean test accuracy. All in
    [0, 1], higher is better.

    Args:
        codes: Codes, shape (N, C) or (N, K, D).
        factors: Factors, integers, shape (N, F).
        seed: Seed of the samples and of ties in the trees.
        n_train: Number of samples to fit on. disentanglement_lib: 10,000.
        n_test: Number of samples to test on; two to one where there are too few.
        per: Whether a code is a `dim` or a `subspace`, whose importance is the sum of its dims'.
        n_jobs: Number of processes.
        progress: Called with the share of the work after each factor.

    Returns:
        `dci_disentanglement`, `dci_completeness`, `dci_informativeness`.

    Raises:
        UserError: If there are fewer than two codes or factors, a code is not finite, or a factor
            is continuous or has one value only.

    Example:
        >>> factors = np.indices((2, 2)).reshape(2, -1).T.repeat(9, axis=0)
        >>> {name: round(score, 2) for name, score in dci(1.0 * factors, factors).items()}
        {'dci_disentanglement': 1.0, 'dci_completeness': 1.0, 'dci_informativeness': 1.0}

    References:
        Eastwood & Williams 2018, "A Framework for the Quantitative Evaluation of Disentangled
        Representations"; disentanglement_lib.
    """
    values, given = check(codes, factors)
    _refuse_few(values.shape[1] * (1 if per == "subspace" else values.shape[2]), given.shape[1])
    found = fit_importances(
        values, given, seed=seed, n_train=n_train, n_test=n_test, n_jobs=n_jobs, progress=progress
    )
    return dci_scores(found, per, values.shape[2])


def fit_importances(
    codes: NDArray[np.floating],
    factors: NDArray[np.integer],
    *,
    seed: int = 0,
    n_train: int = 10_000,
    n_test: int = 5_000,
    n_jobs: int = 1,
    progress: Callable[[float], None] | None = None,
) -> Importances:
    """Fit boosted trees for every factor on all codes; arguments as `dci` takes them.

    Raises:
        UserError: As `dci`, but for the numbers of codes and factors.
    """
    values, given = check(codes, factors)
    dims = as_dims(values)
    train, test = draw_split(len(dims), n_train, n_test, np.random.default_rng(seed))
    columns = sort_columns(dims[train])

    def fit(factor: Ints) -> tuple[Floats, float, float]:
        classes, labels = np.unique(factor[train], return_inverse=True)
        if len(classes) == 1:
            accuracy = float((factor[test] == classes[0]).mean())
            return np.zeros(dims.shape[1]), 1.0, accuracy
        found = fit_boosting(columns, labels, len(classes), dims[test], seed)
        return (
            found.importances,
            float((found.train == labels).mean()),
            float((classes[found.test] == factor[test]).mean()),
        )

    from joblib import Parallel, delayed  # type: ignore[import-untyped]

    # The factors with most values take longest: they begin.
    order = np.argsort(-given.max(axis=0), kind="stable")
    # In Python for the most part, which threads would have to take turns at.
    fits = Parallel(n_jobs, return_as="generator")(delayed(fit)(given[:, j]) for j in order)
    results = []
    for result in fits:
        results.append(result)
        if progress is not None:
            progress(1 / len(order))
    ordered = [results[place] for place in np.argsort(order)]
    matrix, train_accuracy, test_accuracy = (np.array(part) for part in zip(*ordered, strict=True))
    return Importances(matrix.T, train_accuracy, test_accuracy)


def dci_scores(importances: Importances, per: Per = "dim", dims: int = 1) -> dict[str, float]:
    """Return the three scores, see `dci`.

    Args:
        importances: From `fit_importances`.
        per: Whether a code is a `dim`, or a `subspace` of `dims` of them.
        dims: Dimensions D of a subspace.

    Raises:
        UserError: If there are fewer than two codes or factors.
    """
    matrix = importances.matrix
    if per == "subspace":
        matrix = matrix.reshape(-1, dims, matrix.shape[1]).sum(axis=1)
    _refuse_few(*matrix.shape)
    return {
        "dci_disentanglement": _concentration(matrix),
        "dci_completeness": _concentration(matrix.T),
        "dci_informativeness": float(importances.test_accuracy.mean()),
    }


def _refuse_few(n_codes: int, n_factors: int) -> None:
    if min(n_codes, n_factors) < 2:
        raise UserError(
            f"DCI compares codes and factors, and there are {n_codes} code(s) and {n_factors} "
            "factor(s): give at least 2 of each, or leave dci out."
        )


def _concentration(matrix: Floats) -> float:
    """Mean of one minus the entropy of the rows, weighted by their shares of the whole."""
    total = matrix.sum()
    if total == 0:
        return 0.0
    shares = matrix + _TINY
    shares = shares / shares.sum(axis=1, keepdims=True)
    entropies = -(shares * np.log(shares)).sum(axis=1) / np.log(matrix.shape[1])
    return float((matrix.sum(axis=1) / total * (1 - entropies)).sum())


METRIC = Metric(
    key="dci",
    function=dci,
    scores={
        "dci_disentanglement": Score(
            "DCI disentanglement", "whether a code matters for one factor only"
        ),
        "dci_completeness": Score("DCI completeness", "whether a factor rests on one code only"),
        "dci_informativeness": Score(
            "DCI informativeness", "accuracy of the boosted trees that tell the factors"
        ),
    },
    name="DCI",
    place=3,
    least_codes=2,
    least_factors=2,
    per_subspace=True,
    jobs="processes",
    fit=SharedFit(fit_importances, dci_scores, "importances", "importance for boosted trees [%]"),
)
