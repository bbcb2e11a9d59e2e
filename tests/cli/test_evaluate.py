"""Linear probes as a stage of the chain, by themselves, in the report and over several runs."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

import detaux_pl
from detaux_pl.artifacts.codes import Codes
from detaux_pl.artifacts.errors import ArtifactError, UserError
from detaux_pl.artifacts.files import read_json, write_json
from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.cli.main import main
from detaux_pl.evaluation.requirements import requirements
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
    assert manifest["settings"] == {"tasks": None, "max_samples": 20000, "seed": 0}
    assert list(manifest["inputs"]) == ["disentangle/codes"]
    assert set(manifest["outputs"]) == {"config.yaml", "probes.json"}
    assert list(read_json(finished_run / "cluster" / "stage.json")["inputs"]) == [
        "disentangle/codes"
    ]


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
    ],
)  # fmt: skip
def test_impossible_probes_are_refused_before_anything_runs(
    tmp_path: Path, error_line: Refused, words: list[str], says: str
):
    chain = str(CONF / "chain.yaml")
    line = error_line(["fit", "--config", chain, "--run_dir", str(tmp_path / "run"), *words])
    assert says in line
    assert not (tmp_path / "run" / "disentangle").exists()


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
