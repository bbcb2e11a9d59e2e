"""Groups of images that are better erased than kept: how they are looked for, and what is found."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detaux_pl.cluster.base import Clusterer
from detaux_pl.cluster.candidates import name_clusterers
from detaux_pl.cluster.ward import Ward

Labels = NDArray[np.int64]


class Erasing:
    """How it is chosen which groups of images are erased from their features, if any.

    What the classifier predicts of all training images is erased from their features, the rest is
    clustered, and the clusters are erased from the features in their turn: what remains tells the
    classes more clearly where the clusters have nothing to do with them, and less clearly where
    they have. Which it is, labelled images held out say: everything that sees a label (classifier,
    predictions, erasures, clusters) is made anew without a fold, and told by the log-likelihood
    of the fold. No label of validation and test images is read.

    Candidates are the clusters of each clusterer, and those of `together` neighbours in the list at
    once, whose erasures are averaged: what all of them find is erased in full, what one finds in
    part. The best one is that of the highest gain; one of several clusterers is preferred where
    the two cannot be told apart by one standard error. It is erased if its gain is more than
    `margin` standard errors above nothing on the folds of the choice, and still above nothing
    together with what folds say that the choice has not seen. A gain is one of log-likelihood, of
    probabilities with 2 % of an even guess.

    Args:
        clusterers: What groups the images; those next to each other in the list are alike.
        together: Number of neighbours that are erased at once; 1 for none.
        pca: Principal components of the features to work in, at most.
        axes: Principal components to cluster, at most, of what is left of them.
        shrinkage: Of the covariance in the erasures, see `fit_erasure`.
        folds: Number of folds of the labelled images.
        repeats: Number of times that they are dealt anew for the choice.
        confirmations: Number of times that they are dealt anew for the best candidate alone.
        margin: Standard errors that its gain must be above 0.
        halves: Number of random halves of the images that are clustered anew, for the stability.
        seed: Of folds and halves.

    Raises:
        ValueError: If a number is outside its range, or there is no clusterer.

    Example:
        >>> from detaux_pl.cluster.kmeans import KMeans
        >>> erasing = Erasing([KMeans(2), KMeans(4), KMeans(8), KMeans(16)])
        >>> [name for name, _ in erasing.members][-2:]
        ['KMeans 2 + KMeans 4 + KMeans 8', 'KMeans 4 + KMeans 8 + KMeans 16']

    References:
        Belrose et al. 2023, "LEACE: Perfect linear concept erasure in closed form": the erasure.
        Romera-Paredes et al. 2012, "Exploiting Unrelated Tasks in Multi-Task Learning": that tasks
        unlike the principal one help by what they are orthogonal to.
    """

    def __init__(
        self,
        clusterers: list[Clusterer] | None = None,
        together: int = 3,
        pca: int = 200,
        axes: int = 50,
        shrinkage: float = 0.1,
        folds: int = 5,
        repeats: int = 2,
        confirmations: int = 1,
        margin: float = 1.0,
        halves: int = 5,
        seed: int = 0,
    ) -> None:
        if clusterers is None:
            clusterers = [Ward(n_clusters) for n_clusters in (4, 8, 16, 24, 32)]
        if not clusterers:
            raise ValueError("there is no clusterer: give at least one.")
        if min(together, pca, axes, repeats, confirmations, halves) < 1:
            raise ValueError(
                f"together is {together}, pca {pca}, axes {axes}, repeats {repeats}, "
                f"confirmations {confirmations} and halves {halves}: give at least 1 of each."
            )
        if folds < 2:
            raise ValueError(f"folds is {folds}: give at least 2.")
        if not (shrinkage >= 0 and margin >= 0):
            raise ValueError(f"shrinkage is {shrinkage} and margin {margin}: give numbers from 0.")
        self.clusterers = clusterers
        self.together = together
        self.pca = pca
        self.axes = axes
        self.shrinkage = shrinkage
        self.folds = folds
        self.repeats = repeats
        self.confirmations = confirmations
        self.margin = margin
        self.halves = halves
        self.seed = seed

    @property
    def n_fits(self) -> int:
        """How often labelled images are held out, for a progress bar."""
        return self.folds * (self.repeats + self.confirmations)

    @property
    def members(self) -> list[tuple[str, tuple[int, ...]]]:
        """Each candidate by its name and the clusterers that it is of."""
        names = name_clusterers([clusterer.settings for clusterer in self.clusterers])
        windows: list[tuple[int, ...]] = [(k,) for k in range(len(names))]
        if 1 < self.together <= len(names):
            windows += [
                tuple(range(k, k + self.together)) for k in range(len(names) - self.together + 1)
            ]
        return [(" + ".join(names[k] for k in window), window) for window in windows]


@dataclass
class ErasureCandidate:
    """Groupings that may be erased, with what is known of them.

    Args:
        name: Of their clusterers.
        clusterers: Settings of these.
        n_clusters: Number of clusters of each.
        gain: What erasing them adds to the log-likelihood of a labelled image held out [nats].
        error: Its standard error, over images.
        accuracy: Share of the images held out that the classifier tells rightly afterwards.
        ami_principal: Largest AMI of one of them with the given labels; 0 where independent.
        stability: Mean AMI with what the clusterers find in random halves of the images.
        refused: Why it is not chosen, in words; None where it is.
    """

    name: str
    clusterers: list[dict[str, Any]]
    n_clusters: list[int] = field(default_factory=list)
    gain: float = 0.0
    error: float = 0.0
    accuracy: float = 0.0
    ami_principal: float = 0.0
    stability: float | None = None
    refused: str | None = None


class Choice(NamedTuple):
    """What is to be erased.

    Args:
        groups: Label of every row in each grouping to erase, or `IGNORED`, int64, shape (n, m); m
            is 0 where nothing is.
        proposed: The same of the best candidate, whether it is erased or not.
        of: Which of the clusterers the best candidate is of.
        candidates: All candidates, by falling gain.
        verdict: See `choose_erasure`.
    """

    groups: Labels
    proposed: Labels
    of: tuple[int, ...]
    candidates: list[ErasureCandidate]
    verdict: dict[str, Any]

    def record(self) -> dict[str, Any]:
        """All but the labels, as JSON can hold it."""
        return {"verdict": self.verdict, "candidates": [asdict(c) for c in self.candidates]}
