"""Pairs of scenes: an MNIST digit at one of 8 locations on an STL-10 background."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.datasets import MNIST, STL10
from torchvision.datasets.utils import check_integrity

from detaux_pl.artifacts.codes import LABELLED
from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.cached_pixels import CachedPixels
from detaux_pl.data.factor_dataset import as_rows
from detaux_pl.data.noise import uniform
from detaux_pl.data.pixel_cache import PixelWriter

_DIGIT, _BACKGROUND, _LOCATION = range(3)
_FIXED = {
    "DC-BC": (_DIGIT, _BACKGROUND),
    "DC-DL": (_DIGIT, _LOCATION),
    "BC-DL": (_LOCATION, _BACKGROUND),
}
"""What the two views of a pair share, in the order of the paper's joint label."""
_SIZE, _GLYPH = 64, 28
_CORNERS = tuple(
    (row * 32 + 2, column * (_SIZE - _GLYPH) // 3) for row in range(2) for column in range(4)
)
_STRIDE = 10**9
"""Apart as far lie the ids of two splits."""
_KEYS = 1 << 40
"""Key of the first pair; the noise hashes row numbers, which must not be keys too."""
_BLOCK = 1024
"""Images composed at a time for the cache."""


class MNISTSTL10(CachedPixels):
    """MNIST digits on STL-10 backgrounds, in pairs of views that share two of three factors.

    Rows 2i and 2i + 1 are the two views of a pair. In the factors that the variant names they
    agree, with another instance of the class drawn uniformly, which may coincide; in the third
    they always differ. Instances are drawn uniformly, so classes are as frequent as in MNIST
    and STL-10; locations are uniform. A background is the centre of an STL-10 image; the digit
    is composed by per-pixel maximum of each channel, in 4 columns, which overlap, and 2 rows.

    A pair follows from `(seed, split, index)` by a counter-based hash: another number of pairs,
    of workers or of ranks leaves its pixels as they are. Its first view is the same in all
    variants. The id of view v of pair i is 2i + v, plus 1e9 in val and 2e9 in test.

    An instance belongs to one split. The paper has no validation: val draws from the last 5 % of
    what train would draw from. Scenes are composed on demand from the two data sets, which take
    0.2 GB of memory.

    Args:
        root: Folder that holds `MNIST/raw` and `stl10_binary`, as torchvision lays them out.
        variant: What a pair shares: digit and background (`DC-BC`), digit and location (`DC-DL`)
            or background and location (`BC-DL`).
        principal: `digit`, `background` or `location`.
        split: `notebook` tests on the last 10 % of train and test set taken together, as the
            paper's generator does, `official` on the test sets.
        n_train: Number of training pairs. Paper: 100,000.
        n_val: Number of validation pairs.
        n_test: Number of test pairs. Paper: 10,000.
        seed: Seed of the pairs. Paper: none was set.
        download: Fetch what is missing from `root`: 2.6 GB.
        cached: Compose all scenes once and map them from disk, 12 kB each, 2.9 GB for all, as
            pixels on the accelerator need it. For speed it is seldom worth it: composing takes
            twice as long as reading what is mapped.
        cache_dir: Folder of the cached scenes; None for `detaux_pl` in the user's cache folder.

    Raises:
        ValueError: If an argument is outside its range.

    References:
        Burns et al., "Unsupervised Disentanglement without Autoencoding"
        (docs/methods.md, 'Data and pairs'). Differs from it
        in: RGB without loss, where its JPEGs are lossy with red and blue swapped.
    """

    factor_names = ("digit", "background", "location")
    factor_sizes = (10, 10, len(_CORNERS))
    image_shape = (3, _SIZE, _SIZE)
    value_names = {  # noqa: RUF012  as constant as the names
        "background": (
            *("airplane", "bird", "car", "cat", "deer"),
            *("dog", "horse", "monkey", "ship", "truck"),
        )
    }
    ids: NDArray[np.int64]
    instances: NDArray[np.int64]
    """Number of the digit in MNIST and of the background in STL-10, shape (N, 2); the test set
    is counted on after the train set."""

    def __init__(
        self,
        root: Path | str,
        variant: Literal["DC-BC", "DC-DL", "BC-DL"] = "DC-BC",
        principal: str = "digit",
        split: Literal["notebook", "official"] = "notebook",
        n_train: int = 100_000,
        n_val: int = 10_000,
        n_test: int = 10_000,
        seed: int = 0,
        download: bool = False,
        cached: bool = False,
        cache_dir: Path | str | None = None,
    ) -> None:
        super().__init__(principal, cache_dir)
        if variant not in _FIXED:
            raise ValueError(f"variant is {variant!r}: give {', '.join(_FIXED)}.")
        if split not in ("notebook", "official"):
            raise ValueError(f"split is {split!r}: give notebook or official.")
        for name, count in zip(LABELLED, (n_train, n_val, n_test), strict=True):
            if not 1 <= count <= _STRIDE // 2:
                raise ValueError(f"n_{name} is {count}: give 1 to {_STRIDE // 2} pairs.")
        self.root = Path(root)
        self.variant: Literal["DC-BC", "DC-DL", "BC-DL"] = variant
        self.split = split
        self.counts = (n_train, n_val, n_test)
        self.seed = seed
        self.download = download
        self.cached = cached
        self._digits: Tensor | None = None
        self._backgrounds: Tensor | None = None

    @property
    def corners(self) -> NDArray[np.int64]:
        """Top-left corner (row, column) of the digit at each location, shape (8, 2)."""
        return np.array(_CORNERS)

    @property
    def joint_labels(self) -> NDArray[np.int64]:
        """The two factors that a pair shares as one label, shape (N,).

        10 * digit + background for `DC-BC`, 8 * digit + location for `DC-DL` and
        10 * location + background for `BC-DL`.
        """
        first, second = _FIXED[self.variant]
        labels: NDArray[np.int64] = (
            self.factors[:, first] * self.factor_sizes[second] + self.factors[:, second]
        )
        return labels

    @property
    def recipe(self) -> dict[str, Any]:
        """What the pairs follow from."""
        return {
            "variant": self.variant,
            "split": self.split,
            "counts": list(self.counts),
            "seed": self.seed,
        }

    def content_key(self) -> str:
        """Return a digest of both data sets."""
        return self._key

    def fingerprint(self) -> None:
        """Return nothing: the files may be yet to come, and are checked when they are read."""

    def n_images(self) -> int:
        """Return the number of views."""
        return 2 * sum(self.counts)

    def prepare(self) -> None:
        """Fetch the data, if asked to, check them and fill the cache, if there is to be one.

        Raises:
            UserError: If a file is missing or damaged or cannot be fetched.
        """
        self._read()
        if self.cached:
            super().prepare()

    def setup(self) -> None:
        """Read both data sets and draw the pairs.

        Raises:
            UserError: If a file is missing or damaged or cannot be fetched.
        """
        self._read()
        if self.cached:
            super().setup()
            self._digits = self._backgrounds = None  # all is in the cache

    def images(self, rows: Tensor) -> Tensor:
        """Return the scenes of some rows, in any order, uint8, shape (n, 3, 64, 64), on the CPU."""
        if self.pixels is not None:
            return super().images(rows)
        return self._compose(rows.numpy())

    def render(self, rows: NDArray[np.int64], write: PixelWriter) -> Iterator[NDArray[np.int64]]:
        """Compose scenes, a block at a time."""
        for part in np.array_split(rows, -(-len(rows) // _BLOCK)):
            write(part, self._compose(part).numpy())
            yield part

    def _read(self) -> None:
        if hasattr(self, "ids"):
            return
        mnist = _read_mnist(self.root, self.download)
        stl10 = _read_stl10(self.root, self.download)
        self._draw(mnist, stl10)
        self._digits, self._backgrounds = mnist.images, stl10.images
        if self.cached:
            digest = sha256()
            for source in (mnist, stl10):
                digest.update(source.images.numpy().data)
                digest.update(source.labels.data)
                digest.update(str(source.n_train).encode())
            self._key = digest.hexdigest()

    def _draw(self, mnist: _Source, stl10: _Source) -> None:
        digits, backgrounds = self._pools(mnist), self._pools(stl10)
        locations = _Pool(np.arange(len(_CORNERS)), np.arange(len(_CORNERS)))
        ids, drawn, factors = [], [], []
        for split, count in enumerate(self.counts):
            first_id = split * _STRIDE
            keys = as_rows(_KEYS + first_id // 2 + np.arange(count))
            # Two draws of 24 bits make one that is fine enough for any number of instances.
            draws = uniform(self.seed, keys, 12).double().numpy()
            u = draws[:, :6] + draws[:, 6:] / (1 << 24)
            places = np.empty((count, 2, 3), dtype=np.int64)
            pools = (digits[split], backgrounds[split], locations)
            for factor, pool in enumerate(pools):
                partner = pool.draw_same if factor in _FIXED[self.variant] else pool.draw_other
                places[:, 0, factor] = pool.draw(u[:, factor])
                places[:, 1, factor] = partner(places[:, 0, factor], u[:, 3 + factor])
            columns = list(zip(pools, places.reshape(-1, 3).T, strict=True))
            ids.append(first_id + np.arange(2 * count))
            factors.append(np.stack([pool.labels[place] for pool, place in columns], axis=1))
            drawn.append(np.stack([pool.members[place] for pool, place in columns[:2]], axis=1))
        self.factors = np.concatenate(factors)
        self.instances = np.concatenate(drawn)
        views = 2 * np.array(self.counts)
        self.splits = np.repeat(np.arange(len(LABELLED), dtype=np.int8), views)
        self.partners = np.arange(self.n_images()) ^ 1
        self.ids = np.concatenate(ids)

    def _pools(self, source: _Source) -> list[_Pool]:
        """Share the instances of a data set out to the splits."""
        total = len(source.labels)
        test = source.n_train if self.split == "official" else total * 9 // 10
        pools = []
        parts = np.split(np.arange(total), [test * 19 // 20, test])
        for name, members in zip(LABELLED, parts, strict=True):
            pool = _Pool(members, source.labels[members])
            if np.unique(pool.labels).size < 2:
                raise UserError(
                    f"the {name} split of {source.name} in {self.root} has {len(members)} images "
                    "of fewer than 2 classes, and pairs need 2: give the whole data set."
                )
            pools.append(pool)
        return pools

    def _compose(self, rows: NDArray[np.int64]) -> Tensor:
        assert self._digits is not None  # both are there from setup on
        assert self._backgrounds is not None
        digit, background = torch.from_numpy(self.instances[rows]).unbind(dim=1)
        scenes = self._backgrounds.index_select(0, background)
        glyphs = self._digits.index_select(0, digit).numpy()
        black = torch.zeros(len(rows), 1, _SIZE, _SIZE, dtype=torch.uint8)
        canvas = black.numpy()
        location = self.factors[rows, _LOCATION]
        # A maximum of whole canvases is more than twice as fast as one of scattered windows.
        for place, (row, column) in enumerate(_CORNERS):
            here = np.flatnonzero(location == place)
            canvas[here, 0, row : row + _GLYPH, column : column + _GLYPH] = glyphs[here]
        return torch.maximum(scenes, black, out=scenes)


class _Source(NamedTuple):
    """Train and test set of one of the two data sets, one after the other."""

    name: str
    images: Tensor
    labels: NDArray[np.int64]
    n_train: int


class _Pool:
    """What one split draws from, in the order of the classes, so that a class is an interval.

    Args:
        members: Instances, shape (m,).
        labels: Class of each, shape (m,).
    """

    def __init__(self, members: NDArray[np.int64], labels: NDArray[np.int64]) -> None:
        order = np.argsort(labels, kind="stable")
        self.members = members[order]
        self.labels = labels[order]

    def draw(self, u: NDArray[np.float64]) -> NDArray[np.int64]:
        """Draw a place of the pool for each of some uniform numbers in [0, 1)."""
        return (u * len(self.labels)).astype(np.int64)

    def draw_same(self, place: NDArray[np.int64], u: NDArray[np.float64]) -> NDArray[np.int64]:
        """Draw one of the same class for each place."""
        low, high = self._interval(place)
        return low + (u * (high - low)).astype(np.int64)

    def draw_other(self, place: NDArray[np.int64], u: NDArray[np.float64]) -> NDArray[np.int64]:
        """Draw one of another class for each place."""
        low, high = self._interval(place)
        drawn = (u * (len(self.labels) - (high - low))).astype(np.int64)
        return np.where(drawn < low, drawn, drawn + (high - low))

    def _interval(self, place: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        label = self.labels[place]
        low, high = (np.searchsorted(self.labels, label, side) for side in ("left", "right"))
        return low, high


class _LabelledSTL10(STL10):  # type: ignore[misc]  # torchvision ships no types
    """STL-10 whose 2.6 GB of unlabelled images need be neither there nor checked."""

    @property
    def train_list(self) -> list[list[str]]:
        return list(STL10.train_list[:2])


def _read_mnist(root: Path, download: bool) -> _Source:
    folder = root / "MNIST" / "raw"
    names = [
        f"{part}-{kind}-ubyte"
        for part in ("train", "t10k")
        for kind in ("images-idx3", "labels-idx1")
    ]
    images, labels = [], []
    for part, train in enumerate((True, False)):
        try:
            data = MNIST(str(root), train=train, download=download)
            if data.data.shape[1:] != (_GLYPH, _GLYPH) or len(data.data) != len(data.targets):
                raise ValueError(
                    f"images of shape {tuple(data.data.shape)}, {len(data.targets)} labels"
                )
            if data.targets.numel() and data.targets.max() > 9:
                raise ValueError(f"a label is {data.targets.max()}")
        except Exception as error:  # a damaged file may raise anything, AssertionError included
            missing = [name for name in names if not (folder / name).is_file()]
            bad = missing or names[2 * part : 2 * part + 2]
            raise _unreadable("MNIST", folder, bad, MNIST.mirrors[0], download, error) from error
        images.append(data.data)
        labels.append(data.targets.numpy())
    return _Source("MNIST", torch.cat(images), np.concatenate(labels), len(labels[0]))


def _read_stl10(root: Path, download: bool) -> _Source:
    folder = root / STL10.base_folder
    offset = (96 - _SIZE) // 2
    centre = np.s_[:, :, offset : offset + _SIZE, offset : offset + _SIZE]
    images, labels = [], []
    try:
        for part in ("train", "test"):
            data = _LabelledSTL10(str(root), split=part, download=download)
            images.append(data.data[centre])
            labels.append(data.labels.astype(np.int64))
    except Exception as error:  # of the network, the archive or the files
        files = (*STL10.train_list[:2], *STL10.test_list)
        bad = [name for name, digest in files if not _intact(folder / name, digest)]
        bad = bad or [name for name, _ in files]
        raise _unreadable("STL-10", folder, bad, STL10.url, download, error) from error
    # They come with rows and columns transposed, a layout that concatenate would keep.
    pixels = torch.from_numpy(np.ascontiguousarray(np.concatenate(images)))
    return _Source("STL-10", pixels, np.concatenate(labels), len(labels[0]))


def _intact(path: Path, digest: str) -> bool:
    try:
        return bool(check_integrity(path, digest))
    except OSError:
        return False


def _unreadable(
    name: str, folder: Path, files: list[str], url: str, download: bool, error: Exception
) -> UserError:
    reason = " ".join(str(error).split()) or type(error).__name__
    todo = "remove what is damaged and " if any((folder / file).exists() for file in files) else ""
    way = "run again" if download else "set download to true"
    return UserError(
        f"{name} cannot be read, missing or damaged in {folder}: {', '.join(files)} ({reason}): "
        f"{todo}{way}, or put the files of {url} there."
    )
