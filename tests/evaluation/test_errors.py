from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from detaux_pl.artifacts.errors import ArtifactError
from detaux_pl.evaluation.errors import (
    confusion,
    confusion_counts,
    confusions,
    describe_errors,
    mistakes,
    per_class,
    reliability_rows,
    score,
    suspects,
    worst_first,
)
from detaux_pl.evaluation.significance import wilson
from detaux_pl.evaluation.together import fit_temperatures, put_together
from detaux_pl.metrics.calibration import expected_calibration_error, scale
from tests.report.fake_predictions import guesses, predictions

NAMES = ["cat", "dog", "lynx/wild", "<owl>", "no such"]
N_VAL, N = 60, 260
TARGETS = np.random.default_rng(0).integers(0, 4, N)  # no image is of the last class


def members(seeds=3, skill=1.5):
    return {
        seed: predictions(TARGETS, N_VAL, guesses(TARGETS, len(NAMES), seed, skill, 2.0))
        for seed in range(seeds)
    }


def together(seeds=3, skill=1.5):
    return put_together(members(seeds, skill), "animal", NAMES)


@pytest.fixture(scope="module")
def own():
    return together()


def test_seeds_answer_by_the_mean_of_their_probabilities(own):
    parts = [part.probabilities["principal"].astype(float) for part in members().values()]
    mean = np.mean(parts, axis=0)
    np.testing.assert_array_equal(own.predicted, mean[N_VAL:].argmax(1))
    assert own.accuracy == np.mean(mean[N_VAL:].argmax(1) == TARGETS[N_VAL:])
    np.testing.assert_array_equal(own.votes, [part[N_VAL:].argmax(1) for part in parts])
    np.testing.assert_array_equal(own.ids, np.arange(N_VAL, N))
    # The temperature is of the validation images alone, and the likeliest of a grid.
    losses = {
        t: -np.log(scale(mean[:N_VAL], t)[np.arange(N_VAL), TARGETS[:N_VAL]]).mean()
        for t in own.temperature * np.array([0.9, 1.0, 1.1])
    }
    assert min(losses, key=losses.get) == own.temperature
    assert fit_temperatures(list(members().values())) == {"principal": own.temperature}
    told = scale(mean[N_VAL:], own.temperature)
    np.testing.assert_allclose(own.probability, told.max(1), rtol=1e-5)
    np.testing.assert_allclose(
        own.of_label, told[np.arange(N - N_VAL), TARGETS[N_VAL:]], rtol=1e-4, atol=1e-7
    )
    for sureness, values in ((own.before, mean[N_VAL:]), (own.after, told)):
        expected = expected_calibration_error(values, TARGETS[N_VAL:])
        assert sureness.ece == pytest.approx(expected, abs=1e-5)
    assert own.after.ece < own.before.ece


def test_together_is_more_than_the_mean_of_the_seeds(own):
    alone = (own.votes == own.targets).mean(axis=1)
    assert own.accuracy > alone.max()


def test_classes_are_scored_as_sklearn_does(own):
    expected = precision_recall_fscore_support(
        own.targets, own.predicted, labels=range(5), zero_division=np.nan
    )
    rows = per_class(own, own)
    assert [row["class"] for row in rows] == NAMES
    for k, row in enumerate(rows):
        for name, values in zip(("precision", "recall", "f1"), expected, strict=False):
            if np.isnan(values[k]):
                assert row[name] is None
            else:
                assert row[name] == row[f"baseline_{name}"] == pytest.approx(values[k])
        assert row["images"] == (own.targets == k).sum()
        assert row["predicted"] == (own.predicted == k).sum()
        hits = int(((own.targets == k) & (own.predicted == k)).sum())
        ends = wilson(hits, row["images"]) or (None, None)
        assert (row["recall_low"], row["recall_high"]) == ends
        if row["images"]:
            wrong = np.bincount(own.predicted[own.targets == k], minlength=5)
            wrong[k] = 0
            assert row["taken_for_images"] == wrong.max() > 0
            assert row["taken_for"] == NAMES[wrong.argmax()]
    assert rows[4]["recall"] is None
    assert rows[4]["recall_low"] is None
    assert rows[4]["taken_for"] is None
    assert score(own)["f1"] == pytest.approx(
        np.mean([row["f1"] for row in rows if row["f1"] is not None])
    )
    ranked = worst_first(rows)
    assert ranked[-1]["class"] == "no such"
    recalls = [row["recall"] for row in ranked[:-1]]
    assert recalls == sorted(recalls)


def test_pairs_are_the_confusion_matrix(own):
    expected = confusion_matrix(own.targets, own.predicted, labels=range(5))
    filled = np.zeros((5, 5), int)
    for row in confusion(own):
        true, said = NAMES.index(row["true"]), NAMES.index(row["predicted"])
        filled[true, said] = row["n"]
        assert row["share"] == pytest.approx(row["n"] / expected[true].sum())
    np.testing.assert_array_equal(filled, expected)
    order = np.array([3, 0])
    np.testing.assert_array_equal(confusion_counts(own, order), expected[np.ix_(order, order)])
    wrong = confusions(own)
    assert [row["n"] for row in wrong] == sorted((row["n"] for row in wrong), reverse=True)
    assert sum(row["n"] for row in wrong) == (~own.right).sum()
    assert all(row["true"] != row["predicted"] for row in wrong)


def test_classes_of_one_name_are_two():
    said = predictions([0, 1, 0, 1], 1, np.eye(2)[[0, 1, 1, 1]])
    own = put_together({0: said}, "animal", ["cat", "cat"])
    assert [(row["n"], row["share"]) for row in confusions(own)] == [(1, 1.0)]


def test_mistakes_are_the_surest_first(own):
    rows = mistakes(own)
    assert len(rows) == (~own.right).sum()
    sure = [row["probability"] for row in rows]
    assert sure == sorted(sure, reverse=True)
    for row in rows:
        k = row["id"] - N_VAL
        assert (row["true"], row["predicted"]) == (
            NAMES[own.targets[k]], NAMES[own.predicted[k]],
        )  # fmt: skip
        assert row["label_probability"] < row["probability"]
        assert row["agreeing_seeds"] == (own.votes[:, k] == own.predicted[k]).sum()


def test_suspects_are_those_that_no_seed_confirms(own):
    expected = {
        int(own.ids[k]) for k in range(len(own.ids))
        if own.predicted[k] != own.targets[k] and all(own.votes[:, k] != own.targets[k])
    }  # fmt: skip
    assert 0 < len(expected) < len(mistakes(own))
    assert {row["id"] for row in suspects(own)} == expected
    assert suspects(together(1)) is None


def test_what_all_together_tell_right_is_no_suspect():
    """Each seed prefers another wrong class, and has the right one second."""
    each = np.full((2, 2, 3), 0.0)
    each[0, :], each[1, :] = [0.4, 0.6, 0.0], [0.4, 0.0, 0.6]
    parts = {seed: predictions([0, 0], 1, values) for seed, values in enumerate(each)}
    own = put_together(parts, "animal", NAMES[:3])
    assert own.accuracy == 1.0
    assert suspects(own) == mistakes(own) == []


def test_intervals_are_over_the_images(own):
    numbers = score(own, together(skill=0.8))
    rng = np.random.default_rng(1)
    rows = rng.integers(0, len(own.ids), (4000, len(own.ids)))
    low, high = np.quantile(own.right[rows].mean(axis=1), [0.025, 0.975])
    assert numbers["ci95"] == pytest.approx([low, high], abs=0.011)
    gaps = own.right.astype(int) - together(skill=0.8).right
    low, high = np.quantile(gaps[rows].mean(axis=1), [0.025, 0.975])
    assert numbers["difference"] == pytest.approx(gaps.mean())
    assert numbers["difference_ci95"] == pytest.approx([low, high], abs=0.011)
    assert (numbers["seeds"], numbers["images"]) == ([0, 1, 2], N - N_VAL)
    assert score(own) == score(own)


def test_no_difference_to_other_seeds_or_images(own):
    fewer = put_together(
        {seed: part.at(np.arange(N - 1)) for seed, part in members().items()}, "animal", NAMES
    )
    for other in (None, together(2), fewer):
        assert score(own, other)["difference"] is None
        assert score(own, other)["difference_ci95"] is None


def test_images_without_a_label_are_left_out(own):
    unknown = np.where(np.arange(N) % 3 == 0, -1, TARGETS)
    parts = {seed: replace(part, targets=unknown[:, None]) for seed, part in members().items()}
    some = put_together(parts, "animal", NAMES)
    kept = own.ids % 3 != 0
    np.testing.assert_array_equal(some.ids, own.ids[kept])
    np.testing.assert_array_equal(some.predicted, own.predicted[kept])
    assert some.votes.shape == (3, kept.sum())
    none = {seed: replace(part, targets=np.full((N, 1), -1)) for seed, part in parts.items()}
    assert put_together(none, "animal", NAMES) is None


def test_only_the_principal_task_counts(own):
    """Further tasks may differ between seeds."""
    parts = {
        seed: replace(
            part,
            targets=np.column_stack([part.targets, np.zeros(N, np.int64)]),
            probabilities={
                **part.probabilities, f"auxiliary{seed}": np.ones((N, 1), np.float32),
            },
        )
        for seed, part in members().items()
    }  # fmt: skip
    np.testing.assert_array_equal(put_together(parts, "animal", NAMES).predicted, own.predicted)


def test_seeds_of_other_images_do_not_answer_together():
    first, second = members(2).values()
    with pytest.raises(ArtifactError, match="different images"):
        put_together({0: first, 1: second.at(np.arange(N - 1))}, "animal", NAMES)


def test_reliability_is_in_bins(own):
    rows = reliability_rows(own)
    for calibrated in (False, True):
        bins = [row for row in rows if row["calibrated"] is calibrated]
        assert sum(row["images"] for row in bins) == N - N_VAL
        right = sum(row["accuracy"] * row["images"] for row in bins)
        assert right == pytest.approx(own.right.sum())
        assert all(row["low"] <= row["accuracy"] <= row["high"] for row in bins)


def test_perfect_networks_have_no_mistakes():
    said = predictions(TARGETS, N_VAL, np.eye(5)[TARGETS])
    own = put_together({0: said, 1: said}, "animal", NAMES)
    told = describe_errors(own, None)
    assert (told["n_mistakes"], told["n_suspects"], told["n_confusions"]) == (0, 0, 0)
    assert told["mistakes"] == told["suspects"] == told["confusion"] == []
    assert score(own)["ci95"] == [1.0, 1.0]
    assert not any(name.startswith("baseline") for name in told["per_class"][0])


def test_long_lists_are_cut_and_counted():
    n, k = 1200, 600
    targets = np.arange(n) % k
    wrong = (targets + 1 + np.arange(n) // k) % k
    said = predictions(targets, 0, np.eye(k, dtype=np.float32)[wrong])
    own = put_together({0: said, 1: said}, "animal", [str(i) for i in range(k)])
    told = describe_errors(own, None)
    assert told["n_mistakes"] == told["n_suspects"] == told["n_confusions"] == n
    assert len(told["mistakes"]) == len(told["suspects"]) == len(told["confusion"]) == 1000
    assert len(told["per_class"]) == k
