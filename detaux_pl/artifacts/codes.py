"""Codes: what a disentangler says of every sample."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.errors import ArtifactError
from detaux_pl.artifacts.files import naming, read_kind, write_json
from detaux_pl.artifacts.space import create_array, is_full, require_space

LABELLED = ("train", "val", "test")
"""Splits of samples whose principal factor is known."""
UNLABELLED = "unlabelled"
"""The split of samples whose principal factor is -1: material for clusters, and nothing else."""
SPLITS = (*LABELLED, UNLABELLED)
_ARRAYS = ("codes", "ids", "splits", "factors")


class _Info(TypedDict):
    """The content of `codes.json`."""

    name: NotRequired[str]
    others: NotRequired[list[str]]
    factor_names: list[str]
    factor_sizes: list[int]
    principal: str
    principal_subspace: int | None
    n_samples: int
    value_names: NotRequired[dict[str, list[str]]]


@dataclass(frozen=True)
class FactorInfo:
    """What the columns of a factor table mean.

    Args:
        names: Name of each factor, F of them.
        sizes: Number of values of each factor; values run from 0 to size - 1.
        principal: The factor that the user has labels for.
        principal_subspace: Index of the subspace that the disentangler keeps for it; None where
            it keeps none.
        value_names: What the values of a factor are called, where they have names.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    principal: str
    principal_subspace: int | None = 0
    value_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def names_of(self, factor: str) -> tuple[str, ...]:
        """Return the names of the values of a factor, or their numbers."""
        numbers = range(self.sizes[self.names.index(factor)])
        return self.value_names.get(factor) or tuple(map(str, numbers))


@dataclass(frozen=True)
class Codes:
    """K subspaces of D dimensions for each of N samples, in the order of their ids.

    Args:
        values: Codes, float32, shape (N, K, D).
        ids: Unique sample ids, int64 or unicode, shape (N,), ascending.
        splits: Index into `SPLITS` of each sample, int8, shape (N,).
        factors: Integer factors, int64, shape (N, F); -1 where one is unknown, as the principal one
            of the split `unlabelled` is.
        info: Names and sizes of the factors.
        name: What the values are called, such as `z`.
        others: Names of the other arrays that a folder holds of the same samples, such as `r`.
    """

    values: NDArray[np.float32]
    ids: NDArray[np.int64] | NDArray[np.str_]
    splits: NDArray[np.int8]
    factors: NDArray[np.int64]
    info: FactorInfo
    name: str = "code"
    others: tuple[str, ...] = ()

    def factor(self, name: str) -> NDArray[np.int64]:
        """Return the values of one factor, shape (N,)."""
        return self.factors[:, self.info.names.index(name)]

    def rows(self, split: str) -> NDArray[np.int64]:
        """Return the rows of one split, ascending."""
        return np.flatnonzero(self.splits == SPLITS.index(split))

    def share_by_split(self, chosen: NDArray[np.bool_]) -> dict[str, float]:
        """Return which share of each split was chosen, of splits that have a sample.

        Args:
            chosen: Whether each sample was, shape (N,).
        """
        rows = {split: self.rows(split) for split in SPLITS}
        return {split: float(chosen[own].mean()) for split, own in rows.items() if own.size}

    @staticmethod
    def load(folder: Path | str, name: str | None = None) -> Codes:
        """Join the shards `rank*/` of a folder by sample id.

        Values, splits and factors of a single shard in order, as one process writes them, stay on
        disk, memory-mapped and read-only; others are copied to memory, once.

        Args:
            folder: Folder of the codes.
            name: Which array of the samples to load; None for the codes themselves.

        Raises:
            ArtifactError: If there is no shard, no array of this name, a shard lacks an array or
                holds a damaged one, an id occurs twice, samples are missing, or the shards do not
                fit together.
        """
        folder = Path(folder)
        shards = sorted(folder.glob("rank*"))
        if not shards:
            raise ArtifactError(f"{folder} holds no codes: run `detaux disentangle predict` first.")
        meta = read_codes_info(folder)
        names = (meta.get("name", "code"), *meta.get("others", ()))
        name = names[0] if name is None else name
        if name not in names:
            raise ArtifactError(f"{folder} holds no {name!r}: it holds {', '.join(names)}.")
        values = "codes" if name == names[0] else name
        parts: dict[str, list[NDArray[np.generic]]] = {k: [] for k in (values, *_ARRAYS[1:])}
        for shard in shards:
            for array in parts:
                path = shard / f"{array}.npy"
                if not path.is_file():
                    raise ArtifactError(f"{path} is missing: predict the codes again.")
                try:
                    parts[array].append(np.load(path, mmap_mode="r", allow_pickle=False))
                except (OSError, ValueError, EOFError) as error:
                    raise ArtifactError(
                        f"{path} cannot be read ({error}): predict the codes again."
                    ) from None
                _check_array(path, array, parts[array][-1], len(meta["factor_names"]))
        ids = np.concatenate(parts["ids"])
        order = np.argsort(ids, kind="stable")
        ids = ids[order]
        repeated = np.flatnonzero(ids[1:] == ids[:-1])
        if repeated.size:
            raise ArtifactError(
                f"{folder} holds sample id {ids[repeated[0]]} more than once "
                f"({repeated.size} repeats): predict the codes again."
            )
        info = FactorInfo(
            names=tuple(meta["factor_names"]),
            sizes=tuple(meta["factor_sizes"]),
            principal=meta["principal"],
            principal_subspace=meta["principal_subspace"],
            value_names={k: tuple(own) for k, own in meta.get("value_names", {}).items()},
        )
        for array, loaded in parts.items():
            n = sum(map(len, loaded))
            if n != meta["n_samples"]:
                raise ArtifactError(
                    f"{folder} holds the {array} of {n} of {meta['n_samples']} samples: "
                    "predict the codes again."
                )
        splits, factors = (_in_order(parts[array], order) for array in ("splits", "factors"))
        _check_splits(folder, splits, factors, info)
        shapes = [codes.shape for codes in parts[values]]
        if shapes != [(len(own), *shapes[0][1:]) for own in parts["ids"]]:
            raise ArtifactError(
                f"{folder} holds shards of different {values}, or of {values} and ids that do not "
                "match: predict the codes again."
            )
        return Codes(
            values=_in_order(parts[values], order),  # type: ignore[arg-type]
            ids=ids,
            splits=splits,  # type: ignore[arg-type]
            factors=factors,  # type: ignore[arg-type]
            info=info,
            name=name,
            others=tuple(other for other in names if other != name),
        )

    def save(self, folder: Path | str) -> None:
        """Write the codes as one shard, without the other arrays."""
        shard = CodesShard(folder, 0, len(self.ids), {self.name: self.values.shape[1:]})
        shard.append({self.name: self.values}, self.ids, self.splits, self.factors)
        shard.close()
        write_codes_info(folder, self.info, len(self.ids), [self.name])


class CodesShard:
    """The part of the codes that one rank writes, a batch at a time, to memory-mapped files.

    Args:
        folder: Folder of the codes.
        rank: Rank of this process; names the shard.
        n: Number of samples that this rank will write.
        shapes: Subspaces and dimensions, (K, D), of each array by name. The first one is the
            codes; the others are written beside them to files of their names.

    Raises:
        ValueError: If there is no array, or the name of another one cannot be its file's.
    """

    def __init__(
        self, folder: Path | str, rank: int, n: int, shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        if not shapes:
            raise ValueError("shapes is empty: give the shape of the codes, and of other arrays.")
        for name in list(shapes)[1:]:
            if name in _ARRAYS or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
                raise ValueError(
                    f"an array beside the codes is called {name!r}: take letters, digits, _ and "
                    f"-, and none of {', '.join(_ARRAYS)}."
                )
        self.folder = Path(folder) / f"rank{rank}"
        self.folder.mkdir(parents=True, exist_ok=True)
        # The ids of an earlier shard would vouch for codes that are not written yet.
        for path in self.folder.glob("*.npy"):
            path.unlink()
        self.n = n
        n_bytes = sum(4 * n * prod(shape) for shape in shapes.values())
        remedy = "give another --run_dir"
        require_space(self.folder, n_bytes, f"the codes of {n:,} images", remedy)
        with self._or_nothing():
            self._values = {
                name: create_array(
                    self.folder / f"{name if index else 'codes'}.npy", np.float32, (n, *shape)
                )
                for index, (name, shape) in enumerate(shapes.items())
            }
        self._rest: list[tuple[NDArray[np.generic], ...]] = []
        self._filled = 0

    def append(
        self,
        values: Mapping[str, NDArray[np.float32]],
        ids: NDArray[np.generic],
        splits: NDArray[np.int8],
        factors: NDArray[np.int64],
    ) -> None:
        """Add every array of a batch, shape (n, K, D), with what belongs to each sample."""
        end = self._filled + len(ids)
        for name, written in self._values.items():
            written[self._filled : end] = values[name]
        self._filled = end
        self._rest.append((ids, splits, factors))

    def close(self) -> None:
        """Write what is pending.

        Raises:
            ArtifactError: If fewer samples came than were announced.
        """
        if self._filled != self.n:
            raise ArtifactError(f"{self.folder} got {self._filled} of {self.n} samples.")
        with self._or_nothing():
            for written in self._values.values():
                written.flush()
            for name, arrays in zip(_ARRAYS[1:], zip(*self._rest, strict=True), strict=True):
                path = self.folder / f"{name}.npy"
                with naming(path):
                    np.save(path, np.concatenate(arrays), allow_pickle=False)

    @contextmanager
    def _or_nothing(self) -> Iterator[None]:
        """Remove the shard where the disk is full."""
        try:
            with naming(self.folder / "codes.npy"):
                yield
        except OSError as error:
            if is_full(error):
                shutil.rmtree(self.folder, ignore_errors=True)
            raise


def write_codes_info(
    folder: Path | str, info: FactorInfo, n_samples: int, names: Sequence[str] = ("code",)
) -> None:
    """Write what all shards of a folder share.

    Args:
        folder: Folder of the codes.
        info: Names and sizes of the factors.
        n_samples: Number of samples of all ranks together.
        names: What the codes are called, then the names of the other arrays.
    """
    named = {"value_names": {name: list(own) for name, own in info.value_names.items()}}
    write_json(
        Path(folder) / "codes.json",
        {
            "name": names[0],
            "others": list(names[1:]),
            "factor_names": list(info.names),
            "factor_sizes": list(info.sizes),
            "principal": info.principal,
            "principal_subspace": info.principal_subspace,
            "n_samples": n_samples,
            **(named if info.value_names else {}),
        },
    )


def read_codes_info(folder: Path) -> _Info:
    """Read what all shards of a folder share.

    Raises:
        ArtifactError: If it is missing or damaged.
    """
    path, remedy = folder / "codes.json", "predict the codes again"
    info = read_kind(path, _Info, remedy)
    names, sizes = info["factor_names"], info["factor_sizes"]
    if len(names) != len(sizes) or info["principal"] not in names:
        raise ArtifactError(
            f"{path} is damaged, it gives {len(sizes)} sizes of the factors {', '.join(names)} "
            f"and calls {info['principal']!r} the principal one: {remedy}."
        )
    return info


_SHAPES = {"ids": ("iU", 1), "splits": ("i", 1), "factors": ("iufb", 2)}
"""Kinds of numbers, and dimensions, of what belongs to the samples."""


def _check_array(path: Path, name: str, array: NDArray[np.generic], n_factors: int) -> None:
    """Refuse an array that is readable and of other things."""
    kinds, n_dims = _SHAPES.get(name, ("f", 3))
    if (
        array.dtype.kind not in kinds
        or array.ndim != n_dims
        or (name == "factors" and array.shape[1] != n_factors)
    ):
        what = f"{array.dtype} of shape {array.shape}"
        raise ArtifactError(f"{path} holds no {name}, but {what}: predict the codes again.")


def _check_splits(
    folder: Path, splits: NDArray[Any], factors: NDArray[Any], info: FactorInfo
) -> None:
    """Refuse splits that there are not, and samples without the label that theirs are to have."""
    if not np.isin(splits, range(len(SPLITS))).all():
        raise ArtifactError(
            f"{folder} holds splits beyond {', '.join(SPLITS)}: predict the codes again."
        )
    labels = factors[:, info.names.index(info.principal)]
    lacking = np.count_nonzero((labels < 0) & (splits != SPLITS.index(UNLABELLED)))
    if lacking:
        raise ArtifactError(
            f"{folder} holds {lacking} samples of {', '.join(LABELLED)} without a value of "
            f"{info.principal!r}: these are of the split {SPLITS.index(UNLABELLED)}, {UNLABELLED}; "
            "predict the codes again."
        )


def _in_order(parts: list[NDArray[np.generic]], order: NDArray[np.int64]) -> NDArray[np.generic]:
    """Put the rows of all parts in an order; a single part in order is given as it is."""
    if len(parts) == 1 and (order[1:] > order[:-1]).all():
        return parts[0]
    place = np.argsort(order)
    values = np.empty((len(order), *parts[0].shape[1:]), dtype=parts[0].dtype)
    start = 0
    for part in parts:
        values[place[start : start + len(part)]] = part
        start += len(part)
    return values
