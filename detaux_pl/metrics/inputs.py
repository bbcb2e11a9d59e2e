"""What the metrics of codes and factors have in common: their input, samples and threads."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from detaux_pl.artifacts.errors import UserError

Per = Literal["dim", "subspace"]
"""What a code is to a metric: each of the K D dimensions, or each of the K subspaces."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def check_codes(codes: NDArray[np.floating]) -> Floats:
    """Return codes as float64, shape (N, K, D); D is 1 for codes of shape (N, K).

    Raises:
        ValueError: If the shape is another one, or there is no sample.
        UserError: If a code is NaN or infinite.
    """
    if codes.ndim not in (2, 3) or 0 in codes.shape:
        raise ValueError(
            f"codes have shape {codes.shape}: give (N, K), or (N, K, D) for subspaces, with at "
            "least one sample."
        )
    values = np.asarray(codes, dtype=np.float64).reshape(*codes.shape[:2], -1)
    if not np.isfinite([values.min(), values.max()]).all():
        raise UserError("the codes hold NaN or infinite values: train the disentangler again.")
    return values


def check_factors(factors: NDArray[np.integer], n: int) -> Ints:
    """Return factors as int64, shape (N, F), each numbered from 0 without gaps.

    Raises:
        ValueError: If they are not of `n` samples.
        UserError: If a factor is continuous or has one value only.
    """
    if factors.ndim != 2 or len(factors) != n or not factors.shape[1]:
        raise ValueError(
            f"factors have shape {factors.shape}, the codes are of {n} samples: give ({n}, F)."
        )
    if not np.issubdtype(factors.dtype, np.integer):
        raise UserError(
            f"factors are of type {factors.dtype}: give integers, and cut a continuous factor "
            "into classes first."
        )
    columns = [np.unique(column, return_inverse=True)[1] for column in factors.T]
    for index, column in enumerate(columns):
        if not column.any():
            raise UserError(
                f"factor {index} has one value only in {n} samples: leave it out, there is "
                "nothing to tell by it."
            )
    return np.stack(columns, axis=1).astype(np.int64)


def check(codes: NDArray[np.floating], factors: NDArray[np.integer]) -> tuple[Floats, Ints]:
    """Return codes, shape (N, K, D), and factors, shape (N, F), once both are checked.

    Raises:
        ValueError: If their shapes do not fit.
        UserError: If a code is not finite, or a factor is continuous or has one value only.
    """
    values = check_codes(codes)
    return values, check_factors(factors, len(values))


def as_dims(codes: Floats) -> Floats:
    """Return every dimension of every subspace as a code of its own, shape (N, K D)."""
    return codes.reshape(len(codes), -1)


def draw_split(n: int, n_train: int, n_test: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Draw rows to fit on and others to test on; two to one where there are too few.

    Raises:
        ValueError: If a number is not positive.
        UserError: If there are fewer than 3 rows.
    """
    if n_train < 1 or n_test < 1:
        raise ValueError(f"n_train is {n_train} and n_test is {n_test}: give at least 1 of each.")
    if n < 3:
        raise UserError(f"there are {n} samples: a metric that fits and tests needs at least 3.")
    order = rng.permutation(n)
    if n < n_train + n_test:
        n_test = max(1, n // 3)
        n_train = n - n_test
    return order[:n_train], order[n_train : n_train + n_test]


def draw_rows(n: int, n_rows: int, seed: int) -> Ints:
    """Draw rows without replacement, ascending; all where there are no more.

    Raises:
        ValueError: If `n_rows` is not positive.
    """
    if n_rows < 1:
        raise ValueError(f"the number of samples to draw is {n_rows}: give at least 1.")
    if n <= n_rows:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, n_rows, replace=False))


def active_codes(codes: Floats, threshold: float = 0.05) -> NDArray[np.bool_]:
    """Say which codes are alive: those that vary by more than a share of the most varying one.

    Args:
        codes: Codes, shape (N, C).
        threshold: Least standard deviation, as a share of the largest. disentanglement_lib: 0.05,
            absolute, for codes with the deviation 1 of a prior; a share is the same for all.

    Returns:
        Whether each varies, shape (C,); none does where all are constant.
    """
    deviations = codes.std(axis=0)
    # What float32 leaves of a constant far from 0 is no variation.
    noise = 1e-6 * np.abs(codes).max(axis=0)
    alive: NDArray[np.bool_] = deviations > np.maximum(threshold * deviations.max(), noise)
    return alive


@contextmanager
def quiet_fits() -> Iterator[None]:
    """Keep to themselves what scikit-learn says of fits and nobody can act on.

    That a fit ended after its number of steps, as it does in disentanglement_lib, and that a few
    samples have many classes. Goes around threads: all share one list of filters.
    """
    from sklearn.exceptions import ConvergenceWarning  # a second to import

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", message="The number of unique classes")
        yield


def in_threads(
    function: Callable[[_Item], _Result],
    items: Sequence[_Item],
    n_jobs: int = 1,
    progress: Callable[[float], None] | None = None,
) -> list[_Result]:
    """Apply a function to every item, some at once.

    Args:
        function: What to do; numpy, scipy and scikit-learn let other threads run meanwhile.
        items: To what.
        n_jobs: Number of threads.
        progress: Called with `1 / len(items)` after each.

    Returns:
        The results in the order of the items.
    """

    def results() -> Iterator[_Result]:
        # A product with a few columns gains nothing from threads of its own.
        with threadpool_limits(1), ThreadPoolExecutor(n_jobs) as pool:
            for result in pool.map(function, items):
                if progress is not None:
                    progress(1 / len(items))
                yield result

    return list(results())
