"""Cross-fitting: what nets say of samples whose labels they never saw."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning import Trainer, seed_everything
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.exceptions import SIGTERMException
from numpy.typing import NDArray

from detaux_pl.artifacts.errors import ArtifactError, Diverged, UserError
from detaux_pl.artifacts.files import replacing
from detaux_pl.artifacts.labels import IGNORED
from detaux_pl.data.batch import Fold
from detaux_pl.data.modules import LabelledDataModule
from detaux_pl.models.divergence import DivergenceWatch, refuse_loss
from detaux_pl.multitask.base import MultitaskModel
from detaux_pl.settings.parser import explain

Build = Callable[[tuple[int, ...]], MultitaskModel]
"""Builds a net for the given numbers of classes."""


class Net(NamedTuple):
    """One net of a cross-fit.

    Args:
        round: Which labels it is trained on: in round 0 the given ones, later the predictions of
            the round before.
        without: The folds whose labels it must not see, ascending; it predicts them.
    """

    round: int
    without: tuple[int, ...]

    @property
    def name(self) -> str:
        """Name of its file, without the ending."""
        return f"round{self.round}-without-{'-'.join(map(str, self.without))}"

    def teacher(self, fold: int) -> Net:
        """The net of the round before whose predictions are the labels of a fold."""
        return Net(self.round - 1, tuple(sorted((*self.without, fold))))


def plan_nets(n_folds: int, rounds: int) -> list[Net]:
    """All nets of a cross-fit, in an order in which each comes after its teachers.

    After one round, a fold has the predictions of the net trained on the other folds. A second
    round trains on such predictions, and these must not come from nets that saw the fold which
    is then predicted, or its labels would come back to it through its neighbours in other folds.
    So the nets of an earlier round are trained without several folds.

    Args:
        n_folds: Number of folds.
        rounds: Number of rounds, less than `n_folds`.

    Returns:
        Of round r, one net for each choice of `rounds - r` folds.

    Raises:
        ValueError: If there are not enough folds.

    Example:
        >>> [net.name for net in plan_nets(n_folds=3, rounds=2)][2:4]  # three of each round
        ['round0-without-1-2', 'round1-without-0']
    """
    if not 1 <= rounds < n_folds:
        raise ValueError(
            f"rounds is {rounds} and folds {n_folds}: give at least 1 round, and more folds than "
            "rounds."
        )
    return [
        Net(r, without)
        for r in range(rounds)
        for without in combinations(range(n_folds), rounds - r)
    ]


def deal_folds(classes: NDArray[np.int64], n_folds: int, seed: int) -> NDArray[np.int64]:
    """Deal samples out to folds at random, those of each class as evenly as can be.

    Args:
        classes: Class of each sample, shape (n,).
        n_folds: Number of folds.
        seed: Seed of the dealing.

    Returns:
        Fold of each sample, shape (n,).

    Example:
        >>> np.bincount(deal_folds(np.repeat([0, 1], 6), n_folds=3, seed=0))
        array([4, 4, 4])
    """
    rng = np.random.default_rng([seed, 2])
    order = rng.permutation(len(classes))
    order = order[np.argsort(classes[order], kind="stable")]
    folds = np.empty(len(classes), dtype=np.int64)
    folds[order] = np.arange(len(classes)) % n_folds
    return folds


class Answers(NamedTuple):
    """What a net says of the samples that it was asked about.

    Args:
        rows: Their rows in the data set, shape (m,).
        probabilities: Of the classes of each task, float32, shape (m, classes).
    """

    rows: NDArray[np.int64]
    probabilities: list[NDArray[np.float32]]


@dataclass(frozen=True)
class CrossFit:
    """Nets trained on all folds of the training images but some, and what they say of these.

    Each net is trained by one process from seeds of its own and writes one file at its end:
    whichever process trains it, and however often it is killed, the file is the same. Validation
    and test images are asked about in the last round; their labels are never read.

    Args:
        folder: Folder of the files.
        targets: Labels of the tasks, the principal one first, int64, shape (N, T), or `IGNORED`.
        task_sizes: Number of classes of each task.
        train: Rows of the training images, shape (n,).
        rest: Rows of the other images, shape (m,).
        n_folds: Number of folds.
        rounds: Number of rounds, see `plan_nets`.
        seed: Seed of the folds and the nets.
    """

    folder: Path
    targets: NDArray[np.int64]
    task_sizes: tuple[int, ...]
    train: NDArray[np.int64]
    rest: NDArray[np.int64]
    n_folds: int = 4
    rounds: int = 1
    seed: int = 0

    @property
    def nets(self) -> list[Net]:
        """All nets, each after its teachers."""
        return plan_nets(self.n_folds, self.rounds)

    @property
    def folds(self) -> NDArray[np.int64]:
        """Fold of each training image, shape (n,)."""
        return deal_folds(self.targets[self.train, 0], self.n_folds, self.seed)

    def path(self, net: Net) -> Path:
        """File of a net."""
        return self.folder / f"{net.name}.npz"

    def missing(self, round: int) -> list[Net]:
        """Nets of a round that have no file yet."""
        return [net for net in self.nets if net.round == round and not self.path(net).is_file()]

    def answers(self, net: Net) -> Answers:
        """Read what a net says.

        Raises:
            ArtifactError: If its file is missing or damaged.
        """
        try:
            with np.load(self.path(net), allow_pickle=False) as arrays:
                tasks = [arrays[f"task{t}"] for t in range(len(self.task_sizes))]
                answers = Answers(arrays["rows"], tasks)
            if [part.shape for part in tasks] != [
                (len(answers.rows), size) for size in self.task_sizes
            ]:
                raise ValueError("other shapes")
            return answers
        except Exception as error:  # what a damaged archive raises has no common class
            raise ArtifactError(
                f"{self.path(net)} cannot be read ({type(error).__name__}): delete it."
            ) from None

    def labels(self, net: Net) -> NDArray[np.int64]:
        """Labels that a net is trained on, shape (N, T); `IGNORED` where it must not see them."""
        labels = np.full_like(self.targets, IGNORED)
        folds = self.folds
        for fold in set(range(self.n_folds)) - set(net.without):
            rows = self.train[folds == fold]
            labels[rows] = self.targets[rows]
            if net.round:
                answers = self.answers(net.teacher(fold))
                place = np.searchsorted(answers.rows, rows)
                for task in range(1, len(self.task_sizes)):
                    labels[rows, task] = answers.probabilities[task][place].argmax(axis=1)
        return labels

    def fit(
        self, net: Net, data: LabelledDataModule, build: Build, trainer: Mapping[str, Any]
    ) -> None:
        """Train one net, unless its file is there, and write what it says.

        Args:
            net: The net; its teachers have their files.
            data: The images.
            build: Builds its network.
            trainer: Settings of Lightning's trainer: `max_epochs`, and where it runs.

        Raises:
            Diverged: If its training did.
        """
        if self.path(net).is_file():
            return
        folds = self.folds
        held = np.isin(folds, net.without)
        asked = self.train[held]
        if net.round == self.rounds - 1:
            asked = np.sort(np.concatenate([asked, self.rest]))
        fold = Fold(self.train[~held], asked, self.labels(net))
        seed = [self.seed, net.round, *net.without]
        try:
            probabilities = fit_net(data, build, fold, self.task_sizes, seed, trainer)
        except Diverged as error:
            raise error.within(f"{self.folder.name}, {net.name}") from error
        with replacing(self.path(net)) as temporary, temporary.open("wb") as handle:
            arrays: dict[str, Any] = {f"task{t}": p for t, p in enumerate(probabilities)}
            np.savez(handle, rows=asked, **arrays)

    def out_of_fold(self, round: int | None = None) -> list[NDArray[np.float32]]:
        """Probabilities of each task of every sample, by nets that never saw its labels.

        Args:
            round: Which round's; None for the last one's.

        Returns:
            Of each task, shape (N, classes): of a training image the mean over the nets of the
            round without its fold, of others over all nets of the last round, else 0.
        """
        last = self.rounds - 1 if round is None else round
        total = [np.zeros((len(self.targets), size), np.float32) for size in self.task_sizes]
        count = np.zeros(len(self.targets))
        for net in self.nets:
            if net.round == last:
                rows, probabilities = self.answers(net)
                count[rows] += 1
                for sums, part in zip(total, probabilities, strict=True):
                    sums[rows] += part
        for sums in total:
            sums /= np.maximum(count, 1)[:, None]
        return total

    def accuracies(self) -> NDArray[np.float64]:
        """Accuracy of each task on each fold, by the net of the last round without it.

        Returns:
            Shape (folds, T); samples that a task leaves out do not count.
        """
        said, folds = self.out_of_fold(), self.folds
        found = np.full((self.n_folds, len(self.task_sizes)), np.nan)
        for fold in range(self.n_folds):
            rows = self.train[folds == fold]
            for task, probabilities in enumerate(said):
                known = rows[self.targets[rows, task] != IGNORED]
                if known.size:
                    right = probabilities[known].argmax(axis=1) == self.targets[known, task]
                    found[fold, task] = right.mean()
        return found

    def learnability(self) -> float:
        """Share of the auxiliary labels, beyond the largest class, told of images never seen.

        Of several auxiliary tasks, those of the first one.

        Returns:
            1 where all are told, 0 where no more than by naming the largest class; may be less.
        """
        labels = self.targets[self.train, 1]
        known = labels != IGNORED
        said = self.out_of_fold()[1][self.train[known]].argmax(axis=1)
        chance = np.bincount(labels[known]).max() / known.sum()
        return float(((said == labels[known]).mean() - chance) / max(1 - chance, 1e-9))


def fit_net(
    data: LabelledDataModule,
    build: Build,
    fold: Fold,
    task_sizes: tuple[int, ...],
    seed: Sequence[int],
    trainer: Mapping[str, Any],
) -> list[NDArray[np.float32]]:
    """Train one net on the rows of a fold, and ask it about others.

    Args:
        data: The images.
        build: Builds the network.
        fold: What it is trained on and asked.
        task_sizes: Number of classes of each task.
        seed: Weights, batches and dropout follow from these numbers alone.
        trainer: Settings of Lightning's trainer: `max_epochs`, and where it runs.

    Returns:
        Probabilities of the classes of each task, shape (m, classes).

    Raises:
        Diverged: If its training did.
        SIGTERMException: If the process was asked to end.
    """
    state = int(np.random.SeedSequence(list(seed)).generate_state(1)[0])
    seed_everything(state, verbose=False)
    data.fold, data.seed = fold, state
    model = build(task_sizes)
    watch = DivergenceWatch(where := "net")
    with warnings.catch_warnings():
        # Few workers and no logger are meant.
        warnings.simplefilter("ignore")
        # Nets are not shared by the ranks of torchrun or SLURM: each has its own.
        try:
            runner = Trainer(
                **trainer, callbacks=[*model.averaging(), watch], plugins=[LightningEnvironment()],
                use_distributed_sampler=False, limit_val_batches=0, logger=False,
                enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            )  # fmt: skip
        except (ValueError, TypeError, MisconfigurationException) as error:
            raise UserError(f"nets.trainer: {explain(error)}") from error
        threads = torch.get_num_threads()
        if runner.strategy.root_device.type == "cpu":
            torch.set_num_threads(1)  # sums depend on it, and processes have more or fewer
        try:
            with watch.explaining(runner):
                runner.fit(model, datamodule=data)
            logits: Any = runner.predict(model, datamodule=data)
        except SIGTERMException:
            raise
        except SystemExit:  # Lightning's way out of an interrupt
            raise KeyboardInterrupt from None
        finally:
            torch.set_num_threads(threads)
    if runner.received_sigterm:  # which a prediction does not look at
        raise SIGTERMException
    answers = [torch.cat(task).float().softmax(1) for task in zip(*logits, strict=True)]
    refuse_loss(where, float(sum(answer.sum() for answer in answers)), runner)
    return [answer.cpu().numpy() for answer in answers]
