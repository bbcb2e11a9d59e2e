"""The last layer anew, from as many held-out images of each cell."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.labels import IGNORED
from detaux_pl.metrics.worst_cell import worst_accuracy
from detaux_pl.models.linear_probe import STRENGTHS, LinearProbe, fit_linear_probe
from detaux_pl.multitask.refitted import Refitted


class LastLayerRetraining(Refitted):
    """One backbone and one head, whose last layer is fitted anew to balanced validation images.

    After the training, with the weights of its best epoch, the last layer becomes the mean of
    several logistic regressions on what comes before it, see `fit_balanced`. Validation images
    without a group, and cells without a validation image, do not count.

    Args:
        retrainings: Number of regressions, each on other images of the larger cells; >= 1.
            Official code: 20.

    Raises:
        ValueError: If `retrainings` is not positive, there is no auxiliary task, there is no such
            backbone, or the images are too small for it.

    Example:
        >>> model = LastLayerRetraining((3, 16, 16), task_sizes=(10, 4), backbone="small_convnet")
        >>> [tuple(logits.shape) for logits in model(torch.zeros(2, 3, 16, 16))]  # class, group
        [(2, 10), (2, 4)]

    References:
        Kirichenko, Izmailov, Wilson 2023, "Last layer re-training is sufficient for robustness to
        spurious correlations", arXiv 2204.02937 (DFR). Differs from it in: L2 for L1, and one
        scale for all features.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        task_sizes: tuple[int, ...],
        backbone: str = "resnet18",
        pretrained: bool = False,
        retrainings: int = 20,
        **kwargs: Any,
    ) -> None:
        if retrainings < 1:
            raise ValueError(f"retrainings is {retrainings}: give at least 1.")
        super().__init__(image_shape, task_sizes, backbone, pretrained, **kwargs)
        self.retrainings = retrainings

    def check_groups(self, cells: Tensor) -> None:
        """Check that the last layer can be fitted.

        Raises:
            UserError: If a class has no validation image with a group.
        """
        super().check_groups(cells)
        per_class = self.n_cells // self.sizes[0]
        there = torch.unique(cells[cells != IGNORED] // per_class)
        missing = set(range(self.sizes[0])) - set(there.tolist())
        if missing:
            raise UserError(
                f"class {min(missing)} has no validation image with a group, and "
                f"LastLayerRetraining fits its last layer to such ({len(missing)} of "
                f"{self.sizes[0]} classes have none): give more validation images, or cluster with "
                "noise: nearest."
            )

    def fit_to(self, features: Tensor, labels: Tensor, cells: Tensor) -> None:
        """Fit the last layer."""
        *before, last = self.heads[0].children()
        assert isinstance(last, nn.Linear)
        hidden = nn.Sequential(*before)(features).double().cpu().numpy()
        known = (cells != IGNORED).cpu().numpy()
        probe = fit_balanced(
            hidden[known],
            labels.cpu().numpy()[known],
            cells.cpu().numpy()[known],
            self.sizes[0],
            self.retrainings,
        )
        last.weight.copy_(torch.from_numpy(probe.weight))
        last.bias.copy_(torch.from_numpy(probe.bias))


def fit_balanced(
    features: NDArray[np.floating],
    labels: NDArray[np.int64],
    cells: NDArray[np.int64],
    n_classes: int,
    retrainings: int = 20,
    seed: int = 0,
) -> LinearProbe:
    """Average logistic regressions on subsets that hold as many rows of each cell.

    A subset has of each cell as many rows as the smallest cell, drawn at random. The strength of
    the L2 penalty is the one that does best in the worst cell of one half of the rows, see
    `worst_accuracy`, after a fit to a subset of the other half; of equals the strongest penalty.

    Args:
        features: Shape (n, d).
        labels: Class of each row, shape (n,).
        cells: Cell of each row, shape (n,).
        n_classes: Number of classes.
        retrainings: Number of regressions.
        seed: Of what is drawn.

    Returns:
        Their mean, for features as given.

    Example:
        >>> labels = np.repeat([0, 1], 100)
        >>> cells = 2 * labels + (np.arange(200) % 10 < labels * 8 + 1)
        >>> features = np.stack([2 * labels, 3 * (cells % 2)], axis=1)
        >>> features = features + np.random.default_rng(0).normal(size=(200, 2))
        >>> weight = fit_balanced(features, labels, cells, n_classes=2).weight[1]
        >>> bool(weight[0] > 3 * abs(weight[1]))  # the group is of no use
        True
    """
    rng = np.random.default_rng([seed, 3])
    half = np.zeros(len(labels), dtype=bool)
    for cell in np.unique(cells):
        rows = rng.permutation(np.flatnonzero(cells == cell))
        half[rows[: (len(rows) + 1) // 2]] = True  # one of a lone row's cell is fitted to

    def fit(rows: NDArray[np.int64], strength: float) -> LinearProbe:
        drawn = rows[_balanced(cells[rows], rng)]
        return fit_linear_probe(features[drawn], labels[drawn], n_classes, strengths=[strength])

    own, held = np.flatnonzero(half), np.flatnonzero(~half)
    strength = STRENGTHS[len(STRENGTHS) // 2]
    if held.size:
        total = np.bincount(cells[held])
        scores = []
        for each in STRENGTHS:
            right = fit(own, each).logits(features[held]).argmax(axis=1) == labels[held]
            counts = np.bincount(cells[held], right, minlength=len(total))
            scores.append(float(worst_accuracy(counts, total)))
        strength = STRENGTHS[int(np.argmax(scores))]
    fits = [fit(np.arange(len(labels)), strength) for _ in range(retrainings)]
    return LinearProbe(
        np.mean([probe.weight for probe in fits], axis=0),
        np.mean([probe.bias for probe in fits], axis=0),
    )


def _balanced(cells: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw as many rows of each cell as the smallest has."""
    order = rng.permutation(len(cells))
    order = order[np.argsort(cells[order], kind="stable")]
    _, first, counts = np.unique(cells[order], return_index=True, return_counts=True)
    return np.concatenate([order[start : start + counts.min()] for start in first])
