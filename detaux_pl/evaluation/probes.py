"""Linear probes: what a linear classifier reads from codes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from threadpoolctl import threadpool_info, threadpool_limits  # type: ignore[import-untyped]

from detaux_pl.artifacts.codes import Codes
from detaux_pl.artifacts.errors import UserError

MOST_SLICES = 64
"""Number of slices up to which each is probed: thousands would take an hour."""

_TOLERANCE = 1e-4
"""Largest gradient of the mean loss at which a fit ends; scikit-learn's default."""


def linear_probe(
    train_x: NDArray[np.floating],
    train_y: NDArray[np.int64],
    test_x: NDArray[np.floating],
    test_y: NDArray[np.int64],
    c: float = 1.0,
) -> float:
    """Return the test accuracy of multinomial logistic regression, in [0, 1].

    Features are standardised by the train split; those that are constant there count as 0. A
    class that the train split lacks is never predicted.

    Args:
        train_x: Features to fit on, shape (n, D).
        train_y: Their classes, shape (n,).
        test_x: Features to classify, shape (m, D).
        test_y: Their classes, shape (m,).
        c: Inverse strength of the penalty, see `fit_logistic_regression`.

    Raises:
        ValueError: If a split is empty, shapes do not fit together, or `c` is not positive.
        UserError: If a feature is NaN or infinite.
    """
    shapes = f"{train_x.shape} and {test_x.shape} with {train_y.shape} and {test_y.shape} classes"
    fits = train_x.ndim == test_x.ndim == 2 and train_x.shape[1] == test_x.shape[1]
    if not fits or train_y.shape != (len(train_x),) or test_y.shape != (len(test_x),):
        raise ValueError(f"features of shapes {shapes} do not fit together: give (n, D) and (n,).")
    if not train_y.size or not test_y.size:
        raise ValueError(f"features of shapes {shapes}: a probe needs train and test samples.")
    return _accuracy(*_standardise(train_x, test_x, "features"), train_y, test_y, c)


def probe_codes(
    codes: Sequence[Codes],
    tasks: Sequence[str] | None = None,
    max_samples: int | None = None,
    seed: int = 0,
    progress: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Probe codes and their slices for every task, on the test split.

    Args:
        codes: Arrays of the same samples, each probed as a whole and, where it has 64 slices or
            fewer, slice by slice.
        tasks: Factors to classify; None for all that have two values or more in the train split.
        max_samples: Number of samples of each split to use at most, drawn at random; None for
            all.
        seed: Seed of that draw.
        progress: Called after each probe, `n_probes` times.

    Returns:
        `tasks`; `chance` of each task, the share of its most frequent class in the test samples;
        `n_train` and `n_test`, the samples used; `inputs`, by name of the codes: accuracies in
        [0, 1] by task, of the whole (`full`, all slices side by side) and of each of the
        `slices`, which are none where there are more than 64.

    Raises:
        ValueError: If the arrays are not of the same samples or share a name, or `max_samples` is
            not positive.
        UserError: If a task is unknown, none has two values, a split is empty, or a code is NaN
            or infinite.

    References:
        Burns et al., "Unsupervised Disentanglement without Autoencoding", section 3.3. It does
        not say which classifier, penalty and standardisation; chance is given there as 1/10.
    """
    names = [each.name for each in codes]
    if len(set(names)) != len(names) or any(
        not np.array_equal(each.ids, codes[0].ids) for each in codes
    ):
        raise ValueError(
            f"codes {', '.join(names)} have a name in common or different samples: give arrays of "
            "the same samples, each with a name of its own."
        )
    if max_samples is not None and max_samples < 1:
        raise ValueError(f"max_samples is {max_samples}: give at least 1, or None for all.")
    rng = np.random.default_rng(seed)
    train, test = (draw_rows(codes[0], split, max_samples, rng) for split in ("train", "test"))
    tasks = _tasks(codes[0], tasks)
    targets = {task: codes[0].factor(task) for task in tasks}
    entries = {}
    for each in codes:
        entry: dict[str, Any] = {"full": {}, "slices": [{} for _ in range(_n_slices(each))]}
        for task, part, accuracy in _probe(each, train, test, targets):
            (entry["full"] if part is None else entry["slices"][part])[task] = accuracy
            if progress is not None:
                progress()
        entries[each.name] = entry
    return {
        "tasks": tasks,
        "chance": {
            task: float(np.bincount(values[test]).max() / len(test))
            for task, values in targets.items()
        },
        "n_train": len(train),
        "n_test": len(test),
        "inputs": entries,
    }


def n_probes(codes: Sequence[Codes], tasks: Sequence[str] | None = None) -> int:
    """Return how many probes `probe_codes` fits.

    Raises:
        UserError: If a task is unknown, or none has two values.
    """
    inputs = sum(1 + _n_slices(each) for each in codes)
    return inputs * len(_tasks(codes[0], tasks))


def draw_rows(
    codes: Codes, split: str, max_samples: int | None, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw rows of a split, ascending: at most so many, all of them for None.

    Raises:
        UserError: If the split is empty.
    """
    rows = codes.rows(split)
    if not rows.size:
        raise UserError(f"the codes hold no {split} sample: a probe needs train and test samples.")
    if max_samples is None or max_samples >= rows.size:
        return rows
    return np.sort(rng.choice(rows, max_samples, replace=False))


def fit_logistic_regression(
    features: NDArray[np.float32], labels: NDArray[np.int64], n_classes: int, c: float = 1.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit multinomial logistic regression by L-BFGS on all samples at once.

    Minimises `c * sum_i -log softmax(W x_i + b)[y_i] + 0.5 |W|^2` until no partial derivative of
    it, divided by `c n`, exceeds 1e-4: scikit-learn's objective and tolerance, for two classes at
    twice its `c`, as it has one vector of weights there. Products are in the type of the features,
    sums over samples in float64.

    Args:
        features: Samples, shape (n, D).
        labels: Their classes, from 0, shape (n,); every class occurs.
        n_classes: Number of classes, K.
        c: Inverse strength of the penalty, > 0. Paper: not given.

    Returns:
        Weights, shape (K, D), and intercepts, shape (K,).

    Raises:
        ValueError: If `c` is not positive.
    """
    if not c > 0:
        raise ValueError(f"c is {c}: the inverse strength of the penalty is positive.")
    n, dims = features.shape
    samples = np.arange(n)

    def objective(point: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        joint = point.reshape(n_classes, dims + 1)
        weights = joint[:, :dims]
        # With classes as rows, numpy reduces over them at the speed of memory.
        p = np.ascontiguousarray(weights, dtype=features.dtype) @ features.T
        p += joint[:, dims:].astype(features.dtype)
        p -= p.max(axis=0)
        loss = -p[labels, samples].sum(dtype=np.float64)
        np.exp(p, out=p)
        total = p.sum(axis=0)
        loss += np.log(total).sum(dtype=np.float64)
        p /= total
        p[labels, samples] -= 1
        gradient = np.empty_like(joint)
        gradient[:, :dims] = p @ features
        gradient[:, :dims] += weights / c
        gradient[:, dims] = p.sum(axis=1, dtype=np.float64)
        loss += 0.5 / c * float((weights * weights).sum())
        return loss / n, gradient.ravel() / n

    start = np.zeros((n_classes, dims + 1))
    # Optimal where the features say nothing: such a probe answers with the majority class.
    start[:, dims] = np.log(np.bincount(labels, minlength=n_classes))
    start[:, dims] -= start[:, dims].mean()
    found = minimize(
        objective, start.ravel(), jac=True, method="L-BFGS-B", options={"gtol": _TOLERANCE}
    )
    joint = found.x.reshape(n_classes, dims + 1)
    return joint[:, :dims], joint[:, dims]


def _probe(
    codes: Codes,
    train: NDArray[np.int64],
    test: NDArray[np.int64],
    targets: dict[str, NDArray[np.int64]],
) -> Iterator[tuple[str, int | None, float]]:
    """Give task, slice (None for the whole) and accuracy of every probe of one array."""
    dims = codes.values.shape[2]
    train_x, test_x = _standardise(
        codes.values[train].reshape(len(train), -1),
        codes.values[test].reshape(len(test), -1),
        f"codes {codes.name}",
    )
    jobs = [(task, part) for task in targets for part in (None, *range(_n_slices(codes)))]

    def run(job: tuple[str, int | None]) -> float:
        task, part = job
        columns = slice(None) if part is None else slice(part * dims, (part + 1) * dims)
        y = targets[task]
        return _accuracy(train_x[:, columns], test_x[:, columns], y[train], y[test], 1.0)

    # Products with few columns gain little from threads of their own: each probe has one.
    threads = max((each["num_threads"] for each in threadpool_info()), default=1)
    with threadpool_limits(1), ThreadPoolExecutor(threads) as pool:
        for (task, part), accuracy in zip(jobs, pool.map(run, jobs), strict=True):
            yield task, part, accuracy


def _n_slices(codes: Codes) -> int:
    """Number of slices that are probed: all or none."""
    n: int = codes.values.shape[1]
    return n if n <= MOST_SLICES else 0


def _accuracy(
    train_x: NDArray[np.float32],
    test_x: NDArray[np.float32],
    train_y: NDArray[np.int64],
    test_y: NDArray[np.int64],
    c: float,
) -> float:
    classes, labels = np.unique(train_y, return_inverse=True)
    weights, intercepts = fit_logistic_regression(train_x, labels, len(classes), c)
    predicted = classes[(test_x @ weights.T.astype(test_x.dtype) + intercepts).argmax(axis=1)]
    return float((predicted == test_y).mean())


def _standardise(
    train: NDArray[np.floating], test: NDArray[np.floating], what: str
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Bring features to mean 0 and deviation 1 on the train split.

    Raises:
        UserError: If one is NaN or infinite.
    """
    low, high = train.min(axis=0), train.max(axis=0)
    if not np.isfinite([low.min(), high.max(), test.min(), test.max()]).all():
        raise UserError(f"the {what} hold NaN or infinite values: train the disentangler again.")
    mean = train.mean(axis=0, dtype=np.float64)
    # A cast before the mean is gone would cost the digits in which samples differ.
    kind = np.result_type(train, np.float32)
    centred = [np.subtract(features, mean, dtype=kind) for features in (train, test)]
    # n = samples, d = features
    scale = np.sqrt(np.einsum("nd,nd->d", centred[0], centred[0], dtype=np.float64) / len(train))
    constant = low == high
    factor = np.where(constant, 0.0, 1.0 / np.where(constant, 1.0, scale))
    for features in centred:
        features *= factor
    return centred[0].astype(np.float32, copy=False), centred[1].astype(np.float32, copy=False)


def _tasks(codes: Codes, tasks: Sequence[str] | None) -> list[str]:
    """Check the tasks that were asked for, or list all that can be learnt."""
    names = codes.info.names
    if tasks is None:
        train = codes.factors[codes.rows("train")]
        tasks = [
            name for name, values in zip(names, train.T, strict=True) if np.unique(values).size > 1
        ]
        if not tasks:
            raise UserError(
                f"none of the factors {', '.join(names)} has two values in the train split: there "
                "is nothing to probe."
            )
    for task in tasks:
        if task not in names:
            raise UserError(
                f"task {task!r} is no factor: give tasks among {', '.join(names)}, or none for all."
            )
    return list(tasks)
