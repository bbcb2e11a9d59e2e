"""Data sets that torchvision reads, checks and downloads as two arrays: train and test."""

from __future__ import annotations

import io
import sys
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import nullcontext, redirect_stderr
from http.client import HTTPException
from pathlib import Path
from tarfile import TarError
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torchvision.datasets.utils import check_integrity

from detaux_pl.artifacts.codes import SPLITS
from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.cached_arrays import CachedArrays
from detaux_pl.data.factor_dataset import check_image_size
from detaux_pl.data.splits import check_share, hold_out

_NAMED = 3
"""How many bad files an error names."""


class TorchvisionArrays(CachedArrays):
    """Ten classes, with official train and test splits, in files that torchvision knows.

    The ids number the images in their stored order, train first. A share of every class of the
    training images is drawn for validation. A subclass gives `origin`, `checksums` and `load`.

    Args:
        root: Folder of the files.
        image_size: Height and width that the images are resized to. Paper: 64.
        val_share: Share of the training images of each class that is held out for validation, in
            [0, 1).
        seed: Seed of that drawing.
        download: Fetch files that are missing.

    Raises:
        ValueError: If a number is outside its range.
    """

    published = True
    factor_names = ("label",)
    factor_sizes = (10,)
    ids: NDArray[np.int64]

    def __init__(
        self,
        root: Path | str,
        image_size: int = 64,
        val_share: float = 0.1,
        seed: int = 0,
        download: bool = False,
        cache_dir: Path | str | None = None,
    ) -> None:
        super().__init__("label", cache_dir)
        check_image_size(image_size)
        check_share("val", val_share)
        self.root = Path(root)
        self.image_size = image_size
        self.image_shape = (3, image_size, image_size)
        self.val_share = val_share
        self.seed = seed
        self.download = download

    @property
    @abstractmethod
    def origin(self) -> str:
        """What to fetch from where, and what to do with it, for messages."""

    @property
    @abstractmethod
    def checksums(self) -> Mapping[str, str]:
        """MD5 sums of the files, by path below the root; those of images come in their order."""

    @abstractmethod
    def load(
        self, split: Literal["train", "test"], download: bool
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Read images, shape (n, 3, h, w), and labels, shape (n,), through torchvision."""

    def prepare(self) -> None:
        """Download if asked to, check the files, read the labels and resize what is not cached.

        Raises:
            UserError: If files are missing or damaged, or cannot be downloaded.
        """
        if not hasattr(self, "ids"):
            train, test = self._read("train")[1], self._read("test")[1]
            splits = np.repeat(
                np.array([SPLITS.index("train"), SPLITS.index("test")], dtype=np.int8),
                (len(train), len(test)),
            )
            labels = np.concatenate([train, test])
            hold_out(splits, labels, "val", self.val_share, np.random.default_rng(self.seed))
            self.splits, self.factors = splits, labels[:, None]
            self.ids = np.arange(len(labels))
        super().prepare()

    def fingerprint(self) -> None:
        """Return nothing: the files may be yet to come, and are checked when they are read."""

    def files(self) -> list[Path]:
        """Return all files, in the order of their rows."""
        return [self.root / name for name in self.checksums]

    def read_blocks(self) -> Iterator[NDArray[np.uint8]]:
        """Read the training images, then the test ones."""
        yield self._read("train")[0]
        yield self._read("test")[0]

    def _read(self, split: Literal["train", "test"]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        # torchvision's bar would fill a log file.
        quiet = nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO())
        try:
            with quiet if self.download else nullcontext():
                return self.load(split, self.download)
        except (OSError, HTTPException, RuntimeError, TarError) as error:
            what = self._fault() or str(error)
            if self.download:
                what = f"it could not be downloaded ({error}), and {what}"
            raise UserError(
                f"{type(self).__name__} cannot be read from {self.root}: {what}; "
                f"{self.origin}"
                f"{'.' if self.download else ', or set download to true.'}"
            ) from None

    def _fault(self) -> str:
        bad = [
            f"{name} {'is damaged' if (self.root / name).is_file() else 'is missing'}"
            for name, md5 in self.checksums.items()
            if not check_integrity(self.root / name, md5)
        ]
        return ", ".join(bad[:_NAMED]) + (f" and {len(bad) - _NAMED} more" * (len(bad) > _NAMED))
