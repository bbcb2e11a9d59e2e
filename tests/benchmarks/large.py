"""Many codes: HDBSCAN fitted on a sample and the rest labelled, against a fit of all.

`python -m tests.benchmarks.large 480000` labels so many made-up codes, all of them, and prints the
seconds of processor time and the peak of the memory.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from hdbscan import approximate_predict
from sklearn.metrics import adjusted_rand_score

from detaux_pl.artifacts.codes import Codes, FactorInfo
from detaux_pl.cluster.discover import Discovery
from detaux_pl.cluster.hdbscan import HDBSCAN

_SIZES = (10, 10, 10, 8, 4, 15)
"""Values of the factors of 3D Shapes, 480,000 together."""
_N, _NEW, _DIMS = 40_000, 2_000, 10
_SHARE = 0.02
_FACTOR = 4
"""The one of 4 values, which the codes are of."""


def measure() -> Iterator[tuple[str, float, str]]:
    """Yield what is measured: name, value, unit."""
    codes = make_codes(_N)
    points = codes.values[:, 0].astype(np.float64)
    exact = HDBSCAN(_SHARE)
    found, whole = _seconds(lambda: exact.fit(points)[0])
    (task,), sampled = _seconds(lambda: Discovery(HDBSCAN(_SHARE), subspace=0, noise="drop")(codes))
    yield f"HDBSCAN of {_N:,} x {_DIMS} codes, share {_SHARE:.0%}, all fitted", whole, "s"
    yield f"{HDBSCAN.most:,} fitted, the others labelled", sampled, "s"
    yield "ratio", whole / sampled, "x faster"
    yield "ARI of the two", adjusted_rand_score(found, task.labels), "of 1"
    new = points[:_NEW]
    expected, theirs = _seconds(lambda: approximate_predict(exact._model, new)[0])
    labels, ours = _seconds(lambda: exact.predict(new)[0])
    yield f"approximate_predict of {_NEW:,} among {_N:,}", theirs, "s"
    yield "ratio", theirs / ours, "x faster"
    yield "same labels", float((labels == expected).mean()), "of 1"


def make_codes(n: int) -> Codes:
    """Codes of one subspace that tell a factor: noisy, and a tenth between two of its values."""
    rng = np.random.default_rng(0)
    rows = np.arange(n) if n >= np.prod(_SIZES) else rng.permutation(np.prod(_SIZES))[:n]
    factors = np.stack(np.unravel_index(rows % np.prod(_SIZES), _SIZES), axis=1)
    means = rng.normal(size=(_SIZES[_FACTOR], _DIMS))
    values = means[factors[:, _FACTOR]].astype(np.float32)
    blurred = np.flatnonzero(rng.random(n) < 0.1)
    share = rng.random((len(blurred), 1), dtype=np.float32)
    other = means[rng.integers(0, len(means), len(blurred))].astype(np.float32)
    values[blurred] += share * (other - values[blurred])
    values += 0.3 * rng.standard_normal(values.shape, dtype=np.float32)
    names = tuple(f"factor{k}" for k in range(len(_SIZES)))
    info = FactorInfo(names, _SIZES, names[0], principal_subspace=None)
    return Codes(values[:, None], np.arange(n), np.zeros(n, np.int8), factors, info)


def _seconds(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def main(n: int) -> None:
    """Label codes that lie on the disk."""
    with tempfile.TemporaryDirectory() as folder:
        make_codes(n).save(folder)
        codes = Codes.load(folder)
        discovery = Discovery(HDBSCAN(_SHARE), subspace=0, noise="drop")
        (task,), seconds = _seconds(lambda: discovery(codes))
        _, written = _seconds(lambda: task.save(folder))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    told = adjusted_rand_score(codes.factors[:, _FACTOR], task.labels)
    print(
        f"{n:,} codes: {seconds:.0f} s of processor time, {written:.0f} s to write the labels; "
        f"peak {peak:,.0f} MB with the making of the codes; {task.meta['n_clusters']} clusters, "
        f"noise {task.is_noise.mean():.0%}, ARI with the factor {told:.2f}"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]))
