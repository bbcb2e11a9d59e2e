import numpy as np
import pytest

from detaux_pl.artifacts.codes import Codes
from detaux_pl.artifacts.labels import IGNORED
from detaux_pl.cluster import candidates as module
from detaux_pl.cluster.candidates import (
    Candidate,
    Selection,
    choose,
    judge,
    pick_tries,
    propose,
)
from detaux_pl.cluster.discover import Discovery
from detaux_pl.cluster.hdbscan import HDBSCAN
from detaux_pl.cluster.kmeans import KMeans

HIDDEN = {"hue": 4, "size": 2}


def names(candidates):
    return [candidate.name for candidate in candidates]


@pytest.fixture
def found(disentangled):
    others = [KMeans(2), KMeans(4), KMeans(200, n_init=1)]
    return propose({"codes": disentangled}, Discovery(HDBSCAN(0.05, 5)), Selection(others))


def test_every_free_subspace_by_every_clusterer(found):
    assert len(found) == 4 * 4  # subspace 0 is the principal one
    assert {each.subspace for each in found} == {1, 2, 3, 4}
    assert {each.clusterer["class"] for each in found} == {"HDBSCAN", "KMeans"}


def test_alike_clusterers_are_told_apart(disentangled):
    others = [HDBSCAN(50, 5), KMeans(4)]
    found = propose({"codes": disentangled}, Discovery(HDBSCAN(0.05, 5)), Selection(others))
    assert sorted(name for name in names(found) if "subspace 1" in name) == [
        "HDBSCAN (min_cluster_size 0.05) · subspace 1",
        "HDBSCAN (min_cluster_size 50) · subspace 1",
        "KMeans 4 · subspace 1",
    ]


def test_codes_alone_rule_out_what_is_no_task(found):
    why = {each.name: each.refused for each in found}
    for name in ("KMeans 200 · subspace 1", "KMeans 200 · subspace 4"):
        assert "its smallest of 200 classes has" in why[name]
        assert "fewer than 8" in why[name]
    assert all("is dead" in reason for name, reason in why.items() if "subspace 2" in name)
    # The same place found twice counts once.
    same = [name for name, reason in why.items() if reason and "the same task as" in reason]
    assert len([name for name in same if "subspace 1" in name]) == 1
    assert len([name for name in same if "subspace 3" in name]) == 1


def test_real_factors_are_stable_and_come_first(found, disentangled):
    open_ = [each for each in found if each.refused is None]
    assert {each.subspace for each in open_[:2]} <= {1, 3}
    assert open_[0].stability > 0.99
    stability = [each.stability for each in open_]
    assert stability == sorted(stability, reverse=True)
    assert max(each.stability for each in open_ if each.subspace == 4) < 0.9
    for each in open_[:2]:
        assert abs(each.ami_principal) < 0.02
        assert each.restarts is None
        assert each.balance > 0.9


def test_the_principal_task_is_no_candidate(disentangled):
    # Codes without a principal subspace have all subspaces free, and one is the principal factor.
    info = disentangled.info.__class__(
        disentangled.info.names, disentangled.info.sizes, "shape", None
    )
    codes = Codes(
        disentangled.values, disentangled.ids, disentangled.splits, disentangled.factors, info
    )
    found = propose({"codes": codes}, Discovery(KMeans(3)), Selection())
    (own,) = (each for each in found if each.subspace == 0)
    assert "repeats the principal task (AMI 1.00)" in own.refused


def test_one_giant_class_is_no_candidate(make_codes):
    rng = np.random.default_rng(0)
    values = rng.normal(scale=0.1, size=(400, 2, 3))
    values[:20, 1] += 9
    codes = make_codes(values, shape=rng.integers(0, 3, 400))
    (each,) = propose({"codes": codes}, Discovery(KMeans(2)), Selection())
    assert each.refused == "one class has 95% of the samples"


def few_strays(make_codes, rows):
    """Four groups of 400 training and 100 test samples; some rows belong to none of them."""
    rng = np.random.default_rng(0)
    group = rng.integers(0, 4, 500)
    values = rng.normal(scale=0.02, size=(500, 2, 3))
    values[:, 1] += 5 * rng.normal(size=(4, 3))[group]
    values[rows, 1] += 1000 * (1 + np.arange(len(rows)))[:, None]
    splits = np.repeat([0, 2], [400, 100])
    return make_codes(values, splits, shape=rng.integers(0, 3, 500), group=group)


@pytest.mark.parametrize("rows", [[], [0, 1, 2], [450]])
def test_a_few_strays_do_not_rule_out_a_grouping(make_codes, rows):
    codes = few_strays(make_codes, rows)
    (each,) = propose({"codes": codes}, Discovery(HDBSCAN(0.05, 5)), Selection())
    assert each.refused is None
    assert each.n_classes == 4 + bool(rows)
    assert each.smallest > 80
    assert each.balance > 0.99


def test_a_giant_class_of_noise_is_no_candidate(make_codes, rounding):
    rng = np.random.default_rng(0)
    values = rng.normal(scale=0.02, size=(400, 2, 1)) + 0.5  # between the clusters
    values[:10, 1], values[10:20, 1] = 0, 5
    codes = make_codes(values, shape=rng.integers(0, 3, 400))
    (each,) = propose({"codes": codes}, Discovery(rounding()), Selection())
    assert each.refused == "one class has 95% of the samples"


def test_restarts_are_compared(disentangled):
    rng = np.random.default_rng(1)
    order = [0, 3, 1, 4, 2]  # another seed finds the factors in other subspaces
    again = Codes(
        disentangled.values[:, order] @ rng.normal(size=(6, 6)).astype(np.float32),
        disentangled.ids, disentangled.splits, disentangled.factors, disentangled.info,
    )  # fmt: skip
    sources = {"disentangle/codes": disentangled, "discoveries/restart1/disentangle/codes": again}
    found = propose(sources, Discovery(HDBSCAN(0.05, 5), noise="nearest"), Selection())
    by_name = {each.name: each for each in found}
    assert by_name["HDBSCAN · subspace 1"].restarts > 0.99
    assert by_name["HDBSCAN · subspace 2 · restart1"].restarts > 0.99


def test_given_subspaces_are_the_only_ones(disentangled):
    found = propose({"codes": disentangled}, Discovery(KMeans(2), subspace=3), Selection())
    assert [each.subspace for each in found] == [3]


def tried(found, **gains):
    """Candidates with gains by the place in the list; all of them can be learnt."""
    for place, gain in gains.items():
        each = found[int(place[1:])]
        each.gain, each.learnability = gain, 0.9
    return found


def test_the_largest_gain_is_chosen(found):
    assert choose(found, Selection()) == []  # none was tried
    tried(found, _0=0.01, _1=0.05, _2=-0.1)
    assert choose(found, Selection()) == [found[1]]


def test_what_nets_cannot_tell_is_not_chosen(found):
    tried(found, _0=0.01, _1=0.05)
    found[1].learnability = 0.1
    assert choose(found, Selection()) == [found[0]]
    assert "nets cannot tell it" in found[1].refused


def test_several_tasks_are_unlike_one_another(found):
    open_ = [k for k, each in enumerate(found) if each.refused is None]
    first = found[open_[0]]
    like = [k for k in open_[1:] if found[k].subspace == first.subspace]
    other = next(k for k in open_ if found[k].subspace not in (first.subspace, 4))
    tried(found, **{f"_{open_[0]}": 0.3, f"_{other}": 0.1}, **{f"_{k}": 0.2 for k in like})
    assert choose(found, Selection(), 2) == [first, found[other]]


def test_a_further_task_that_gains_nothing_is_not_taken(found):
    open_ = [k for k, each in enumerate(found) if each.refused is None]
    first = found[open_[0]]
    other = next(k for k in open_ if found[k].subspace not in (first.subspace, 4))
    tried(found, **{f"_{open_[0]}": 0.3, f"_{other}": -0.1})
    chosen = choose(found, Selection(), 2)
    assert chosen == [first]
    verdict = judge(chosen, 2, 4, np.zeros(0), np.zeros(0), "digit")
    assert verdict["sentence"] == (
        "Only 1 of 2 tasks that gain something were found. Ask for fewer (cluster.n_tasks: 1), or "
        "try more candidates."
    )


def test_tries_go_to_the_most_stable_or_to_unlike_ones_where_several_are_wanted(found):
    open_ = [each for each in found if each.refused is None]
    assert names(pick_tries(found, Selection(tries=2))) == names(open_[:2])
    first, second = pick_tries(found, Selection(tries=2), n_tasks=2)
    assert first is open_[0]
    assert second.subspace != first.subspace
    everything = pick_tries(found, Selection(tries=99), n_tasks=2)
    assert sorted(names(everything)) == sorted(names(open_))


def test_the_verdict_says_how_sure_it_is(found):
    alone = np.array([0.40, 0.44, 0.42, 0.41])
    verdict = judge(found[:1], 1, 4, alone, alone + np.array([10, 12, 11, 9]) / 100, "digit")
    assert verdict["found"]
    assert verdict["gain"] == pytest.approx(0.105)
    # t = 0.105 / (0.0129 * sqrt(1 / 4 + 1 / 3)) = 10.6 with 3 degrees of freedom
    assert verdict["p_value"] == pytest.approx(0.000885, rel=1e-3)
    assert verdict["chosen"] == names(found[:1])
    assert verdict["sentence"].startswith("A task worth training on was found. On images held out")
    assert "+10.5 points" in verdict["sentence"]


@pytest.mark.parametrize("gains", [[-0.1, -0.12, -0.1, -0.1], [0.1, -0.1, 0.09, -0.08], [0] * 4])
def test_a_gain_that_is_none_or_luck_is_no_task(found, gains):
    alone = np.full(4, 0.4)
    verdict = judge(found[:1], 1, 4, alone, alone + gains, "digit")
    assert not verdict["found"]
    assert verdict["sentence"].startswith("No task worth training on was found")
    assert "the principal task alone" in verdict["sentence"]


def test_too_few_candidates(found):
    verdict = judge(found[:1], 2, 4, np.zeros(0), np.zeros(0), "digit")
    assert not verdict["found"]
    assert verdict["sentence"].startswith("Only 1 of 2 tasks that gain something were found.")


def test_a_record_has_no_arrays(found):
    import json

    for each in found:
        kept = json.loads(json.dumps(each.record()))
        assert kept["name"] == each.name
        assert "task" not in kept


@pytest.mark.parametrize(
    "wrong",
    [{"tries": 0}, {"confirmations": 0}, {"halves": 0}, {"min_class": 0}, {"max_ami": -0.1},
     {"max_share": 2}, {"min_learnability": 1.01}],
)  # fmt: skip
def test_settings_out_of_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Selection(**wrong)


def test_the_name_of_a_candidate():
    settings = {"class": "KMeans", "n_clusters": 4, "init": "random"}
    assert Candidate("disentangle/codes", 2, settings).name == "KMeans 4 · subspace 2"
    assert Candidate("disentangle/codes", 2, {"class": "HDBSCAN"}).name == "HDBSCAN · subspace 2"


@pytest.mark.parametrize(
    ("first", "second", "agreement"),
    [
        ([0, 0, 1, 1, 2, 2], [5, 5, 3, 3, 4, 4], 1.0),
        # What both have a label of lies in one cluster of each, or of one.
        ([0, 0, 0, 1, 1, IGNORED], [7, 7, 7, IGNORED, IGNORED, 8], 0.0),
        ([0, 0, 0, 0], [0, 0, 1, 1], 0.0),
        ([0, 1, 2, IGNORED], [2, 1, 0, 0], 0.0),  # each a cluster of its own
        ([0, 1, IGNORED], [IGNORED, IGNORED, 1], 0.0),
    ],
)
def test_agreement_is_of_what_could_disagree(first, second, agreement):
    found = module.agreement(np.array(first), np.array(second))
    assert found == pytest.approx(agreement)
    assert module.agreement(np.array(second), np.array(first)) == pytest.approx(agreement)
