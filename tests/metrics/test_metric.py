"""Records of metrics: what is missing is said, and those of new files are found."""

from __future__ import annotations

import math
import sys
from dataclasses import replace

import pytest

import detaux_pl.metrics
from detaux_pl.metrics import records
from detaux_pl.metrics.metric import Metric, Score
from detaux_pl.metrics.records import RECORDS, SCORES, find_score


def gap(codes, factors, *, seed):
    return {"gap": 0.5}


def spread(codes, factors, *, seed, per, n_jobs, progress):
    return {"gap": 0.5}


GAP = {"gap": Score("gap", "how far apart two codes are")}
RECORD = """
from detaux_pl.metrics.metric import Metric, Score

def function(codes, factors, *, seed=0):
    return {{"{score}": 0.5}}

METRIC = Metric(key="{key}", function=function, scores={{"{score}": Score("a", "what it is")}})
"""


def test_what_a_record_says_of_itself():
    record = Metric(key="gap", function=gap, scores=GAP)
    assert (record.name, record.per_subspace, record.jobs) == ("gap", False, None)
    assert record.lack(1, 1) is None
    assert record.lack(1, 0) == (
        "needs at least 1 factor with two values in the test split, and there is none"
    )
    wide = replace(record, least_codes=3, least_factors=2)
    assert wide.lack(2, 2) == "needs at least 3 codes, and there is 2"
    assert wide.lack(3, 1) == (
        "needs at least 2 factors with two values in the test split, and there is 1"
    )


@pytest.mark.parametrize(
    ("direction", "span", "words", "share"),
    [
        ("higher", (0.0, 1.0), "higher, 0 to 1", True),
        ("lower", (0.0, math.inf), "lower, from 0", False),
        ("higher", (-math.inf, 0.0), "higher, up to 0", False),
        ("higher", (-math.inf, math.inf), "higher", False),
        ("lower", (-1.0, 1.5), "lower, -1 to 1.5", False),
        (None, (0.0, 1.0), "", True),
    ],
)
def test_the_better_end_in_words(direction, span, words, share):
    score = Score("a", "b", direction, span)
    assert (score.better, score.share) == (words, share)


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"function": gap}, TypeError, "missing 1 required keyword-only argument: 'scores'"),
        ({"function": gap, "scores": {}}, ValueError, "'gap' has no key or no scores"),
        (
            {"function": gap, "scores": {**GAP, "other": Score("b", "what it is")}},
            ValueError, "'gap' has 2 scores and no name",
        ),
        (
            {"function": gap, "scores": {"gap": Score("", "what it is")}},
            ValueError, "the score 'gap' of the metric 'gap' has no name",
        ),
        ({"function": gap, "scores": {"gap": Score("a", "")}}, ValueError, "has no meaning"),
        (
            {"function": gap, "scores": {"gap": Score("a", "what it is", None)}},
            ValueError, "has no direction",
        ),
        ({"function": lambda codes, factors: {}, "scores": GAP}, ValueError, "takes no `seed`"),
        ({"function": gap, "scores": GAP, "per_subspace": True}, ValueError, "takes no `per`"),
        ({"function": gap, "scores": GAP, "jobs": "threads"}, ValueError, "takes no `n_jobs`"),
        ({"function": spread, "scores": GAP}, ValueError, "'gap' takes `per`: each takes `seed`"),
        (
            {"function": spread, "scores": GAP, "per_subspace": True},
            ValueError, "'gap' takes `n_jobs`",
        ),
    ],
)  # fmt: skip
def test_what_is_missing_is_said_when_the_file_is_read(given, error, says):
    with pytest.raises(error) as caught:
        Metric(key="gap", **given)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A folder whose files stand beside those of the metrics."""
    before = set(sys.modules)
    monkeypatch.setattr(detaux_pl.metrics, "__path__", [*detaux_pl.metrics.__path__, str(tmp_path)])
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("detaux_pl.metrics."):
            del sys.modules[name]
            delattr(detaux_pl.metrics, name.rpartition(".")[2])


def test_a_new_file_is_found_and_stands_behind_the_others(room):
    (room / "a_new_one.py").write_text(RECORD.format(key="an_own_key", score="new_score"))
    found = records._find()
    assert list(found) == [*RECORDS, "an_own_key"]
    assert found["an_own_key"].function.__module__ == "detaux_pl.metrics.a_new_one"


def test_two_of_one_name_are_refused(room):
    (room / "a_new_one.py").write_text(RECORD.format(key="dci", score="new_score"))
    with pytest.raises(
        ValueError, match=r"the metric 'dci' is of .*metrics\.\w+ and of .*: rename"
    ):
        records._find()


def test_two_of_one_score_are_refused(room):
    (room / "z_new_one.py").write_text(RECORD.format(key="new", score="mig"))
    with pytest.raises(ValueError, match=r"score 'mig' is of .*metrics\.mig and of .*\.z_new_one:"):
        records._find()


def test_a_record_that_is_none_is_refused(room):
    (room / "a_new_one.py").write_text("METRIC = {'key': 'new'}\n")
    with pytest.raises(TypeError, match=r"METRIC of detaux_pl\.metrics\.a_new_one is .* a Metric"):
        records._find()


def test_metrics_and_scores_keep_their_order():
    assert list(RECORDS) == [
        "mig", "sap", "dci", "factor_vae", "beta_vae", "irs", "modularity", "explicitness",
        "unsupervised",
    ]  # fmt: skip
    assert list(SCORES)[2:5] == ["dci_disentanglement", "dci_completeness", "dci_informativeness"]


def test_a_score_of_another_version_goes_by_its_own_name():
    assert find_score("irs") is RECORDS["irs"].scores["irs"]
    told = find_score("an_old_one")
    assert (told.name, told.meaning, told.better, told.share) == ("an old one", "", "", False)
