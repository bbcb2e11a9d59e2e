"""How groups relate to the label, and the alarm."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chi2_contingency
from sklearn.metrics import adjusted_rand_score

from detaux_pl.artifacts.errors import DiscoveryError, UserError
from detaux_pl.artifacts.exit_codes import NOTHING_FOUND
from detaux_pl.artifacts.labels import IGNORED
from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.cli.main import main
from detaux_pl.cluster.candidates import Selection, propose
from detaux_pl.cluster.discover import Discovery
from detaux_pl.cluster.hdbscan import HDBSCAN
from detaux_pl.cluster.kmeans import KMeans
from detaux_pl.cluster.related import look_beside, relate_candidates, relate_tasks
from detaux_pl.cluster.relation import depth_of_rare, relate
from detaux_pl.data.correlation import tie
from tests.found import check_refusal

N = 600


def draw(share, n=N, seed=0):
    """A label of six values, and a place of three that goes with it."""
    rng = np.random.default_rng(seed)
    label, place = rng.integers(0, 6, n), rng.integers(0, 3, n)
    return label, tie(label, place, 3, share, rng), rng


def spread(groups, rng, noise=0.1):
    """Points around the corners of a simplex."""
    return np.eye(8)[groups] + rng.normal(scale=noise, size=(len(groups), 8))


def related(groups, label, points=None):
    rng = np.random.default_rng(1)
    (found,) = relate([groups], label, [spread(groups, rng) if points is None else points])
    return found


@pytest.fixture
def planted(make_codes):
    """Codes whose principal subspace holds the place that goes with the label."""
    label, place, rng = draw(0.9)
    values = np.stack([spread(place, rng), spread(rng.integers(0, 4, N), rng)], axis=1)
    return make_codes(values, np.repeat([0, 2], [480, 120]), label=label, place=place)


def test_effect_is_the_share_that_was_planted():
    for share in (0.0, 0.3, 0.5, 0.95):
        label, place, _ = draw(share, n=6000)
        found = related(place, label)
        assert found.effect == pytest.approx(share, abs=0.03)
        counts = np.histogram2d(label, place, (6, 3))[0]
        chi2 = chi2_contingency(counts, correction=False).statistic
        assert found.effect == pytest.approx(np.sqrt(chi2 / 6000 / 2), abs=0.02)


@pytest.mark.parametrize(("share", "kind"), [(0.0, "unrelated"), (0.5, "shortcut")])
def test_p_value_is_by_permutation(share, kind):
    label, place, _ = draw(share)
    found = related(place, label)
    assert found.kind == kind
    assert (found.p_value <= 0.001) == (kind == "shortcut")
    assert found.purity == pytest.approx(np.mean([(label[place == g] == np.bincount(
        label[place == g]).argmax()).sum() for g in range(3)]) * 3 / N)  # fmt: skip


def test_p_value_counts_the_groupings():
    label, _, rng = draw(0.0)
    many = [rng.integers(0, 3, N) for _ in range(6)]
    points = [spread(groups, rng) for groups in many]
    alone = np.array(
        [relate([g], label, [x])[0].p_value for g, x in zip(many, points, strict=True)]
    )
    together = np.array([each.p_value for each in relate(many, label, points)])
    # Of six independent ones: the least of six uniform numbers.
    np.testing.assert_allclose(together, 1 - (1 - alone) ** 6, atol=0.06)


def test_what_is_the_label_or_splits_it():
    label, place, _ = draw(0.0)
    assert related(label, label).kind == "label"
    assert related(label // 2, label).kind == "label"  # no image is rare there
    finer = 2 * (label // 2) + (place > 0)
    assert related(place + 3 * (label > 2), label // 3).kind == "subclass"
    assert related(np.where(place == 0, IGNORED, finer), label).kind == "label"


def test_a_blur_of_the_label_is_no_shortcut():
    label, _, rng = draw(0.0)
    half = label > 2
    points = half[:, None] + rng.normal(scale=0.35, size=(N, 1))  # coded badly
    groups = (points[:, 0] > 0.5).astype(int)
    found = related(groups, label, points)
    assert found.effect > 0.6
    assert found.depth < 0.5
    assert found.kind == "label"


def test_depth_is_that_of_a_loop():
    label, place, rng = draw(0.8)
    points = spread(place, rng, 0.3)
    centres = [points[place == g].mean(axis=0) for g in range(3)]
    counts = np.histogram2d(label, place, (6, 3))[0]
    expected = counts.sum(1, keepdims=True) * counts.sum(0) / N
    depths = []
    for x, k, g in zip(points, label, place, strict=True):
        if counts[k, g] < expected[k, g]:
            ways = [(c - centres[g], x - centres[g]) for h, c in enumerate(centres) if h != g]
            depths.append(min(1 - 2 * (offset @ way) / (way @ way) for way, offset in ways))
    assert depth_of_rare(place, label, points) == pytest.approx(np.median(depths))


def test_alarm_of_the_principal_subspace(planted):
    sources = {"codes": planted}
    discovery, selection = Discovery(KMeans(3)), Selection([HDBSCAN(0.05, 5)])
    candidates = propose(sources, discovery, selection)
    before = [(c.name, c.refused) for c in candidates]
    beside = look_beside(sources, discovery, selection)
    found, (groups,) = relate_candidates([*candidates, *beside], sources, 0)
    assert [(c.name, c.refused) for c in candidates] == before
    assert all(c.relation in (None, "unrelated") for c in candidates)
    assert {c.relation for c in beside} == {"shortcut"}
    assert all(c.refused for c in beside)
    (alarm,) = found["alarms"]
    assert len(alarm["alike"]) == 1  # two clusterers found the same
    assert alarm["known"]["place"] > 0.95
    np.testing.assert_array_equal(groups.ids, planted.ids)
    assert adjusted_rand_score(groups.labels, planted.factor("place")) > 0.95  # in test, too
    train = planted.rows("train")
    label, place = (planted.factor(name)[train] for name in ("label", "place"))
    assert alarm["rare"] == pytest.approx(np.mean(label % 3 != place) * 480, abs=5)
    assert alarm["effect"] == pytest.approx(0.9, abs=0.05)
    for cell in alarm["cells"]:
        rows = np.searchsorted(planted.ids, cell["ids"])
        assert set(planted.factor("label")[rows]) == {cell["label"]}
        assert cell["of"] == (label == cell["label"]).sum()
        assert 0 < cell["n"] < cell["expected"]
        assert len(set(planted.factor("place")[rows])) == 1
    first = alarm["cells"][0]
    told = f"label {first['label']} in cluster {first['group']}: {first['n']} of {first['of']}"
    assert f"{told} images" in found["sentence"]
    assert "corrected for 4 grouping(s)" in found["sentence"]
    # Classes have their names.
    names = tuple(f"n/{k}" for k in range(planted.info.sizes[0]))
    named = replace(planted, info=replace(planted.info, value_names={"label": names}))
    sentence = relate_candidates([*candidates, *beside], {"codes": named}, 0)[0]["sentence"]
    for cell in alarm["cells"][:3]:
        told = f"label n/{cell['label']} in cluster {cell['group']}: {cell['n']} of {cell['of']}"
        assert told in sentence


def test_known_factors_raise_no_alarm(planted, make_codes):
    rng = np.random.default_rng(3)
    values = spread(rng.integers(0, 4, (N, 2)).ravel(), rng).reshape(N, 2, 8)
    codes = make_codes(values, np.array(planted.splits), label=planted.factor("label"),
                       place=planted.factor("place"))  # fmt: skip
    tasks = Discovery(KMeans(4), subspace=1)(codes)
    found, groups = relate_tasks(tasks, "codes", codes, Discovery(KMeans(4)))
    assert groups == []
    assert found["alarms"] == []
    assert found["sentence"] == "No shortcut was found among 2 grouping(s) of the codes."


def test_classes_are_clustered_by_themselves(planted):
    discovery = Discovery(KMeans(2), scope="within_class")
    (task,) = discovery(planted)
    assert (task.meta["scope"], task.meta["subspace"], task.n_classes) == ("within_class", 0, 12)
    label, place = planted.factor("label"), planted.factor("place")
    for group in range(12):
        assert len(set(label[task.labels == group])) == 1
    # The rare places of a class are one of its two groups.
    for k in range(6):
        mine = label == k
        usual = np.bincount(task.labels[mine]).argmax()
        np.testing.assert_array_equal(task.labels[mine] == usual, place[mine] == k % 3)
    sizes = task.meta["cluster_sizes"]
    assert sizes == sorted(sizes, reverse=True)
    found, _ = relate_tasks([task], "codes", planted, discovery)
    kinds = {row["name"]: row["kind"] for row in found["relations"]}
    assert kinds["KMeans 2 · subspace 0 · within classes"] == "subclass"


def test_groups_within_classes_are_candidates_that_never_become_tasks(planted):
    sources = {"codes": planted}
    discovery, selection = Discovery(KMeans(3), scope="within_class"), Selection()
    free = propose(sources, discovery, selection)
    assert [c.name for c in free] == ["KMeans 3 · subspace 1"]
    beside = look_beside(sources, discovery, selection)
    assert [(c.scope, c.subspace) for c in beside] == [("principal", 0), ("within_class", 0)]
    relate_candidates([*free, *beside], sources, 0)
    assert [c.relation for c in beside] == ["shortcut", "subclass"]
    assert "splits classes" in beside[1].refused or "AMI" in beside[1].refused
    assert beside[1].record()["scope"] == "within_class"


def test_an_alarm_is_told_where_the_rule_finds_no_task(planted, tmp_path, capsys):
    values = planted.values.copy()
    values[:, 1] = 1.0  # the free subspace is dead
    replace(planted, values=values).save(tmp_path / "disentangle" / "codes")
    stage = StageFolder(tmp_path, "disentangle/codes")
    stage.begin({}, {}, {})
    stage.finish([], 1.0)
    words = ["cluster", "--run_dir", str(tmp_path), "--clusterer", "KMeans"]
    assert main([*words, "--clusterer.n_clusters", "3"]) == NOTHING_FOUND
    told = capsys.readouterr().err
    assert "error: " in told
    assert "Shortcut alarm: the groups of KMeans 3 · subspace 0 go with label" in told


def test_classes_that_do_not_split_and_codes_that_cannot(planted):
    with pytest.raises(DiscoveryError, match="splits none of its 6 classes"):
        Discovery(KMeans(500), scope="within_class")(planted)
    bare = replace(planted, info=replace(planted.info, principal_subspace=None))
    with pytest.raises(UserError) as told:
        Discovery(KMeans(2), scope="within_class")(bare)
    check_refusal(told.value, "within_class clusters the principal subspace", "give subspace")
    assert Discovery(KMeans(2), scope="within_class", subspace=1)(bare)[0].n_classes == 12
    with pytest.raises(ValueError, match="scope is 'each': give all or within_class"):
        Discovery(scope="each")
