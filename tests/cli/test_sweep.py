"""Sweeps: what runs, what is shared, what goes on after a kill, what is refused."""

from __future__ import annotations

import copy
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.files import read_json, write_json
from detaux_pl.artifacts.lock import file_lock
from detaux_pl.artifacts.stage import StageFolder, stage_key
from detaux_pl.cli import sweep
from detaux_pl.cli.fit import run as run_chain
from detaux_pl.cli.main import main
from detaux_pl.inference.run import load
from detaux_pl.pipeline import chain, checks, process, trials
from detaux_pl.pipeline.job import Chain
from detaux_pl.pipeline.plan import plan_jobs
from detaux_pl.pipeline.process import OF_AGENT, run_processes
from detaux_pl.pipeline.study import draw, open_record
from detaux_pl.pipeline.trials import Start, Trial, last_words, start_process
from tests.cli.conftest import CONF, in_process

LR = "disentangle.model.init_args.lr"
SIZE = "cluster.clusterer.init_args.min_cluster_size"
RANDOM = {"sampler": "random", "n_trials": 2}


class Fakes:
    """Trials that make stage folders, one at each look at them, instead of training.

    Attributes:
        made: Folder and stage of every output, in the order of making.
        stop_after: How many outputs are made before this process gets `signal`; None for no end.
        fails: Numbers of trials that fail.
        ran_at_once: The most trials that ran at a time.
    """

    def __init__(self) -> None:
        self.made: list[tuple[str, str]] = []
        self.started: list[Start] = []
        self.stop_after: int | None = None
        self.signal = signal.SIGINT
        self.fails: set[str] = set()
        self.running: set[str] = set()
        self.ran_at_once = 0

    def __call__(self, start: Start) -> Fake:
        self.started.append(start)
        return Fake(start, self)

    def count(self, stage: str) -> int:
        return sum(name == stage for _, name in self.made)


class Fake:
    def __init__(self, start: Start, all_: Fakes) -> None:
        parsed = chain.parse(start.words[1:])
        self.folder, self.all = parsed.run_dir, all_
        self.log = start.log
        self.jobs = self._jobs(parsed)
        self.code: int | None = None
        all_.running.add(self.folder.name)
        all_.ran_at_once = max(all_.ran_at_once, len(all_.running))

    def _jobs(self, parsed: Chain) -> Iterator[None]:
        keys: dict[str, str] = {}
        for stage, jobs in plan_jobs(parsed).items():
            for job in jobs:
                upstream = {name: keys[name] for name in job.upstream}
                keys[job.name] = stage_key(job.name, job.settings, upstream)
                folder = StageFolder(self.folder, job.name)
                folder.check(job.settings, upstream)
                folder.check_inputs()
                if folder.complete:
                    folder.verify()
                    continue
                inputs = {n: StageFolder(self.folder, n).digest for n in job.upstream}
                folder.begin(job.settings, upstream, inputs)
                yield
                content: Any = os.urandom(4).hex()
                if job.name == "evaluate":
                    mig = parsed.config["disentangle"]["model"]["init_args"]["lr"]
                    content = {"scores": {"dim": {"mig": mig + parsed.config["seed"] / 1000}}}
                output = folder.path / "metrics.json"
                write_json(output, content)
                folder.finish([output], 1.0)
                self.all.made.append((self.folder.name, job.name))
            if stage == parsed.config["until"]:
                return

    def poll(self) -> int | None:
        if self.code is None and self.folder.name in self.all.fails:
            self.log.write_text("detaux\nTraceback\nValueError: no luck\n1/5 failed\n")
            self.code = 1
        if self.code is None:
            try:
                next(self.jobs)
            except StopIteration:
                self.code = 0
        if self.code is not None:
            self.all.running.discard(self.folder.name)
        elif self.all.stop_after is not None and len(self.all.made) >= self.all.stop_after:
            self.all.stop_after = None
            os.kill(os.getpid(), self.all.signal)
        return self.code

    def send_signal(self, number: int, /) -> None:
        self.code = 128 + number


@pytest.fixture(scope="module")
def miniature() -> Chain:
    return checks.build_all(chain.parse(["--config", str(CONF / "chain.yaml")]))


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch, miniature: Chain) -> Fakes:
    """Trials that take no time; what differs from the miniature in little is not parsed anew."""
    parse = chain.parse

    def quick_parse(words: list[str]) -> Chain:
        given = yaml.safe_load(Path(words[words.index("--config") + 1]).read_text())
        own, plain = (_apart(each) for each in (given, yaml.safe_load(MINIATURE)))
        if own.pop("rest") != plain.pop("rest"):
            return parse(words)
        config = copy.deepcopy(miniature.config)
        config["disentangle"]["model"]["init_args"]["lr"] = own["lr"]
        config["cluster"]["clusterer"]["init_args"]["min_cluster_size"] = own["size"]
        config["seed"] = config["disentangle"]["seed_everything"] = own["seed"]
        config["run_dir"] = words[words.index("--run_dir") + 1]
        config["until"] = words[words.index("--until") + 1]
        return replace(miniature, config=config)

    monkeypatch.setattr(chain, "parse", quick_parse)
    monkeypatch.setattr(checks, "build_all", lambda parsed: parsed)
    monkeypatch.setattr(trials, "_POLL", 0.0)
    return Fakes()


MINIATURE = (CONF / "chain.yaml").read_text()


def _apart(given: dict[str, Any]) -> dict[str, Any]:
    """Take out of settings what the tests vary most."""
    lr = given["disentangle"]["model"]["init_args"].pop("lr", None)
    size = given["cluster"]["clusterer"]["init_args"].pop("min_cluster_size", None)
    return {"lr": lr, "size": size, "seed": given.pop("seed", 0), "rest": given}


def _write(folder: Path, parameters: dict[str, Any], **more: Any) -> list[str]:
    settings = {
        "sweep_dir": str(folder / "sweep"),
        "chain": os.path.relpath(CONF / "chain.yaml", folder),
        "until": "cluster",
        "jobs": 2,
        "parameters": parameters,
        **more,
    }
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return ["--config", str(path)]


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "sweep" / "table.csv").open() as handle:
        return list(csv.DictReader(handle))


def _attempts(folder: Path) -> list[optuna.trial.FrozenTrial]:
    study = optuna.load_study(
        study_name="sweep", storage=f"sqlite:///{folder / 'sweep' / 'study.db'}"
    )
    found: list[optuna.trial.FrozenTrial] = study.get_trials()
    study._storage.remove_session()
    study._storage._backend.engine.dispose()  # type: ignore[attr-defined]
    return found


def test_a_grid_is_run_once(tmp_path: Path, fakes: Fakes, capsys: pytest.CaptureFixture[str]):
    args = _write(tmp_path, {LR: [1e-3, 0.004], "seed": [0, 1]}, columns=["metrics.mig"])
    assert sweep.run(args, fakes) == 0
    rows = _rows(tmp_path)
    assert [(row[LR], row["seed"], row["state"]) for row in rows] == [
        ("0.001", "0", "complete"), ("0.001", "1", "complete"),
        ("0.004", "0", "complete"), ("0.004", "1", "complete"),
    ]  # fmt: skip
    assert [float(row["metrics.mig"]) for row in rows] == pytest.approx([1e-3, 2e-3, 4e-3, 5e-3])
    groups = read_json(tmp_path / "sweep" / "sweep.json")["groups"]
    assert [group["results"]["metrics.mig"]["mean"] for group in groups] == pytest.approx(
        [0.0015, 0.0045]
    )
    assert "0.005 ± 0.001" in capsys.readouterr().out
    given = yaml.safe_load((tmp_path / "sweep" / "trials" / "3" / "given.yaml").read_text())
    assert (given["seed"], given["disentangle"]["model"]["init_args"]) == (1, {"lr": 0.004})
    assert {trial.state for trial in _attempts(tmp_path)} == {optuna.trial.TrialState.COMPLETE}
    assert [trial.params for trial in _attempts(tmp_path)][3] == {LR: 0.004, "seed": 1}
    assert fakes.ran_at_once == 2
    assert all(start.environment["OMP_NUM_THREADS"] == "1" for start in fakes.started)

    page = (tmp_path / "sweep" / "sweep.html").stat().st_mtime_ns
    assert sweep.run(args, fakes) == 0
    assert len(fakes.started) == 4
    assert (tmp_path / "sweep" / "sweep.html").stat().st_mtime_ns == page
    assert "0.005 ± 0.001" in capsys.readouterr().out


def test_trials_that_differ_downstream_share_what_is_upstream(tmp_path: Path, fakes: Fakes):
    args = _write(tmp_path, {SIZE: [0.05, 0.1, 0.2], LR: [1e-3, 2e-3]})
    assert sweep.run(args, fakes) == 0
    assert [fakes.count(name) for name in ("disentangle", "disentangle/codes", "evaluate")] == [
        2
    ] * 3
    assert fakes.count("cluster") == 6
    # The two that need other codes go first, the others wait for theirs.
    assert [folder for folder, name in fakes.made if name == "disentangle"] == ["0", "1"]
    assert fakes.ran_at_once == 2
    room = tmp_path / "sweep" / "trials"
    for name in ("metrics.json", "stage.json"):
        shared = [(room / number / "disentangle" / name).stat() for number in "024"]
        assert len({each.st_ino for each in shared}) == (1 if name == "metrics.json" else 3)
    assert not list(room.glob("*/.taken"))


@pytest.mark.parametrize(
    ("number", "stop_after"),
    [
        (signal.SIGTERM, 1),
        *(
            pytest.param(signal.SIGINT, n, marks=[] if n in (2, 5) else [pytest.mark.slow])
            for n in range(2, 9)
        ),
    ],
)
def test_stopped_and_started_again_nothing_is_made_twice(
    tmp_path: Path, fakes: Fakes, stop_after: int, number: signal.Signals
):
    args = _write(tmp_path, {SIZE: [0.05, 0.1], "seed": [0, 1]})
    fakes.stop_after, fakes.signal = stop_after, number
    assert sweep.run(args, fakes) == 128 + number
    states = [row["state"] for row in _rows(tmp_path)]
    assert "unfinished" in states
    made = list(fakes.made)
    fakes.running.clear()
    assert sweep.run(args, fakes) == 0
    assert fakes.made[: len(made)] == made
    # The stage that was cut short begins anew, in its own folder; no other is made twice.
    assert len(set(fakes.made)) == len(fakes.made) == 2 * 3 + 4
    assert {row["state"] for row in _rows(tmp_path)} == {"complete"}
    assert len(_attempts(tmp_path)) == 4


def test_a_failed_trial_is_tried_again_in_its_folder(
    tmp_path: Path, fakes: Fakes, capsys: pytest.CaptureFixture[str]
):
    args = _write(tmp_path, {"seed": [0, 1, 2]})
    fakes.fails = {"1"}
    assert sweep.run(args, fakes) == 1
    assert [row["state"] for row in _rows(tmp_path)] == ["complete", "failed", "complete"]
    said = "trial 1 (seed 1) failed: ValueError: no luck"
    assert said in capsys.readouterr().err
    assert said.replace("_", "\\_") in (tmp_path / "sweep" / "sweep.md").read_text()
    assert "ValueError: no luck" in (tmp_path / "sweep" / "sweep.html").read_text()
    fakes.fails = set()
    assert sweep.run(args, fakes) == 0
    assert [Path(start.words[4]).name for start in fakes.started] == ["0", "1", "2", "1"]
    assert [row["number"] for row in _rows(tmp_path)] == ["0", "1", "2"]
    assert [trial.state.name for trial in _attempts(tmp_path)] == [
        "COMPLETE", "FAIL", "COMPLETE", "COMPLETE",
    ]  # fmt: skip


def test_choices_are_added_and_taken_away(tmp_path: Path, fakes: Fakes):
    variants = {"a": {LR: 0.001}, "b": {"disentangle.model.init_args": {"lr": 0.002}}}
    args = _write(tmp_path, {"kind": {"a": variants["a"]}, "seed": [0]})
    assert sweep.run(args, fakes) == 0
    fakes.stop_after = len(fakes.made) + 1
    assert sweep.run(_write(tmp_path, {"kind": variants, "seed": [0, 1, 5]}), fakes) == 130
    fakes.running.clear()
    # What was asked for and has not run is forgotten, what has run stays.
    assert sweep.run(_write(tmp_path, {"kind": {"b": variants["b"]}, "seed": [0, 1]}), fakes) == 0
    asked = {(row["kind"], row["seed"]): row["state"] for row in _rows(tmp_path)}
    assert asked == {
        (kind, seed): "complete" for kind, seed in (("a", "0"), ("b", "0"), ("b", "1"))
    }
    assert sweep.run(_write(tmp_path, {"kind": variants, "seed": [0, 1, 5]}), fakes) == 0
    assert fakes.count("cluster") == 6
    assert {row["state"] for row in _rows(tmp_path)} == {"complete"}
    assert len(_rows(tmp_path)) == 6


def test_random_trials(tmp_path: Path, fakes: Fakes):
    parameters = {
        LR: {"low": 1e-5, "high": 1e-3, "log": True}, "seed": {"low": 3, "high": 900},
        SIZE: [0.05, 0.1],
    }  # fmt: skip
    args = _write(tmp_path, parameters, sampler="random", n_trials=2, until="disentangle")
    assert sweep.run(args, fakes) == 0
    first = _rows(tmp_path)
    assert sweep.run([*args, "--n_trials", "4"], fakes) == 0
    rows = _rows(tmp_path)
    assert rows[:2] == first
    assert len({row[LR] for row in rows}) == len(rows) == 4
    assert all(1e-5 <= float(row[LR]) <= 1e-3 and 3 <= int(row["seed"]) <= 900 for row in rows)
    # Wider ranges: those that have run count.
    parameters[LR]["high"] = 1e-2
    args = _write(tmp_path, parameters, sampler="random", n_trials=5, until="disentangle")
    assert sweep.run(args, fakes) == 0
    assert _rows(tmp_path)[:4] == rows
    assert len(fakes.started) == len(_rows(tmp_path)) == 5


PLACES = ["journal.log", "sqlite:///{}/rdb.db"]


def _stored(folder: Path, place: str) -> list[str]:
    """The option of a record in a file of the test's folder."""
    return ["--storage", place.format(folder) if "://" in place else str(folder / "new" / place)]


@pytest.mark.parametrize("place", PLACES)
def test_a_storage_of_several_is_a_record_as_any_other(
    tmp_path: Path, fakes: Fakes, error_line: Callable[[list[str]], str], place: str
):
    args = [*_write(tmp_path, {"seed": [0, 1, 2, 3]}), *_stored(tmp_path, place)]
    fakes.stop_after = 3
    assert sweep.run(args, fakes) == 130
    fakes.running.clear()
    # One that runs elsewhere is left to those who run it.
    rows = {row["number"]: row["state"] for row in _rows(tmp_path)}
    begun = [n for n in rows if (tmp_path / "sweep" / "trials" / n / "given.yaml").is_file()]
    held = begun[-1]
    assert rows[held] == "unfinished"
    with file_lock(tmp_path / "sweep" / "trials" / f".{held}.lock") as claim:
        assert claim is not None
        assert sweep.run(args, fakes) == 0
    assert {row["number"]: row["state"] == "complete" for row in _rows(tmp_path)} == {
        number: number != held for number in "0123"
    }
    assert sweep.run(args, fakes) == 0
    assert {row["state"] for row in _rows(tmp_path)} == {"complete"}
    assert len(set(fakes.made)) == len(fakes.made) == 4 * 4
    n = len(fakes.started)
    assert sweep.run(args, fakes) == 0
    assert len(fakes.started) == n
    more = [*_write(tmp_path, {"seed": [0, 1, 2, 4]}), *_stored(tmp_path, place)]
    assert "in a storage they stay as they are" in error_line(["sweep", *more])


@pytest.mark.parametrize(
    "place",
    [
        "postgresql://me:secret@127.0.0.1:1/sweeps", "sqlite:////nowhere/at/all/x.db", "nonsense://x",
        "/proc/nowhere/journal.log", "/", "{}/sweep.yaml",
    ],
)  # fmt: skip
def test_a_storage_out_of_reach_is_refused(
    tmp_path: Path, fakes: Fakes, error_line: Callable[[list[str]], str], place: str
):
    args = _write(tmp_path, {"seed": [0]})
    line = error_line(["sweep", *args, "--storage", place.format(tmp_path)])
    assert line.startswith("error: --storage ")
    assert "cannot be opened" in line
    assert "secret" not in line
    assert not fakes.started


def test_a_sweep_is_in_one_place(
    tmp_path: Path, fakes: Fakes, error_line: Callable[[list[str]], str]
):
    args = _write(tmp_path, {"seed": [0]})
    assert sweep.run(args, fakes) == 0
    line = error_line(["sweep", *args, *_stored(tmp_path, "journal.log")])
    assert "is the record of this sweep, without --storage" in line


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_two_processes_run_every_trial_once(tmp_path: Path, place: str):
    args = _write(tmp_path, {SIZE: [0.05, 0.07, 0.1], LR: [1e-3, 2e-3]}, jobs=1)
    words = [sys.executable, "-m", "detaux_pl", "sweep", *args, *_stored(tmp_path, place)]
    workers = [subprocess.Popen(words) for _ in range(2)]
    assert [worker.wait() for worker in workers] == [0, 0]
    rows = _rows(tmp_path)
    assert [row["number"] for row in rows] == list("012345")
    assert {row["state"] for row in rows} == {"complete"}
    with open_record(tmp_path / "sweep" / "study.db", {}, words[-1]) as record:
        attempts = record.study.get_trials()
    assert [trial.number for trial in attempts] == list(range(6))
    assert {trial.state for trial in attempts} == {optuna.trial.TrialState.COMPLETE}
    assert len({str(trial.params) for trial in attempts}) == 6
    room = tmp_path / "sweep" / "trials"
    logs = [(room / n / "log.txt").read_text().splitlines() for n in "012345"]
    assert [sum(line.startswith("detaux ") for line in log) for log in logs] == [1] * 6
    # What trials share was computed once, whoever did.
    manifests = [read_json(room / n / "disentangle" / "stage.json") for n in "012345"]
    assert len({each["wandb_id"] for each in manifests}) == 2


def test_random_draws_begin_alike_and_follow_the_seed():
    distributions = {
        "x": optuna.distributions.FloatDistribution(0.0, 1.0),
        "c": optuna.distributions.CategoricalDistribution(["a", "b", None]),
    }
    long = draw(distributions, 40, seed=1)
    assert draw(distributions, 7, seed=1) == long[:7]
    assert draw(distributions, 7, seed=2) != long[:7]
    assert {each["c"] for each in long} == {"a", "b", None}
    assert 0.3 < sum(each["x"] for each in long) / 40 < 0.7


def test_what_was_made_of_other_inputs_is_not_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def finish(number: str, name: str, upstream: tuple[str, ...] = ()) -> None:
        stage = StageFolder(tmp_path / number, name)
        keys = {n: f"key of {n}" for n in upstream}
        stage.begin({}, keys, {n: StageFolder(tmp_path / number, n).digest for n in upstream})
        (stage.path / "output").write_text(f"{name} of {number}")
        stage.finish([stage.path / "output"], 1.0)

    for number in ("0", "1"):
        finish(number, "disentangle")
    finish("0", "cluster", ("disentangle",))
    keys = {
        name: (StageFolder(tmp_path / "0", name).manifest or {})["key"]
        for name in ("disentangle", "cluster")
    }
    other, new = (Trial(tmp_path / number, "", {}, keys) for number in ("1", "2"))
    shelf = trials.Shelf(tmp_path)
    assert shelf.missing(new) == set()
    shelf.hand_over(other)
    assert not (tmp_path / "1" / "cluster").exists()
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
    (tmp_path / "2" / ".taken").mkdir(parents=True)
    (tmp_path / "2" / "disentangle").mkdir()
    (tmp_path / "2" / "disentangle" / "half").touch()
    shelf.hand_over(new)
    for name in keys:
        StageFolder(tmp_path / "2", name).verify()
        assert (tmp_path / "2" / name / "output").read_text() == f"{name} of 0"
    StageFolder(tmp_path / "2", "cluster").check_inputs()
    assert not (tmp_path / "2" / "disentangle" / "half").exists()
    # A result whose files are gone is made again.
    for number in "012":
        (tmp_path / number / "disentangle" / "output").unlink()
    shelf.hand_over(Trial(tmp_path / "3", "", {}, keys))
    assert not (tmp_path / "3").exists()


def test_a_second_sweep_is_refused(tmp_path: Path, error_line: Callable[[list[str]], str]):
    import fcntl

    args = _write(tmp_path, {"seed": [0]})
    (tmp_path / "sweep").mkdir()
    with (tmp_path / "sweep" / ".lock").open("a+") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        line = error_line(["sweep", *args])
    assert "is in use by process" in line
    assert "--sweep_dir" in line


@pytest.mark.parametrize(
    ("parameters", "more", "message"),
    [
        ({}, {}, "parameters are empty"),
        ({LR: []}, {}, "lr has no choices"),
        ({"kind": {}}, {}, "kind has no choices"),
        ({LR: 1e-3}, {}, "give a list of choices"),
        ({LR: [1e-3, 1e-3]}, {}, "the choice 0.001 twice"),
        ({LR: [[1]]}, {}, "give single values"),
        ({"kind": {"a": 3}}, {}, "the variant a of kind is 3"),
        ({LR: {"low": 1e-5, "high": 1e-3}}, {}, "a range, which a grid has no use for"),
        ({LR: {"low": 1, "high": 1}}, RANDOM, "low < high"),
        ({LR: {"low": 0, "high": 1, "log": True}}, RANDOM, "whose low is positive"),
        ({LR: {"low": 1}}, RANDOM, "low < high"),
        ({LR: [1e-3]}, {"sampler": "random"}, "give n_trials"),
        ({LR: [1e-3]}, {"n_trials": 3}, "a grid has as many trials as combinations"),
        ({LR: [1e-3]}, {"sampler": "random", "n_trials": 0}, "n_trials is 0"),
        ({LR: [1e-3]}, {"jobs": 0}, "jobs is 0"),
        ({LR: [1e-3]}, {"job": 1}, "there is no setting 'job': did you mean 'jobs'"),
        ({"run_dir": ["a", "b"]}, {}, "run_dir cannot be a parameter"),
        ({"kind": {"a": {"until": "cluster"}}}, {}, "until cannot be a parameter"),
        ({LR: [1], "kind": {"a": {LR: 1}}}, {}, f"set twice, by the parameters {LR} and kind"),
        ({LR.replace("lr", "rl"): [1]}, {}, "rl 1: disentangle.model (ResidualAutoencoder)"),
        ({"sede": [1]}, {}, "sede 1: there is no setting 'sede'"),
        ({"seeds.a": [1]}, {}, "whose seeds is 2"),
        ({"disentangle": ["nowhere.yaml"]}, {}, "there is no such file"),
        ({LR: [1e-3]}, {"chain": None}, "chain is not set"),
        ({LR: [1e-3]}, {"chain": "nowhere.yaml"}, "there is no file"),
        ({LR: [1e-3]}, {"until": "clutser"}, "did you mean 'cluster'?"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_before_anything_runs(
    tmp_path: Path,
    error_line: Callable[[list[str]], str],
    parameters: dict[str, Any],
    more: dict[str, Any],
    message: str,
):
    assert message in error_line(["sweep", *_write(tmp_path, parameters, **more)])
    assert not (tmp_path / "sweep" / "trials").exists()


def test_every_choice_is_checked_before_the_first_runs(tmp_path: Path, fakes: Fakes):
    args = _write(tmp_path, {"dataset.init_args.n_train": [256, "many"]})
    with pytest.raises(UserError, match="n_train many: "):
        sweep.run(args, fakes)
    assert fakes.started == []
    # What was refused is no sweep yet that a mended one had to agree with.
    assert sweep.run(_write(tmp_path, {"seed": [0]}), fakes) == 0


def test_a_parameter_given_twice_in_the_file_is_refused(
    tmp_path: Path, error_line: Callable[[list[str]], str]
):
    path = tmp_path / "sweep.yaml"
    path.write_text("chain: c.yaml\nparameters:\n  seed: [0]\n  seed: [1]\n")
    line = error_line(["sweep", "--config", str(path)])
    assert "seed is set twice, again in line 4: keep one" in line


def test_words_override_the_file(tmp_path: Path, fakes: Fakes, monkeypatch: pytest.MonkeyPatch):
    args = _write(tmp_path, {LR: [1e-3, 1e-2], "seed": [0]}, until="disentangle")
    monkeypatch.chdir(CONF)
    inline = json.dumps(
        {"chain": "chain.yaml", "until": "disentangle", "parameters": {"seed": [7]}}
    )
    assert sweep.run(["--config", inline, "--sweep_dir", str(tmp_path / "words")], fakes) == 0
    words = [
        "--chain", "chain.yaml", f"--parameters.{LR}", "[0.5]", "--parameters.seed=[7]",
        "--sweep_dir", str(tmp_path / "other"),
    ]  # fmt: skip
    assert sweep.run([*args, *words], fakes) == 0
    (trial,) = read_json(tmp_path / "other" / "sweep.json")["trials"]
    assert trial["parameters"] == {LR: 0.5, "seed": 7}


def test_an_inline_chain_and_variants_by_file(tmp_path: Path, fakes: Fakes):
    inline = yaml.safe_load((CONF / "chain.yaml").read_text())
    stage = inline.pop("disentangle")
    (tmp_path / "stage.yaml").write_text(yaml.safe_dump(stage))
    stage["model"] = "Autoencoder"
    (tmp_path / "plain.yaml").write_text(yaml.safe_dump(stage))
    parameters = {
        "model": {
            "residual": {"disentangle": "stage.yaml"},
            "plain": {"disentangle": "plain.yaml"},
        },
        LR: [0.25],
    }
    args = _write(tmp_path, parameters, chain={**inline, "disentangle": "stage.yaml"})
    assert sweep.run([*args, "--until", "disentangle"], fakes) == 0
    room = tmp_path / "sweep" / "trials"
    given = [yaml.safe_load((room / n / "given.yaml").read_text()) for n in "01"]
    assert [each["disentangle"]["model"] for each in given] == [
        {"class_path": "ResidualAutoencoder", "init_args": {"lr": 0.25}},
        {"class_path": "Autoencoder", "init_args": {"lr": 0.25}},
    ]


def test_another_sweep_in_the_same_folder_is_refused(tmp_path: Path, fakes: Fakes):
    variants = {"a": {LR: 0.001}}
    given = yaml.safe_load((CONF / "chain.yaml").read_text())
    more = {"until": "disentangle", "chain": given}
    assert sweep.run(_write(tmp_path, {"kind": variants}, **more), fakes) == 0
    changed = json.loads(json.dumps(given))
    changed["dataset"]["init_args"]["n_train"] = 128
    for parameters, settings, message in (
        ({"kind": variants}, {**more, "chain": changed}, "n_train was 256, is 128"),
        ({"kind": variants}, {**more, "until": "cluster"}, "until was 'disentangle', is 'cluster'"),
        ({"kind": {"a": {LR: 0.1}}}, more, "was 0.001, is 0.1"),
        ({"kind": variants, "seed": [0]}, more, "parameters was"),
    ):
        with pytest.raises(UserError, match="made with other settings: .*" + message):
            sweep.run(_write(tmp_path, parameters, **settings), fakes)
    ranged = {"sampler": "random", "n_trials": 2, "until": "disentangle"}
    folder = tmp_path / "b"
    folder.mkdir()
    assert sweep.run(_write(folder, {"seed": [0]}, until="disentangle"), fakes) == 0
    with pytest.raises(UserError, match="a list of choices and now from a range of integers"):
        sweep.run(_write(folder, {"seed": {"low": 0, "high": 9}}, **ranged), fakes)
    (folder / "sweep" / "study.db").write_text("not a database, but long enough to be one" * 99)
    with pytest.raises(UserError, match="cannot be opened as the record of a sweep"):
        sweep.run(_write(folder, {"seed": [0]}, until="disentangle"), fakes)


@pytest.mark.slow
def test_a_trial_is_a_run_as_any_other(tmp_path: Path):
    class Whole:
        def __init__(self, start: Start) -> None:
            self.code = run_chain(start.words[1:], in_process)

        def poll(self) -> int:
            return self.code

        def send_signal(self, number: int, /) -> None: ...

    rule = {"arms": {"baselines": []}, "lone": {"baselines": [], "controls": []}}
    args = _write(tmp_path, {"arms": rule, "seeds": [1]}, until=None)
    assert sweep.run([*args, "--jobs", "1"], Whole) == 0
    room = tmp_path / "sweep" / "trials"
    assert [set(load(room / n).arms) for n in "01"] == [
        {"hard_parameter_sharing", "shuffled"}, {"hard_parameter_sharing"},
    ]  # fmt: skip
    # The second has trained nothing: its one arm was there.
    finished = {
        read_json(room / n / "multitask/hard_parameter_sharing/seed0/stage.json")["finished"]
        for n in "01"
    }
    assert len(finished) == 1
    rows = _rows(tmp_path)
    assert float(rows[1]["arms.hard_parameter_sharing.accuracy_mean"]) > 0
    assert (
        rows[0]["arms.hard_parameter_sharing.accuracy_mean"]
        == (rows[1]["arms.hard_parameter_sharing.accuracy_mean"])
    )
    assert "auxiliary.nmi_principal" in rows[0]


def test_last_words():
    def words(text: str, tmp: Path) -> str:
        tmp.write_text(text)
        return last_words(tmp)

    path = Path("/tmp") / f"log-{os.getpid()}"
    try:
        assert words("", path) == "no output"
        assert words("a\n\n b \n", path) == "b"
        assert words("error: give x.\n1/5 disentangle failed\n", path) == "error: give x."
        verdict = "No task worth training on was found. Try more."
        assert words(f"3/6 cluster done\n{verdict}\n6/6 report done in 3 s\n", path) == verdict
        error = "torch.cuda.OutOfMemoryError: no memory"
        assert words(f"Traceback\n  raise X\n{error}\n1/5 failed\n", path) == error
    finally:
        path.unlink()
    assert last_words(path) == "no output"


def test_a_trial_ends_in_its_log_and_knows_no_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    start = Start(["--version"], tmp_path / "log.txt", dict(os.environ), None)
    child = start_process(start)
    while child.poll() is None:
        time.sleep(0.05)
    assert child.poll() == 0
    assert (tmp_path / "log.txt").read_text().startswith("detaux ")

    for name in OF_AGENT:
        monkeypatch.setenv(name, "of an agent")
    seen: list[dict[str, str]] = []

    class Popen:
        def __init__(self, words: list[str], env: dict[str, str], **more: Any) -> None:
            seen.append(env)

        def poll(self) -> int:
            return 0

        wait = poll

    monkeypatch.setattr(process, "Process", Popen)
    assert run_processes([[["--version"]]], None, lambda: None) == 0
    assert not seen[0].keys() & set(OF_AGENT)


@pytest.mark.slow
def test_kill_9_then_no_finished_trial_runs_again(tmp_path: Path):
    args = _write(tmp_path, {SIZE: [0.05, 0.1], LR: [1e-3, 2e-3]})

    def begin() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "detaux_pl", "sweep", *args])

    room = tmp_path / "sweep" / "trials"

    def finished() -> dict[str, int]:
        stages = room.glob("*/*/stage.json")
        return {
            str(path): path.stat().st_mtime_ns
            for path in stages
            if read_json(path)["status"] == "complete"
        }

    first = begin()
    deadline = time.monotonic() + 240
    while not any("cluster" in name for name in finished()):
        assert time.monotonic() < deadline
        assert first.poll() is None
        time.sleep(0.05)
    first.kill()
    assert first.wait() == -signal.SIGKILL
    # The trials and their stages end soon after, and with the last the lock is free.
    while _mentioning(room):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    before = finished()
    assert begin().wait() == 0
    after = finished()
    assert {name: after[name] for name in before} == before
    assert {row["state"] for row in _rows(tmp_path)} == {"complete"}
    codes = {read_json(room / n / "disentangle" / "stage.json")["wandb_id"] for n in "0123"}
    assert len(codes) == 2


def _mentioning(folder: Path) -> list[int]:
    """Processes whose command names a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes()
        except OSError:
            continue
        if str(folder).encode() in text and int(path.parent.name) != os.getpid():
            found.append(int(path.parent.name))
    return found


def _wandb_words(content: dict[str, Any], run: dict[str, Any]) -> list[str]:
    """The command of an agent, expanded by W&B itself."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    flags = create_sweep_command_args({"args": {k: {"value": v} for k, v in run.items()}})
    words: list[str] = []
    for word in create_sweep_command(list(content["command"])):
        words += flags["args"] if word == "${args}" else [word]
    return words


def test_a_file_for_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    stage = yaml.safe_load((CONF / "chain.yaml").read_text())["disentangle"]
    (tmp_path / "plain.yaml").write_text(yaml.safe_dump({**stage, "model": "Autoencoder"}))
    model = {"class_path": "Autoencoder", "init_args": {"batch_norm": True}}
    parameters = {
        "model": {"plain": {"disentangle.model": model}}, "seed": [0, 3], "cluster.pca": [None, 2]
    }  # fmt: skip
    args = [*_write(tmp_path, parameters), "--sweep_dir", "it's here"]
    assert main(["sweep", *args, "--wandb_file", "wandb.yaml"]) == 0
    content = yaml.safe_load((tmp_path / "wandb.yaml").read_text())
    assert content["method"] == "grid"
    assert content["parameters"]["seed"] == {"values": [0, 3]}
    run = {name: each["values"][-1] for name, each in content["parameters"].items()}
    run["cluster.pca"] = content["parameters"]["cluster.pca"]["values"][0]
    words = _wandb_words(content, run)
    # The shell puts the id of the agent's run in, and `detaux` understands the rest.
    (tmp_path / "detaux").write_text('#!/bin/sh\nfor word; do printf "%s\\0" "$word"; done\n')
    (tmp_path / "detaux").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "WANDB_RUN_ID": "abc"}
    out = subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout
    command, *said = out.split("\0")[:-1]
    assert command == "fit"
    parsed = chain.parse(said)
    assert parsed.config["run_dir"] == "it's here/abc"
    assert parsed.config["until"] == "cluster"
    assert parsed.config["seed"] == 3
    assert parsed.config["cluster"]["pca"] is None
    found = parsed.config["disentangle"]["model"]
    assert found["class_path"].endswith(".Autoencoder")
    assert found["init_args"]["batch_norm"] is True
    assert found["init_args"]["lr"] == 1e-3  # not that of the chain's model

    by_file = {"model": {"plain": {"disentangle": "plain.yaml"}}, LR: {"low": 1e-5, "high": 1e-3}}
    args = _write(tmp_path, by_file, sampler="random", n_trials=7)
    assert main(["sweep", *args, "--wandb_file", "wandb.yaml"]) == 0
    content = yaml.safe_load((tmp_path / "wandb.yaml").read_text())
    assert (content["method"], content["run_cap"]) == ("random", 7)
    assert content["parameters"]["disentangle"] == {"values": ["plain.yaml"]}
    assert content["parameters"][LR] == {"distribution": "uniform", "min": 1e-5, "max": 1e-3}
    words = _wandb_words(content, {"disentangle": "plain.yaml", LR: 0.5})
    parsed = chain.parse(words[words.index("detaux") + 1 :])
    assert parsed.config["disentangle"]["model"]["class_path"].endswith(".Autoencoder")
    assert parsed.config["disentangle"]["model"]["init_args"]["lr"] == 0.5


@pytest.mark.parametrize(
    "variants",
    [
        {"a": {LR: 1, SIZE: 2}},
        {"a": {LR: 1}, "b": {SIZE: 2}},
        {"a": {"disentangle": {"model": "Autoencoder"}}},
    ],
)
def test_variants_that_wandb_cannot_express_are_refused(
    tmp_path: Path, error_line: Callable[[list[str]], str], variants: dict[str, Any]
):
    args = _write(tmp_path, {"kind": variants})
    line = error_line(["sweep", *args, "--wandb_file", str(tmp_path / "wandb.yaml")])
    assert "W&B cannot express the parameter kind" in line


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_under_an_agent_the_results_are_the_summary_of_its_run(
    tmp_path: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch
):
    import wandb

    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    for name in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        monkeypatch.setenv(name, "of the test")  # and gone after it
        monkeypatch.delenv(name)
    wandb.teardown()  # it reads the environment once
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SWEEP_ID", "asweep")
    monkeypatch.setenv("WANDB_RUN_ID", "therun01")
    summaries: list[tuple[str, dict[str, Any]]] = []
    leave = wandb.Run.__exit__

    def watched(self: wandb.Run, *args: Any) -> None:
        summaries.append((self.id, dict(self.summary)))
        leave(self, *args)

    monkeypatch.setattr(wandb.Run, "__exit__", watched)
    words = ["--config", str(CONF / "chain.yaml"), "--run_dir", str(run)]
    assert run_chain(words, in_process) == 0
    wandb.teardown()
    ((run_id, summary),) = summaries
    assert run_id == "therun01"
    report = read_json(run / "report" / "report.json")
    arm = "hard_parameter_sharing"
    assert summary[f"arms.{arm}.accuracy_mean"] == report["arms"][arm]["accuracy_mean"]
    assert summary["auxiliary.nmi_principal"] == report["auxiliary"]["nmi_principal"]
    assert list((run / "wandb").rglob("offline-run-*therun01"))
