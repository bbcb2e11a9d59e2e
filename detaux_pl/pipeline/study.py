"""The record of a sweep: an Optuna study in a file beside its trials, or where several see it."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import RandomSampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.files import replacing

# What it says of every trial, and nobody can act on.
optuna.logging.set_verbosity(optuna.logging.ERROR)

Scalar = str | int | float | bool | None
Parameters = dict[str, Scalar]
"""Value of every parameter of a trial; the label of a named variant."""

_NAME = "sweep"


@dataclass(frozen=True)
class Entry:
    """What the study knows of one combination of parameters.

    Args:
        number: Number of the folder of the trial.
        parameters: Its parameters.
        state: State of the last attempt.
        results: Its results, if it is complete.
        error: Why it failed, if it did.
        attempt: Number of that attempt in the study; each attempt is a trial of Optuna.
    """

    number: int
    parameters: Parameters
    state: TrialState
    results: dict[str, float]
    error: str
    attempt: int


class Record:
    """The trials of a sweep, as Optuna keeps them.

    Args:
        study: The study.
        distributions: What the value of each parameter is taken from.
    """

    def __init__(self, study: optuna.Study, distributions: Mapping[str, BaseDistribution]) -> None:
        self.study = study
        self.distributions = dict(distributions)

    @property
    def entries(self) -> list[Entry]:
        """Every combination with its last attempt, by number of the folder."""
        found: dict[int, Entry] = {}
        for trial in self.study.get_trials(deepcopy=False):
            entry = _entry(trial)
            found[entry.number] = entry
        return [found[number] for number in sorted(found)]

    def enqueue(self, parameters: Parameters, folder: int | None = None) -> int:
        """Ask for a trial, or for another attempt of one.

        Optuna's own test for trials that exist takes values for equal that are close.

        Args:
            parameters: Its parameters.
            folder: Number of the folder of an earlier attempt; None for a new trial.

        Returns:
            Number of the folder.
        """
        folder = len(self.study.get_trials(deepcopy=False)) if folder is None else folder
        self.study.enqueue_trial(parameters, {"folder": folder, "parameters": parameters})
        return folder

    def take(self, attempt: int) -> bool:
        """Begin a trial that waits; gives whether no other process has."""
        known = self.study.get_trials(deepcopy=False)[attempt]
        storage = self.study._storage
        try:
            if not storage.set_trial_state_values(known._trial_id, TrialState.RUNNING):
                return False
        except UpdateFinishedTrialError:  # what was read of it was older
            return False
        trial = optuna.Trial(self.study, known._trial_id)
        for name, distribution in self.distributions.items():
            trial._suggest(name, distribution)  # what it was asked for with
        return True

    def complete(self, attempt: int, results: Mapping[str, float]) -> None:
        """Record the results of a trial; to Optuna its value is the time it took [s]."""
        self._note(attempt, "results", dict(results))
        self.study.tell(attempt, results["seconds"])

    def fail(self, attempt: int, error: str) -> None:
        """Record why a trial failed, or why it will not run."""
        self._note(attempt, "error", error)
        self.study.tell(attempt, state=TrialState.FAIL)

    def _note(self, attempt: int, name: str, value: object) -> None:
        known = self.study.get_trials(deepcopy=False)[attempt]
        optuna.Trial(self.study, known._trial_id).set_user_attr(name, value)


def _entry(trial: FrozenTrial) -> Entry:
    said = trial.user_attrs
    return Entry(
        number=said["folder"],
        parameters=dict(said["parameters"]),
        state=trial.state,
        results=dict(said.get("results", {})),
        error=said.get("error", ""),
        attempt=trial.number,
    )


@contextmanager
def open_record(
    path: Path, distributions: Mapping[str, BaseDistribution], storage: str | None = None
) -> Iterator[Record]:
    """Open the record of a sweep, or begin it.

    Optuna takes no choice that a parameter did not have from the start: where there are more now,
    the study is written anew, all at once, unless it is in a storage that others use meanwhile.

    Args:
        path: The file, of SQLite.
        distributions: What the value of each parameter is taken from.
        storage: In place of it, the URL of a database or the path of a journal file, in which the
            study has the name of the folder of `path`.

    Raises:
        UserError: If a parameter was chosen from a list and is drawn from a range now, or the
            other way round, the file is no record of a sweep, or the storage is out of reach or
            has other choices.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file() and storage is not None:
        raise UserError(
            f"{path} is the record of this sweep, without --storage: leave it out, or give another "
            "--sweep_dir."
        )
    if storage is not None or path.is_file():
        with _study(path, storage) as old:
            trials = old.get_trials(deepcopy=False)
            known = {name: d for trial in trials for name, d in trial.distributions.items()}
            distributions = {
                name: _join(name, known[name], new) if name in known else new
                for name, new in distributions.items()
            }
            changed = any(distributions.get(name, d) != d for name, d in known.items())
            if changed and storage is not None:
                raise UserError(
                    f"the sweep in {shown(storage)} has other choices of its parameters: in a "
                    "storage they stay as they are, give another --sweep_dir."
                )
            if changed:
                with replacing(path) as temporary:
                    _write_anew(old, temporary, distributions)
    with _study(path, storage) as study:
        yield Record(study, distributions)


def draw(distributions: Mapping[str, BaseDistribution], n: int, seed: int) -> list[Parameters]:
    """Draw parameters at random: the first ones are the same for any larger `n`.

    Args:
        distributions: What the value of each parameter is drawn from.
        n: Number of draws.
        seed: Seed of the draws.
    """
    study = optuna.create_study(sampler=RandomSampler(seed))
    return [dict(study.ask(dict(distributions)).params) for _ in range(n)]


@contextmanager
def _study(path: Path, place: str | None = None) -> Iterator[optuna.Study]:
    storage: BaseStorage
    try:
        if place is None or "://" in place:
            storage = RDBStorage(place or f"sqlite:///{path.resolve()}")
        else:
            Path(place).parent.mkdir(parents=True, exist_ok=True)
            storage = JournalStorage(JournalFileBackend(place))
        study = optuna.create_study(
            storage=storage, study_name=_NAME if place is None else str(path.parent),
            load_if_exists=True, sampler=RandomSampler(),
        )  # fmt: skip
    except Exception as error:  # whatever SQLAlchemy or Optuna make of a damaged file
        if place is not None:
            raise UserError(
                f"--storage {shown(place)} cannot be opened ({type(error).__name__}): give the "
                "URL of a database that can be reached and whose driver is installed, such as "
                "sqlite:///sweep.db, or the path of a journal file."
            ) from error
        raise UserError(
            f"{path} cannot be opened as the record of a sweep ({type(error).__name__}): give "
            "another --sweep_dir, or remove the file to run every trial again."
        ) from error
    try:
        yield study
    finally:
        if isinstance(storage, RDBStorage):
            storage.remove_session()
            storage.engine.dispose()


def shown(text: str) -> str:
    """Return a text with the passwords of the URLs in it left out."""
    return re.sub(r"(://[^:/@\s]*):[^@\s]*@", r"\1:***@", text)


def _write_anew(
    old: optuna.Study, path: Path, distributions: Mapping[str, BaseDistribution]
) -> None:
    path.unlink()  # an empty file
    with _study(path) as new:
        for name, value in old.user_attrs.items():
            new.set_user_attr(name, value)
        for trial in old.get_trials():
            trial.distributions = {name: distributions[name] for name in trial.distributions}
            new.add_trial(trial)


def _join(name: str, old: BaseDistribution, new: BaseDistribution) -> BaseDistribution:
    """Return what values of both are taken from."""
    if isinstance(old, CategoricalDistribution) and isinstance(new, CategoricalDistribution):
        added = [choice for choice in new.choices if choice not in old.choices]
        return CategoricalDistribution([*old.choices, *added]) if added else old
    if isinstance(old, IntDistribution | FloatDistribution) and type(old) is type(new):
        joined = copy.copy(new)
        joined.low, joined.high = min(old.low, new.low), max(old.high, new.high)
        return joined
    raise UserError(
        f"the parameter {name} was taken from {_words(old)} and now from {_words(new)}: give "
        "another --sweep_dir."
    )


def _words(distribution: BaseDistribution) -> str:
    if isinstance(distribution, CategoricalDistribution):
        return "a list of choices"
    return f"a range of {'integers' if isinstance(distribution, IntDistribution) else 'numbers'}"
