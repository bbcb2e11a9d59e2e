"""Explicitness: the codes together tell every factor."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from detaux_pl.metrics.inputs import as_dims, check, draw_split, in_threads, quiet_fits
from detaux_pl.metrics.metric import Metric, Score


def explicitness(
    codes: NDArray[np.floating],
    factors: NDArray[np.integer],
    *,
    seed: int = 0,
    n_train: int = 10_000,
    n_test: int = 5_000,
    n_jobs: int = 1,
    progress: Callable[[float], None] | None = None,
) -> dict[str, float]:
    """Return how well logistic regression on all codes ranks the values of the factors.

    Mean over factors of the mean area under the ROC curve, one value against the rest, of test
    samples; 0.5 for chance, 1 at best. Codes are standardised by the samples fitted on, constant
    ones count 0; a value that is missing in either part is left out.

    Args:
        codes: Codes, shape (N, C) or (N, K, D), of which all dimensions are taken together.
        factors: Factors, integers, shape (N, F).
        seed: Seed of the samples.
        n_train: Number of samples to fit on. disentanglement_lib: 10,000.
        n_test: Number of samples to test on; two to one where there are too few.
        n_jobs: Number of threads.
        progress: Called with the share of the work after each factor.

    Returns:
        `explicitness`.

    Raises:
        UserError: If a code is not finite, or a factor is continuous or has one value only.

    Example:
        >>> factors = np.indices((3, 4)).reshape(2, -1).T.repeat(50, axis=0)
        >>> round(explicitness(1.0 * factors, factors)["explicitness"], 2)
        1.0

    References:
        Ridgeway & Mozer 2018, arXiv 1802.05312, section 3; disentanglement_lib, its
        `explicitness_score_test`.
    """
    values, given = check(codes, factors)
    dims = as_dims(values)
    train, test = draw_split(len(dims), n_train, n_test, np.random.default_rng(seed))
    mean, deviation = dims[train].mean(axis=0), dims[train].std(axis=0)
    constant = deviation <= 1e-6 * np.abs(dims[train]).max(axis=0)
    dims = np.where(constant, 0.0, (dims - mean) / np.where(constant, 1.0, deviation))

    from sklearn.linear_model import LogisticRegression  # a second to import
    from sklearn.metrics import roc_auc_score

    def area(factor: NDArray[np.int64]) -> float:
        if factor[train].min() == factor[train].max():
            return 0.5
        model = LogisticRegression().fit(dims[train], factor[train])
        scores = model.predict_proba(dims[test])
        areas = [
            roc_auc_score(factor[test] == value, score)
            for value, score in zip(model.classes_, scores.T, strict=True)
            if 0 < (factor[test] == value).sum() < len(test)
        ]
        return float(np.mean(areas)) if areas else 0.5

    with quiet_fits():
        areas = in_threads(area, list(given.T), n_jobs, progress)
    return {"explicitness": float(np.mean(areas))}


METRIC = Metric(
    key="explicitness",
    function=explicitness,
    scores={
        "explicitness": Score(
            "explicitness", "area under the ROC curve of linear classifiers; 0.5 is chance"
        ),
    },
    place=8,
    jobs="threads",
)
