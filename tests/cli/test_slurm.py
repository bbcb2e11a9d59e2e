"""SLURM scripts of a chain, run by a stand-in of sbatch."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.files import read_json, read_yaml
from detaux_pl.cli.main import main
from detaux_pl.pipeline.chain import parse
from detaux_pl.pipeline.plan import Plan, plan_jobs
from detaux_pl.pipeline.slurm import read_resources, refuse_folder, write_scripts
from tests.cli.conftest import CONF

SBATCH = """\
#!/usr/bin/env bash
# Runs a job at once, as SLURM does when there is room; all tasks of an array at the same time.
script="${@: -1}"
id=$(($(wc -l < "$JOBS") + 100))
printf '%s\\n' "$id $(basename "$script") $*" >> "$JOBS"
for wanted in $(printf '%s\\n' "$@" | sed -n 's/^--dependency=afterok://p'); do
  [ "$(cat "$JOBS.$wanted")" = 0 ] || exit 1
done
export SLURM_JOB_ID=$id SLURM_NTASKS=1 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0
export SLURM_CPUS_PER_TASK=1 SLURM_JOB_NAME=job
exec 3>&1 1>"$JOBS.$id.log" 2>&1
if [ "$(basename "$script")" = disentangle.sh ]; then  # a node that fails, and the job begins again
  setsid bash "$script" &
  until [ -e "$CUT" ] || ! kill -0 $! 2>/dev/null; do sleep 0.05; done
  kill -9 -- -$! 2>/dev/null
  wait $!
fi
array=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$script")
tasks=()
for task in $(seq 0 "${array:-0}"); do
  [ -z "$array" ] || export SLURM_ARRAY_TASK_ID=$task
  bash "$script" & tasks+=($!)
done
code=0
for task in "${tasks[@]}"; do wait "$task" || code=$?; done
echo $code > "$JOBS.$id"
echo "$id;cluster" >&3
"""


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_jobs(parse(["--config", str(CONF / "chain.yaml"), "--run_dir", "nowhere"]))


@pytest.mark.slow
def test_the_scripts_give_the_bytes_of_fit(
    tmp_path: Path, finished_run: Path, error_line: Callable[[list[str]], str]
):
    run, scripts = tmp_path / "a run", tmp_path / "scripts"
    words = ["slurm", "--config", str(CONF / "chain.yaml"), "--run_dir", str(run)]
    words += ["--output", str(scripts), "--cpus", str(torch.get_num_threads())]
    assert main([*words, "--time", "30"]) == 0
    (tmp_path / "bin").mkdir()
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.write_text(SBATCH)
    sbatch.chmod(0o755)
    jobs = tmp_path / "jobs"
    jobs.touch()
    environment = {
        **os.environ, "PATH": f"{sbatch.parent}:{os.environ['PATH']}", "JOBS": str(jobs),
        "CUT": str(run / "disentangle" / "checkpoints" / "last.ckpt"),
    }  # fmt: skip
    done = subprocess.run(
        [str(scripts / "submit.sh")], env=environment, capture_output=True, text=True, check=False
    )
    logs = {path.name: path.read_text() for path in tmp_path.glob("jobs.*.log")}
    assert done.returncode == 0, (done.stdout, done.stderr, logs)
    stages = ["disentangle", "evaluate", "cluster", "multitask", "report"]
    assert done.stdout.splitlines() == [f"{name}: job {100 + k}" for k, name in enumerate(stages)]
    for k, line in enumerate(jobs.read_text().splitlines()):
        assert line.startswith(f"{100 + k} {stages[k]}.sh --parsable")
        assert re.findall(r"--dependency=(\S+)", line) == ([f"afterok:{99 + k}"] if k else [])
    same = ["disentangle/codes/rank0/*.npy", "cluster/labels*", "evaluate/*s.json"]
    same += ["multitask/*/*/test.json"]
    for path in (path for pattern in same for path in finished_run.glob(pattern)):
        own = run / path.relative_to(finished_run)
        if path.name != "metrics.json":
            assert own.read_bytes() == path.read_bytes(), path
    for path in finished_run.glob("multitask/*/*/predictions.npz"):
        with np.load(path) as one, np.load(run / path.relative_to(finished_run)) as other:
            assert all((one[name] == other[name]).all() for name in one.files)
    one, other = (read_json(each / "report" / "report.json") for each in (finished_run, run))
    accuracies = [
        {arm: told["accuracy_mean"] for arm, told in each["arms"].items()} for each in (one, other)
    ]
    assert accuracies[0] == accuracies[1]
    # To `detaux fit`, and to scripts that are written anew, it is a run as any other.
    assert main(["fit", "--run_dir", str(run), "--until", "multitask"]) == 0
    assert main(words) == 0
    assert "made with other" in error_line([*words, "--seed", "3"])


def test_scripts_are_bash_and_ask_for_what_was_said(tmp_path: Path, plan: Plan):
    chain = parse(["--config", str(CONF / "chain.yaml"), "--run_dir", str(tmp_path / "it's")])
    given = {
        "mem": ["multitask=16G", "2G"], "time": ["1-02:00:00"], "nodes": ["disentangle=2"],
        "gpus": ["disentangle=4"], "sbatch": ["--partition=long", "report=--qos=x"], "cpus": ["3"],
    }  # fmt: skip
    write_scripts(chain, plan, read_resources(given, plan, {}), tmp_path / "a b")
    (tmp_path / "a b" / "refine.sh").touch()  # of a chain of before
    refuse_folder(tmp_path / "a b", chain.run_dir)
    write_scripts(chain, plan, read_resources(given, plan, {}), tmp_path / "a b")
    text = {path.stem: path.read_text() for path in (tmp_path / "a b").glob("*.sh")}
    assert set(text) == {"disentangle", "evaluate", "cluster", "multitask", "report", "submit"}
    for name in text:
        subprocess.run(["bash", "-n", str(tmp_path / "a b" / f"{name}.sh")], check=True)
    assert "#SBATCH --mem=16G\n" in text["multitask"]
    assert "#SBATCH --array=0-5\n" in text["multitask"]
    assert "#SBATCH --mem=2G\n" in text["cluster"]
    assert "#SBATCH --time=1-02:00:00\n" in text["report"]
    assert "#SBATCH --qos=x\n" in text["report"]
    assert "--qos" not in text["cluster"]
    assert "--nnodes=2 " in text["disentangle"]
    assert "--trainer.num_nodes 2 --trainer.devices 4 --trainer.strategy ddp" in text["disentangle"]
    assert "srun" not in text["multitask"]
    config = read_yaml(tmp_path / "a b" / "configs" / "cluster.yaml")
    assert (config["jobs"], config["run_dir"]) == (3, "nowhere")


def test_the_time_is_that_expected_with_a_margin(plan: Plan):
    arms = {f"arm{k}": 3600.0 for k in range(3)}
    costs = {"multitask": arms, "disentangle": {"a": 600.0, "b": 600.0}, "cluster": {}}
    found = read_resources({"time": ["report=5"]}, plan, costs)
    times = {name: own.time for name, own in found.items()}
    assert times["multitask"] == "02:10:00"  # of one arm
    assert times["disentangle"] == "00:50:00"  # of all
    assert times["cluster"] == "02:00:00"  # nobody knows
    assert times["report"] == "5"


@pytest.mark.parametrize(
    ("name", "word", "message"),
    [
        ("time", "0", "--time is '0': give minutes or"),
        ("time", "0:00:00", "give minutes or"),
        ("time", "soon", "give minutes or"),
        ("time", "multitsk=60", "of no stage of this chain: .*multitask"),
        ("mem", "refine=8G", "of no stage of this chain"),
        ("mem", "8 G", "such as 8G"),
        ("mem", "0", "such as 8G"),
        ("cpus", "0", "at least 1"),
        ("cpus", "cluster=-1", "at least 1"),
        ("gpus", "one", "0 for none"),
        ("nodes", "2", "several machines train one network"),
        ("nodes", "cluster=2", "several machines train one network"),
        ("sbatch", "partition=long", "of no stage of this chain"),
        ("sbatch", "long", "give an option of sbatch"),
    ],
)
def test_resources_that_do_not_fit_are_refused(plan: Plan, name: str, word: str, message: str):
    with pytest.raises(UserError, match=message):
        read_resources({name: [word]}, plan, {})


def test_a_folder_that_holds_something_else_is_refused(
    tmp_path: Path, error_line: Callable[[list[str]], str]
):
    (tmp_path / "notes.txt").write_text("mine")
    words = ["slurm", "--config", str(CONF / "chain.yaml"), "--run_dir", str(tmp_path / "run")]
    line = error_line([*words, "--output", str(tmp_path)])
    assert "which holds something else: give an empty or a new folder" in line
    for output, run, message in (
        (tmp_path / "notes.txt", tmp_path / "run", "which is a file"),
        (tmp_path / "run", tmp_path / "run", "which is the run folder"),
    ):
        with pytest.raises(UserError, match=message):
            refuse_folder(output, run)
    assert not (tmp_path / "run").exists()


def test_until_and_redo_are_of_fit(tmp_path: Path, error_line: Callable[[list[str]], str]):
    words = ["slurm", "--config", str(CONF / "chain.yaml"), "--run_dir", str(tmp_path / "run")]
    assert "leave it out" in error_line([*words, "--until", "cluster"])


def test_arms_are_trained_beside_each_other_and_none_twice(tmp_path: Path):
    from detaux_pl.artifacts.errors import ArtifactError
    from detaux_pl.artifacts.lock import run_lock
    from detaux_pl.artifacts.run_stage import run_stage
    from detaux_pl.artifacts.stage import StageFolder

    def arm(name: str, work: Callable[[], list[Path]]) -> bool:
        return run_stage(StageFolder(tmp_path, f"multitask/{name}/seed0"), {}, [], work)

    def beside() -> list[Path]:
        held = os.environ.pop("DETAUX_LOCKED_RUN_DIR")  # as another machine sees it
        assert arm("b", lambda: [])
        with pytest.raises(ArtifactError, match="seed0 is in use by another process"):
            arm("a", lambda: [])
        with pytest.raises(ArtifactError, match="is in use by process"), run_lock(tmp_path):
            pass
        os.environ["DETAUX_LOCKED_RUN_DIR"] = held
        return []

    assert arm("a", beside)
    with (tmp_path / ".lock").open() as handle:  # and nobody holds it after
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(ArtifactError, match="is in use"):
            arm("c", lambda: [])
