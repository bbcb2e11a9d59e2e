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


def test_the_best_task_and_the_most_stable_that_goes_with_the_label_are_asked_about():
    kinds = {
        "task": {"ami_principal": 0.02, "stability": 0.9},
        "shaky": {"ami_principal": 0.4, "stability": 0.3},
        "shortcut": {"ami_principal": 0.4, "stability": 0.8},
        "label": {"ami_principal": 0.99, "stability": 1.0},
        "tiny": {"ami_principal": 0.5, "stability": 1.0, "smallest": 2},
    }
    given = {"smallest": 50, "largest": 0.4, "task": object()}
    made = {
        name: Candidate("codes", 1, {"class": "KMeans"}, kind=name, **{**given, **kind})
        for name, kind in kinds.items()
    }
    picked = pick_for_uses(list(made.values()), [made["task"]], Selection())
    assert [each.kind for each in picked] == ["task", "shortcut"]
    assert [each.kind for each in pick_for_uses(list(made.values()), [], Selection())] == [
        "shortcut"
    ]
