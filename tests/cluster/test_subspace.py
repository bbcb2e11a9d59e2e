import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detaux_pl.artifacts.errors import UserError
from detaux_pl.cluster import subspace as module
from detaux_pl.cluster.subspace import _same_class_pairs, rank_subspaces, score_subspaces


def score(codes, seed=0, n_pairs=4000):
    return score_subspaces(codes, np.random.default_rng(seed), n_pairs)


def naive(codes, seed, n_pairs):
    """docs/methods.md, 'Subspace choice', pair by pair, number by number."""
    train = codes.rows("train").tolist()
    rng = np.random.default_rng(seed)
    values = codes.values.astype(np.float64).tolist()
    labels = codes.factor(codes.info.principal)[train]
    same = _same_class_pairs(labels, n_pairs, rng).T.tolist()
    other = rng.integers(len(train), size=(2, n_pairs)).T.tolist()
    k, alpha = len(values[0]), codes.info.principal_subspace

    def squared(pair, i):
        one, two = (values[train[position]][i] for position in pair)
        return sum((x - y) ** 2 for x, y in zip(one, two, strict=True))

    n_free = k - (alpha is not None)
    norm = [sum(math.sqrt(squared(p, i)) for p in other) / n_pairs + 1e-8 for i in range(k)]
    spread = math.sqrt(sum(squared(p, i) for p in other for i in range(k)) / n_pairs)
    inside, outside = [[] for _ in range(k)], [[] for _ in range(k)]
    for pair in same:
        moved = {i: squared(pair, i) / norm[i] for i in range(k) if i != alpha}
        winner = max(moved, key=moved.get)
        for i in range(k):
            (inside if i == winner else outside)[i].append(squared(pair, i))
    result = []
    for i in range(k):
        share = len(inside[i]) / n_pairs
        distance = sum(map(math.sqrt, inside[i])) / max(len(inside[i]), 1)
        mean_out = sum(outside[i]) / max(len(outside[i]), 1)
        hinge = sum(max(0.05 - d, 0) for d in inside[i])
        dot = None
        if alpha is not None:
            pairs = (zip(values[row][alpha], values[row][i], strict=True) for row in train)
            dot = abs(sum(x * y for pair in pairs for x, y in pair)) / len(train)
        result.append(
            {
                "subspace": i,
                "share": share,
                "distance": distance,
                "ratio": mean_out / (sum(inside[i]) / len(inside[i])) if distance else None,
                "loss": (sum(outside[i]) + 10 * hinge) / n_pairs,
                "dot": dot,
                "candidate": i != alpha
                and share >= 0.5 / n_free
                and distance >= 0.05 * spread
                and distance > 0,
            }
        )
    return result


@pytest.mark.parametrize("principal_subspace", [0, 2, None])
def test_equals_a_loop_over_pairs(make_codes, principal_subspace):
    rng = np.random.default_rng(1)
    values = rng.normal(size=(60, 4, 3)) * np.array([1.0, 0.3, 0.8, 0.05])[:, None]
    values[:, 3] = np.round(values[:, 3], 1)
    codes = make_codes(
        values, rng.integers(0, 3, 60), principal_subspace, label=rng.integers(0, 4, 60)
    )
    for ours, theirs in zip(score(codes, 3, 500), naive(codes, 3, 500), strict=True):
        assert (ours.ratio is None) == (theirs["ratio"] is None)
        for name, value in theirs.items():
            assert value is None or getattr(ours, name) == pytest.approx(value, rel=1e-9), name


def test_one_chunk_equals_many(disentangled, monkeypatch):
    whole = score(disentangled)
    monkeypatch.setattr(module, "_CHUNK", 1)
    assert score(disentangled, n_pairs=4000) == whole


def test_default_rule_never_chooses_a_dead_subspace_but_the_published_rules_do(disentangled):
    scores = score(disentangled)
    assert [s.subspace for s in scores if s.candidate] == [1, 3, 4]
    assert rank_subspaces(scores)[-1] == 4  # the noise moves whether or not it is its turn
    assert (scores[2].share, scores[2].distance, scores[2].ratio) == (0, 0, None)
    assert rank_subspaces(scores, "min_l_dist")[0] == 2
    assert rank_subspaces(scores, "abs_dot")[0] == 2


def test_principal_subspace_is_never_chosen(disentangled):
    scores = score(disentangled)
    assert scores[0].share == 0
    assert not scores[0].candidate
    for rule in ("ratio", "min_l_dist", "abs_dot"):
        assert 0 not in rank_subspaces(scores, rule)
    assert 3 not in rank_subspaces(scores, "min_l_dist", principal=3)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_choice_does_not_depend_on_the_scale_of_the_codes(make_codes, disentangled, scale):
    scaled = make_codes(
        disentangled.values * np.float32(scale),
        disentangled.splits,
        shape=disentangled.factor("shape"),
    )
    assert rank_subspaces(score(scaled)) == rank_subspaces(score(disentangled))


def test_the_only_free_subspace_is_a_candidate(make_codes):
    rng = np.random.default_rng(0)
    codes = make_codes(rng.normal(size=(50, 2, 4)), label=rng.integers(0, 3, 50))
    free = score(codes)[1]
    assert (free.share, free.ratio, free.candidate) == (1.0, 0.0, True)
    codes = make_codes(codes.values[:, 1:], None, None, label=codes.factor("label"))
    (only,) = score(codes)
    assert (only.share, only.ratio, only.candidate, only.dot) == (1.0, 0.0, True, None)
    assert rank_subspaces([only], principal=None) == [0]


def test_no_candidate_where_nothing_moves_but_the_principal_subspace(make_codes):
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 200)
    values = rng.normal(scale=1e-3, size=(200, 4, 2))
    values[:, 0] += label[:, None]
    assert rank_subspaces(score(make_codes(values, label=label))) == []
    assert rank_subspaces(score(make_codes(np.ones((200, 3, 2)), label=label))) == []
    assert rank_subspaces(score(make_codes(values[:, :1], label=label))) == []


def test_only_training_samples_count(make_codes, disentangled):
    values = disentangled.values.copy()
    values[disentangled.splits > 0] = 1e6
    changed = make_codes(values, disentangled.splits, shape=disentangled.factor("shape"))
    assert score(changed) == score(disentangled)


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(0, 9))
def test_pairs_share_their_class_and_never_their_sample(labels, seed):
    labels = np.array(labels)
    rng = np.random.default_rng(seed)
    if np.unique(labels).size == labels.size:
        with pytest.raises(UserError, match="share a principal label"):
            _same_class_pairs(labels, 20, rng)
        return
    first, second = _same_class_pairs(labels, 20, rng)
    assert (labels[first] == labels[second]).all()
    assert (first != second).all()


def test_pairs_are_uniform_over_partners():
    labels = np.array([0, 1, 0, 0, 2])
    first, second = _same_class_pairs(labels, 30_000, np.random.default_rng(0))
    counts = np.zeros((5, 5))
    np.add.at(counts, (first, second), 1)
    expected = np.zeros((5, 5))
    expected[np.ix_([0, 2, 3], [0, 2, 3])] = 5000 * (1 - np.eye(3))
    # Five standard deviations of a binomial count of mean 5,000.
    assert np.abs(counts - expected).max() < 5 * math.sqrt(5000)
