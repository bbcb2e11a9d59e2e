from __future__ import annotations

import pickle
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torchvision import datasets
from torchvision.transforms.v2.functional import resize

from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.datasets.cifar10 import CIFAR10
from tests.data.written_arrays import accept_cifar10, write_cifar10


def _dataset(tmp_path: Path, **arguments: object) -> CIFAR10:
    return CIFAR10(tmp_path, cache_dir=tmp_path / "cache", **arguments)  # type: ignore[arg-type]


def test_images_labels_and_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = write_cifar10(tmp_path)
    accept_cifar10(monkeypatch, tmp_path)
    dataset = _dataset(tmp_path, image_size=32)
    dataset.setup()
    assert dataset.images(torch.tensor([249, 0])).shape == (2, 3, 32, 32)
    assert dataset.pixels is not None
    np.testing.assert_array_equal(dataset.pixels.permute(0, 2, 3, 1).numpy(), images)
    np.testing.assert_array_equal(dataset.labels, labels)
    np.testing.assert_array_equal(dataset.ids, np.arange(250))
    assert np.bincount(dataset.splits).tolist() == [180, 20, 50]
    assert (dataset.splits[200:] == 2).all()
    assert np.bincount(dataset.labels[dataset.rows("val")]).tolist() == [2] * 10
    assert dataset.value_names["label"][:2] == ("airplane", "automobile")
    dataset.check()


def test_resized_as_torchvision_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, _ = write_cifar10(tmp_path)
    accept_cifar10(monkeypatch, tmp_path)
    dataset = _dataset(tmp_path)
    dataset.setup()
    expected = resize(torch.from_numpy(images).permute(0, 3, 1, 2), [64, 64], antialias=True)
    assert dataset.pixels is not None
    assert torch.equal(dataset.pixels, expected)
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy.images(torch.tensor([3, 249])), expected[[3, 249]])


def test_the_validation_split_is_the_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar10(tmp_path)
    accept_cifar10(monkeypatch, tmp_path)
    splits = []
    for seed in (0, 0, 1):
        dataset = _dataset(tmp_path, seed=seed)
        dataset.setup()
        splits.append(dataset.splits)
    np.testing.assert_array_equal(splits[0], splits[1])
    assert (splits[0] != splits[2]).any()


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        _dataset(tmp_path).prepare()
    assert str(caught.value) == (
        f"CIFAR10 cannot be read from {tmp_path}: cifar-10-batches-py/data_batch_1 is missing, "
        "cifar-10-batches-py/data_batch_2 is missing, cifar-10-batches-py/data_batch_3 is missing "
        "and 4 more; fetch https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz and unpack it "
        f"in {tmp_path}, or set download to true."
    )


def test_a_damaged_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar10(tmp_path)
    accept_cifar10(monkeypatch, tmp_path)
    path = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r": cifar-10-batches-py/data_batch_3 is damaged; fetch"):
        _dataset(tmp_path).setup()


def test_download_only_if_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fail(source: datasets.CIFAR10) -> None:
        asked.append(source.root)
        raise URLError("no network")

    monkeypatch.setattr(datasets.CIFAR10, "download", fail)
    with pytest.raises(UserError):
        _dataset(tmp_path).setup()
    assert not asked
    dataset = _dataset(tmp_path, download=True)
    dataset.describe()
    assert not asked
    with pytest.raises(UserError, match=r"could not be downloaded \(.*no network.*in /.*[^e]\.$"):
        dataset.prepare()
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"image_size": 0}, "image_size is 0"), ({"val_share": 1.0}, r"share of val is 1\.0")],
)
def test_arguments_outside_their_range(
    tmp_path: Path, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _dataset(tmp_path, **arguments)
