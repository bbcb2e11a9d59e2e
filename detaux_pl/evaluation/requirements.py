"""What is asked of a disentangled representation, as numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment


def requirements(
    entry: Mapping[str, Any],
    chance: Mapping[str, float],
    reference: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Measure how far the slices of a representation are from one task each.

    With C_t(x) the accuracy of a linear probe of x for task t, and pi(t) the slice that is given
    to task t, each slice to one task at most, so that `sum_t C_t(x_pi(t))` is largest:
    `R1 = mean_t mean_{k != pi(t)} C_t(x_k) - chance_t`, 0 where the other slices know nothing;
    `R2 = mean_t C_t(x) - C_t(x_pi(t))`, 0 or less where the slice knows all that the whole does;
    `R3 = mean_t C_t(reference) - C_t(x)`, 0 where the whole knows what the reference does.

    Args:
        entry: Accuracies in [0, 1] of `full`, by task, and of each of the `slices`, by task: one
            of the inputs of `probe_codes`.
        chance: Accuracy of each task without an input.
        reference: The same of a representation without regulariser; None for no R3.

    Returns:
        `gaps`, by task the accuracy of the best slice minus the second best; `assignment`, by
        task its slice; `diagonal`, whether each task's slice is strictly better at it than all
        others; `R1`, `R2` and `R3`. What is not defined is None: gaps and R1 with one slice,
        assignment, R1 and R2 with more tasks than slices, the diagonal there and with one task,
        R3 without a reference.

    References:
        Burns et al., "Unsupervised Disentanglement without Autoencoding", section 3.3, asks for
        the three in words; these measures of them are ours.
    """
    tasks = list(entry["full"])
    full = np.array([entry["full"][task] for task in tasks])
    # t = tasks, k = slices
    slices = np.array([[part[task] for part in entry["slices"]] for task in tasks])
    ranked = np.sort(slices, axis=1)
    several = slices.shape[1] > 1
    result: dict[str, Any] = {
        "gaps": {
            task: float(own[-1] - own[-2]) if several else None
            for task, own in zip(tasks, ranked, strict=True)
        },
        **dict.fromkeys(("diagonal", "assignment", "R1", "R2", "R3")),
    }
    if len(tasks) <= slices.shape[1]:
        given = linear_sum_assignment(slices, maximize=True)[1]
        own = slices[np.arange(len(tasks)), given]
        result["assignment"] = {task: int(k) for task, k in zip(tasks, given, strict=True)}
        result["R2"] = float((full - own).mean())
        if several:
            others = (slices.sum(axis=1) - own) / (slices.shape[1] - 1)
            result["R1"] = float((others - [chance[task] for task in tasks]).mean())
        if len(tasks) > 1:
            rivals = slices.copy()
            rivals[np.arange(len(tasks)), given] = -np.inf
            result["diagonal"] = bool((own > rivals.max(axis=1)).all())
    if reference is not None:
        known = np.array([reference["full"][task] for task in tasks])
        result["R3"] = float((known - full).mean())
    return result
