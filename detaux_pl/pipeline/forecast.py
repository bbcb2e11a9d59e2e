"""How long a chain will take, told before it begins and kept up to date while it runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping

from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.terminal import duration
from detaux_pl.pipeline.costs import Costs, schedule
from detaux_pl.pipeline.job import Chain
from detaux_pl.pipeline.plan import Plan, plan_jobs
from detaux_pl.pipeline.trainings import abreast, at_once, trainings
from detaux_pl.settings.devices import on_cpu

clock = time.monotonic
WORTH_TELLING = 90.0
"""Least time that is told of [s]."""


class Forecast:
    """The time that is left of a chain, from what was expected and what came of it.

    Args:
        costs: What each job is expected to take, by stage [s].
        n_abreast: Jobs that advance at a time, by stage; 1 where it is not told.
    """

    def __init__(
        self, costs: Mapping[str, Mapping[str, float]], n_abreast: Mapping[str, int]
    ) -> None:
        self.costs: dict[str, Mapping[str, float]] = dict(costs)
        self.n_abreast = n_abreast
        self.expected = self.took = 0.0  # of the stages that are finished
        self.stage: str | None = None
        self.begun = 0.0
        self.done: set[str] = set()
        self.seen = 0.0

    @property
    def total(self) -> float:
        """What all was expected to take [s]."""
        return sum(self.of(stage) for stage in self.costs)

    def of(self, stage: str, names: Collection[str] | None = None) -> float:
        """What a stage, or some of its jobs, was expected to take [s]."""
        jobs = self.costs.get(stage, {})
        kept = [seconds for name, seconds in jobs.items() if names is None or name in names]
        return schedule(kept, self.n_abreast.get(stage, 1))

    def begin(self, stage: str) -> None:
        """Start the clock of a stage."""
        self.stage, self.begun, self.done, self.seen = stage, clock(), set(), 0.0

    def see(self, done: Collection[str]) -> None:
        """Note which jobs of the present stage are done."""
        if len(done) > len(self.done):
            self.done, self.seen = {*done}, clock() - self.begun

    def end(self) -> None:
        """Stop the clock of the present stage."""
        assert self.stage is not None
        if self.of(self.stage):
            self.expected += self.of(self.stage)
            self.took += clock() - self.begun
        self.costs.pop(self.stage, None)
        self.stage = None

    def telling(self, stage: str) -> Callable[[set[str]], str]:
        """Begin a stage, and return what says, of the jobs that are done, what is left of it."""
        self.begin(stage)

        def tell(done: set[str]) -> str:
            self.see(done)
            return left_of(self, " · ")

        return tell

    @property
    def left(self) -> float:
        """What is left [s]."""
        later = sum(self.of(stage) for stage in self.costs if stage != self.stage)
        ratio = self.took / self.expected if self.expected and self.took else 1.0
        if self.stage is None:
            return later * ratio
        done = self.of(self.stage, self.done)
        here = self.seen / done if done and self.seen else ratio
        return later * ratio + max(here * self.of(self.stage) - (clock() - self.begun), 0.0)


def foresee(chain: Chain, plan: Plan, costs: Costs) -> tuple[Forecast, str]:
    """Tell how long a chain will take.

    Returns:
        The forecast, of nothing where none can be made or it is a moment, and a line to print,
        empty where there is nothing to say.
    """
    try:
        forecast = _of_chain(chain, plan, costs)
    except Exception as error:
        return Forecast({}, {}), _unknown(error)
    finally:
        costs.forget_data()
    if forecast.total < WORTH_TELLING:
        return forecast, ""
    return forecast, _line(chain, plan, forecast)


def foresee_all(
    what: str,
    chains: Mapping[str, Chain],
    n_at_once: int,
    keys: Mapping[str, Mapping[str, str]] | None = None,
    made: Collection[str] = (),
    costs: Costs | None = None,
) -> tuple[Forecast, str]:
    """Tell how long several chains will take.

    Args:
        what: What they are called, with their number.
        chains: The chains, by name.
        n_at_once: How many run at once.
        keys: By name of the chain and of the stage, its key: those of one key are made once.
        made: Keys of stages that are there.
        costs: What was timed already.

    Returns:
        As `foresee`; the stage of the forecast is `what`, its jobs the chains.
    """
    costs, seen, expected = costs or Costs(len(chains)), {*made}, dict[str, float]()
    try:
        for name, chain in chains.items():
            own = {} if keys is None else keys[name]
            forecast = _of_chain(chain, plan_jobs(chain), costs)
            for stage, jobs in forecast.costs.items():
                forecast.costs[stage] = {
                    job: seconds for job, seconds in jobs.items() if own.get(job) not in seen
                }
            seen |= {*own.values()}
            expected[name] = forecast.total
    except Exception as error:
        return Forecast({}, {}), _unknown(error)
    finally:
        costs.forget_data()
    (chain, *_) = chains.values()
    n_abreast = abreast(n_at_once, chain.config["disentangle"])
    forecast = Forecast({what: expected}, {what: n_abreast})
    if forecast.total < WORTH_TELLING:
        return forecast, ""
    several = f", {n_at_once} at a time" if n_at_once > 1 else ""
    return forecast, f"about {duration(forecast.total)} on this {_place(chain)}: {what}{several}"


def _of_chain(chain: Chain, plan: Plan, costs: Costs) -> Forecast:
    arm = plan["multitask"][0]
    n_abreast = abreast(at_once(chain, arm), arm.config)
    return Forecast(costs.of(chain, plan) or {}, {"multitask": n_abreast})


def _unknown(error: Exception) -> str:
    """Say that nothing can be said: a run is worth more than its forecast."""
    if isinstance(error, UserError):  # the stage that it stands in the way of says so
        return ""
    logging.getLogger(__name__).debug("no forecast", exc_info=error)
    return f"how long it will take is not known ({type(error).__name__}: {error})"


def left_of(forecast: Forecast, lead: str = "") -> str:
    """Say what is left of what takes long."""
    left = forecast.left
    return f"{lead}about {duration(left)} left" if left >= WORTH_TELLING else ""


def _place(chain: Chain) -> str:
    return "CPU" if on_cpu(chain.config["disentangle"]) else "accelerator"


def _line(chain: Chain, plan: Plan, forecast: Forecast) -> str:
    parts = []
    for stage, costs in forecast.costs.items():
        seconds = forecast.of(stage)
        if seconds < 0.01 * forecast.total:
            continue
        jobs = [job for job in plan[stage] if job.name in costs]
        n = sum(each.n for job in jobs for each in trainings(chain, job) if each.trained)
        several = at_once(chain, jobs[0])
        many = f", {several} at a time" if several > 1 else ""
        if stage == "multitask" and n > 1:
            mean = sum(costs.values()) / len(costs)
            parts.append(f"{stage} {duration(seconds)} ({n} trainings of {duration(mean)}{many})")
        elif stage in ("cluster", "refine"):
            parts.append(f"{stage} {duration(seconds)} ({n} nets{many})")
        else:
            parts.append(f"{stage} {duration(seconds)}")
    line = f"about {duration(forecast.total)} on this {_place(chain)}: {', '.join(parts)}"
    return line + _fewer_seeds(chain, forecast)


def _fewer_seeds(chain: Chain, forecast: Forecast) -> str:
    """Say what two seeds would take, where that is much less."""
    first = chain.config["seed"]
    kept = [
        name
        for name in forecast.costs.get("multitask", {})
        if int(name.rpartition("seed")[2]) < first + 2
    ]
    less = forecast.total - forecast.of("multitask") + forecast.of("multitask", kept)
    if chain.config["seeds"] <= 2 or less > 0.75 * forecast.total or forecast.total < 3600:
        return ""
    return f"; with --seeds 2 about {duration(less)}"
