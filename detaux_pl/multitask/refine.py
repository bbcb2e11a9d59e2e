"""Auxiliary labels that a net can see in the images, in place of those that a clusterer found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.errors import DiscoveryError
from detaux_pl.artifacts.labels import IGNORED, AuxiliaryLabels
from detaux_pl.metrics.agreement import agreement
from detaux_pl.multitask.cross_fit import CrossFit


def refine_labels(
    fit: CrossFit,
    tasks: Sequence[AuxiliaryLabels],
    ids: NDArray[np.int64] | NDArray[np.str_],
) -> list[AuxiliaryLabels]:
    """Take for labels what nets say that were not told of them.

    A training sample gets the class that the net of the last round says which was trained without
    its fold; a validation or test sample the one that the mean of all these nets says. Every
    sample has a label then, those too that the clusterer called noise. Classes that no training
    sample is given vanish; the others are numbered anew by falling size.

    Args:
        fit: The cross-fit of all tasks, its nets trained.
        tasks: The labels that it began with.
        ids: Sample ids of the rows of the data set, shape (N,).

    Returns:
        Labels of each task. `strength` is the probability of the class, `is_noise` still says
        what the clusterer did, and `meta["refinement"]` holds, of each round, `agreement` (AMI of
        the training labels with those of the round before, noise left out), `moved` (share of them
        that changed their class), `labelled` (share that had none before) and
        `vanished` (classes without a training sample).

    Raises:
        DiscoveryError: If a task has one class left.
    """
    history = [fit.out_of_fold(r) for r in range(fit.rounds)]
    order = np.argsort(ids, kind="stable")
    refined = []
    for number, task in enumerate(tasks, start=1):
        before = fit.targets[fit.train, number]
        rounds = []
        for said in history:
            after = said[number][fit.train].argmax(axis=1)
            rounds.append(_change(before, after, fit.task_sizes[number]))
            before = after
        probabilities = history[-1][number]
        sizes = np.bincount(before, minlength=fit.task_sizes[number])
        by_size = np.argsort(-sizes, kind="stable")
        kept = by_size[sizes[by_size] > 0]
        if len(kept) < 2:
            raise DiscoveryError(
                f"refinement left {len(kept)} of {len(sizes)} classes of task {number}: nets "
                "cannot tell them of images they never saw. Train them longer (nets.epochs), take "
                "another task, or do without (refine.rounds: 0)."
            )
        # Only classes that the training samples have can be told apart.
        labels = probabilities[:, kept].argmax(axis=1)
        strength = probabilities[np.arange(len(labels)), kept[labels]]
        place = np.searchsorted(ids[order], task.ids)
        rows = order[place]
        meta: dict[str, Any] = {
            **task.meta,
            "n_clusters": len(kept),
            "cluster_sizes": sizes[kept].tolist(),
            "noise_class": None,
            "refinement": {
                "folds": fit.n_folds,
                "rounds": rounds,
                "n_classes_before": fit.task_sizes[number],
                "class_before": kept.tolist(),
            },
        }
        refined.append(
            replace(
                task,
                labels=labels[rows].astype(np.int64),
                strength=strength[rows].astype(np.float32),
                n_classes=len(kept),
                meta=meta,
            )
        )
    return refined


def _change(before: NDArray[np.int64], after: NDArray[np.int64], n_classes: int) -> dict[str, Any]:
    known = before != IGNORED
    return {
        "agreement": agreement(before[known], after[known])["ami"],
        "moved": float((before[known] != after[known]).mean()),
        "labelled": float(1 - known.mean()),
        "vanished": np.setdiff1d(np.arange(n_classes), after).tolist(),
    }
