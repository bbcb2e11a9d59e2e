"""Speed of the metrics of codes, against the library that defined their protocols."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
from sklearn.ensemble import GradientBoostingClassifier

from detaux_pl.metrics.boosting import fit_boosting, sort_columns
from detaux_pl.metrics.records import RECORDS
from detaux_pl.metrics.udr import udr
from tests.factor_codes import draw_factors

_SIZES = (10, 10, 10, 8, 4, 15)
"""Values of the factors of 3D Shapes."""
_CODES = 10
_TRAIN, _TEST = 10_000, 5_000
_ROUNDS = 5
_RIVAL_FACTOR = 4
"""The one of 4 values: scikit-learn takes two minutes for all, a fourteenth of it for this."""
_MODELS = 4

_ORIGINAL = {
    "mig": 0.12, "modularity": 0.09, "irs": 0.02, "sap": 0.41, "factor_vae": 3.0, "beta_vae": 5.4,
    "dci": 134.0,
}  # fmt: skip
"""Seconds of disentanglement_lib's own functions, measured once on two cores with these numbers of
samples, codes and factors, and an encoder that costs nothing. The library needs TensorFlow 1, so
it is no rival that `make bench` could run."""


def measure() -> Iterator[tuple[str, float, str]]:
    """Yield name, value and unit of each figure."""
    factors = draw_factors(_TRAIN + _TEST, _SIZES)
    codes = _encode(factors)
    for key, record in RECORDS.items():
        metric = record.function
        if record.jobs is None:
            yield from _rows(key, key, _median(lambda m=metric: m(codes, factors)))
            continue
        for n_jobs in (1, 2):
            # The trees of processes take minutes.
            rounds = 1 if record.jobs == "processes" else _ROUNDS
            seconds = _median(lambda m=metric, n=n_jobs: m(codes, factors, n_jobs=n), rounds)
            yield from _rows(key, f"{key}, {n_jobs} {record.jobs}", seconds)
    models = [codes + i for i in range(_MODELS)]
    yield f"udr of {_MODELS} models", _median(lambda: udr(models)), "s"
    yield from _trees(codes, factors[:, _RIVAL_FACTOR])


def _encode(factors: np.ndarray) -> np.ndarray:
    """Codes of mixed factors and noise, which trees must look for."""
    rng = np.random.default_rng(1)
    perfect = (factors - factors.mean(axis=0)) / factors.std(axis=0)
    mixed = perfect @ rng.normal(size=(len(_SIZES), _CODES))
    return mixed + 0.5 * rng.normal(size=mixed.shape)


def _rows(metric: str, name: str, seconds: float) -> Iterator[tuple[str, float, str]]:
    yield name, seconds, "s"
    if metric in _ORIGINAL:
        yield (
            f"{name}: disentanglement_lib's {_ORIGINAL[metric]:g} s",
            (_ORIGINAL[metric] / seconds),
            "x faster",
        )


def _median(work: Callable[[], object], rounds: int = _ROUNDS) -> float:
    return statistics.median(_seconds(work) for _ in range(rounds))


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _trees(codes: np.ndarray, factor: np.ndarray) -> Iterator[tuple[str, float, str]]:
    """The trees of one factor, both on one thread; what they find must agree."""
    n_classes = _SIZES[_RIVAL_FACTOR]
    train, test = codes[:_TRAIN], codes[_TRAIN:]
    found = []

    def ours() -> None:
        columns = sort_columns(train)
        found.append(fit_boosting(columns, factor[:_TRAIN], n_classes, test).importances)

    def theirs() -> None:
        model = GradientBoostingClassifier(random_state=0).fit(train, factor[:_TRAIN])
        model.predict(test)
        found.append(model.feature_importances_)

    # Before and after, as the rival takes long enough for the machine to change meanwhile.
    own = [_seconds(ours)]
    rival = _seconds(theirs)
    own.append(_seconds(ours))
    # All factors have as many trees for each class as this one, and as many samples in each.
    share = sum(_SIZES) / n_classes
    yield f"trees of a factor of {n_classes} values", statistics.mean(own), "s"
    yield "scikit-learn GradientBoostingClassifier", rival, "s"
    yield "ratio", rival / statistics.mean(own), "x faster"
    yield "scikit-learn, all factors by their number of trees", rival * share, "s"
    yield "largest difference of an importance", float(np.abs(found[0] - found[1]).max()), "of 1"
