import json
from dataclasses import replace

import numpy as np
import pytest

from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.labels import IGNORED
from detaux_pl.cluster.erasing import Erasing, ErasureCandidate
from detaux_pl.cluster.erasure_choice import _judge, choose_erasure
from detaux_pl.cluster.hdbscan import HDBSCAN
from detaux_pl.cluster.kmeans import KMeans
from detaux_pl.metrics.agreement import agreement
from detaux_pl.models.erased_probe import fit_erased_probe

N, D, GROUPS = 300, 24, 5


def scene(case, seed=0, per_class=8):
    """Features that groups move much more than the three classes do.

    The groups have nothing to do with the classes (`apart`), go with them (`along`), or are not
    there (`alone`). Labels are given to a few of the first 200 rows, the others are for the test.
    """
    rng = np.random.default_rng(seed)
    classes, groups = rng.integers(3, size=N), rng.integers(GROUPS, size=N)
    if case == "along":
        groups = np.where(rng.random(N) < 0.85, classes, groups)
    features = rng.normal(size=(N, D))
    features += 0.6 * rng.normal(size=(3, D))[classes] * (case != "along")
    features += 3.0 * rng.normal(size=(GROUPS, D))[groups] * (case != "alone")
    labels = np.full(200, IGNORED)
    for c in range(3):
        rows = np.flatnonzero(classes[:200] == c)[:per_class]
        labels[rows] = c
    return features, classes, groups, labels


def erasing(**kwargs):
    given = {"clusterers": [KMeans(k, n_init=2) for k in (2, 5, 8)], "axes": 10, "halves": 1}
    return Erasing(**(given | kwargs))


def accuracy(features, classes, labels, groups):
    probe = fit_erased_probe(features[:200], labels, 3, groups)
    return (probe.logits(features[200:]).argmax(axis=1) == classes[200:]).mean()


@pytest.fixture(scope="module", params=range(2))
def helped(request):
    features, classes, groups, labels = scene("apart", request.param, per_class=4)
    calls = []
    choice = choose_erasure(
        features[:200], labels, 3, erasing(), principal="shape", progress=calls.append
    )
    return features, classes, groups, labels, choice, calls


def test_groups_apart_from_the_classes_are_found_and_erased(helped):
    features, classes, groups, labels, choice, _ = helped
    assert choice.verdict["found"]
    assert choice.groups.shape[0] == 200
    finest = choice.groups[:, -1]
    assert agreement(groups[:200], finest)["nmi"] > 0.8
    assert agreement(classes[:200], finest)["nmi"] < 0.1
    plain = accuracy(features, classes, labels, choice.groups[:, :0])
    chosen = accuracy(features, classes, labels, choice.groups)
    true = accuracy(features, classes, labels, groups[:200, None])
    assert chosen > plain + 0.03
    assert chosen - plain > 0.6 * (true - plain)


def test_what_is_told_of_it(helped):
    *_, choice, calls = helped
    verdict = choice.verdict
    assert sum(calls) == 5 * (2 + 1)
    assert verdict["sentence"].startswith("Groups worth erasing were found. On labelled images")
    assert "log-likelihood of shape" in verdict["sentence"]
    assert verdict["gain"] == pytest.approx(verdict["together"] - verdict["alone"])
    assert 0 < verdict["p_value"] < 0.3
    gains = [candidate.gain for candidate in choice.candidates]
    assert gains == sorted(gains, reverse=True)
    taken = [candidate for candidate in choice.candidates if candidate.refused is None]
    assert [candidate.name for candidate in taken] == verdict["chosen"]
    assert taken[0].gain > taken[0].error > 0
    assert 0.3 < taken[0].stability < 1 + 1e-9
    assert taken[0].ami_principal < 0.2
    assert {c.name for c in choice.candidates} == {
        "KMeans 2", "KMeans 5", "KMeans 8", "KMeans 2 + KMeans 5 + KMeans 8",
    }  # fmt: skip
    assert json.loads(json.dumps(choice.record()))["verdict"] == verdict


def test_groups_that_go_with_the_classes_are_left():
    features, classes, groups, labels = scene("along")
    choice = choose_erasure(features[:200], labels, 3, erasing(together=1))
    assert not choice.verdict["found"]
    assert choice.groups.shape == (200, 0)
    assert choice.proposed.shape == (200, 1)
    assert choice.verdict["sentence"].startswith("No groups worth erasing were found.")
    assert choice.verdict["chosen"] == []
    assert all(candidate.refused for candidate in choice.candidates)
    plain = accuracy(features, classes, labels, choice.groups)
    assert accuracy(features, classes, labels, groups[:200, None]) < plain - 0.2


def test_where_there_are_no_groups_the_verdict_costs_next_to_nothing():
    costs = []
    for seed in range(3):
        features, classes, _, labels = scene("alone", seed)
        choice = choose_erasure(features[:200], labels, 3, erasing(repeats=1))
        plain = accuracy(features, classes, labels, choice.groups[:, :0])
        costs.append(plain - accuracy(features, classes, labels, choice.groups))
    assert np.mean(costs) < 0.03


def test_no_label_of_a_fold_is_seen_by_what_is_asked_of_it():
    # Labels at random: whoever has seen them looks better than chance, whoever has not does not.
    features, _, _, labels = scene("apart", per_class=20)
    given = labels >= 0
    labels[given] = np.random.default_rng(0).permutation(labels[given])
    choice = choose_erasure(features[:200], labels, 3, erasing())
    assert max(candidate.accuracy for candidate in choice.candidates) < 0.5
    assert max(candidate.gain - 3 * candidate.error for candidate in choice.candidates) < 0


def test_it_is_the_same_again_and_another_with_another_seed():
    features, _, _, labels = scene("apart")
    first, again, other = (
        choose_erasure(features[:200], labels, 3, erasing(seed=seed, repeats=1, folds=3))
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.groups, again.groups)
    assert first.record() == again.record()
    assert first.candidates[0].gain != other.candidates[0].gain


def test_a_clusterer_that_finds_nothing_changes_nothing():
    features, _, _, labels = scene("apart")
    given = erasing(clusterers=[HDBSCAN(min_cluster_size=150), KMeans(2)], together=1)
    choice = choose_erasure(features[:200], labels, 3, given)
    none = next(c for c in choice.candidates if c.name == "HDBSCAN")
    assert none.n_clusters == [0]
    assert none.gain == pytest.approx(0, abs=1e-6)


def test_the_larger_margin_is_the_more_careful_one():
    features, _, _, labels = scene("apart", per_class=4)
    choice = choose_erasure(features[:200], labels, 3, erasing(margin=100))
    assert not choice.verdict["found"]
    assert "100 standard errors are asked for" in choice.verdict["sentence"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.zeros(3, dtype=int)}, r"labels \(3,\): give \(n, d\) and \(n,\)"),
        ({"labels": np.zeros(200, dtype=int)}, "1 of 3 classes have a labelled image"),
        ({"labels": np.r_[0, 1, 2, np.full(197, -1)]}, "no class has two labelled training images"),
        ({"labels": np.r_[0, 3, np.full(198, -1)]}, "a label is 3: give 0 to 2"),
        ({"features": np.full((200, 4), np.inf)}, "NaN or infinite"),
    ],
)
def test_data_that_does_not_fit_is_refused(change, message):
    features, _, _, labels = scene("apart")
    given = {"features": features[:200], "labels": labels} | change
    with pytest.raises(UserError, match=message):
        choose_erasure(**given, n_classes=3, erasing=erasing())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"clusterers": []}, "there is no clusterer"),
        ({"repeats": 0}, "give at least 1 of each"),
        ({"folds": 1}, "folds is 1: give at least 2"),
        ({"margin": -1.0}, "give numbers from 0"),
    ],
)
def test_settings_outside_their_range_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        erasing(**setting)


def test_groups_that_other_folds_do_not_bear_out_are_said_to_be_so():
    folds = np.repeat([[0], [1]], 4, axis=0)
    told = np.stack([np.full((8, 1), -1.0), np.tile([[-1.2], [-1.1]], (4, 1))], axis=-1)
    right = np.ones((8, 1, 2))
    given = erasing(folds=2, repeats=2, confirmations=1)
    chosen = ErasureCandidate("Ward 4", [{}], gain=0.3, error=0.1)
    verdict = _judge(chosen, given, "shape", told, right, folds)
    assert verdict["found"]
    assert verdict["gain"] == pytest.approx(-0.15)
    assert verdict["details"][1] == (
        "With the folds of the choice, which say +0.30, it is +0.15: little speaks for erasing "
        "them."
    )
    verdict = _judge(replace(chosen, gain=0.05), given, "shape", told, right, folds)
    assert not verdict["found"]
    assert len(verdict["details"]) == 2
