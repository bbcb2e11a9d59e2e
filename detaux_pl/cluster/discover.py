"""From codes to auxiliary tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.codes import SPLITS, UNLABELLED, Codes
from detaux_pl.artifacts.errors import DiscoveryError, UserError
from detaux_pl.artifacts.labels import IGNORED, AuxiliaryLabels
from detaux_pl.cluster.agreement import UNLIKE, agreement
from detaux_pl.cluster.base import NOISE, Clusterer
from detaux_pl.cluster.further import erase_task
from detaux_pl.cluster.hdbscan import HDBSCAN
from detaux_pl.cluster.points import Points, blocks
from detaux_pl.cluster.subspace import Rule, SubspaceScore, rank_subspaces, score_subspaces

FITTED = [SPLITS.index(split) for split in ("train", UNLABELLED)]


class _Into(NamedTuple):
    """Where clusters of all samples are written to, their strength, and who is told of it."""

    clusters: NDArray[np.int64]
    strength: NDArray[np.float64]
    progress: Callable[[float], object]


class Discovery:
    """Finds auxiliary tasks in the codes: each one subspace, clustered.

    The clusterer is fitted on training samples, with a label or unlabelled, all of them or, where
    they are more than it says (`most`), a random sample, and predicts all others, a block at a
    time; scores and sizes are those of the labelled ones. A cluster without any of these is
    noise: no model could learn it. Clusters are numbered by falling size in the train split, ties
    by the first sample id, so that equal codes give equal labels.

    Args:
        clusterer: What groups the codes of the subspace.
        rule: How the subspace is chosen: `ratio` takes the one that moves most purely on its
            own; `min_l_dist` is the paper's rule and `abs_dot` the official code's, and both
            choose dead subspaces.
        subspace: The subspace to cluster, or one for each task; null to choose by the rule.
        try_next: Go on to the next best subspace where one gives no task. Paper: stop.
        n_tasks: Number of tasks. Paper: 1.
        further: Where those beyond the first are looked for: in the next best `subspaces` in the
            order of the rule; or, with `erase`, one after the other in codes from which those that
            were found are erased, see `erase_task`. A subspace may then give several, and one that
            is given alone gives all; what is like one before (AMI above 0.5) is no task.
        noise: What becomes of samples in no cluster, in all splits alike: `own_class` makes them
            class 0 (paper), `drop` leaves them out of the auxiliary loss, `nearest` gives them
            to the cluster of the nearest training sample that is in one.
        fit_on: Number of training samples, unlabelled ones included, to fit on, drawn at random;
            null for all, or as many as the clusterer fits in fair time: 20,000 of HDBSCAN, 50,000
            of Ward, 100,000 of others, in scope `within_class` of each class. Paper: 50,000 on 3D
            Shapes.
        pca: Reduce codes of more dimensions than this to as many principal components of the
            fitted samples; null for never. Official code: 256 for convolutional codes.
        seed: Seed of the pairs that score the subspaces, of `fit_on` and of `pca`.
        scope: `all` clusters all images; `within_class` each class by itself, in the principal
            subspace unless `subspace` names another: groups that split classes (GEORGE). Labels of
            validation and test images say which class an image is of; unlabelled ones are noise.

    Raises:
        ValueError: If a number is outside its range, or there is not one subspace for each task.

    Example:
        >>> from detaux_pl.artifacts.codes import FactorInfo
        >>> label, hidden = np.tile([0, 1], 40), np.repeat([0, 1], 40)
        >>> values = np.stack([label, 5 * hidden], axis=1) + np.linspace(0, 0.1, 80)[:, None]
        >>> info = FactorInfo(("label",), (2,), "label", principal_subspace=0)
        >>> arrays = values[..., None].astype(np.float32), np.arange(80), np.zeros(80, np.int8)
        >>> codes = Codes(*arrays, factors=label[:, None], info=info)
        >>> (task,) = Discovery(HDBSCAN(min_cluster_size=10))(codes)
        >>> task.meta["subspace"], np.bincount(task.labels)
        (1, array([40, 40]))

    References:
        Skenderi et al., Detaux, section 4. Sohoni et al. 2020, GEORGE (2011.12945), section 4:
        clusters within classes, there of UMAP's projections.
    """

    def __init__(
        self,
        # The default holds nothing that outlives a fit; jsonargparse reads its settings here.
        clusterer: Clusterer = HDBSCAN(),  # noqa: B008
        rule: Rule = "ratio",
        subspace: int | list[int] | None = None,
        try_next: bool = False,
        n_tasks: int = 1,
        noise: Literal["own_class", "drop", "nearest"] = "own_class",
        fit_on: int | None = None,
        pca: int | None = None,
        seed: int = 0,
        further: Literal["subspaces", "erase"] = "subspaces",
        scope: Literal["all", "within_class"] = "all",
    ) -> None:
        if scope not in ("all", "within_class"):
            raise ValueError(f"scope is {scope!r}: give all or within_class.")
        if n_tasks < 1:
            raise ValueError(f"n_tasks is {n_tasks}: give at least 1.")
        if further == "erase" and isinstance(subspace, int):
            subspace = [subspace] * n_tasks
        if subspace is not None:
            given = [subspace] if isinstance(subspace, int) else subspace
            if min(given, default=0) < 0:
                raise ValueError(f"subspace is {subspace}: subspaces count from 0; null to choose.")
            again = len(set(given)) < len(given) and further != "erase"
            if len(given) != n_tasks or again:
                raise ValueError(
                    f"subspace is {subspace} and n_tasks is {n_tasks}: give each task a subspace "
                    "of its own, or null to choose."
                )
        if fit_on is not None and fit_on < 2:
            raise ValueError(f"fit_on is {fit_on}: give at least 2 samples, or null for all.")
        if pca is not None and pca < 1:
            raise ValueError(f"pca is {pca}: give at least 1 component, or null for none.")
        self.clusterer = clusterer
        self.rule: Rule = rule
        self.subspace = subspace
        self.try_next = try_next
        self.n_tasks = n_tasks
        self.noise = noise
        self.fit_on = fit_on
        self.pca = pca
        self.seed = seed
        self.further = further
        self.scope = scope

    def __call__(
        self, codes: Codes, progress: Callable[[float], object] = lambda share: None
    ) -> list[AuxiliaryLabels]:
        """Discover the tasks, that of the best subspace first.

        Args:
            codes: The codes.
            progress: Called with shares of the samples of a task as they are labelled.

        Raises:
            DiscoveryError: If fewer subspaces than asked for are candidates with two clusters.
            UserError: If the codes cannot be used: not finite, too few, no such subspace.
        """
        fitted = self.fitted_rows(codes)
        if self.further == "subspaces":
            return self._search(codes, fitted, self.n_tasks, progress)
        tasks = self._search(codes, fitted, 1, progress)
        while len(tasks) < self.n_tasks:
            codes = erase_task(codes, tasks[-1], fitted, self.pca)
            (task,) = self._search(codes, fitted, 1, progress, tasks)
            tasks.append(replace(task, meta={**task.meta, "erased": len(tasks)}))
        return tasks

    def _search(
        self,
        codes: Codes,
        fitted: NDArray[np.int64],
        n_tasks: int,
        progress: Callable[[float], object],
        before: Sequence[AuxiliaryLabels] = (),
    ) -> list[AuxiliaryLabels]:
        """Find tasks, after some that were erased from the codes."""
        scores = score_subspaces(codes, np.random.default_rng([self.seed, 0]))
        tasks: list[AuxiliaryLabels] = []
        failures: list[str] = []
        subspaces = self._subspaces(codes, scores, len(before))
        for subspace in subspaces:
            try:
                task = self.label(codes, subspace, fitted, scores, failures, progress)
                _refuse_like(task, before, codes.rows("train"))
                tasks.append(task)
            except DiscoveryError as failure:
                failures.append(f"subspace {subspace} {failure}")
                if self.try_next:
                    continue
                break
            if len(tasks) == n_tasks:
                return tasks
        if len(subspaces) < n_tasks:
            failures.append(f"only {len(subspaces)} of {len(scores)} subspaces may be chosen")
        fewer = ", lower n_tasks" if self.n_tasks > 1 else ""
        raise DiscoveryError(
            f"{self._tell(len(before) + len(tasks))}: {'; '.join(failures)}. Change the clusterer "
            "(of HDBSCAN lower min_cluster_size or min_samples), take another subspace (subspace, "
            f"rule, try_next){fewer}, or train the disentangler longer."
        )

    def _tell(self, n_found: int) -> str:
        if self.n_tasks == 1:
            return "no auxiliary task was found"
        return f"{n_found} of {self.n_tasks} auxiliary tasks were found"

    def fitted_rows(self, codes: Codes) -> NDArray[np.int64]:
        """Rows that the clusterer is fitted on, ascending: of training and of unlabelled samples.

        Raises:
            UserError: If there is none, or the codes are not finite.
        """
        if codes.rows("train").size == 0:
            raise UserError("the codes hold no training sample: there is nothing to cluster.")
        if not np.isfinite([codes.values.min(), codes.values.max()]).all():
            raise UserError("the codes hold NaN or infinite values: train the disentangler again.")
        known = np.flatnonzero(np.isin(codes.splits, FITTED))
        if self.fit_on is None and self.scope == "within_class":
            labels = codes.factor(codes.info.principal)[known]
            parts = [known[labels == label] for label in np.unique(labels)]
            return np.sort(np.concatenate([self._draw(part) for part in parts]))
        return self._draw(known)

    def _draw(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Draw as many of some rows as are to be fitted, ascending."""
        n = self.clusterer.most if self.fit_on is None else self.fit_on
        if n >= len(rows):
            return rows
        rng = np.random.default_rng([self.seed, 1])
        return np.sort(rng.choice(rows, n, replace=False))

    def given_subspaces(self, n_subspaces: int) -> list[int] | None:
        """The subspaces that were asked for; None where they are to be chosen.

        Raises:
            UserError: If there is no such subspace.
        """
        if self.subspace is None:
            return None
        given = [self.subspace] if isinstance(self.subspace, int) else self.subspace
        if max(given) >= n_subspaces:
            raise UserError(
                f"subspace is {self.subspace}, but the codes have {n_subspaces}: give 0 to "
                f"{n_subspaces - 1}, or null to choose."
            )
        return given

    def label(
        self,
        codes: Codes,
        subspace: int,
        fitted: NDArray[np.int64],
        scores: Sequence[SubspaceScore] = (),
        failures: Sequence[str] = (),
        progress: Callable[[float], object] = lambda share: None,
    ) -> AuxiliaryLabels:
        """Cluster one subspace, and label all samples.

        Args:
            codes: The codes.
            subspace: The subspace.
            fitted: Rows of the samples to fit on, of `fitted_rows`.
            scores: Scores of all subspaces, to be recorded.
            failures: What was tried before, to be recorded.
            progress: Called with shares of the samples as they are labelled.

        Raises:
            DiscoveryError: If there are not two clusters.
        """
        points = Points(codes.values[:, subspace], fitted, self.pca, self.seed)
        clusters, strength = np.full(len(points), NOISE), np.zeros(len(points))
        into = _Into(clusters, strength, progress)
        if self.scope == "all":
            self._cluster(points, fitted, np.arange(len(points)), into)
        else:
            self._cluster_within(points, fitted, codes.factor(codes.info.principal), into)
        strength[_leave_to_noise(clusters, codes)] = 0.0
        clusters = _number_by_size(clusters, codes.rows("train"))
        labels, n_classes = self._apply_noise_policy(clusters, points, fitted)
        return AuxiliaryLabels(
            ids=codes.ids,
            splits=codes.splits,
            labels=labels,
            is_noise=clusters == NOISE,
            strength=strength.astype(np.float32),
            n_classes=n_classes,
            meta=self._describe(codes, scores, subspace, list(failures), clusters, len(fitted)),
        )

    def _subspaces(self, codes: Codes, scores: list[SubspaceScore], n_before: int) -> list[int]:
        """The subspaces to try, in this order."""
        given = self.given_subspaces(len(scores))
        if given is not None:
            return given if self.further == "subspaces" else [given[n_before]]
        principal = codes.info.principal_subspace
        if self.scope == "within_class":
            if principal is None or self.n_tasks > 1:
                raise UserError(
                    "scope: within_class clusters the principal subspace, "
                    f"{'which these codes do not have' if principal is None else 'one task'}: "
                    f"give subspace, {'one' if self.n_tasks == 1 else 'a list of them'}."
                )
            return [principal]
        ranked = rank_subspaces(scores, self.rule, principal)
        if not ranked:
            n_free = len(scores) - (principal is not None)
            found = self._tell(n_before) if n_before else "no auxiliary task was found"
            raise DiscoveryError(
                f"{found}: none of the {n_free} free subspaces moves between samples of the same "
                f"{codes.info.principal}{', once these are erased' if n_before else ''}. Train the "
                "disentangler longer, or set subspace to cluster one all the same."
            )
        n_tried = self.n_tasks if self.further == "subspaces" else 1
        return ranked if self.try_next else ranked[:n_tried]

    def _cluster(
        self, points: Points, fitted: NDArray[np.int64], rows: NDArray[np.int64], into: _Into
    ) -> None:
        """Fit on some rows, predict the others; fail where there are not two clusters."""
        seen = points[fitted]
        # A dead subspace is not one cluster to HDBSCAN: it splits exact duplicates at random.
        if np.ptp(seen, axis=0).max() <= 1e-5 * np.abs(seen).max():
            raise DiscoveryError("is dead: all samples have the same code")
        found, into.strength[fitted] = self.clusterer.fit(seen)
        n_clusters = np.unique(found[found != NOISE]).size
        if n_clusters < 2:
            raise DiscoveryError(
                f"has {n_clusters} cluster(s) and {np.mean(found == NOISE):.0%} noise in "
                f"{len(fitted)} samples"
            )
        into.clusters[fitted] = found
        into.progress(len(fitted) / len(points))
        for part in blocks(np.setdiff1d(rows, fitted, assume_unique=True)):
            into.clusters[part], into.strength[part] = self.clusterer.predict(points[part])
            into.progress(len(part) / len(points))

    def _cluster_within(
        self, points: Points, fitted: NDArray[np.int64], labels: NDArray[np.int64], into: _Into
    ) -> None:
        """Cluster each class by itself; one that falls into no two clusters is one."""
        total, classes = 0, np.unique(labels[fitted][labels[fitted] >= 0])
        for label in classes:
            rows = np.flatnonzero(labels == label)
            try:
                self._cluster(points, rows[np.isin(rows, fitted, assume_unique=True)], rows, into)
            except UserError:  # too few or all alike, to this clusterer
                into.clusters[rows], into.strength[rows] = 0, 1
            found = into.clusters[rows]
            into.clusters[rows] = np.where(found == NOISE, NOISE, found + total)
            total += int(found.max()) + 1
        if total <= len(classes):
            raise DiscoveryError(f"splits none of its {len(classes)} classes")

    def _apply_noise_policy(
        self, clusters: NDArray[np.int64], points: Points, fitted: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], int]:
        """Turn clusters and noise into labels, and count the classes."""
        n_clusters = int(clusters.max()) + 1
        noise = clusters == NOISE
        if not noise.any():
            return clusters, n_clusters
        if self.noise == "own_class":
            return np.where(noise, 0, clusters + 1), n_clusters + 1
        if self.noise == "drop":
            return np.where(noise, IGNORED, clusters), n_clusters
        from sklearn.neighbors import NearestNeighbors  # a second to import, and few need it

        known = fitted[~noise[fitted]]
        nearest = NearestNeighbors(n_neighbors=1).fit(points[known])
        labels = clusters.copy()
        for part in blocks(np.flatnonzero(noise)):
            first = nearest.kneighbors(points[part], return_distance=False)[:, 0]
            labels[part] = clusters[known[first]]
        return labels, n_clusters

    def _describe(
        self,
        codes: Codes,
        scores: Sequence[SubspaceScore],
        subspace: int,
        failures: list[str],
        clusters: NDArray[np.int64],
        n_fitted: int,
    ) -> dict[str, Any]:
        train = clusters[codes.rows("train")]
        noise = clusters == NOISE
        own = self.noise == "own_class" and bool(noise.any())
        return {
            "subspace": subspace,
            "principal_subspace": codes.info.principal_subspace,
            "rule": self.rule if self.subspace is None else None,
            "scores": [asdict(score) for score in scores],
            "failures": failures,
            "clusterer": self.clusterer.settings,
            **({} if self.scope == "all" else {"scope": self.scope}),
            "pca": self.pca,
            "n_fitted": n_fitted,
            "n_clusters": int(clusters.max()) + 1,
            "cluster_sizes": np.bincount(train[train != NOISE]).tolist(),
            "noise": self.noise,
            "noise_class": 0 if own else None,
            "noise_fraction": codes.share_by_split(noise),
            "seed": self.seed,
        }


def _leave_to_noise(clusters: NDArray[np.int64], codes: Codes) -> NDArray[np.bool_]:
    """Make noise of the clusters that have unlabelled samples alone, in place; say where.

    Raises:
        DiscoveryError: If fewer than two are left.
    """
    kept = np.unique(clusters[codes.rows("train")])
    lost: NDArray[np.bool_] = (clusters != NOISE) & ~np.isin(clusters, kept)
    clusters[lost] = NOISE
    if (n_clusters := np.count_nonzero(kept != NOISE)) < 2:
        raise DiscoveryError(f"has {n_clusters} cluster(s) with training samples that have a label")
    return lost


def _number_by_size(clusters: NDArray[np.int64], train: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number clusters from 0 by falling size among the training rows, ties by the first row."""
    found, first, counts = np.unique(clusters[train], return_index=True, return_counts=True)
    inside = found != NOISE
    order = np.lexsort((first[inside], -counts[inside]))
    # The last place is where the index NOISE = -1 leads.
    number = np.full(found.max() + 2, NOISE)
    number[found[inside][order]] = np.arange(order.size)
    return number[clusters]


def _refuse_like(
    task: AuxiliaryLabels, before: Sequence[AuxiliaryLabels], train: NDArray[np.int64]
) -> None:
    """Refuse a task that says the same as one before it, which not only linear traces can tell.

    Raises:
        DiscoveryError: If one does.
    """
    labels, *others = (each.without_noise().labels[train] for each in (task, *before))
    like = max((agreement(labels, other) for other in others), default=0.0)
    if like > UNLIKE:
        raise DiscoveryError(f"is like what was found before (AMI {like:.2f})")
