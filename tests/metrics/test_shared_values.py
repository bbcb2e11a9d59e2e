import numpy as np
import pytest

from detaux_pl.metrics.shared_values import SharedValues


@pytest.mark.parametrize("seed", [0, 1])
def test_partners_share_the_value_and_are_drawn_alike(seed):
    rng = np.random.default_rng(seed)
    # Value 1 of the first factor does not occur.
    factors = np.stack([np.array([0, 2, 3])[rng.integers(0, 3, 50)], rng.integers(0, 9, 50)], 1)
    chosen = rng.integers(0, 2, 3000)
    rows = rng.integers(0, 50, (3000, 40))
    partners = SharedValues(factors).partners(chosen, rows, rng)
    for j in range(2):
        mine = chosen == j
        np.testing.assert_array_equal(factors[partners[mine], j], factors[rows[mine], j])
        for value in np.unique(factors[:, j]):
            drawn = partners[mine][factors[rows[mine], j] == value]
            members = np.flatnonzero(factors[:, j] == value)
            counts = np.bincount(drawn, minlength=50)[members]
            assert counts.sum() == drawn.size
            expected = drawn.size / len(members)
            assert (abs(counts - expected) < 6 * np.sqrt(expected)).all()


def test_a_value_of_one_sample_has_itself():
    factors = np.arange(5)[:, None]
    rows = np.array([[3, 1], [4, 4]])
    partners = SharedValues(factors).partners(np.zeros(2, dtype=int), rows, np.random.default_rng())
    np.testing.assert_array_equal(partners, rows)
