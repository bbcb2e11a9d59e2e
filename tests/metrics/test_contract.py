"""What holds for every metric that has a record, those of later files included."""

from __future__ import annotations

import inspect
import pkgutil
from functools import cache
from importlib import import_module
from typing import get_type_hints

import numpy as np
import pytest
from joblib import parallel_config

import detaux_pl.metrics
from detaux_pl.artifacts.errors import UserError
from detaux_pl.evaluation.disentanglement import refuse_impossible
from detaux_pl.metrics import boosting
from detaux_pl.metrics.records import RECORDS
from tests.factor_codes import draw_factors, encode

FACTORS = draw_factors(600, (3, 4, 5))
KINDS = ("perfect", "constant", "duplicated", "rotated", "noisy")
SLACK = 0.03
"""What a few hundred samples may cost, or by chance give."""

every_metric = pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module", autouse=True)
def few_stages():
    """Fewer trees, for which all that is asked here holds too; processes would have them all."""
    with pytest.MonkeyPatch.context() as patch, parallel_config("threading"):
        patch.setattr(boosting, "_STAGES", 20)
        yield


@cache
def scores_of(key, kind, per="dim"):
    """Scores of codes of a kind; as subspaces, of pairs of codes."""
    record, codes = RECORDS[key], encode(FACTORS, kind)
    if per == "dim":
        return record.function(codes, FACTORS, seed=0)
    codes = np.stack([codes, codes[:, ::-1] ** 2], axis=2)
    return record.function(codes, FACTORS, seed=0, per=per)


def assert_declared(record, found):
    for key, value in found.items():
        assert key in record.scores, (
            f"{record.key} gives the score {key!r}, which its record does not declare: add it to "
            "`scores`"
        )
        low, high = record.scores[key].range
        assert np.isfinite(value), f"{key} is {value}: give a finite number, or raise a UserError"
        assert low - 1e-9 <= value <= high + 1e-9, f"{key} is {value}, its range {low} to {high}"


@every_kind
@every_metric
def test_scores_are_those_declared_and_within_their_range(record, kind):
    found = scores_of(record.key, kind)
    assert list(found) == list(record.scores), (
        f"{record.key} gives {list(found)}, its record declares {list(record.scores)}: declare "
        "what it gives, in that order"
    )
    assert_declared(record, found)
    if record.per_subspace:
        found = scores_of(record.key, kind, "subspace")
        assert found, f"{record.key} gives no score of subspaces: leave `per_subspace` out"
        assert_declared(record, found)


@every_metric
def test_codes_of_one_factor_each_score_what_the_record_says(record):
    for key, value in scores_of(record.key, "perfect").items():
        score = record.scores[key]
        least = score.perfect
        if least is None:
            least = score.range[score.direction == "higher"]
            assert np.isfinite(least), f"{key} has no best value: say by `perfect` what is good"
        short = least - value if score.direction == "higher" else value - least
        assert short <= SLACK, (
            f"perfect codes have {key} {value:.3f}, and their record says {least:g}: mend the "
            "function, or `direction`, `range` or `perfect` of the score"
        )


@every_kind
@every_metric
def test_no_codes_are_better_than_those_of_one_factor_each(record, kind):
    best = scores_of(record.key, "perfect")
    for key, value in scores_of(record.key, kind).items():
        gain = value - best[key] if record.scores[key].direction == "higher" else best[key] - value
        assert gain <= SLACK, f"{kind} codes have {key} {value:.3f}, perfect ones {best[key]:.3f}"


@every_metric
def test_the_order_of_samples_does_not_count(record):
    order = np.lexsort(FACTORS.T)  # those of a value side by side
    found = record.function(encode(FACTORS, "noisy")[order], FACTORS[order], seed=0)
    assert found == pytest.approx(scores_of(record.key, "noisy"), rel=0.1, abs=0.1), (
        f"{record.key} depends on the order of samples: draw those to fit and to test on at random"
    )


@every_metric
def test_the_seed_fixes_the_scores_whatever_the_shape_and_the_jobs(record):
    codes = encode(FACTORS, "duplicated").reshape(-1, 3, 2)
    expected = pytest.approx(scores_of(record.key, "duplicated"), rel=1e-9, abs=1e-12)
    assert record.function(codes, FACTORS, seed=0) == expected
    if record.jobs is not None:
        done = []
        found = record.function(codes, FACTORS, seed=0, n_jobs=2, progress=done.append)
        assert found == expected
        assert sum(done) == pytest.approx(1), "progress is told shares that do not add up to 1"


@every_metric
def test_a_shared_fit_gives_the_scores_of_the_function_and_a_matrix(record):
    if record.fit is None:
        return
    codes = encode(FACTORS, "noisy")[:, :4].reshape(-1, 2, 2)
    done = []
    found = record.fit.function(codes, FACTORS, seed=3, n_jobs=1, progress=done.append)
    assert sum(done) == pytest.approx(1)
    for per in ("dim", "subspace") if record.per_subspace else ("dim",):
        way = {"per": per} if record.per_subspace else {}
        expected = record.function(codes, FACTORS, seed=3, **way)
        assert record.fit.scores(found, per, 2) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert found.matrix.shape == (4, FACTORS.shape[1])
    assert found.matrix.min() >= 0
    assert record.fit.title


@every_metric
def test_it_is_computed_of_as_few_codes_and_factors_as_it_needs_and_refused_of_fewer(record):
    codes, factors = record.least_codes, record.least_factors
    few = encode(FACTORS, "random")[:, :codes, None]
    assert_declared(record, record.function(few, FACTORS[:, :factors], seed=0))
    refuse_impossible([record.key], codes, factors)
    for n_codes, n_factors, words in (
        (codes - 1, factors, f"{record.key!r} of evaluate needs at least {codes} codes, and "),
        (codes, factors - 1, f"{record.key!r} of evaluate needs at least {factors} factor"),
    ):
        if n_factors >= 0:
            with pytest.raises(UserError, match=words) as error:
                refuse_impossible([record.key], n_codes, n_factors)
            assert "\n" not in str(error.value)


@every_metric
def test_codes_that_are_not_finite_are_refused(record):
    codes = encode(FACTORS, "perfect")
    codes[7, 1] = np.nan
    with pytest.raises(UserError) as error:
        record.function(codes, FACTORS, seed=0)
    assert "\n" not in str(error.value)


@every_metric
def test_it_is_put_into_words(record):
    for key, score in record.scores.items():
        assert len(score.meaning.split()) > 2, f"{key}: say in words what it measures"
        assert not score.meaning.endswith("."), f"{key}: its meaning stands in a cell of a table"
        assert score.better.startswith(score.direction)


@pytest.mark.parametrize(
    "name", [each.name for each in pkgutil.iter_modules(detaux_pl.metrics.__path__)]
)
def test_a_function_of_codes_and_factors_to_scores_has_a_record(name):
    module = import_module(f"detaux_pl.metrics.{name}")
    function = getattr(module, name, None)
    if not inspect.isfunction(function):
        return
    taken = [*inspect.signature(function).parameters][:2]
    if taken == ["codes", "factors"] and get_type_hints(function)["return"] == dict[str, float]:
        assert hasattr(module, "METRIC"), (
            f"{name} turns codes and factors into scores, but nothing finds it: end "
            f"detaux_pl/metrics/{name}.py with METRIC = Metric(...)"
        )
        assert module.METRIC.function is function
