import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detaux_pl.metrics.agreement import agreement, contingency

pairs_of_labels = st.lists(
    st.tuples(st.integers(-1, 4), st.integers(-1, 4)), min_size=1, max_size=60
).map(lambda rows: np.array(rows).T)


def naive(known, discovered):
    """The same figures from sums over the cells of the table, written out."""
    n = len(known)
    cells = {}
    for pair in zip(known.tolist(), discovered.tolist(), strict=True):
        cells[pair] = cells.get(pair, 0) + 1
    a = {i: sum(v for (x, _), v in cells.items() if x == i) for i in set(known.tolist())}
    b = {j: sum(v for (_, y), v in cells.items() if y == j) for j in set(discovered.tolist())}
    information = sum(v / n * math.log(v * n / (a[i] * b[j])) for (i, j), v in cells.items())
    of_known = -sum(v / n * math.log(v / n) for v in a.values())
    of_discovered = -sum(v / n * math.log(v / n) for v in b.values())
    chi2 = sum(
        (cells.get((i, j), 0) - a[i] * b[j] / n) ** 2 / (a[i] * b[j] / n) for i in a for j in b
    )
    return {
        "nmi": 2 * information / (of_known + of_discovered),
        "homogeneity": information / of_known,
        "completeness": information / of_discovered,
        "chi2": chi2,
        "dof": (len(a) - 1) * (len(b) - 1),
        "cramers_v": math.sqrt(chi2 / n / (min(len(a), len(b)) - 1)),
    }


def test_equals_sums_over_the_table():
    rng = np.random.default_rng(0)
    known = rng.integers(0, 5, 300)
    discovered = np.where(rng.random(300) < 0.6, known % 3, rng.integers(0, 4, 300))
    result = agreement(known, discovered)
    for name, value in naive(known, discovered).items():
        assert result[name] == pytest.approx(value, rel=1e-9), name


def test_renamed_classes_agree_fully():
    known = np.repeat([0, 1, 2], 40)
    result = agreement(known, np.array([7, -1, 3])[known])
    perfect = ("nmi", "ami", "homogeneity", "completeness", "cramers_v")
    assert [result[name] for name in perfect] == pytest.approx([1.0] * 5)
    assert result["chi2"] == pytest.approx(240)
    assert result["dof"] == 4
    assert result["p_value"] < 1e-40


def test_two_by_two_has_no_continuity_correction():
    labels = np.repeat([0, 1], 5)
    assert agreement(labels, labels)["chi2"] == pytest.approx(10)
    assert agreement(labels, labels)["cramers_v"] == pytest.approx(1)


def test_full_factorial_is_independent():
    known, discovered = np.indices((4, 5)).reshape(2, -1).repeat(10, axis=1)
    result = agreement(known, discovered)
    assert result["nmi"] == pytest.approx(0, abs=1e-12)
    assert result["ami"] < 0.01
    assert (result["chi2"], result["p_value"], result["cramers_v"]) == pytest.approx((0, 1, 0))


def test_finer_clusters_are_homogeneous_and_coarser_ones_complete():
    fine = np.repeat(np.arange(6), 20)
    assert agreement(fine // 2, fine)["homogeneity"] == pytest.approx(1)
    assert agreement(fine // 2, fine)["completeness"] < 0.7
    assert agreement(fine, fine // 2)["completeness"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("known", "discovered", "nmi", "homogeneity", "completeness"),
    [
        ([0, 0, 0], [0, 1, 2], 0, 1, 0),
        ([0, 1, 2], [5, 5, 5], 0, 0, 1),
        ([0, 0, 0], [5, 5, 5], 1, 1, 1),
        ([3], [3], 1, 1, 1),
    ],
)
def test_one_class_has_the_documented_limits(known, discovered, nmi, homogeneity, completeness):
    result = agreement(np.array(known), np.array(discovered))
    assert result == {
        "nmi": nmi,
        "ami": nmi,
        "homogeneity": homogeneity,
        "completeness": completeness,
        "chi2": 0,
        "p_value": 1,
        "dof": 0,
        "cramers_v": 0,
    }


@settings(deadline=None, max_examples=50)
@given(pairs_of_labels, st.permutations(range(6)))
def test_finite_symmetric_and_blind_to_numbering(labels, renaming):
    known, discovered = labels
    there, back = agreement(known, discovered), agreement(discovered, known)
    assert all(math.isfinite(value) for value in there.values())
    for name in ("nmi", "ami", "chi2", "p_value", "dof", "cramers_v"):
        assert there[name] == pytest.approx(back[name], abs=1e-9), name
    assert there["homogeneity"] == pytest.approx(back["completeness"], abs=1e-9)
    renamed = agreement(known, np.array(renaming)[discovered])
    assert renamed == pytest.approx(there, abs=1e-9)


@pytest.mark.parametrize(("known", "discovered"), [([], []), ([0, 1], [0]), ([[0, 1]], [[0, 1]])])
def test_refuses_what_are_not_labels_of_the_same_samples(known, discovered):
    with pytest.raises(ValueError, match="two vectors"):
        agreement(np.array(known, dtype=int), np.array(discovered, dtype=int))


def test_contingency_counts_classes_that_do_not_occur():
    table = contingency(np.array([0, 2, 2]), np.array([1, 1, 1]), (4, 2))
    assert table.tolist() == [[0, 1], [0, 0], [0, 2], [0, 0]]
