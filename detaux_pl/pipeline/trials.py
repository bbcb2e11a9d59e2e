"""The trials of a sweep: runs in processes of their own, which share finished stages."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from optuna.trial import TrialState
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.text import Text

from detaux_pl.artifacts.files import write_text
from detaux_pl.artifacts.lock import file_lock
from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.artifacts.terminal import terminal, words
from detaux_pl.artifacts.yaml_text import dump_yaml
from detaux_pl.evaluation.results import read_results
from detaux_pl.pipeline.process import OF_AGENT, Process
from detaux_pl.pipeline.study import Record

_POLL = 0.2
"""How often the processes are looked at [s]."""
_PARTIAL = ".taken"
"""Folder of a stage that is being handed over."""


@dataclass(frozen=True)
class Trial:
    """A run that a sweep is to make.

    Args:
        folder: Its run folder, named by its number.
        label: Its parameters in words.
        settings: The settings of its chain.
        keys: Key of each of its stages, in the order of running.
        attempt: Number of an attempt that a killed sweep began; None for one to begin.
    """

    folder: Path
    label: str
    settings: dict[str, Any]
    keys: dict[str, str]
    attempt: int | None = None

    @property
    def number(self) -> int:
        """Number of the trial."""
        return int(self.folder.name)


class Child(Protocol):
    """A process, as far as a sweep needs it."""

    def poll(self) -> int | None:
        """Return the exit code; None while it runs."""

    def send_signal(self, number: int, /) -> None:
        """Tell it to end."""


@dataclass(frozen=True)
class Start:
    """How to start a trial.

    Args:
        words: Arguments of `detaux`.
        log: File that its output is added to.
        environment: Its environment.
        lock: Descriptor of the sweep's lock, which it inherits.
        claim: Descriptor of the trial's own, where several sweep.
    """

    words: list[str]
    log: Path
    environment: dict[str, str]
    lock: int | None
    claim: int | None = None


def start_process(start: Start) -> Child:
    """Start a trial in a process of its own."""
    with start.log.open("ab") as log:
        return Process(
            start.words,
            env=start.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=[each for each in (start.lock, start.claim) if each is not None],
        )


class Shelf:
    """Finished stages of all trials of a sweep, by key.

    Args:
        room: Folder of the trials.
    """

    def __init__(self, room: Path) -> None:
        self.stages: dict[str, list[StageFolder]] = {}
        for path in sorted(room.glob("*/**/stage.json")):
            number, *stage = path.parent.relative_to(room).parts
            if _PARTIAL not in stage:
                self._look(StageFolder(room / number, "/".join(stage)))

    def update(self, trial: Trial) -> None:
        """Look for stages that a trial has finished since."""
        for name, key in trial.keys.items():
            if key not in self.stages:
                self._look(StageFolder(trial.folder, name))

    def missing(self, trial: Trial) -> set[str]:
        """Keys of the stages of a trial that nobody has finished."""
        return {key for key in trial.keys.values() if key not in self.stages}

    def hand_over(self, trial: Trial) -> None:
        """Give a trial what others have finished of its stages, as if it had made them.

        The outputs are hard links: a stage that is made again removes its files first.
        """
        for name, key in trial.keys.items():
            own = StageFolder(trial.folder, name)
            if _has(own, key):
                continue
            for source in self.stages.get(key, ()):
                if _fits(source, trial):
                    _link(source, own)
                    break

    def _look(self, stage: StageFolder) -> None:
        manifest = stage.manifest
        if manifest is None or manifest["status"] != "complete":
            return
        self.stages.setdefault(manifest["key"], []).append(stage)


class Turns:
    """What several processes of one sweep tell each other, by locks on files of its folder.

    The kernel lets go of them when those that hold them have ended, the trials among them.

    Args:
        room: Folder of the trials.
    """

    def __init__(self, room: Path) -> None:
        self.room = room
        self.claims: dict[int, tuple[ExitStack, int]] = {}

    def turn(self) -> AbstractContextManager[int | None]:
        """Wait until no other process looks for trials or writes tables."""
        return file_lock(self.room / ".turn.lock", wait=True)

    def claim(self, number: int) -> int | None:
        """Return the descriptor of a trial that is ours now; None where another one runs it."""
        if number not in self.claims:
            stack = ExitStack()
            held = stack.enter_context(file_lock(self.room / f".{number}.lock"))
            if held is None:
                stack.close()
                return None
            self.claims[number] = stack, held
        return self.claims[number][1]

    def give_back(self, number: int) -> None:
        """Let go of a trial."""
        if number in self.claims:
            self.claims.pop(number)[0].close()

    def close(self) -> None:
        """Let go of all; trials that still run keep theirs until they have ended."""
        for number in [*self.claims]:
            self.give_back(number)


class Sweep:
    """Trials that run, several at once; none computes a stage that another one is computing.

    Args:
        trials: The trials that are not complete, in the order of running.
        record: Where trials are asked for and their ends recorded.
        room: Folder of the trials.
        until: The last stage of every trial; None for all.
        n_jobs: Trials at once.
        on_cpu: Whether they run on the CPU, and share its cores.
        start: Starts a trial.
        lock: Descriptor of the sweep's lock, which the trials inherit.
        turns: How it takes turns with other processes; None where there are none.
        left: Says, of the names of the trials that have ended, how long the others will take.
    """

    def __init__(
        self,
        trials: Iterable[Trial],
        record: Record,
        room: Path,
        until: str | None,
        n_jobs: int,
        on_cpu: bool,
        start: Callable[[Start], Child],
        lock: int | None,
        turns: Turns | None = None,
        left: Callable[[set[str]], str] = lambda _: "",
    ) -> None:
        self.left, self.ended = left, set[str]()
        self.trials = {trial.number: trial for trial in trials}
        self.record = record
        self.shelf = Shelf(room)
        self.until = until
        self.n_jobs = min(n_jobs, len(self.trials))
        self.on_cpu = on_cpu
        self.start = start
        self.lock = lock
        self.turns = turns
        # Trials that a killed sweep began, those that wait, and those that run: here, elsewhere.
        self.held = deque((t, t.attempt) for t in self.trials.values() if t.attempt is not None)
        self.waiting = [each for each in record.entries if each.state == TrialState.WAITING]
        self.running: dict[Child, tuple[Trial, int, float]] = {}
        self.elsewhere: list[Trial] = []
        self.n_done = self.n_failed = 0
        self.received: list[int] = []

    def run(self, after_each: Callable[[], object]) -> int:
        """Run all trials.

        Args:
            after_each: Called when a trial has ended.

        Returns:
            128 + the number of the signal received, or 0; trials that fail do not end a sweep.
        """
        console = terminal(stderr=True)
        before = {s: signal.signal(s, self._forward) for s in (signal.SIGINT, signal.SIGTERM)}
        progress = Progress(
            words("  trials"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            words("{task.description}"), console=console, transient=True,
            disable=not console.is_terminal,
        )  # fmt: skip
        try:
            with progress:
                task = progress.add_task("", total=len(self.trials))
                while self.running or not self.received:
                    self._collect(console, after_each)
                    self._fill()
                    if not self.running and not self.held and not self.waiting:
                        break
                    failed = f" · {self.n_failed} failed" if self.n_failed else ""
                    progress.update(
                        task, completed=self.n_done + self.n_failed,
                        description=f"{len(self.running)} running{failed}{self.left(self.ended)}",
                    )  # fmt: skip
                    time.sleep(_POLL)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            for child in self.running:  # after an error of the sweep itself
                child.send_signal(signal.SIGTERM)
        return 128 + self.received[-1] if self.received else 0

    def _forward(self, number: int, frame: object) -> None:
        self.received.append(number)
        for child in self.running:
            child.send_signal(number)

    def _collect(self, console: Console, after_each: Callable[[], object]) -> None:
        """Record the trials that have ended."""
        for child, (trial, attempt, started) in list(self.running.items()):
            code = child.poll()
            if code is None:
                continue
            del self.running[child]
            self.shelf.update(trial)
            if self.received:
                continue  # it goes on when the sweep does
            self.ended.add(str(trial.number))
            what = Text.assemble((f"trial {trial.number}", "dim"), f" {trial.label}")
            if code == 0:
                self.n_done += 1
                self.record.complete(attempt, read_results(trial.folder))
                seconds = time.monotonic() - started
                done = Text("done", "green")
                console.print(what, done, f"in {seconds:.0f} s", soft_wrap=True)
            else:
                self.n_failed += 1
                error = last_words(trial.folder / "log.txt")
                error = error if code > 0 else f"ended by signal {-code}, after: {error}"
                self.record.fail(attempt, error)
                ended = Text.assemble(("failed", "red"), f": {error}")
                console.print(what, ended, soft_wrap=True)
            if self.turns is not None:
                with self.turns.turn():  # not while another one holds its end for not yet told
                    self.turns.give_back(trial.number)
            after_each()

    def _fill(self) -> None:
        """Start trials until enough run or all others wait for them."""
        if len(self.running) < self.n_jobs and (self.held or self.waiting):
            for trial, _, _ in self.running.values():
                self.shelf.update(trial)
        while len(self.running) < self.n_jobs and not self.received:
            with nullcontext() if self.turns is None else self.turns.turn():
                if self.turns is not None:
                    self._look_around(self.turns)
                chosen = self._next()
            if chosen is None:
                return
            trial, attempt = chosen
            self.shelf.hand_over(trial)
            child = self.start(self._prepare(trial))
            self.running[child] = (trial, attempt, time.monotonic())
            for number in self.received:  # while it was started
                child.send_signal(number)

    def _look_around(self, turns: Turns) -> None:
        """Look which trials wait, which run elsewhere, and which of these nobody runs any more."""
        self.waiting, self.elsewhere = [], []
        own = {trial.number for trial, _, _ in self.running.values()}
        own |= {trial.number for trial, _ in self.held}
        for entry in self.record.entries:
            trial = self.trials.get(entry.number)
            if trial is None or entry.number in own:
                continue
            if entry.state == TrialState.WAITING:
                self.waiting.append(entry)
            elif entry.state == TrialState.RUNNING and turns.claim(entry.number) is None:
                self.elsewhere.append(trial)
                self.shelf.update(trial)
            elif entry.state == TrialState.RUNNING:
                self.held.append((trial, entry.attempt))
            else:
                self.shelf.update(trial)

    def _next(self) -> tuple[Trial, int] | None:
        """Take the first trial that needs no stage that a running one is to make."""
        busy: set[str] = set()
        for trial in (*(each for each, _, _ in self.running.values()), *self.elsewhere):
            busy |= self.shelf.missing(trial)
        for held in list(self.held):
            if busy.isdisjoint(self.shelf.missing(held[0])):
                self.held.remove(held)
                return held
        for entry in list(self.waiting):
            asked = self.trials.get(entry.number)
            if asked is not None and not busy.isdisjoint(self.shelf.missing(asked)):
                continue
            self.waiting.remove(entry)
            if not self.record.take(entry.attempt):
                continue
            if asked is None:
                self.record.fail(entry.attempt, "no longer asked for")
                continue
            if self.turns is not None:  # in this turn, or another one would take it for left alone
                self.turns.claim(entry.number)
            return asked, entry.attempt
        return None

    def _prepare(self, trial: Trial) -> Start:
        given = trial.folder / "given.yaml"
        write_text(given, dump_yaml(trial.settings))
        words = ["fit", "--config", str(given), "--run_dir", str(trial.folder)]
        if self.until is not None:
            words += ["--until", self.until]
        environment = {name: v for name, v in os.environ.items() if name not in OF_AGENT}
        environment["DETAUX_STAGE"] = "one of several"  # so that it ends with this process
        if self.n_jobs > 1 and self.on_cpu:
            words += ["--jobs", "1"]
            environment |= {"OMP_NUM_THREADS": "1", "LOKY_MAX_CPU_COUNT": "1"}
        claim = None if self.turns is None else self.turns.claim(trial.number)
        return Start(words, trial.folder / "log.txt", environment, self.lock, claim)


def last_words(log: Path) -> str:
    """Return the line of a log that says why its process ended; the last one where none does."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    # What the planner says after a stage has ended, and what Python says before, explain nothing.
    error = r"(error: |No task worth |Only \d+ of |(\w+\.)*\w*(Error|Exception|Interrupt)\b)"
    telling = [line for line in lines[-50:] if re.match(error, line)]
    return (telling or lines or ["no output"])[-1]


def _has(stage: StageFolder, key: str) -> bool:
    manifest = stage.manifest
    return manifest is not None and manifest["status"] == "complete" and manifest["key"] == key


def _fits(source: StageFolder, trial: Trial) -> bool:
    """Whether a finished stage is all there, and was made from what the trial has upstream."""
    manifest = source.manifest
    if manifest is None:
        return False
    upstream = {name: StageFolder(trial.folder, name) for name in manifest["inputs"]}
    return all((source.path / name).is_file() for name in manifest["outputs"]) and all(
        # Another run of the same settings may have other results.
        stage.complete and stage.digest == manifest["inputs"][name]
        for name, stage in upstream.items()
    )


def _link(source: StageFolder, target: StageFolder) -> None:
    """Put a finished stage in another run folder: whole, or not at all."""
    partial = target.run_dir / _PARTIAL
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name in {} if (manifest := source.manifest) is None else manifest["outputs"]:
        path = partial / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source.path / name, path)
        except OSError:  # another file system, or one without links
            shutil.copy2(source.path / name, path)
    shutil.copy2(source.path / "stage.json", partial)
    shutil.rmtree(target.path, ignore_errors=True)
    target.path.parent.mkdir(parents=True, exist_ok=True)
    partial.rename(target.path)
