from __future__ import annotations

import pytest

from detaux_pl.report import wording
from detaux_pl.report.wording import verdict


def arm(accuracies, kind="baseline", difference=None, interval=None, p=None, **more):
    seeds = more.pop("seeds", list(range(len(accuracies))))
    mean = sum(accuracies) / len(accuracies) if accuracies else None
    return {
        "kind": kind,
        "seeds": seeds,
        "missing_seeds": [],
        "accuracies": accuracies,
        "accuracy_mean": mean,
        "ci95": None,
        "difference": difference,
        "difference_ci95": interval,
        "p_value": p,
        "p_value_shuffled": None,
    } | more


def report(main, **others):
    return {
        "principal": "digit",
        "main": "ours",
        "baseline": "alone" if "alone" in others else None,
        "arms": {"ours": main, **others},
        "auxiliary": {
            "n_clusters": 4,
            "nmi_principal": 0.004,
            "best_factor": "location",
            "factors": {"location": {"nmi": 0.83}},
        },
    }


ALONE = arm([0.21, 0.22])


def test_gain():
    told = verdict(report(arm([0.31, 0.28], "main", 0.08, [0.02, 0.14], 0.0123), alone=ALONE))
    assert told.tone == "gain"
    assert told.headline == (
        "The discovered task raises digit accuracy from 21.5 % to 29.5 % "
        "(+8.0 points, 95 % CI +2.0 to +14.0, p = 0.012 over 2 seeds)."
    )
    assert told.details == (
        "The task has 4 clusters, nearly independent of digit (NMI 0.004); "
        "they follow location (NMI 0.83).",
    )


@pytest.mark.parametrize(
    ("main", "tone", "words"),
    [
        (arm([0.2, 0.19], "main", -0.02, [-0.03, -0.01], 0.03), "loss", "lowers digit accuracy"),
        (arm([0.22, 0.22], "main", 0.005, [-0.03, 0.04], 0.6), "none", "No gain shown"),
        (arm([0.3], "main", 0.09), "open", "One seed only"),
        (arm([], "main"), "open", "no run of ours finished"),
        (arm([0.3], "main", seeds=[7]), "open", "no seed in common"),
    ],
)
def test_other_verdicts(main, tone, words):
    told = verdict(report(main, alone=ALONE))
    assert told.tone == tone
    assert words in told.headline


@pytest.mark.parametrize(
    ("found", "ends", "tone", "words"),
    [
        (True, [0.02, 0.14], "gain", "Erasing the discovered groups raises digit accuracy from"),
        (True, [0.02, 0.14], "gain", "(+9.0 points, 95 % CI +2.0 to +14.0 over the test images)"),
        (True, [-0.02, 0.2], "none", "No gain shown: digit accuracy is 30.0 % with the discovered"),
        (False, [0.02, 0.14], "none", "groups are better left: digit accuracy is 21.0 % with"),
    ],
)
def test_groups_that_are_erased_are_judged_by_the_test_images(found, ends, tone, words):
    main = arm([0.3], "main", 0.09, ensemble={"difference_ci95": ends})
    given = {**report(main, alone=arm([0.21])), "erasures": {"verdict": {"found": found}}}
    told = verdict(given)
    assert told.tone == tone
    assert words in told.headline


def test_without_baseline_there_is_no_verdict():
    told = verdict(report(arm([0.3], "main")))
    assert (told.tone, told.headline) == (
        "open",
        "No verdict: the run has no baseline to compare with.",
    )
    told = verdict(report(arm([0.3], "main"), alone=arm([])))
    assert told.headline == "No verdict: no run of alone finished."


@pytest.mark.parametrize(
    ("reached", "p", "words"),
    [
        (0.2, 0.001, "it is their meaning that helps"),
        (0.2, 0.2, "no benefit of their meaning is shown"),
        (0.4, 0.001, "no benefit of their meaning is shown"),
        (0.2, None, "dealt out at random reach 20.0 %."),
    ],
)
def test_control_qualifies_the_gain(reached, p, words):
    main = arm([0.31, 0.28], "main", 0.08, [0.02, 0.14], 0.01, p_value_shuffled=p)
    told = verdict(report(main, alone=ALONE, shuffled=arm([reached], "control")))
    assert words in told.details[0]


def test_control_that_is_beaten_makes_no_gain():
    main = arm([0.31, 0.28], "main", 0.01, [-0.02, 0.04], 0.4, p_value_shuffled=0.01)
    told = verdict(report(main, alone=ALONE, shuffled=arm([0.2], "control")))
    assert told.tone == "none"
    assert "does not show in a gain" in told.details[0]


def test_ceilings_and_missing_seeds_are_told():
    main = arm([0.31, 0.28], "main", 0.08, [0.02, 0.14], 0.01, missing_seeds=[3, 4])
    told = verdict(report(main, alone=ALONE, location=arm([0.35], "ceiling")))
    assert "With the true labels of a hidden factor as auxiliary task: location 35.0 %." in (
        told.details
    )
    assert told.details[-1] == "Did not finish: ours (seed 3, 4)."


@pytest.mark.parametrize(
    ("principal", "best", "words"),
    [
        (0.1, 0.3, "weakly tied to digit (NMI 0.100); they partly follow location"),
        (0.6, 0.1, "tied to digit (NMI 0.600); no known factor explains them; closest is"),
    ],
)
def test_meaning_of_the_clusters(principal, best, words):
    content = report(arm([0.3], "main"))
    content["auxiliary"] |= {"nmi_principal": principal, "factors": {"location": {"nmi": best}}}
    assert words in verdict(content).details[0]
    content["auxiliary"]["best_factor"] = None
    assert verdict(content).details[0].endswith(f"(NMI {principal:.3f}).")


@pytest.mark.parametrize(
    ("active", "words"),
    [
        (0, "Posterior collapse: none of 10 latents is active, so the codes say nothing of an"),
        (1, "Posterior collapse: 1 of 10 latents is active, so the codes say little of an image."),
        (6, "6 of 10 latents are active; the codes of the inactive hardly change"),
    ],
)
def test_dead_latents_are_told(active, words):
    content = report(arm([0.3], "main", missing_seeds=[1]))
    content["posterior"] = {"active_units": active, "n_latents": 10}
    *_, told, missing = verdict(content).details
    assert told.startswith(words)
    assert "a smaller weight of the KL divergence (beta), another learning rate or more" in told
    assert missing.startswith("Did not finish")


@pytest.mark.parametrize("posterior", [None, {"active_units": 1, "n_latents": 1}])
def test_no_word_where_no_latent_is_dead(posterior):
    assert wording.collapse_text({"posterior": posterior}) == ""


def test_codes_and_scores_are_named():
    assert [wording.code_name(7, dims) for dims in (1, 5)] == ["latent 7", "subspace 1 · dim 2"]
    assert wording.score_text("beta_vae").name == "BetaVAE score"
    assert wording.score_text("unsupervised").name == "the scores without factors"
    told = wording.score_text("a_new_one")
    assert (told.name, told.meaning, told.better, told.share) == ("a new one", "", "", False)


def test_numbers_in_words():
    assert wording.percent(0.28812) == "28.8 %"
    assert wording.points(0.075) == "+7.5"
    assert wording.points(-0.075) == "\N{MINUS SIGN}7.5"
    assert wording.points(-0.0001) == "+0.0"
    assert wording.plural(1, "seed") == "1 seed"
    assert [wording.p_text(p) for p in (0.0, 0.00031, 0.0312, 1.0)] == [
        "< 0.0001", "0.0003", "0.031", "1.000",
    ]  # fmt: skip
    assert wording.p_clause(1e-5) == "p < 0.0001"
    assert wording.accuracy_text(arm([0.3], ci95=[0.28, 0.32])) == "30.0 ± 2.0 %"
    assert wording.accuracy_text(arm([])) == "did not finish"
