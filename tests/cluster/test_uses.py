"""What a grouping is good for, by what nets say of images they never saw."""

from __future__ import annotations

import numpy as np
import pytest

from detaux_pl.artifacts.labels import IGNORED
from detaux_pl.cluster.candidates import Candidate, Selection
from detaux_pl.cluster.uses import judge_uses, pick_for_uses

N, ROUNDS, FOLDS = 800, 3, 4


def drawn(share: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, groups that are the label in a share of the images and random else, and folds."""
    rng = np.random.default_rng(0)
    labels = np.arange(N) % 2
    groups = np.where(rng.random(N) < share, labels, rng.integers(2, size=N))
    folds = np.stack([rng.permutation(N) % FOLDS for _ in range(ROUNDS)])
    return labels, groups, folds


def told(labels: np.ndarray, groups: np.ndarray, usual: float, odd: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.random((ROUNDS, N)) < np.where(labels == groups, usual, odd)


@pytest.mark.parametrize(
    ("share", "odd", "use"),
    [
        (0.9, {"learn": 0.3, "balance": 0.7}, "balance"),
        (0.9, {"learn": 0.7, "balance": 0.3}, "learn"),
        (0.9, {"learn": 0.3, "balance": 0.3}, "leave"),
    ],
)
def test_the_use_is_that_which_helps_where_label_and_group_come_apart(share, odd, use):
    labels, groups, folds = drawn(share)
    right = {"leave": told(labels, groups, 0.95, 0.3, 1)}
    right |= {
        each: told(labels, groups, 0.9, odd[each], k + 2)
        for k, each in enumerate(("learn", "balance"))
    }
    found = judge_uses("KMeans 2", right, folds, labels, groups)
    assert found["use"] == use
    assert (found["p_value"] is None) == (use == "leave")
    leave = found["uses"]["leave"]
    # Each of the four cells weighs alike in every fold, however few of its images are odd.
    naive = []
    for hits, fold in zip(right["leave"], folds, strict=True):
        for k in range(FOLDS):
            cells = [
                hits[(fold == k) & (labels == y) & (groups == g)] for y in (0, 1) for g in (0, 1)
            ]
            naive.append(np.mean([cell.mean() for cell in cells if len(cell)]))
    assert leave["balanced"] == pytest.approx(np.mean(naive), rel=1e-12)
    assert leave["accuracy"] == pytest.approx(right["leave"].mean(), rel=1e-12)
    assert leave["worst"] < leave["balanced"] < leave["accuracy"]
    assert found["sentence"].startswith("KMeans 2 is best ")


def test_a_gain_by_luck_is_left_alone_nine_times_in_ten():
    chosen = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        labels, groups, folds = np.arange(N) % 5, rng.integers(4, size=N), rng.permutation(N)
        right = {use: rng.random((1, N)) < 0.7 for use in ("leave", "learn", "balance")}
        chosen += judge_uses("x", right, folds[None] % FOLDS, labels, groups)["use"] != "leave"
    assert chosen <= 10


def test_images_without_a_group_do_not_count():
    labels, groups, folds = drawn(0.9)
    right = {use: told(labels, groups, 0.9, 0.5, k) for k, use in enumerate(("leave", "learn"))}
    whole = judge_uses("x", right, folds, labels, groups)
    more = {use: np.hstack([each, np.zeros((ROUNDS, 9), bool)]) for use, each in right.items()}
    again = judge_uses(
        "x", more, np.hstack([folds, folds[:, :9]]), np.append(labels, labels[:9]),
        np.append(groups, np.full(9, IGNORED)),
    )  # fmt: skip
    assert again == whole


def test_the_best_task_and_the_groups_of_the_alarm_are_asked_about():
    kinds = {
        "task": {"stability": 0.9, "relation": "unrelated"},
        "other": {"stability": 1.0, "relation": "unrelated", "ami_principal": 0.4},
        "subclass": {"stability": 0.9, "relation": "subclass", "ami_principal": 0.5},
        "shaky": {"stability": 0.3, "relation": "shortcut", "ami_principal": 0.05},
        "coarse": {"stability": 0.8, "relation": "shortcut", "ami_principal": 0.4},
        "label": {"stability": 1.0, "relation": "label", "ami_principal": 0.99},
        "tiny": {"stability": 1.0, "relation": "shortcut", "smallest": 2},
    }
    made = {}
    for name, kind in kinds.items():
        given = {"smallest": 50, "largest": 0.4, "task": object(), **kind}
        made[name] = Candidate("codes", 1, {"class": "KMeans"}, kind=name, **given)

    def picked(chosen, alarms):
        alarming = [made[name].task for name in alarms]
        told = pick_for_uses(
            list(made.values()), [made[name] for name in chosen], alarming, Selection()
        )
        return [each.kind for each in told]

    assert picked(["task"], ["tiny", "shaky", "coarse"]) == ["task", "shaky"]
    assert picked([], ["shaky"]) == ["shaky"]
    assert picked(["task"], []) == ["task", "subclass"]  # the most stable related one
    assert picked(["subclass"], []) == ["subclass", "coarse"]  # asked about once
