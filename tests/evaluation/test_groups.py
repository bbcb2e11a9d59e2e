from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.labels import IGNORED, AuxiliaryLabels
from detaux_pl.evaluation.groups import describe_groups, group_sheet, members
from detaux_pl.evaluation.significance import wilson
from detaux_pl.evaluation.together import put_together
from tests.found import check_refusal
from tests.report.fake_predictions import guesses, predictions
from tests.shortcuts import coverage

NAMES = ["cat", "dog", "owl"]
N_VAL, N = 200, 500
RNG = np.random.default_rng(0)
TARGETS, GROUPS = RNG.integers(0, 3, N), RNG.integers(0, 4, N)


def answers(said=None, targets=TARGETS, n_val=N_VAL, names=NAMES):
    said = guesses(targets, len(names), 0) if said is None else said
    parts = {0: predictions(targets, n_val, said)}
    return [put_together(parts, "animal", names, split) for split in ("val", "test")]


def task_of(groups, n_val=N_VAL, n_classes=4, **meta):
    n = len(groups)
    splits = np.where(np.arange(n) < n_val, 1, 2).astype(np.int8)
    empty = np.zeros(n, bool), np.ones(n, np.float32)
    return AuxiliaryLabels(np.arange(n), splits, groups, *empty, n_classes, meta)


def test_cells_are_counted_as_by_a_loop():
    groups = np.where(np.arange(N) % 50 == 0, IGNORED, GROUPS)
    val, test = answers()
    sheet = group_sheet(val, test, task_of(groups, noise_class=0))
    assert sheet.groups == ("noise", "cluster 1", "cluster 2", "cluster 3")
    rows = {(row["class"], row["group"]): row for row in sheet.rows()}
    assert len(rows) == 12
    for name, own in (("val", val), ("test", test)):
        inside = groups[own.ids] != IGNORED
        mean = own.right[inside].mean()
        for (label, group), row in rows.items():
            cell = (own.targets == NAMES.index(label)) & (
                groups[own.ids] == sheet.groups.index(group)
            )
            assert row[f"{name}_images"] == cell.sum()
            assert row[f"{name}_accuracy"] == pytest.approx(own.right[cell].mean())
            assert row[f"{name}_gap"] == pytest.approx(own.right[cell].mean() - mean)
            ends = wilson(int(own.right[cell].sum()), int(cell.sum()))
            assert (row[f"{name}_low"], row[f"{name}_high"]) == pytest.approx(ends)
    worst = sheet.worst_row()
    assert worst["val_high"] == min(row["val_high"] for row in rows.values())
    highs = [row["test_high"] for row in sheet.rows()]
    assert highs == sorted(highs)
    shown = members(test, task_of(groups, noise_class=0), worst)
    assert len(shown) == worst["test_images"]
    right = test.right[shown]
    assert (np.diff(right.astype(int)) >= 0).all()  # mistakes first
    assert right.mean() == pytest.approx(worst["test_accuracy"])


def test_a_group_that_fails_is_found_and_no_other():
    bad = (TARGETS == 1) & (GROUPS == 2)
    said = np.where(bad[:, None], np.eye(3)[0], np.eye(3)[TARGETS])
    sheet = group_sheet(*answers(said), task_of(GROUPS), principal=TARGETS)
    assert sheet.worst == (1, 2)
    assert np.argwhere(sheet.failing).tolist() == [[1, 2]]
    assert sheet.train.sum() == 0  # no image here is for training
    told = describe_groups(sheet)
    assert (told["n_cells"], told["n_failing"]) == (12, 1)
    assert told["worst"]["test_accuracy"] == 0


def test_a_few_images_do_not_make_the_worst():
    groups = np.where(np.arange(N) == 0, 3, GROUPS % 2)  # one validation image, told wrong
    groups[N_VAL] = 3  # and a test image
    wrong = (np.arange(N) == 0) | ((groups == 0) & (TARGETS == 0) & (np.arange(N) % 2 == 0))
    said = np.eye(3)[np.where(wrong, (TARGETS + 1) % 3, TARGETS)]
    assert group_sheet(*answers(said), task_of(groups)).worst == (0, 0)


def test_a_cell_without_validation_images_is_told():
    groups = np.where(np.arange(N) < N_VAL, GROUPS % 2, GROUPS)
    sheet = group_sheet(*answers(), task_of(groups))
    told = describe_groups(sheet)
    assert told["n_without_val"] == 6
    assert sheet.worst[1] < 2
    assert {row["val_accuracy"] for row in sheet.rows() if row["group"] == "cluster 3"} == {None}


def test_what_cannot_be_told_is_refused():
    val, test = answers()
    with pytest.raises(UserError) as told:
        group_sheet(val, test, task_of(np.where(np.arange(N) < N_VAL, IGNORED, GROUPS)))
    check_refusal(told.value, "no labelled val image is in a group", "noise")
    with pytest.raises(UserError) as told:
        group_sheet(val, test, task_of(np.full(N, 2)))
    check_refusal(told.value, "one group", "detaux errors")


def test_many_images_and_cells():
    n = 40_000
    rng = np.random.default_rng(0)
    names = [str(k) for k in range(100)]
    targets, groups = rng.integers(0, 100, n), rng.integers(0, 10, n)
    val, test = answers(np.eye(3, dtype=np.float32)[targets % 3])
    right = rng.random(n) < 0.9
    half = n // 2
    both = [
        replace(
            own, classes=tuple(names), ids=np.arange(n)[part], targets=targets[part],
            predicted=np.where(right, targets, (targets + 1) % 100)[part],
        )
        for own, part in ((val, slice(half)), (test, slice(half, n)))
    ]  # fmt: skip
    task = task_of(groups, half, 10)
    told = describe_groups(group_sheet(*both, task, targets))
    assert told["n_cells"] == 1000
    assert len(told["cells"]) == 1000


@pytest.mark.slow
def test_intervals_hold_what_they_say():
    draws = [coverage(seed) for seed in range(1000)]
    for name in ("cells of validation", "cells of test", "the worst, told of test"):
        held = np.concatenate([draw[name] for draw in draws])
        assert 0.93 <= held.mean() <= 0.97
    naive = np.concatenate([d["the worst of validation, told of it (naive)"] for d in draws])
    assert naive.mean() < 0.85  # which is why the worst is told of other images
