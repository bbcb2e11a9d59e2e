from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detaux_pl.artifacts.codes import Codes, FactorInfo
from detaux_pl.artifacts.errors import UserError
from detaux_pl.evaluation.disentanglement import (
    METRICS,
    choose_metrics,
    judge_codes,
    refuse_impossible,
)
from detaux_pl.metrics.beta_vae_score import beta_vae_score
from detaux_pl.metrics.dci import dci
from detaux_pl.metrics.explicitness import explicitness
from detaux_pl.metrics.factor_vae_score import factor_vae_score
from detaux_pl.metrics.irs import irs
from detaux_pl.metrics.metric import Metric, Score
from detaux_pl.metrics.mig import mig
from detaux_pl.metrics.modularity import modularity
from detaux_pl.metrics.mutual_information import mutual_information
from detaux_pl.metrics.records import RECORDS, SCORES
from detaux_pl.metrics.sap import sap
from detaux_pl.metrics.unsupervised import unsupervised

INFO = FactorInfo(("shape", "hue", "same"), (3, 4, 2), "shape")
FUNCTIONS = {
    "mig": mig, "sap": sap, "dci": dci, "factor_vae": factor_vae_score, "beta_vae": beta_vae_score,
    "irs": irs, "modularity": modularity, "explicitness": explicitness,
    "unsupervised": unsupervised,
}  # fmt: skip
OF_SUBSPACES = ("sap", "dci", "factor_vae", "beta_vae", "irs", "unsupervised")


def make(n=180, n_subspaces=3, dims=2, seed=0):
    """Subspace 0 knows the shape, subspace 1 the hue; a third of the samples are for test."""
    rng = np.random.default_rng(seed)
    factors = np.stack([rng.integers(0, 3, n), rng.integers(0, 4, n), np.ones(n, int)], axis=1)
    values = rng.normal(size=(n, n_subspaces, dims))
    for k in range(min(2, n_subspaces)):
        values[:, k] += 2.0 * factors[:, k, None]
    splits = (np.arange(n) % 3).astype(np.int8)
    return Codes(values.astype(np.float32), np.arange(n), splits, factors, INFO)


@pytest.fixture(scope="module")
def judged():
    return judge_codes(make(), seed=3)


def test_scores_are_those_of_the_metrics_on_the_test_split(judged):
    codes = make()
    rows = codes.rows("test")
    values, known = codes.values[rows].astype(np.float64), codes.factors[rows][:, :2]
    assert list(judged["scores"]["dim"]) == list(SCORES)
    expected = {}
    for name in METRICS:
        expected |= FUNCTIONS[name](values, known, seed=3)
    assert judged["scores"]["dim"] == pytest.approx(expected, rel=1e-9)
    expected = {}
    for name in OF_SUBSPACES:
        expected |= FUNCTIONS[name](values, known, seed=3, per="subspace")
    assert judged["scores"]["subspace"] == pytest.approx(expected, rel=1e-9)


def test_what_stands_beside_the_scores(judged):
    assert (judged["shape"], judged["split"], judged["n_samples"]) == ([3, 2], "test", 60)
    assert judged["factors"] == ["shape", "hue"]
    assert judged["left_out"] == {}
    assert list(judged["seconds"]) == list(METRICS)
    codes = make()
    rows = codes.rows("test")
    shared = mutual_information(codes.values[rows], codes.factors[rows][:, :2])
    np.testing.assert_allclose(judged["matrices"]["mutual_information"], shared, rtol=1e-9)
    importances = np.array(judged["matrices"]["importances"])
    assert importances.shape == (6, 2)
    # Dimensions 0 and 1 tell the shape, 2 and 3 the hue.
    share = importances / importances.sum(axis=0)
    assert share[:2, 0].sum() > 0.7
    assert share[2:4, 1].sum() > 0.7


def test_training_samples_do_not_matter():
    codes = make()
    values = codes.values.copy()
    values[codes.splits != 2] = 0.0
    names = ["mig", "irs"]
    assert (
        judge_codes(replace(codes, values=values), names)["scores"]
        == judge_codes(codes, names)["scores"]
    )


def test_at_most_so_many_samples_are_drawn_by_the_seed():
    codes = make()
    found = [judge_codes(codes, ["mig"], None, 30, seed)["scores"]["dim"] for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    assert judge_codes(codes, ["mig"], max_samples=30)["n_samples"] == 30


def test_factors_that_are_named_are_judged_by():
    codes = make()
    one = judge_codes(codes, ["mig", "explicitness"], ["hue"])
    rows = codes.rows("test")
    assert one["factors"] == ["hue"]
    expected = mig(codes.values[rows], codes.factors[rows][:, 1:2])
    assert one["scores"]["dim"]["mig"] == expected["mig"]


@pytest.mark.parametrize(
    ("shape", "factors", "left_out"),
    [
        ((3, 1), ["shape"], {"dci", "factor_vae", "beta_vae", "modularity"}),
        ((1, 1), None, {"mig", "sap", "dci"}),
        ((1, 1), ["hue", "same"], {"mig", "sap", "dci", "factor_vae", "beta_vae", "modularity"}),
        ((3, 1), ["same"], set(METRICS) - {"unsupervised"}),
    ],
)
def test_what_cannot_be_computed_is_left_out_with_its_reason(shape, factors, left_out):
    found = judge_codes(make(90, *shape), factors=factors)
    assert set(found["left_out"]) == left_out
    for name, reason in found["left_out"].items():
        few = "codes" if shape == (1, 1) and name in ("mig", "sap", "dci") else "factor"
        assert reason.startswith("needs at least ")
        assert few in reason
    expected = [
        name for metric in METRICS if metric not in left_out for name in RECORDS[metric].scores
    ]
    assert list(found["scores"]["dim"]) == expected
    assert found["scores"]["subspace"] == {}
    assert ("mutual_information" in found["matrices"]) == (factors != ["same"])
    assert np.isfinite(list(found["scores"]["dim"].values())).all()


def test_one_subspace_has_no_variant_of_subspaces():
    found = judge_codes(make(90, 1, 3), ["sap", "irs"])
    assert list(found["scores"]["dim"]) == ["sap", "irs"]
    assert found["scores"]["subspace"] == {}


def test_a_metric_of_more_codes_than_there_are_subspaces_has_no_variant_of_them(monkeypatch):
    def third(values, factors, *, seed, per):
        count = values.shape[1] * (values.shape[2] if per == "dim" else 1)
        assert count >= 3
        return {"third": float(count)}

    words = Score("third code", "how many codes there are", range=(0.0, np.inf))
    record = Metric(
        key="third", function=third, scores={"third": words}, least_codes=3, per_subspace=True
    )
    monkeypatch.setitem(RECORDS, "third", record)
    assert judge_codes(make(90, 2, 2), ["third"])["scores"] == {"dim": {"third": 4}, "subspace": {}}
    assert judge_codes(make(90, 3, 2), ["third"])["scores"] == {
        "dim": {"third": 6}, "subspace": {"third": 3}
    }  # fmt: skip


def test_no_metric_computes_nothing():
    found = judge_codes(make(), [])
    assert found["scores"] == {"dim": {}, "subspace": {}}
    assert found["matrices"] == found["left_out"] == {}


@pytest.mark.parametrize("metrics", [None, ["unsupervised"]])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_codes_that_are_not_finite_are_refused(metrics, bad):
    codes = make()
    values = codes.values.copy()
    values[codes.rows("test")[4], 1, 0] = bad
    with pytest.raises(UserError, match="the codes hold NaN or infinite values"):
        judge_codes(replace(codes, values=values), metrics)


def test_a_metric_that_is_named_but_impossible_is_refused():
    codes = make(30, 1, 1)
    with pytest.raises(UserError, match="'mig' of evaluate needs at least 2 codes, and there is 1"):
        choose_metrics(codes, ["irs", "mig"])
    with pytest.raises(UserError, match="'dci' of evaluate needs at least 2 factors with two"):
        judge_codes(make(), ["dci"], ["hue"])
    with pytest.raises(UserError, match="task 'same' of evaluate has one value only in 60 test"):
        judge_codes(make(), ["irs"], ["hue", "same"])
    assert choose_metrics(make(), ["unsupervised"], ["same"]).metrics == ("unsupervised",)
    with pytest.raises(UserError, match="hold no test sample"):
        judge_codes(replace(make(), splits=np.zeros(180, dtype=np.int8)))
    refuse_impossible(METRICS, 2, 2)


def test_what_a_metric_itself_refuses_is_left_out_or_refused(monkeypatch):
    def refuse(values, factors, seed, per):
        raise UserError("all codes are constant.")

    monkeypatch.setitem(RECORDS, "irs", replace(RECORDS["irs"], function=refuse))
    found = judge_codes(make(), factors=["hue"])
    assert found["left_out"]["irs"] == "all codes are constant."
    assert "irs" not in found["seconds"]
    with pytest.raises(UserError, match=r"^all codes are constant\.$"):
        judge_codes(make(), ["irs"])


def test_results_that_are_kept_are_not_computed_again(monkeypatch):
    calls = []

    def once(values, factors, seed):
        calls.append(seed)
        if len(calls) == 1:
            raise RuntimeError("killed")
        return {"modularity": 0.25}

    monkeypatch.setitem(RECORDS, "modularity", replace(RECORDS["modularity"], function=once))
    names = ["mig", "modularity", "unsupervised"]
    kept, done = {}, []
    with pytest.raises(RuntimeError, match="killed"):
        judge_codes(make(), names, kept=kept)
    assert list(kept) == ["mig"]
    kept["mig"]["scores"]["dim"]["mig"] = -1.0
    found = judge_codes(make(), names, kept=kept, progress=done.append)
    assert found["scores"]["dim"]["mig"] == -1.0
    assert found["scores"]["dim"]["modularity"] == 0.25
    assert (len(calls), sum(done)) == (2, 3)
    assert list(kept) == names


def test_progress_ends_at_the_number_of_metrics():
    done = []
    judge_codes(make(60), n_jobs=2, progress=done.append)
    assert sum(done) == pytest.approx(len(METRICS))
