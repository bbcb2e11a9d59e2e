"""How long a chain will take: what is counted, what is timed, and what is left while it runs."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.data.datasets.digit_scenes import DigitScenes
from detaux_pl.data.modules import ViewDataModule
from detaux_pl.disentangle import base as disentangle
from detaux_pl.disentangle.contrastive import ContrastiveDisentangler
from detaux_pl.multitask import base as multitask
from detaux_pl.multitask.cross_fit import plan_nets
from detaux_pl.pipeline import costs, forecast
from detaux_pl.pipeline.chain import parse
from detaux_pl.pipeline.costs import Costs, schedule
from detaux_pl.pipeline.forecast import Forecast, foresee
from detaux_pl.pipeline.plan import plan_jobs
from detaux_pl.pipeline.process import Commands
from detaux_pl.pipeline.trainings import trainings
from detaux_pl.training import timing
from tests.cli.conftest import CONF, in_process
from tests.cli.conftest import run_chain as run_fit

SELECT = [
    "--cluster.select.clusterers", '[{"class_path": "KMeans", "init_args": {"n_clusters": 4}}]',
    "--cluster.select.tries", "2", "--cluster.select.confirmations", "1",
    "--cluster.select.halves", "2", "--nets.folds", "3",
]  # fmt: skip
UNTIL_CLUSTER = ["--until", "cluster", "--evaluate.metrics", "[]"]
REFINE = ["--refine.rounds", "2", "--nets.folds", "3"]


class FalseClock:
    """Time that passes by steps alone: of a disentangler 3 s, of a multi-task network 1 s."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.slower = 1.0
        for module, seconds in ((disentangle, 3.0), (multitask, 1.0)):
            monkeypatch.setattr(module, "reseed_batch", self._passing(seconds, module.reseed_batch))
        for module in (timing, forecast):
            monkeypatch.setattr(module, "clock", lambda: self.now)
        monkeypatch.setattr(costs, "TRIVIAL", 0)

    def _passing(self, seconds: float, reseed: Callable[..., None]) -> Callable[..., None]:
        def step(*args: object) -> None:
            self.now += seconds * self.slower
            reseed(*args)

        return step


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FalseClock:
    return FalseClock(monkeypatch)


def _seconds(said: str) -> list[float]:
    """The times that lines begin or end with: in all, and what was left after each stage."""
    unit = {"s": 1, "min": 60, "h": 3600}
    found = re.findall(r"(?:^|; )about ([\d.]+) (s|min|h)(?: on| left)", said, re.MULTILINE)
    return [float(value) * unit[name] for value, name in found]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["--refine.rounds", "2", "--nets.epochs", "6"],
        [*SELECT, "--cluster.select.min_learnability", "0", *UNTIL_CLUSTER],
    ],
)
def test_it_is_right_within_half_as_much_again(
    tmp_path: Path, clock: FalseClock, capsys: pytest.CaptureFixture[str], words: list[str]
):
    ends: list[float] = []

    def runner(processes: Sequence[Commands], lock: int | None, tick: Callable[[], object]) -> int:
        if not ends:
            ends.append(clock.now)  # what the timing itself took
        code = in_process(processes, lock, tick)
        ends.append(clock.now)
        return code

    words = ["--run_dir", str(tmp_path / "run"), "--jobs", "1", *words]
    code = run_fit(["--config", str(CONF / "chain.yaml"), *words], runner)
    assert code in (0, 4)
    total, *left = _seconds(capsys.readouterr().err)
    began, *after = ends
    took = after[-1] - began
    assert took > 180
    assert took / 1.5 < total < took * 1.5
    # What is told after a stage is closer still.
    assert len(left) >= 1
    for told, end in zip(left, after, strict=False):
        assert told == pytest.approx(after[-1] - end, rel=0.5, abs=45)


def test_what_is_there_is_not_counted_and_nothing_is_said_of_a_moment(
    tmp_path: Path, clock: FalseClock, monkeypatch: pytest.MonkeyPatch
):
    words = ["--config", str(CONF / "chain.yaml"), "--run_dir", str(tmp_path), "--jobs", "1"]
    chain = parse([*words, "--seeds", "4"])
    plan, timed = plan_jobs(chain), Costs()
    for stage in ("disentangle", "disentangle/codes", "evaluate", "cluster"):
        folder = StageFolder(tmp_path, stage)
        folder.begin({}, {}, {})
        folder.finish([], 1.0)
    left, line = foresee(chain, plan, timed)
    assert {stage for stage in left.costs if left.of(stage)} == {"multitask"}
    # 3 arms of 4 seeds, 2 epochs of 8 steps, and asked about 256 images: 18.7 s each.
    assert line == "about 4 min on this CPU: multitask 4 min (12 trainings of 19 s)"
    monkeypatch.setattr(forecast, "WORTH_TELLING", 240)
    assert foresee(chain, plan, timed)[1] == ""
    monkeypatch.setattr(costs, "TRIVIAL", 20_000_000)
    assert foresee(chain, plan, Costs())[0].total == 0


def test_many_seeds_are_told_what_two_would_take(tmp_path: Path, clock: FalseClock):
    clock.slower = 100.0
    words = ["--config", str(CONF / "chain.yaml"), "--run_dir", str(tmp_path), "--jobs", "2"]
    chain = parse([*words, "--seeds", "6"])
    _, line = foresee(chain, plan_jobs(chain), Costs())
    assert line == (
        "about 7.6 h on this CPU: disentangle 2.9 h, multitask 4.7 h (18 trainings of 31 min, 2 at "
        "a time); with --seeds 2 about 4.5 h"
    )


def test_more_at_once_than_cores_take_turns(
    tmp_path: Path, clock: FalseClock, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    timed = Costs()
    words = ["--config", str(CONF / "chain.yaml"), "--run_dir", str(tmp_path), *SELECT]

    def told(n_jobs: int) -> tuple[Forecast, str]:
        chain = parse([*words, "--seeds", "4", "--jobs", str(n_jobs)])
        return foresee(chain, plan_jobs(chain), timed)

    (two, line), (four, of_four) = told(2), told(4)
    assert "2 at a time" in line
    assert "4 at a time" in of_four
    assert four.total == two.total
    assert told(1)[0].total > 1.5 * two.total


def test_timing_leaves_the_random_state_as_it_was(clock: FalseClock):
    short = {"class_path": "SingleTask", "trainer": {"limit_train_batches": 4}}
    words = ["--config", str(CONF / "chain.yaml"), "--run_dir", "nowhere"]
    chain = parse([*words, "--baselines", json.dumps([short])])
    state = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    timed = Costs()
    found = timed.of(chain, plan_jobs(chain))
    assert found is not None
    assert torch.equal(torch.get_rng_state(), state[0])
    assert np.random.get_state()[1].tolist() == state[1]  # noqa: NPY002
    assert {round(pace.step, 6) for pace in timed.paces.values()} == {1.0, 3.0}
    # One net for the arms of two tasks, whichever, and one for that of a single one.
    assert len(timed.paces) == 3
    # 4 epochs of 8 steps, and 64 validation images in each.
    assert found["disentangle"]["disentangle"] == pytest.approx(4 * (8 * 3 + 64 / 64))
    arms = found["multitask"]
    assert len(arms) == 6
    # Shorter epochs are as many, and each ends with a validation as well.
    steps = {name: 8 if "single_task" in name else 16 for name in arms}
    assert {*steps.values()} == {8, 16}
    assert arms == {name: pytest.approx(n + 256 / 96) for name, n in steps.items()}


def test_an_image_is_evaluated_in_a_third_of_its_share_of_a_step(clock: FalseClock):
    data = ViewDataModule(DigitScenes(n_train=128, n_val=16, n_test=16), batch_size=8)
    data.setup("fit")
    model = ContrastiveDisentangler(data.image_shape, data.n_classes, encoder="small_convnet")
    pace = timing.time_net(model, data, {"accelerator": "cpu"}, 1)
    assert pace == pytest.approx((3.0, 3.0 / (3 * 2 * 8), 0.0))  # each image is in two views


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_what_was_timed_is_given_back():
    def held() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    Costs().forget_data()  # what other tests have left would be taken without a new page
    size = 64_000  # below what glibc maps by itself, so that it lies on the heap
    before, pieces = held(), [torch.ones(size // 4) for _ in range(2000)]
    full = held()
    assert full - before > 100_000_000
    last = pieces[-1]  # the heap ends with it, so that nothing below is given back unasked
    del pieces
    Costs().forget_data()
    assert held() < full - 100_000_000
    assert last.sum() == size // 4


def test_every_net_of_folds_rounds_and_choices_is_counted(tmp_path: Path):
    words = ["--config", str(CONF / "chain.yaml"), "--run_dir", str(tmp_path), *SELECT, *REFINE]
    chain = parse([*words, "--cluster.select.uses", "true"])
    plan = plan_jobs(chain)
    (refine,), (cluster,) = plan["refine"], plan["cluster"]
    nets = plan_nets(3, 2)
    counted = [(each.n, round(each.share * 3)) for each in trainings(chain, refine)]
    assert counted == [
        (
            sum(net.round == r for net in nets),
            3 - len(next(n for n in nets if n.round == r).without),
        )
        for r in range(2)
    ]
    # Alone and two tries, confirmed once; left, learned and balanced twice each.
    assert sum(each.n for each in trainings(chain, cluster)) == 3 * (3 + 2 + 5)
    folder = tmp_path / "refine" / "nets" / "digest" / "tasks"
    folder.mkdir(parents=True)
    for net in nets[:4]:
        (folder / f"{net.name}.npz").touch()
    assert [each.n for each in trainings(chain, refine)] == [len(nets) - 4]


def test_what_is_left_follows_what_was_seen(monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    monkeypatch.setattr(forecast, "clock", lambda: now[0])
    arms = {f"arm{k}": 100.0 for k in range(4)}
    told = Forecast({"disentangle": {"disentangle": 100.0}, "multitask": arms}, {"multitask": 2})
    assert told.total == told.left == 300.0
    told.begin("disentangle")
    now[0] = 200.0  # it takes twice as long
    told.end()
    assert told.left == 400.0
    told.begin("multitask")
    now[0] += 60.0
    assert told.left == 340.0
    now[0] += 240.0
    told.see({"arm0", "arm1"})  # and the arms thrice as long
    assert told.left == 300.0
    told.end()
    assert told.left == 0.0
    assert schedule([5.0, 1.0, 1.0, 1.0], 2) == 5.0


def test_a_process_of_its_own_times_a_network(capsys: pytest.CaptureFixture[str]):
    chain = parse(["--config", str(CONF / "chain.yaml"), "--run_dir", "nowhere"])
    (job, *_) = plan_jobs(chain)["multitask"]
    (training,) = trainings(chain, job)
    capsys.readouterr()
    assert costs.time_request(json.dumps([1, asdict(training)], default=str)) == 0
    step, image, features = json.loads(capsys.readouterr().out)
    assert 0 < image < step < 60
    assert features == 0
