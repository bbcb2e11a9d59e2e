import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentParser
from scipy.stats import ortho_group
from sklearn.metrics import (
    adjusted_mutual_info_score,
    adjusted_rand_score,
    homogeneity_score,
)

from detaux_pl.artifacts.codes import Codes, FactorInfo
from detaux_pl.artifacts.errors import DiscoveryError, UserError
from detaux_pl.artifacts.labels import IGNORED, AuxiliaryLabels
from detaux_pl.cluster.base import Clusterer
from detaux_pl.cluster.discover import Discovery, _number_by_size
from detaux_pl.cluster.further import erase_task
from detaux_pl.cluster.hdbscan import HDBSCAN
from detaux_pl.cluster.kmeans import KMeans
from detaux_pl.cluster.subspace import rank_subspaces, score_subspaces
from detaux_pl.models.erasure import fit_erasure
from detaux_pl.models.feature_split import optimal_shrinkage


def equal(one, two):
    arrays = ("ids", "splits", "labels", "is_noise", "strength")
    return (
        all(np.array_equal(getattr(one, name), getattr(two, name)) for name in arrays)
        and one.n_classes == two.n_classes
        and one.meta == two.meta
    )


@pytest.mark.parametrize(("subspace", "factor"), [(1, "hue"), (3, "size"), (0, "shape")])
def test_recovers_a_factor_in_every_split(disentangled, subspace, factor):
    (found,) = Discovery(HDBSCAN(0.05, 5), subspace=subspace, noise="nearest")(disentangled)
    for split in ("train", "val", "test"):
        rows = disentangled.rows(split)
        assert adjusted_rand_score(disentangled.factor(factor)[rows], found.labels[rows]) == 1.0
    assert found.n_classes == np.unique(disentangled.factor(factor)).size
    assert found.meta["rule"] is None


def test_default_rule_finds_a_hidden_factor_and_not_the_dead_subspace(disentangled):
    (found,) = Discovery()(disentangled)
    assert found.meta["subspace"] in (1, 3)
    assert found.meta["rule"] == "ratio"
    inside = ~found.is_noise
    truth = disentangled.factor({1: "hue", 3: "size"}[found.meta["subspace"]])
    assert adjusted_rand_score(truth[inside], found.labels[inside]) == 1.0


@pytest.mark.parametrize("rule", ["min_l_dist", "abs_dot"])
def test_published_rules_fail_on_a_dead_subspace(disentangled, rule):
    with pytest.raises(DiscoveryError, match="subspace 2 is dead"):
        Discovery(rule=rule)(disentangled)
    (found,) = Discovery(rule=rule, try_next=True)(disentangled)
    assert found.meta["failures"][0].startswith("subspace 2 is dead")


def test_single_blob_is_unsuccessful(make_codes):
    rng = np.random.default_rng(0)
    codes = make_codes(rng.normal(size=(1000, 2, 8)), label=rng.integers(0, 3, 1000))
    with pytest.raises(DiscoveryError, match=r"subspace 1 has 0 cluster\(s\) and 100% noise"):
        Discovery()(codes)


def test_nothing_to_choose_is_unsuccessful(make_codes):
    codes = make_codes(np.ones((20, 3, 2)), label=np.arange(20) % 2)
    with pytest.raises(DiscoveryError, match="none of the 2 free subspaces moves"):
        Discovery()(codes)


def test_one_cluster_is_unsuccessful(line, rounding):
    codes = line([1.0, 1.1, 0.9, 2.5], [0, 0, 0, 0])
    with pytest.raises(DiscoveryError, match=r"1 cluster\(s\) and 25% noise in 4 samples"):
        Discovery(rounding(), subspace=0)(codes)


def test_clusters_outside_training_do_not_count(line, rounding):
    with pytest.raises(DiscoveryError, match=r"1 cluster\(s\)"):
        Discovery(rounding(), subspace=0)(line([1.0, 1.1, 2.0, 3.0], [0, 0, 1, 2]))


def test_try_next_goes_on_where_the_best_fails(make_codes, rounding):
    # Subspace 1 moves most purely but has no cluster; 2 has two, and moves a little always.
    rng = np.random.default_rng(0)
    side = rng.integers(0, 2, 200)
    turn = rng.integers(0, 2, 200)
    values = np.zeros((200, 3, 1))
    values[:, 1, 0] = 0.5 + 10 * turn
    values[:, 2, 0] = 1 + 2 * side + rng.uniform(-0.2, 0.2, 200)
    codes = make_codes(values, label=np.zeros(200))
    with pytest.raises(DiscoveryError, match=r"subspace 1 has 0 cluster\(s\)"):
        Discovery(rounding())(codes)
    (found,) = Discovery(rounding(), try_next=True)(codes)
    assert found.meta["subspace"] == 2
    assert len(found.meta["failures"]) == 1
    assert adjusted_rand_score(side, found.labels) == 1.0


def test_several_tasks_are_the_best_subspaces_in_order(disentangled):
    discovery = Discovery(HDBSCAN(0.05, 5), n_tasks=2, noise="nearest")
    tasks = discovery(disentangled)
    subspaces = [task.meta["subspace"] for task in tasks]
    assert (
        subspaces
        == rank_subspaces(score_subspaces(disentangled, np.random.default_rng([0, 0])))[:2]
    )
    assert sorted(subspaces) == [1, 3]
    for task in tasks:
        truth = disentangled.factor({1: "hue", 3: "size"}[task.meta["subspace"]])
        assert adjusted_rand_score(truth, task.labels) == 1.0
    alone = Discovery(HDBSCAN(0.05, 5), noise="nearest")(disentangled)
    assert equal(tasks[0], alone[0])
    swapped = Discovery(HDBSCAN(0.05, 5), n_tasks=2, noise="nearest", subspace=subspaces[::-1])
    for task, other in zip(tasks, swapped(disentangled)[::-1], strict=True):
        assert task.labels.tolist() == other.labels.tolist()
        assert other.meta["rule"] is None


def test_several_tasks_skip_failures_only_with_try_next(disentangled):
    # By this rule the dead subspace 2 comes first.
    settings = {"rule": "min_l_dist", "noise": "nearest", "n_tasks": 2}
    with pytest.raises(DiscoveryError, match=r"^0 of 2 auxiliary .*: subspace 2 is dead"):
        Discovery(HDBSCAN(0.05, 5), **settings)(disentangled)
    tasks = Discovery(HDBSCAN(0.05, 5), **settings, try_next=True)(disentangled)
    assert sorted(task.meta["subspace"] for task in tasks) == [1, 3]
    for task in tasks:
        assert task.meta["failures"][0].startswith("subspace 2 is dead")


def test_fewer_tasks_than_asked_for_are_unsuccessful(disentangled):
    # Subspace 4 is one blob.
    with pytest.raises(DiscoveryError) as caught:
        Discovery(HDBSCAN(0.05, 5), n_tasks=4, try_next=True)(disentangled)
    message = str(caught.value)
    assert message.startswith("2 of 4 auxiliary tasks were found: subspace 4 has 0 cluster(s)")
    assert "; only 3 of 5 subspaces may be chosen. " in message
    assert "lower n_tasks" in message
    assert "\n" not in message


def test_codes_without_a_principal_subspace(make_codes, disentangled):
    factors = {name: disentangled.factor(name) for name in ("shape", "hue", "size")}
    codes = make_codes(disentangled.values, disentangled.splits, None, **factors)
    tasks = Discovery(HDBSCAN(0.05, 5), n_tasks=2, noise="nearest")(codes)
    assert [task.meta["principal_subspace"] for task in tasks] == [None, None]
    assert sorted(task.meta["subspace"] for task in tasks) == [1, 3]
    with pytest.raises(UserError, match="rule is abs_dot, but the codes have no principal"):
        Discovery(rule="abs_dot")(codes)
    # One subspace, the only one: hue and size side by side.
    whole = make_codes(
        np.concatenate([disentangled.values[:, 1], disentangled.values[:, 3]], 1)[:, None],
        disentangled.splits, None, **factors,
    )  # fmt: skip
    (found,) = Discovery(HDBSCAN(0.05, 5), noise="nearest")(whole)
    both = 2 * factors["hue"] + factors["size"]
    assert adjusted_rand_score(both, found.labels) == 1.0
    still = make_codes(np.ones((20, 1, 3)), None, None, label=np.arange(20) % 2)
    with pytest.raises(DiscoveryError, match="none of the 1 free subspaces moves"):
        Discovery()(still)


POSITIONS = [2.0, 2.1, 5.0, 5.1, 4.9, 2.0, 5.0, 5.4, 2.0]
SPLITS = [0, 0, 0, 0, 0, 1, 1, 2, 2]
"""Noise occurs in the test split only: 5.4."""


def test_noise_is_one_class_in_all_splits_even_where_only_the_test_split_has_it(line, rounding):
    (found,) = Discovery(rounding(), subspace=0)(line(POSITIONS, SPLITS))
    assert found.labels.tolist() == [2, 2, 1, 1, 1, 2, 1, 0, 2]
    assert found.n_classes == 3
    assert found.meta["noise_class"] == 0
    assert found.meta["noise_fraction"] == {"train": 0.0, "val": 0.0, "test": 0.5}
    assert found.meta["cluster_sizes"] == [3, 2]


def test_noise_can_be_left_out(line, rounding):
    (found,) = Discovery(rounding(), subspace=0, noise="drop")(line(POSITIONS, SPLITS))
    assert found.labels.tolist() == [1, 1, 0, 0, 0, 1, 0, IGNORED, 1]
    assert found.n_classes == 2
    assert found.meta["noise_class"] is None


def test_noise_can_join_the_nearest_cluster(line, rounding):
    (found,) = Discovery(rounding(), subspace=0, noise="nearest")(line(POSITIONS, SPLITS))
    assert found.labels.tolist() == [1, 1, 0, 0, 0, 1, 0, 0, 1]
    assert found.is_noise.tolist() == [False] * 7 + [True, False]
    assert found.strength[7] == 0


@pytest.mark.parametrize("noise", ["own_class", "drop", "nearest"])
def test_policies_agree_where_there_is_no_noise(line, rounding, noise):
    (found,) = Discovery(rounding(), subspace=0, noise=noise)(line(POSITIONS[:7], SPLITS[:7]))
    assert found.labels.tolist() == [1, 1, 0, 0, 0, 1, 0]
    assert (found.n_classes, found.meta["noise_class"]) == (2, None)


def test_numbering_does_not_depend_on_the_clusterer(line, rounding):
    codes = line(POSITIONS, SPLITS)
    one, two = (Discovery(rounding(shift=s), subspace=0)(codes)[0] for s in (0, 7))
    assert one.labels.tolist() == two.labels.tolist()


@settings(deadline=None)
@given(st.lists(st.integers(-1, 4), min_size=1, max_size=40), st.permutations(range(5)))
def test_numbers_fall_with_size_and_ignore_the_old_ones(clusters, renaming):
    clusters = np.array([*clusters, 0])
    everything = np.arange(clusters.size)
    numbered = _number_by_size(clusters, everything)
    renamed = np.where(clusters < 0, -1, np.array(renaming)[clusters])
    assert numbered.tolist() == _number_by_size(renamed, everything).tolist()
    assert ((numbered == -1) == (clusters == -1)).all()
    sizes = np.bincount(numbered[numbered >= 0])
    assert (np.diff(sizes) <= 0).all()
    first = [np.flatnonzero(numbered == c)[0] for c in range(sizes.size)]
    assert all(first[c] < first[c + 1] for c in range(sizes.size - 1) if sizes[c] == sizes[c + 1])


def test_fits_on_training_samples_and_on_no_more_than_asked(disentangled, rounding):
    train = disentangled.values[disentangled.rows("train"), 3]

    def fitted(**settings):
        clusterer = rounding(reach=0.5)
        (found,) = Discovery(clusterer, subspace=3, **settings)(disentangled)
        assert found.meta["n_fitted"] == len(clusterer.fitted)
        return clusterer.fitted

    assert np.array_equal(fitted(), train)
    assert np.array_equal(fitted(fit_on=10_000), train)
    part = fitted(fit_on=100)
    assert len(np.unique(part, axis=0)) == 100
    assert (part[:, None] == train[None]).all(axis=2).any(axis=1).all()
    assert np.array_equal(part, fitted(fit_on=100))
    assert not np.array_equal(part, fitted(fit_on=100, seed=1))


def test_held_out_samples_change_no_training_label(make_codes, disentangled):
    values = disentangled.values.copy()
    held_out = disentangled.splits > 0
    values[held_out] = np.random.default_rng(0).normal(scale=9, size=values[held_out].shape)
    changed = make_codes(
        values,
        disentangled.splits,
        **{name: disentangled.factor(name) for name in disentangled.info.names},
    )
    discovery = Discovery(HDBSCAN(0.05, 5), noise="drop")
    (one,), (two,) = discovery(disentangled), discovery(changed)
    train = disentangled.rows("train")
    assert one.labels[train].tolist() == two.labels[train].tolist()


def test_pca_keeps_the_blobs_and_the_fit_small(disentangled, rounding):
    clusterer = rounding(reach=0.5)
    Discovery(clusterer, subspace=3, pca=2)(disentangled)
    assert clusterer.fitted.shape == (360, 2)
    (found,) = Discovery(HDBSCAN(0.05, 5), subspace=1, pca=3, noise="nearest")(disentangled)
    assert adjusted_rand_score(disentangled.factor("hue"), found.labels) == 1.0
    Discovery(clusterer, subspace=3, pca=256)(disentangled)
    assert clusterer.fitted.shape == (360, 6)


def test_same_codes_give_the_same_labels_in_any_order_of_the_shards(disentangled, tmp_path):
    (first,) = Discovery(fit_on=200)(disentangled)
    assert equal(first, Discovery(fit_on=200)(disentangled)[0])
    order = np.random.default_rng(5).permutation(len(disentangled.ids))
    Codes(
        values=disentangled.values[order],
        ids=disentangled.ids[order],
        splits=disentangled.splits[order],
        factors=disentangled.factors[order],
        info=disentangled.info,
    ).save(tmp_path)
    (again,) = Discovery(fit_on=200)(Codes.load(tmp_path))
    assert equal(first, again)
    assert np.array_equal(again.of(disentangled.ids[order]), first.labels[order])


def test_labels_and_their_provenance_survive_the_disk(disentangled, tmp_path):
    (found,) = Discovery()(disentangled)
    found.save(tmp_path)
    assert equal(found, AuxiliaryLabels.load(tmp_path))
    meta = json.loads((tmp_path / "labels.json").read_text())
    assert meta["clusterer"]["class"] == "HDBSCAN"
    assert [s["subspace"] for s in meta["scores"]] == [0, 1, 2, 3, 4]
    assert meta["scores"][2]["ratio"] is None


def test_refuses_codes_it_cannot_use(make_codes, disentangled):
    with pytest.raises(UserError, match="no training sample"):
        Discovery()(make_codes(np.ones((4, 2, 1)), [1, 1, 2, 2], label=[0, 1, 0, 1]))
    for bad in (np.nan, np.inf):
        values = disentangled.values.copy()
        values[-1, -1, -1] = bad
        with pytest.raises(UserError, match="NaN or infinite"):
            Discovery()(make_codes(values, shape=disentangled.factor("shape")))
    with pytest.raises(UserError, match="subspace is 5, but the codes have 5: give 0 to 4"):
        Discovery(subspace=5)(disentangled)
    with pytest.raises(UserError, match=r"subspace is \[1, 5\], but the codes have 5"):
        Discovery(subspace=[1, 5], n_tasks=2)(disentangled)


@pytest.mark.parametrize(
    "setting",
    [
        {"subspace": -1}, {"fit_on": 1}, {"pca": 0}, {"n_tasks": 0}, {"subspace": [1, -1]},
        {"subspace": 1, "n_tasks": 2}, {"subspace": [1, 2]}, {"subspace": []},
        {"subspace": [1, 1], "n_tasks": 2},
    ],
)  # fmt: skip
def test_refuses_settings_out_of_range(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        Discovery(**setting)


@pytest.mark.parametrize(
    ("args", "size", "subspace"),
    [
        ([], 0.01, None),
        (["--clusterer.min_cluster_size=0.02", "--subspace=3"], 0.02, 3),
        (["--subspace=[2, 3]", "--n_tasks=2"], 0.01, [2, 3]),
    ],
)
def test_the_command_line_reads_the_signature(args, size, subspace):
    parser = ArgumentParser()
    parser.add_class_arguments(Discovery, None)
    built = parser.instantiate(parser.parse_args(args))
    discovery = Discovery(**built.as_dict())
    assert discovery.clusterer.settings["min_cluster_size"] == size
    assert discovery.subspace == subspace


def test_import_is_quick():
    heavy = "{'torch', 'lightning', 'sklearn', 'scipy', 'hdbscan'} & set(sys.modules)"
    code = f"import sys, detaux_pl.cluster.discover, detaux_pl.metrics.agreement; print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_unlabelled_samples_are_fitted_on_and_labelled(line, rounding):
    # Only with those that have no label are there two clusters.
    codes = line([2.0, 2.1, 5.4, 5.1, 4.9, 5.0, 2.2, 5.0], [0, 0, 0, 0, 3, 3, 3, 2])
    clusterer = rounding()
    (found,) = Discovery(clusterer, subspace=0)(codes)
    assert Discovery(rounding()).fitted_rows(codes).tolist() == [0, 1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(clusterer.fitted[:, 0], codes.values[:7, 0, 0])
    assert found.labels.tolist() == [1, 1, 0, 2, 2, 2, 1, 2]
    assert found.splits.tolist() == codes.splits.tolist()
    assert found.meta["cluster_sizes"] == [2, 1]
    assert found.meta["n_fitted"] == 7
    assert found.meta["noise_fraction"] == {"train": 0.25, "test": 0.0, "unlabelled": 0.0}
    drawn = Discovery(rounding(), fit_on=5, seed=1).fitted_rows(codes)
    assert len(drawn) == 5
    assert set(drawn) <= set(range(7))
    assert Discovery(rounding(), fit_on=7).fitted_rows(codes).size == 7


@pytest.mark.parametrize("noise", ["own_class", "drop", "nearest"])
def test_a_cluster_of_unlabelled_samples_alone_is_noise(line, rounding, noise):
    codes = line([2.0, 2.1, 5.0, 9.0, 9.1, 9.0, 9.0, 4.6], [0, 0, 0, 3, 3, 3, 2, 3])
    (found,) = Discovery(rounding(reach=0.5), subspace=0, noise=noise)(codes)
    expected = {
        "own_class": [1, 1, 2, 0, 0, 0, 0, 2],
        "drop": [0, 0, 1, -1, -1, -1, -1, 1],
        "nearest": [0, 0, 1, 1, 1, 1, 1, 1],
    }[noise]
    assert found.labels.tolist() == expected
    assert found.is_noise.tolist() == [False] * 3 + [True] * 4 + [False]
    assert not found.strength[3:7].any()
    assert (found.meta["n_clusters"], found.meta["cluster_sizes"]) == (2, [2, 1])
    alone = line([2.0, 2.1, 2.0, 9.0, 9.1], [0, 0, 0, 3, 3])
    with pytest.raises(DiscoveryError, match=r"has 1 cluster\(s\) with training samples that have"):
        Discovery(rounding(), subspace=0)(alone)


@pytest.fixture
def both_in_one(make_codes):
    """Subspaces of the label, of two independent hidden factors together, and of noise."""
    rng = np.random.default_rng(0)
    label, hue, size = (rng.integers(0, m, 900) for m in (3, 3, 2))
    values = rng.normal(scale=0.05, size=(900, 3, 4))
    values[:, 0] += rng.normal(size=(3, 4))[label]
    # Both move in directions of their own, and the size a little along the hue's.
    values[:, 1, :2] += 4 * np.array([[0, 0], [1, 0], [0.3, 1]])[hue]
    values[:, 1, 2] += 1.5 * size
    values[:, 1, 0] += 0.5 * size
    splits = np.repeat([0, 1, 2], [500, 200, 200])
    return make_codes(values, splits, label=label, hue=hue, size=size)


@pytest.mark.parametrize(("subspace", "pca"), [(None, None), (1, 3), ([1, 1], None)])
def test_a_task_is_erased_before_the_next_is_looked_for(both_in_one, subspace, pca):
    settings = {"n_tasks": 2, "subspace": subspace, "pca": pca, "noise": "nearest"}
    first, second = Discovery(KMeans(3), further="erase", **settings)(both_in_one)
    assert adjusted_rand_score(both_in_one.factor("hue"), first.labels) == 1.0
    assert [task.meta["subspace"] for task in (first, second)] == [1, 1]
    assert (first.meta.get("erased"), second.meta["erased"]) == (None, 1)
    # One of the two sizes is cut in two, for three clusters are asked for.
    assert homogeneity_score(both_in_one.factor("size"), second.labels) > 0.98
    rest = erase_task(both_in_one, first, both_in_one.rows("train"), pca)
    (alone,) = Discovery(KMeans(2), subspace=1)(rest)
    assert adjusted_rand_score(both_in_one.factor("size"), alone.labels) == 1.0
    assert abs(adjusted_mutual_info_score(first.labels, alone.labels)) < 0.01


def test_erasing_is_leace_in_each_free_subspace_and_leaves_the_principal_one(both_in_one):
    rows = both_in_one.rows("train")
    (task,) = Discovery(KMeans(3, seed=0), subspace=1)(both_in_one)
    rest = erase_task(both_in_one, task, rows)
    np.testing.assert_array_equal(rest.values[:, 0], both_in_one.values[:, 0])
    for k in (1, 2):
        x = both_in_one.values[:, k].astype(np.float64)
        erasure = fit_erasure(x[rows], task.labels[rows], optimal_shrinkage(x[rows]))
        np.testing.assert_allclose(rest.values[:, k], erasure(x), atol=1e-5)
    assert rest.ids is both_in_one.ids


def test_samples_in_no_cluster_are_of_no_class_to_be_erased(both_in_one):
    (task,) = Discovery(KMeans(3, seed=0), subspace=1)(both_in_one)
    rows = both_in_one.rows("train")
    noise = np.arange(900) % 5 == 0
    own = replace(
        task, labels=np.where(noise, 0, task.labels + 1), is_noise=noise, n_classes=4,
        meta={**task.meta, "noise_class": 0},
    )  # fmt: skip
    rest = erase_task(both_in_one, own, rows).values[rows, 1]
    means = [rest[(task.labels[rows] == k) & ~noise[rows]].mean(axis=0) for k in range(3)]
    assert np.ptp(means, axis=0).max() < 1e-5


def test_a_subspace_that_held_nothing_else_is_dead_afterwards(make_codes):
    rng = np.random.default_rng(0)
    label, hidden = rng.integers(0, 2, (2, 200))
    values = np.stack([label, hidden + rng.normal(scale=0.02, size=200)], axis=1)[..., None]
    codes = make_codes(values - values.mean(axis=0), label=label)
    for try_next in (False, True):
        discovery = Discovery(KMeans(2), n_tasks=2, further="erase", try_next=try_next)
        with pytest.raises(DiscoveryError, match=r"^1 of 2 .*: none of the 1 free .*once these"):
            discovery(codes)
    with pytest.raises(DiscoveryError, match=r"^1 of 2 auxiliary .*: subspace 1 is dead"):
        Discovery(KMeans(2), n_tasks=2, further="erase", subspace=1)(codes)


@pytest.mark.parametrize("seed", range(5))
def test_what_is_found_afterwards_is_not_the_same_again(seed):
    """Codes of any model: three hidden factors, mixed at random, without a principal subspace."""
    rng = np.random.default_rng(seed)
    label, *hidden = (rng.integers(0, m, 400) for m in (2, 3, 3, 2))
    means = [size * np.eye(k) for size, k in ((6, 3), (4, 3), (3, 2))]
    points = np.hstack([m[f] for m, f in zip(means, hidden, strict=True)])
    points = points + rng.normal(scale=0.4, size=points.shape)
    points = points @ ortho_group.rvs(8, random_state=rng)
    info = FactorInfo(("label",), (2,), "label", None)
    arrays = points[:, None].astype(np.float32), np.arange(400), np.zeros(400, np.int8)
    codes = Codes(*arrays, factors=label[:, None], info=info)
    first, second = Discovery(KMeans(3), n_tasks=2, further="erase", subspace=0)(codes)
    for task, factor in zip((first, second), hidden, strict=False):
        assert adjusted_rand_score(factor, task.labels) > 0.98
    assert adjusted_mutual_info_score(first.labels, second.labels) < 0.02


def test_what_no_linear_map_takes_away_is_not_found_again(make_codes):
    rng = np.random.default_rng(0)
    label, side = rng.integers(0, 2, (2, 400))
    # Means are alike in all but the first axis, after which the second still tells the sides.
    values = np.stack([side + 0.0, (1 + 4 * side) * rng.choice([-1, 1], 400)], axis=1)
    values += rng.normal(scale=0.02, size=values.shape)
    codes = make_codes(np.stack([0 * values, values], axis=1), label=label)
    discovery = Discovery(Rings(), n_tasks=2, further="erase", subspace=1)
    with pytest.raises(DiscoveryError, match=r"^1 of 2 .*: subspace 1 is like what was .*AMI 1.00"):
        discovery(codes)


class Rings(Clusterer):
    """Within and beyond a distance from the mean."""

    def fit(self, points):
        self.mean = points.mean(axis=0)
        return self.predict(points)

    def predict(self, points):
        far = np.abs(points - self.mean).max(axis=1) > 3
        return far.astype(np.int64), np.ones(len(points))
