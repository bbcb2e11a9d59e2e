from __future__ import annotations

import gzip
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.datasets.small_norb import SmallNORB
from tests.data.written_factorials import NORB_PARTS, norb_matrix, write_small_norb

_TRAIN, _TEST = (stem for stem, _ in NORB_PARTS)


def _set_up(root: Path, **arguments: object) -> SmallNORB:
    dataset = SmallNORB(root, cache_dir=root / "cache", **arguments)  # type: ignore[arg-type]
    dataset.setup()
    return dataset


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("camera", [0, 1])
def test_images_and_factors_are_those_of_the_files(
    tmp_path: Path, packed: bool, camera: int
) -> None:
    images, table = write_small_norb(tmp_path, packed=packed)
    dataset = _set_up(tmp_path, image_size=96, camera=camera)
    assert dataset.ids.tolist() == list(range(120))
    np.testing.assert_array_equal(dataset.factors, table // [1, 1, 1, 2, 1])
    assert dataset.pixels is not None
    np.testing.assert_array_equal(dataset.pixels[:, 0], images[:, camera])


def test_header_is_that_of_the_original() -> None:
    category = norb_matrix(np.zeros(24300, np.int32))
    assert category[:20].hex() == "544c3d1e01000000ec5e00000100000001000000"
    assert len(norb_matrix(np.zeros((1, 2, 96, 96), np.uint8))) == 24 + 2 * 96 * 96


def test_cameras_and_sizes_have_caches_of_their_own(tmp_path: Path) -> None:
    write_small_norb(tmp_path)
    left, right = (_set_up(tmp_path, camera=camera) for camera in (0, 1))
    assert left.images(torch.tensor([0])).shape == (1, 1, 64, 64)
    assert not torch.equal(left.images(torch.tensor([0])), right.images(torch.tensor([0])))
    copy = pickle.loads(pickle.dumps(right))
    assert torch.equal(copy.images(torch.tensor([0])), right.images(torch.tensor([0])))


def test_official_split_is_by_instance(tmp_path: Path) -> None:
    write_small_norb(tmp_path)
    dataset = _set_up(tmp_path)
    # Of 12 training images of each of 5 classes, a tenth is 1.
    assert np.bincount(dataset.splits).tolist() == [55, 5, 60]
    assert set(dataset.factor("instance")[dataset.rows("test")]) == {0, 1, 2, 3, 5}
    assert set(dataset.factor("instance")[dataset.rows("train")]) == {4, 6, 7, 8, 9}
    assert set(dataset.rows("val")) < set(range(60))
    assert np.bincount(dataset.labels[dataset.rows("val")]).tolist() == [1] * 5


def test_random_split_is_as_large(tmp_path: Path) -> None:
    write_small_norb(tmp_path)
    one, again = (_set_up(tmp_path, split="random", val_share=0.0) for _ in range(2))
    other = _set_up(tmp_path, split="random", seed=1)
    assert np.bincount(one.splits).tolist() == [60, 0, 60]
    assert 0 < (one.rows("test") < 60).sum() < 60
    np.testing.assert_array_equal(one.splits, again.splits)
    assert not np.array_equal(one.rows("test"), other.rows("test"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"camera": 2}, "camera is 2: give 0 or 1"),
        ({"split": "both"}, "official or random"),
        ({"image_size": 0}, "image_size is 0"),
        ({"val_share": 1.0}, "share of val is 1.0"),
        ({"principal": "shape"}, "category, instance"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SmallNORB(Path("."), **arguments)  # type: ignore[arg-type]


def test_missing_file_is_named(tmp_path: Path) -> None:
    write_small_norb(tmp_path)
    (tmp_path / f"{_TEST}-info.mat.gz").unlink()
    with pytest.raises(UserError, match=r"holds neither .*testing-info\.mat nor .*\.gz: download"):
        _set_up(tmp_path)


@pytest.mark.parametrize("kind", ["dat", "cat", "info"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.6, 0.97])
@pytest.mark.parametrize("packed", [True, False])
def test_truncated_file_is_named(tmp_path: Path, kind: str, share: float, packed: bool) -> None:
    write_small_norb(tmp_path, packed=packed)
    path = tmp_path / f"{_TRAIN}-{kind}.mat{'.gz' if packed else ''}"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UserError, match=rf"training-{kind}\.mat.* cannot be read \(.+\): down"):
        _set_up(tmp_path)


def _zeros(*shape: int, dtype: str = "int32") -> bytes:
    return norb_matrix(np.zeros(shape, dtype))


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        ("dat", b"<html>404 not found</html>", "it starts with 0x6d74683c and"),
        ("cat", _zeros(60, dtype="uint8"), "0x1e3d4c55 and 1 dim.* should be 0x1e3d4c54 and 1"),
        ("info", _zeros(60), "0x1e3d4c54 and 1 dimensions; they should be 0x1e3d4c54 and 2"),
        ("info", _zeros(60, 5), r"its shape is \(60, 5\); it should be \(24300, 4\)"),
        ("dat", _zeros(60, 2, 96, 48, dtype="uint8"), r"it should be \(24300, 2, 96, 96\)"),
        ("cat", _zeros(0), r"its shape is \(0,\); it should be \(24300,\)"),
        ("cat", _zeros(60) + b"!", "it has more data than its header says"),
        ("cat", norb_matrix(np.full(60, 5, np.int32)), "row 0 is of no category"),
        ("info", norb_matrix(np.full((60, 4), 3, np.int32)), "row 0 is of no category"),
        ("info", norb_matrix(np.full((60, 4), -2, np.int32)), "row 0 is of no category"),
    ],
)
def test_other_layout_is_named(tmp_path: Path, kind: str, data: bytes, message: str) -> None:
    write_small_norb(tmp_path)
    (tmp_path / f"{_TRAIN}-{kind}.mat.gz").write_bytes(gzip.compress(data))
    with pytest.raises(
        UserError, match=rf"{_TRAIN}-{kind}\.mat\.gz is not the original of SmallNORB: .*{message}"
    ):
        _set_up(tmp_path)


def test_files_of_other_lengths_are_named(tmp_path: Path) -> None:
    write_small_norb(tmp_path)
    (tmp_path / f"{_TEST}-cat.mat.gz").write_bytes(gzip.compress(_zeros(59)))
    with pytest.raises(UserError, match=r"testing-dat\.mat\.gz 60, .*testing-cat\.mat\.gz 59"):
        _set_up(tmp_path)
