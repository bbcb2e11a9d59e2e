"""Votes of the nearest known vectors."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from detaux_pl.models.neighbor_vote import NeighborVote

N, D, C = 150, 12, 4


def draw(n=N, seed=0, noise=1.0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, C, n)
    means = 1.5 * np.random.default_rng(9).normal(size=(C, D))
    return (noise * rng.normal(size=(n, D)) + means[labels] + 3).astype(np.float32), labels


def unit(vote, features):
    components = (features - vote.mean.numpy()) @ vote.axes.numpy()
    return components / np.linalg.norm(components, axis=1, keepdims=True)


def test_it_is_the_weighted_vote_of_scikit_learn_for_the_number_that_tells_them_best():
    features, labels = draw()
    shown = np.where(np.arange(N) % 3 == 0, -1, labels)
    vote = NeighborVote(D, C)
    vote.fit(features, shown, pca=8)
    given = shown >= 0
    known = unit(vote, features)[given]
    np.testing.assert_allclose(vote.known.numpy(), known, atol=1e-6)
    assert vote.axes.shape == (D, 8)

    def rival(k):
        return KNeighborsClassifier(k, weights=lambda apart: np.exp((1 - apart**2 / 2) / 0.07))

    def told(k):
        """Log-likelihood of each by the others, one model for each of them."""
        total = 0.0
        for row in range(len(known)):
            rest = np.arange(len(known)) != row
            model = rival(k).fit(known[rest], shown[given][rest])
            share = dict(zip(model.classes_, model.predict_proba(known[row : row + 1])[0]))  # noqa: B905
            total += np.log(0.98 * share.get(shown[given][row], 0) + 0.02 / C)
        return total

    k = len(vote.votes)
    scores = {k: told(k) for k in (1, 2, 5, 10, 20, 50)}
    assert k == max(scores, key=lambda number: scores[number])
    asked, _ = draw(40, seed=1)
    expected = rival(k).fit(known, shown[given]).predict_proba(unit(vote, asked))
    found = vote(torch.from_numpy(asked)).exp().numpy()
    np.testing.assert_allclose(found, 0.98 * expected + 0.02 / C, atol=1e-5)


def test_more_noise_asks_more_neighbours():
    numbers = []
    for noise in (0.05, 2.5):
        vote = NeighborVote(D, C)
        vote.fit(*draw(400, noise=noise))
        numbers.append(len(vote.votes))
    assert numbers[0] < numbers[1]


def test_another_one_takes_its_state_whatever_it_held():
    features, labels = draw()
    vote, other = NeighborVote(D, C), NeighborVote(D, C)
    vote.fit(features, labels)
    other.fit(features[:20], labels[:20])
    other.load_state_dict(vote.state_dict())
    asked = torch.from_numpy(draw(10, seed=2)[0])
    torch.testing.assert_close(other(asked), vote(asked), rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict({})


def test_one_vector_and_a_class_without_any():
    vote = NeighborVote(D, 3)
    vote.fit(*(part[:2] for part in (draw()[0], np.array([1, -1]))))
    assert vote(torch.zeros(1, D)).argmax() == 1
