"""Every shipped config parses, and everything that can be configured has one."""

from __future__ import annotations

import shlex
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from jsonargparse import ArgumentError, ArgumentParser

from detaux_pl.cli import sweep
from detaux_pl.cli.fit import run as run_chain
from detaux_pl.cli.main import main
from detaux_pl.cluster.base import Clusterer
from detaux_pl.data.factor_dataset import FactorDataset
from detaux_pl.disentangle.base import Disentangler
from detaux_pl.inference.run import load
from detaux_pl.losses.regularizers.base import Regularizer
from detaux_pl.multitask.base import MultitaskModel
from detaux_pl.multitask.weighting.base import Weighting
from detaux_pl.pipeline.chain import parse
from detaux_pl.pipeline.job import Chain
from detaux_pl.pipeline.plan import plan_jobs, stage_keys
from detaux_pl.pipeline.stage import stage_named
from detaux_pl.settings.unfinished import missing_methods
from detaux_pl.training.stage_cli import resolving_parser
from tests.cli.conftest import in_process
from tests.found import classes, configs, entries, subclasses

ROOT = Path(__file__).parents[1]
CHAINS = sorted(p for f in ("", "paper", "photos") for p in (ROOT / "configs" / f).glob("*.yaml"))
SWEEPS = sorted((ROOT / "configs/sweeps").glob("*.yaml"))
STAGES = sorted(set((ROOT / "configs").glob("*/*.yaml")) - {*CHAINS, *SWEEPS})
MINIATURES = sorted((ROOT / "tests" / "conf").glob("*.yaml"))


def _name(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").as_posix()


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)


@cache
def _parse(*words: str) -> Chain:
    """Parse a chain, once for all tests: one of many arms takes seconds."""
    return parse(words)


@pytest.mark.parametrize("path", CHAINS + MINIATURES, ids=_name)
def test_a_chain_parses(path: Path):
    parsed = _parse("--config", f"{_name(path)}.yaml")
    assert len(parsed.arms) >= 3
    for job in (job for jobs in plan_jobs(parsed).values() for job in jobs):
        assert job.config["run_dir"] == parsed.config["run_dir"]


@pytest.mark.parametrize("path", STAGES, ids=_name)
def test_a_stage_parses_alone(path: Path):
    stage = {"contrastive": "disentangle"}.get(path.parent.name, path.parent.name)
    parser = stage_named("cluster").code.parser() if stage == "cluster" else resolving_parser(stage)
    args = ["--config", str(path)]
    if stage != "cluster":
        args += ["--data.dataset=DigitScenes"]
    parser.parse_args(args)


@pytest.mark.parametrize("path", SWEEPS, ids=_name)
def test_the_trials_of_a_sweep_parse(path: Path, tmp_path: Path):
    plan = _plan(["--config", str(path)])
    longest = max(plan.parameters, key=lambda each: (each.variants is not None, len(each.choices)))
    numbers = range(len(longest.choices))
    for k in numbers if longest.variants is not None else (numbers[0], numbers[-1]):
        values = {
            each.name: each.choices[min(k, len(each.choices) - 1)] for each in plan.parameters
        }
        given = tmp_path / "given.yaml"
        given.write_text(yaml.safe_dump(plan.settings(values)))
        parsed = parse(["--config", str(given), "--until", str(plan.until)])
        assert list(stage_keys(parsed)) == ["disentangle", "disentangle/codes", "evaluate"]


def _plan(args: list[str]) -> sweep.Plan:
    return sweep.read_plan(sweep.sweep_parser().parse_args(args), args)


@pytest.mark.parametrize("path", CHAINS + STAGES + SWEEPS, ids=_name)
def test_a_config_opens_with_a_command_that_parses(path: Path):
    lines = path.read_text(encoding="utf-8").splitlines()
    head = lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]
    commands = [line for line in head if line.startswith("#   detaux ")]
    assert len(commands) == 1
    assert _name(path) in commands[0]
    command, *args = shlex.split(commands[0].removeprefix("#   detaux "))
    if command == "fit":
        assert _parse(*args).arms
    else:
        cluster = stage_named("cluster").code.parser()
        assert {"cluster": cluster.parse_args, "sweep": _plan}[command](args)


BASES = (FactorDataset, Disentangler, Regularizer, Clusterer, MultitaskModel, Weighting)
by_base = pytest.mark.parametrize("base", BASES, ids=[base.__name__ for base in BASES])


@pytest.mark.parametrize("base", [Disentangler, Clusterer, MultitaskModel])
def test_a_class_of_a_stage_has_a_config_of_its_name(base: type):
    room = base.__module__.split(".")[1]
    for cls in classes(base):
        name = cls.__module__.rsplit(".", 1)[-1]
        assert Path(room, f"{name}.yaml") in configs(), (
            f"{cls.__name__} has no config: write configs/{room}/{name}.yaml, which opens with the "
            "command to run it, as its neighbours do."
        )


@pytest.mark.parametrize(
    ("base", "where"),
    [
        (FactorDataset, "dataset"),
        (Regularizer, "disentangle.model.init_args.regularizers"),
        (Weighting, "multitask.model.init_args.weighting"),
    ],
)
def test_a_class_that_is_a_part_is_in_a_config(base: type, where: str):
    for cls in classes(base):
        assert entries(cls), (
            f"no config names {cls.__name__}: add one to configs with an entry "
            f"`class_path: {cls.__name__}` under {where}."
        )


@by_base
def test_a_class_is_found_by_its_short_name_alone(base: type):
    names = [cls.__name__ for cls in subclasses(base)]
    assert sorted(set(names)) == sorted(names), "two classes of one base share a name"
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(base, "built", required=True)
    for cls in classes(base):
        try:
            told = parser.parse_object({"built": {"class_path": cls.__name__}}).built.class_path
        except ArgumentError as error:
            told = str(error)  # the class that was found asks for arguments
        assert f"{cls.__module__}.{cls.__name__}" in told


@by_base
def test_no_class_lacks_a_method(base: type):
    assert [text for cls in subclasses(base) if (text := missing_methods(cls))] == []


_HALFWAY = """
from detaux_pl.cluster.base import Clusterer
from detaux_pl.data.cached_arrays import CachedArrays

class Halfway(Clusterer):
    def fit(self, points):
        return points

class Unread(CachedArrays):
    def setup(self):
        pass
"""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--cluster.clusterer", "Halfway"],
            "cluster.clusterer: Halfway lacks the method predict, which every Clusterer gives: "
            "write what is missing into halfway.",
        ),
        (
            ["--cluster.clusterer", "halfway.Halfway"],
            "cluster.clusterer: Halfway lacks the method predict, which every Clusterer gives: "
            "write what is missing into halfway.",
        ),
        (
            ["--dataset", "Unread"],
            "dataset: Unread lacks the methods files and read_blocks, which every CachedArrays "
            "gives: write what is missing into halfway.",
        ),
        (
            ["--dataset", "TorchvisionArrays"],
            "dataset: TorchvisionArrays is there to be derived from: choose one of CIFAR10, SVHN.",
        ),
    ],
)
def test_a_class_that_lacks_a_method_is_told_which(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    (tmp_path / "halfway.py").write_text(_HALFWAY)
    monkeypatch.syspath_prepend(tmp_path)
    import_module("halfway")
    assert main(["fit", "--config", str(MINIATURES[0]), "--run_dir", "nowhere", *words]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"


@pytest.mark.slow
def test_the_other_half_of_the_rooms_runs(tmp_path: Path):
    conf = ROOT / "tests" / "conf" / "shapes.yaml"
    assert run_chain(["--config", str(conf), "--run_dir", str(tmp_path)], in_process) == 0
    run = load(tmp_path)
    assert run.codes.values.shape == (280, 3, 4)
    assert run.labels.meta["noise"] == "drop"
    assert run.labels.meta["subspace"] == 2
    model = run.model("hard_parameter_sharing")
    assert model.weighting.weights.tolist() == [10.0, 1.0]
    assert set(run.arms) == {"hard_parameter_sharing", "single_task", "shuffled", "object_hue"}
