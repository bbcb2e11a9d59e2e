from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.datasets.svhn import SVHN
from tests.data.written_arrays import accept_svhn, write_svhn


def test_images_labels_and_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = write_svhn(tmp_path)
    accept_svhn(monkeypatch, tmp_path)
    dataset = SVHN(tmp_path, image_size=32, cache_dir=tmp_path / "cache")
    dataset.setup()
    assert dataset.pixels is not None
    np.testing.assert_array_equal(dataset.pixels.permute(0, 2, 3, 1).numpy(), images)
    np.testing.assert_array_equal(dataset.labels, labels)  # the 10 of the file is a 0
    assert dataset.factors.dtype == np.int64
    assert np.bincount(dataset.splits).tolist() == [180, 20, 50]
    assert (dataset.splits[200:] == 2).all()
    assert np.bincount(dataset.labels[dataset.rows("val")]).tolist() == [2] * 10


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "test_32x32.mat").write_bytes(b"<html>")
    with pytest.raises(UserError) as caught:
        SVHN(tmp_path, cache_dir=tmp_path / "cache").setup()
    assert str(caught.value) == (
        f"SVHN cannot be read from {tmp_path}: train_32x32.mat is missing, test_32x32.mat is "
        "damaged; fetch http://ufldl.stanford.edu/housenumbers/train_32x32.mat and "
        "http://ufldl.stanford.edu/housenumbers/test_32x32.mat and put them in "
        f"{tmp_path}, or set download to true."
    )
