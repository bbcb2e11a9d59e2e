from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from detaux_pl.evaluation.significance import bootstrap_mean, paired_test, summarise, wilson
from detaux_pl.metrics.holm import holm

RUNS = [0.213, 0.230, 0.198, 0.221, 0.205]
OTHER = [0.262, 0.259, 0.270, 0.244, 0.281]


def test_summary_is_the_closed_form():
    summary = summarise([1.0, 2.0, 3.0])
    # t quantile .975 of 2 degrees of freedom is 4.302653 (any table); std is 1
    half = 4.302652729911275 / 3**0.5
    assert summary.n == 3
    assert summary.mean == pytest.approx(2.0)
    assert summary.std == pytest.approx(1.0)
    assert (summary.low, summary.high) == pytest.approx((2 - half, 2 + half))


def test_interval_is_scipys():
    summary = summarise(RUNS, confidence=0.9)
    expected = stats.t.interval(0.9, 4, loc=np.mean(RUNS), scale=stats.sem(RUNS))
    assert (summary.low, summary.high) == pytest.approx(expected)


def test_one_run_has_a_mean_and_nothing_else():
    summary = summarise([0.5])
    assert (summary.n, summary.mean) == (1, 0.5)
    assert (summary.std, summary.low, summary.high) == (None, None, None)
    assert paired_test([0.5], [0.4]).p_value is None


@pytest.mark.parametrize("values", [[], [0.1, float("nan")], [[0.1, 0.2]]])
def test_summary_refuses_what_is_no_list_of_runs(values):
    with pytest.raises(ValueError, match="one finite number per run"):
        summarise(values)


def test_paired_test_is_scipys():
    test = paired_test(OTHER, RUNS)
    expected = stats.ttest_rel(OTHER, RUNS)
    interval = expected.confidence_interval()
    assert test.p_value == pytest.approx(expected.pvalue)
    assert (test.difference.low, test.difference.high) == pytest.approx(tuple(interval))
    assert paired_test(RUNS, OTHER).p_value == pytest.approx(expected.pvalue)


def test_pairs_matter():
    # The same numbers, paired otherwise, have another p: the seeds are the blocks.
    assert paired_test(OTHER, RUNS).p_value != pytest.approx(paired_test(OTHER, RUNS[::-1]).p_value)


def test_equal_differences_have_the_limit():
    assert paired_test(RUNS, RUNS).p_value == 1.0
    shifted = [value + 0.1 for value in RUNS]
    assert np.ptp(np.subtract(shifted, RUNS)) > 0  # only in the last bits
    assert paired_test(shifted, RUNS).p_value is None
    assert paired_test([0.0, 0.0], [0.0, 0.0]).p_value == 1.0


def test_unpaired_runs_are_refused():
    with pytest.raises(ValueError, match="5 and 4 runs do not pair up"):
        paired_test(RUNS, OTHER[:4])


def test_holm_by_hand():
    # sorted .005 .01 .03 .04 times 4 3 2 1 = .02 .03 .06 .04, made monotone: .06 for the last
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_monotone_and_within_bonferroni(p):
    corrected = np.array(holm(p))
    assert (corrected >= p).all()
    assert (corrected <= np.minimum(1.0, np.array(p) * len(p))).all()
    assert (np.diff(corrected[np.argsort(p, kind="stable")]) >= 0).all()


@pytest.mark.parametrize(("hits", "n"), [(0, 5), (3, 5), (5, 5), (1, 1), (70, 1000)])
def test_wilson_is_scipys(hits, n):
    expected = stats.binomtest(hits, n).proportion_ci(method="wilson")
    assert wilson(hits, n) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0.0 <= wilson(hits, n)[0] <= hits / n <= wilson(hits, n)[1] <= 1.0


def test_wilson_of_nothing_is_none():
    assert wilson(0, 0) is None


def test_bootstrap_draws_images_with_replacement():
    values = np.array([1] * 30 + [0] * 50 + [-1] * 20)
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, 100, (20_000, 100))].mean(axis=1)
    expected = np.quantile(means, [0.05, 0.95])
    # Two thousand resamples say a tail to a fiftieth of its place, and means are whole hundredths.
    assert bootstrap_mean(values, confidence=0.9) == pytest.approx(expected, abs=0.011)
    assert bootstrap_mean(values) == bootstrap_mean(values) != bootstrap_mean(values, seed=1)
    assert bootstrap_mean(np.ones(4)) == (1.0, 1.0)
