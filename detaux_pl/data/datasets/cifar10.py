"""CIFAR-10."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torchvision import datasets

from detaux_pl.data.torchvision_arrays import TorchvisionArrays


class CIFAR10(TorchvisionArrays):
    """60,000 images of 32×32 of ten kinds of animals and vehicles, 50,000 of them for training.

    Args:
        root: Folder that holds, or is to hold, `cifar-10-batches-py`.
        download: Fetch the files where they are missing (170 MB).

    Raises:
        ValueError: If a number is outside its range.

    References:
        Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images".
    """

    value_names: Mapping[str, tuple[str, ...]] = {
        "label": (
            "airplane", "automobile", "bird", "cat", "deer",
            "dog", "frog", "horse", "ship", "truck",
        )
    }  # fmt: skip

    @property
    def origin(self) -> str:
        """The archive and where to unpack it."""
        return f"fetch {datasets.CIFAR10.url} and unpack it in {self.root}"

    @property
    def checksums(self) -> Mapping[str, str]:
        """Five files of training images, one of test images and one of names."""
        source = datasets.CIFAR10
        parts = [
            *source.train_list,
            *source.test_list,
            (source.meta["filename"], source.meta["md5"]),
        ]
        return {f"{source.base_folder}/{name}": md5 for name, md5 in parts}

    def load(
        self, split: Literal["train", "test"], download: bool
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Read images, shape (n, 3, 32, 32), and labels, shape (n,)."""
        source = datasets.CIFAR10(self.root, train=split == "train", download=download)
        return source.data.transpose(0, 3, 1, 2), np.array(source.targets, dtype=np.int64)
