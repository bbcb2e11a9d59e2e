"""SVHN, the house numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torchvision import datasets

from detaux_pl.data.torchvision_arrays import TorchvisionArrays


class SVHN(TorchvisionArrays):
    """99,289 digits of house numbers, cropped to 32×32, 73,257 of them for training.

    The label is the digit; the 531,131 additional images are left out.

    Args:
        root: Folder that holds, or is to hold, `train_32x32.mat` and `test_32x32.mat`.
        download: Fetch the files where they are missing (246 MB).

    Raises:
        ValueError: If a number is outside its range.

    References:
        Netzer et al. 2011, "Reading Digits in Natural Images with Unsupervised Feature Learning".
    """

    @property
    def origin(self) -> str:
        """The two files and where to put them."""
        urls = " and ".join(datasets.SVHN.split_list[split][0] for split in ("train", "test"))
        return f"fetch {urls} and put them in {self.root}"

    @property
    def checksums(self) -> Mapping[str, str]:
        """A file of training images and one of test images."""
        parts = (datasets.SVHN.split_list[split] for split in ("train", "test"))
        return {name: md5 for _, name, md5 in parts}

    def load(
        self, split: Literal["train", "test"], download: bool
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Read images, shape (n, 3, 32, 32), and labels, shape (n,)."""
        source = datasets.SVHN(self.root, split=split, download=download)
        return source.data, source.labels
