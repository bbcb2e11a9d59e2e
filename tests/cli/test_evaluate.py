"""Linear probes as a stage of the chain, by themselves, in the report and over several runs."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import detaux_pl
from detaux_pl.artifacts.codes import Codes, FactorInfo
from detaux_pl.artifacts.errors import ArtifactError, UserError
from detaux_pl.artifacts.files import read_json, write_json
from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.cli.main import main
from detaux_pl.evaluation import disentanglement
from detaux_pl.evaluation.disentanglement import METRICS
from detaux_pl.evaluation.requirements import requirements
from detaux_pl.metrics.records import SCORES
from detaux_pl.pipeline.chain import parse
from detaux_pl.pipeline.checks import build_all
from detaux_pl.pipeline.stages import evaluate
from tests.cli.conftest import CONF, fit

Refused = Callable[[list[str]], str]
TASKS = ["digit", "location", "background"]


def _stamps(run_dir: Path) -> dict[str, int]:
    """When each stage but the report was finished."""
    return {
        path.parent.relative_to(run_dir).as_posix(): path.stat().st_mtime_ns
        for path in run_dir.rglob("stage.json")
        if path.parent.name != "report"
    }


def _write_probes(run_dir: Path, accuracies: list[list[float]], tasks: list[str]) -> None:
    """Finish `evaluate` with the accuracies of z, of its slices, by task."""
    full, *slices = [dict(zip(tasks, row, strict=True)) for row in accuracies]
    folder = StageFolder(run_dir, "evaluate")
    folder.begin({}, {}, {})
    write_json(
        folder.path / "probes.json",
        {
            "tasks": tasks,
            "chance": dict.fromkeys(tasks, 0.1),
            "n_train": 100,
            "n_test": 50,
            "inputs": {"z": {"full": full, "slices": slices}},
        },
    )
    folder.finish([folder.path / "probes.json"], 1.0)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two seeds of a group, and a run that is a group of its own."""
    tasks = ["class_a", "class_b"]
    _write_probes(tmp_path / "ortho/seed0", [[0.91, 0.82], [0.73, 0.14], [0.25, 0.66]], tasks)
    _write_probes(tmp_path / "ortho/seed1", [[0.93, 0.86], [0.77, 0.16], [0.35, 0.68]], tasks)
    _write_probes(tmp_path / "plain", [[0.97, 0.88], [0.95, 0.81], [0.94, 0.83]], tasks)
    return tmp_path


def test_the_stage_probes_every_factor_on_all_slices(finished_run: Path):
    probes = detaux_pl.load(finished_run).probes
    assert probes == read_json(finished_run / "evaluate" / "probes.json")
    codes = Codes.load(finished_run / "disentangle" / "codes")
    assert sorted(probes["tasks"]) == sorted(TASKS)
    assert (probes["n_train"], probes["n_test"]) == (256, 64)
    assert list(probes["inputs"]) == [codes.name] == ["code"]
    slices = probes["inputs"]["code"]["slices"]
    assert len(slices) == codes.values.shape[1]
    test = codes.rows("test")
    for task in TASKS:
        majority = np.bincount(codes.factor(task)[test]).max() / len(test)
        assert probes["chance"][task] == pytest.approx(majority)
        for entry in (probes["inputs"]["code"]["full"], *slices):
            assert 0 <= entry[task] <= 1
    # The principal subspace is trained to tell the digit.
    assert slices[codes.info.principal_subspace]["digit"] > probes["chance"]["digit"]
    manifest = read_json(finished_run / "evaluate" / "stage.json")
    assert manifest["settings"] == {
        "tasks": None, "max_samples": 20000, "seed": 0, "metrics": None
    }  # fmt: skip
    assert list(manifest["inputs"]) == ["disentangle/codes"]
    assert set(manifest["outputs"]) == {"config.yaml", "probes.json", "metrics.json"}
    assert not (finished_run / "evaluate" / "partial.json").exists()
    assert list(read_json(finished_run / "cluster" / "stage.json")["inputs"]) == [
        "disentangle/codes"
    ]


def test_the_stage_computes_every_metric_on_the_test_split(finished_run: Path):
    metrics = read_json(finished_run / "evaluate" / "metrics.json")
    codes = Codes.load(finished_run / "disentangle" / "codes")
    k, d = codes.values.shape[1:]
    assert (metrics["shape"], metrics["split"], metrics["n_samples"]) == ([k, d], "test", 64)
    assert metrics["factors"] == list(codes.info.names)
    assert metrics["left_out"] == {}
    assert list(metrics["seconds"]) == list(METRICS)
    assert list(metrics["scores"]["dim"]) == list(SCORES)
    for name in ("sap", "dci_disentanglement", "factor_vae", "beta_vae", "irs"):
        assert 0 <= metrics["scores"]["dim"][name] <= 1
        assert 0 <= metrics["scores"]["subspace"][name] <= 1
    for matrix in metrics["matrices"].values():
        assert np.shape(matrix) == (k * d, 3)


def test_changed_tasks_are_refused_with_both_ways_out(run_copy: Path):
    with pytest.raises(UserError) as caught:
        fit(run_copy, "--evaluate.tasks=[digit]")
    assert "tasks was None, is ['digit']" in str(caught.value)
    assert "--redo evaluate" in str(caught.value)
    assert "--run_dir" in str(caught.value)


def test_redo_makes_the_probes_and_the_report_again_and_nothing_else(run_copy: Path):
    before = _stamps(run_copy)
    assert fit(run_copy, "--redo=evaluate", "--evaluate.tasks=[location]") == 0
    assert {stage for stage, stamp in _stamps(run_copy).items() if stamp != before[stage]} == {
        "evaluate"
    }
    report = read_json(run_copy / "report" / "report.json")
    assert report["probes"]["tasks"] == ["location"]


def test_redo_of_the_clusters_leaves_the_probes(run_copy: Path):
    before = _stamps(run_copy)
    assert fit(run_copy, "--redo=cluster", "--until=cluster") == 0
    after = _stamps(run_copy)
    assert after["evaluate"] == before["evaluate"]
    assert after["cluster"] != before["cluster"]
    reader = run_copy / "multitask" / "hard_parameter_sharing" / "seed0"
    assert not reader.exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--evaluate.tasks=[digit, lokation]"], "'lokation' of evaluate is no factor of the data: "
         "did you mean 'location'?"),
        (["--evaluate.tasks=[]"], "name each factor once"),
        (["--evaluate.tasks=[digit, digit]"], "name each factor once"),
        (["--evaluate.max_samples=0"], "max_samples of evaluate is 0"),
        (["--evaluate.metrics=[mig, facter_vae]"],
         "metrics of evaluate name 'facter_vae', which there is not: did you mean 'factor_vae'?"),
        (["--evaluate.metrics=[mig, mig]"], "metrics of evaluate are ['mig', 'mig']: name each"),
        (["--evaluate.metrics=[dci]", "--evaluate.tasks=[digit]"],
         "the metric 'dci' of evaluate needs at least 2 factors"),
        (["--evaluate.max_codes=0", "--evaluate.metrics=[]"], "max_codes of evaluate is 0"),
        (["--evaluate.max_codes=23"], "the disentangler gives 24 codes (4 x 6), but metrics, which "
         "take long then, are computed of 23 at most: raise evaluate.max_codes (--max_codes of "
         "`detaux evaluate`), or do without by evaluate.metrics: []."),
        (["--disentangle.model=RawPixels", "--evaluate.metrics=[irs]"], "gives 768 codes (1 x 76"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused_before_anything_runs(
    tmp_path: Path, error_line: Refused, words: list[str], says: str
):
    config = str(CONF / "chain.yaml")
    line = error_line(["fit", "--config", config, "--run_dir", str(tmp_path / "run"), *words])
    assert says in line
    assert not (tmp_path / "run" / "disentangle").exists()


def test_the_codes_of_a_model_that_looks_at_itself_are_counted_too(
    tmp_path: Path, error_line: Refused, monkeypatch: pytest.MonkeyPatch
):
    from detaux_pl.disentangle.residual import ResidualAutoencoder

    def scaled(self, images):
        return images.flatten(1)[:, None] * (1 + self.mean.sum().item())

    monkeypatch.setattr(ResidualAutoencoder, "encode", scaled)
    words = ["--config", str(CONF / "chain.yaml"), "--run_dir", str(tmp_path / "run")]
    assert "gives 768 codes (1 x 768)" in error_line(["fit", *words])
    assert not (tmp_path / "run" / "disentangle").exists()


def test_a_model_that_must_be_trained_to_encode_is_not_refused(monkeypatch: pytest.MonkeyPatch):
    from detaux_pl.disentangle.residual import ResidualAutoencoder

    def untrained(self, images):
        raise RuntimeError("train it first")

    monkeypatch.setattr(ResidualAutoencoder, "encode", untrained)
    parsed = parse(["--config", str(CONF / "chain.yaml"), "--evaluate.max_codes=1"])
    assert build_all(parsed).files is None


def test_the_stage_by_itself(
    run_copy: Path, error_line: Refused, capsys: pytest.CaptureFixture[str]
):
    before = (run_copy / "evaluate" / "probes.json").stat().st_mtime_ns
    words = ["evaluate", "--run_dir", str(run_copy)]
    assert main(words) == 0
    assert (run_copy / "evaluate" / "probes.json").stat().st_mtime_ns == before
    shown = capsys.readouterr().out
    entry = read_json(run_copy / "evaluate" / "probes.json")["inputs"]["code"]
    for row in (entry["full"], *entry["slices"]):
        for task in TASKS:
            assert f"{100 * row[task]:.1f}" in shown
    assert "'digits' of evaluate is no factor" in error_line([*words, "--tasks=[digits]"])
    assert "tasks was None, is ['digit']" in error_line([*words, "--tasks=[digit]"])
    assert main([*words, "--tasks=[digit]", "--max_samples=50", "--redo=evaluate"]) == 0
    probes = read_json(run_copy / "evaluate" / "probes.json")
    assert (probes["tasks"], probes["n_train"], probes["n_test"]) == (["digit"], 50, 50)
    config = run_copy / "evaluate" / "config.yaml"
    assert yaml.safe_load(config.read_text())["redo"] is None
    assert "run `detaux disentangle predict` first" in error_line(
        ["evaluate", "--run_dir", str(run_copy / "nowhere")]
    )


def test_a_stage_that_was_stopped_goes_on_after_what_it_has(
    run_copy: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = {
        name: read_json(run_copy / "evaluate" / f"{name}.json") for name in ("probes", "metrics")
    }
    computed: list[str] = []
    judge, probe = disentanglement._judge, evaluate.probe_codes

    def judge_once(metric: str, *args: Any) -> Any:
        computed.append(metric)
        if computed.count("irs") == 1 and metric == "irs":
            raise RuntimeError("killed")
        return judge(metric, *args)

    def probe_once(*args: Any, **options: Any) -> Any:
        computed.append("probes")
        return probe(*args, **options)

    monkeypatch.setattr(disentanglement, "_judge", judge_once)
    monkeypatch.setattr(evaluate, "probe_codes", probe_once)
    words = ["evaluate", "--run_dir", str(run_copy)]
    with pytest.raises(RuntimeError, match="killed"):
        main([*words, "--redo=evaluate"])
    done = METRICS[: METRICS.index("irs")]
    assert list(read_json(run_copy / "evaluate" / "partial.json")) == ["probes", *done]
    assert not StageFolder(run_copy, "evaluate").complete
    assert main(words) == 0
    assert computed == ["probes", *done, "irs", *METRICS[METRICS.index("irs") :]]
    assert not (run_copy / "evaluate" / "partial.json").exists()
    again = {
        name: read_json(run_copy / "evaluate" / f"{name}.json") for name in ("probes", "metrics")
    }
    for each in (whole, again):
        del each["metrics"]["seconds"]
    assert again == whole


def test_metrics_are_chosen_and_restricted_to_the_tasks(
    run_copy: Path, error_line: Refused, capsys: pytest.CaptureFixture[str]
):
    words = ["evaluate", "--run_dir", str(run_copy), "--redo=evaluate"]
    assert main([*words, "--metrics=[irs, mig]", "--tasks=[location]"]) == 0
    metrics = read_json(run_copy / "evaluate" / "metrics.json")
    assert list(metrics["scores"]["dim"]) == ["irs", "mig"]
    assert metrics["factors"] == ["location"]
    shown = capsys.readouterr().out
    for name in ("irs", "mig"):
        assert f"{100 * metrics['scores']['dim'][name]:.1f}" in shown
    assert f"{100 * metrics['scores']['subspace']['irs']:.1f}" in shown
    assert main([*words, "--metrics=[]", "--max_codes=1"]) == 0
    none = read_json(run_copy / "evaluate" / "metrics.json")
    assert none["scores"] == {"dim": {}, "subspace": {}}
    assert "metrics was [], is ['mig']" in error_line([*words[:3], "--metrics=[mig]"])


def _write_codes(run_dir: Path, values: Any, factors: Any) -> None:
    """Finish `disentangle/codes` with codes of as many train as test samples."""
    folder = StageFolder(run_dir, "disentangle/codes")
    folder.begin({}, {}, {})
    n = len(values)
    info = FactorInfo(("digit", "hue"), (3, 4), "digit")
    splits = (2 * (np.arange(n) % 2)).astype(np.int8)
    Codes(values, np.arange(n), splits, factors, info).save(folder.path)
    folder.finish(folder.path.rglob("*.npy"), 0.0)


@pytest.mark.parametrize(
    ("spoil", "words", "says"),
    [
        ("one code", ["--metrics=[mig]"], "the metric 'mig' of evaluate needs at least 2 codes, "
         "and there is 1"),
        ("continuous", [], "holds factors of type float64: give integers"),
        ("nan", [], "hold NaN or infinite values: train the disentangler again."),
        ("nan", ["--metrics=[mig]"], "hold NaN or infinite values"),
        ("one value", ["--tasks=[hue]", "--metrics=[mig]"], "the task 'hue' of evaluate has one "
         "value only in 30 test samples"),
        ("", ["--max_codes=5"], "gives 6 codes (3 x 2), but metrics, which take long then, are "
         "computed of 5 at most"),
    ],
)  # fmt: skip
def test_codes_that_cannot_be_judged_are_refused(
    tmp_path: Path, error_line: Refused, spoil: str, words: list[str], says: str
):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(60, 3, 2)).astype(np.float32)
    factors = np.stack([np.arange(60) // 2 % 3, np.arange(60) // 2 % 4], axis=1)
    if spoil == "one code":
        values = values[:, :1, :1]
    if spoil == "nan":
        values[7, 1, 1] = np.nan
    if spoil == "one value":
        factors[:, 1] = np.arange(60) % 2
    _write_codes(tmp_path, values, factors + 0.5 if spoil == "continuous" else factors)
    assert says in error_line(["evaluate", "--run_dir", str(tmp_path), *words])


def test_what_is_left_out_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    values = np.random.default_rng(0).normal(size=(60, 1, 1)).astype(np.float32)
    digits = np.arange(60) // 2 % 3
    _write_codes(tmp_path, values, np.stack([digits, np.zeros(60, int)], axis=1))
    assert main(["evaluate", "--run_dir", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    metrics = read_json(tmp_path / "evaluate" / "metrics.json")
    assert set(metrics["left_out"]) == {
        "mig", "sap", "dci", "factor_vae", "beta_vae", "modularity"
    }  # fmt: skip
    for name, reason in metrics["left_out"].items():
        assert f"{name} is left out: {reason}" in shown


def test_of_many_slices_only_the_whole_is_probed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    values = np.random.default_rng(0).normal(size=(60, 65, 1)).astype(np.float32)
    factors = np.stack([np.arange(60) // 2 % 3, np.arange(60) // 2 % 4], axis=1)
    _write_codes(tmp_path, values, factors)
    assert main(["evaluate", "--run_dir", str(tmp_path), "--metrics=[]"]) == 0
    entry = read_json(tmp_path / "evaluate" / "probes.json")["inputs"]["code"]
    assert entry["slices"] == []
    assert f"{100 * entry['full']['hue']:.1f}" in capsys.readouterr().out
    assert main(["probes", str(tmp_path), "--layout=summary"]) == 0
    assert f"{100 * entry['full']['digit']:.1f}" in capsys.readouterr().out


def test_every_array_beside_the_codes_is_written_and_probed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from detaux_pl.disentangle.residual import ResidualAutoencoder

    def both(self, images):
        codes = self.encode(images)
        return {"z": codes, "r": codes.repeat(1, 1, 2)}

    def choose(self, checkpoint):
        self.principal_subspace = 1

    monkeypatch.setattr(ResidualAutoencoder, "encode_all", both)
    # What a checkpoint says of the principal subspace counts, not what an untrained model says.
    monkeypatch.setattr(ResidualAutoencoder, "on_load_checkpoint", choose, raising=False)
    assert fit(tmp_path, "--until=evaluate") == 0
    assert not (tmp_path / "cluster").exists()
    codes = Codes.load(tmp_path / "disentangle" / "codes")
    assert (codes.name, codes.others) == ("z", ("r",))
    assert codes.info.principal_subspace == 1
    beside = Codes.load(tmp_path / "disentangle" / "codes", "r")
    np.testing.assert_array_equal(beside.values, np.tile(codes.values, (1, 1, 2)))
    inputs = detaux_pl.load(tmp_path).probes["inputs"]
    assert list(inputs) == ["z", "r"]
    # The same numbers twice tell no more.
    assert inputs["r"]["full"] == pytest.approx(inputs["z"]["full"], abs=0.1)


def test_the_report_shows_the_probes(finished_run: Path):
    report = read_json(finished_run / "report" / "report.json")
    probes = read_json(finished_run / "evaluate" / "probes.json")
    assert report["probes"] == probes
    asked = requirements(probes["inputs"]["code"], probes["chance"])
    assert report["requirements"] == {"code": json.loads(json.dumps(asked))}
    assert "evaluate" in report["seconds"]
    page = (finished_run / "report" / "report.html").read_text()
    section = re.search(r'<section id="probes">(.*?)</section>', page, re.DOTALL)
    assert section is not None
    assert '<a href="#probes">Linear probes</a>' in page
    for task in TASKS:
        assert f"{100 * probes['inputs']['code']['full'][task]:.1f}" in section[1]
        assert f"{100 * probes['chance'][task]:.1f}" in section[1]
    assert "evaluate" in read_json(finished_run / "report" / "stage.json")["inputs"]


def test_a_run_without_probes_has_its_report(run_copy: Path):
    shutil.rmtree(run_copy / "evaluate")
    with pytest.raises(ArtifactError, match="run the stage that writes it"):
        _ = detaux_pl.load(run_copy).probes
    assert main(["report", "--run_dir", str(run_copy)]) == 0
    assert read_json(run_copy / "report" / "report.json")["probes"] is None
    assert "Linear probes" not in (run_copy / "report" / "report.html").read_text()
    assert "evaluate" not in read_json(run_copy / "report" / "stage.json")["inputs"]


@pytest.mark.parametrize("form", ["text", "markdown", "latex", "html"])
def test_probes_of_several_runs_in_one_table(
    study: Path, form: str, capsys: pytest.CaptureFixture[str]
):
    runs = [str(study / name) for name in ("ortho/seed0", "ortho/seed1", "plain")]
    assert main(["probes", *runs, "--format", form]) == 0
    shown = capsys.readouterr().out
    assert "ortho" in shown
    assert "plain" in shown
    # Means over two seeds, their population variance, and a run by itself [per cent].
    for number in ("92.0", "84.0", "75.0", "15.0", "30.0", "67.0", "4.0", "25.0",
                   "97.0", "81.0", "83.0"):  # fmt: skip
        assert re.search(rf"(?<![\d.]){re.escape(number)}(?!\d)", shown), number
    path = study / "tables" / f"probes.{form}"
    assert main(["probes", *runs, "--format", form, "--output", str(path)]) == 0
    assert path.read_text() == shown
    assert capsys.readouterr().out == ""


def test_the_summary_refers_to_a_group(study: Path, capsys: pytest.CaptureFixture[str]):
    runs = [str(study / name) for name in ("ortho/seed0", "ortho/seed1", "plain")]
    words = ["probes", "--layout=summary", "--format=markdown", *runs]
    assert main([*words, "--against", "plain"]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if "ortho" in line)
    # R3: (97 - 92 + 88 - 84) / 2, R1: (30 - 10 + 15 - 10) / 2, R2: (92 - 75 + 84 - 67) / 2.
    for number in ("4.5", "12.5", "17.0"):
        assert re.search(rf"(?<![\d.]){re.escape(number)}(?!\d)", row), number
    assert main(words) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if "ortho" in line)
    assert not re.search(r"(?<![\d.])4\.5(?!\d)", row)


def test_runs_that_do_not_fit_in_one_table_are_refused(
    study: Path, error_line: Refused, tmp_path: Path
):
    ortho, plain = str(study / "ortho" / "seed0"), str(study / "plain")
    line = error_line(["probes", ortho, str(study / "ortho")])
    assert f"{study / 'ortho'} has no finished linear probes: run `detaux evaluate" in line
    _write_probes(study / "other", [[0.5], [0.5]], ["class_a"])
    line = error_line(["probes", ortho, str(study / "other")])
    assert "was probed on class_a, but" in line
    assert "on class_a, class_b" in line
    line = error_line(["probes", ortho, plain, "--against", "plane"])
    assert "--against is 'plane': did you mean 'plain'?" in line
    assert "is given twice" in error_line(["probes", plain, f"{plain}/"])
    _write_probes(study / "elsewhere" / "plain", [[0.5] * 2] * 3, ["class_a", "class_b"])
    line = error_line(["probes", plain, str(study / "elsewhere" / "plain")])
    assert "two groups are named 'plain'" in line
    assert "required: RUN_DIR" in error_line(["probes"])
    assert "--format" in error_line(["probes", plain, "--format=pdf"])
    line = error_line(["probes", plain, "--output", str(study)])
    assert "cannot be written" in line
    path = study / "plain" / "evaluate" / "probes.json"
    path.write_text(path.read_text().replace("0.97", "0.99"))
    assert "was changed after the stage wrote it" in error_line(["probes", plain])
