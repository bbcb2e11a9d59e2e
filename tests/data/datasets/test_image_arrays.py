from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.datasets.image_arrays import ImageArrays
from detaux_pl.data.npz_stream import iterate_npz, npz_header
from tests.data.written_arrays import HALVES, arrays, draw_images, write_h5, write_npz


def _dataset(path: Path, principal: str = "label", **arguments: Any) -> ImageArrays:
    return ImageArrays(path, principal, cache_dir=path.parent / "cache", **arguments)


def _save(path: Path, **content: Any) -> Path:
    """Save arrays in the format that the name says."""
    if path.suffix == ".npz":
        np.savez(path, **content)
    else:
        with h5py.File(path, "w") as file:
            for name, array in content.items():
                text = array.dtype.kind == "U"
                file[name] = array.astype(object) if text else array
    return path


@pytest.fixture(params=["mine.npz", "mine.h5"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path: Path = tmp_path / request.param
    (write_npz if path.suffix == ".npz" else write_h5)(path)
    return path


def test_images_labels_and_splits(path: Path) -> None:
    dataset = _dataset(path)
    dataset.describe()
    assert dataset.image_shape == (3, 16, 16)
    assert dataset.factor_names == ("label", "half")
    assert dataset.factor_sizes == (3, 2)
    assert dataset.value_names == {"label": ("0", "1", "2"), "half": HALVES}
    assert not (path.parent / "cache").exists()
    dataset.setup()
    written = arrays()
    assert dataset.pixels is not None
    np.testing.assert_array_equal(dataset.pixels.permute(0, 2, 3, 1).numpy(), written["images"])
    np.testing.assert_array_equal(dataset.labels, written["label"])
    np.testing.assert_array_equal(np.array(HALVES)[dataset.factor("half")], written["half"])
    np.testing.assert_array_equal(dataset.ids, np.arange(120))
    assert np.bincount(dataset.splits).tolist() == [87, 9, 24]  # of 40: 8, then 3 of 32
    dataset.check()


def test_another_principal_factor(path: Path) -> None:
    dataset = _dataset(path, "half", columns=[])
    dataset.setup()
    assert dataset.factor_names == ("half",)
    assert dataset.n_classes == 2


@pytest.mark.parametrize(
    ("shape", "layout", "axes"),
    [
        ((12, 8, 6), None, None),
        ((12, 8, 6, 1), None, (0, 3, 1, 2)),
        ((12, 8, 6, 3), None, (0, 3, 1, 2)),
        ((12, 3, 8, 6), None, (0, 1, 2, 3)),
        ((12, 1, 8, 3), "NCHW", (0, 1, 2, 3)),
        ((12, 1, 8, 3), "NHWC", (0, 3, 1, 2)),
    ],
)
@pytest.mark.parametrize("name", ["mine.npz", "mine.hdf5"])
def test_layouts(
    tmp_path: Path, name: str, shape: tuple[int, ...], layout: Any, axes: tuple[int, ...] | None
) -> None:
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    path = _save(tmp_path / name, images=images, y=np.arange(12) % 2)
    dataset = _dataset(path, "y", layout=layout)
    dataset.setup()
    expected = images[:, None] if axes is None else images.transpose(axes)
    assert dataset.image_shape == expected.shape[1:]
    np.testing.assert_array_equal(dataset.images(torch.arange(12)).numpy(), expected)


@pytest.mark.parametrize("name", ["mine.npz", "mine.h5"])
def test_blocks_of_floats(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "detaux_pl.data.datasets.image_arrays._BLOCK", 4 * 8 * 8 * 3 * 5
    )  # five images
    images = draw_images(np.arange(12) % 2, 8)
    floats = (images / 255).astype(np.float32)
    dataset = _dataset(_save(tmp_path / name, images=floats, y=np.arange(12) % 2), "y")
    assert list(dataset.files()) == [tmp_path / name]
    dataset.describe()
    assert [len(block) for block in dataset.read_blocks()] == [5, 5, 2]
    dataset.setup()
    assert dataset.pixels is not None
    np.testing.assert_array_equal(dataset.pixels.permute(0, 2, 3, 1).numpy(), images)
    floats[7, 0, 0, 0] = 1.5
    other = _dataset(_save(tmp_path / f"more-{name}", images=floats, y=np.arange(12) % 2), "y")
    message = rf"more-{name}: array 'images' has floating-point pixels from .* to 1\.5, which tell"
    with pytest.raises(UserError, match=message):
        other.setup()


def test_resized(path: Path) -> None:
    dataset = _dataset(path, image_size=8)
    dataset.setup()
    assert dataset.image_shape == (3, 8, 8)
    assert dataset.pixels is not None
    averages = arrays()["images"].reshape(120, 8, 2, 8, 2, 3).mean(axis=(2, 4))
    difference = dataset.pixels.permute(0, 2, 3, 1).numpy() - averages
    assert np.abs(difference).mean() < 6  # a triangle of twice the width, not a box


@pytest.mark.parametrize("name", ["mine.npz", "mine.h5"])
@pytest.mark.parametrize("values", [np.arange(3), np.array(["train", "validation", "test"])])
def test_given_splits(tmp_path: Path, name: str, values: NDArray[Any]) -> None:
    content = arrays(30)
    given = np.arange(30) % 3
    path = _save(tmp_path / name, **content, split=values[given], fold=values[given // 2])
    dataset = _dataset(path, columns=["half"])
    dataset.setup()
    np.testing.assert_array_equal(dataset.splits, given)
    other = _dataset(path, split_array="fold", val_share=0.25)  # has no 2: the test is drawn
    other.setup()
    assert (other.splits[given // 2 == 1] == 1).all()
    assert np.bincount(other.splits)[2] > 0


def test_what_is_no_factor_unasked(tmp_path: Path) -> None:
    content = arrays(60)
    content["name"] = np.array([f"image {k}" for k in range(60)])
    content["constant"] = np.zeros(60, dtype=np.int64)
    content["weight"] = np.linspace(0, 1, 60)
    content["classes"] = np.arange(3)
    content["flag"] = np.arange(60) % 2 == 0
    content["note"] = np.array([{"author": "me"}] * 60)
    path = _save(tmp_path / "mine.npz", **content)
    dataset = _dataset(path)
    dataset.describe()
    assert dataset.factor_names == ("label", "half", "flag")
    asked = _dataset(path, columns=["name", "constant"])
    asked.describe()
    assert asked.factor_names == ("label", "name", "constant")
    assert asked.factor_sizes == (3, 60, 1)


def test_values_are_numbered_in_their_order(tmp_path: Path) -> None:
    labels = np.array([30, -1, 7, 30, 7, -1])
    names = np.array(["b", "ä", "a", "b", "a", "ä"])
    path = _save(
        tmp_path / "mine.npz",
        images=np.zeros((6, 4, 4), np.uint8),
        y=labels,
        s=names,
        bytes=np.char.encode(names, "utf-8"),
    )
    dataset = _dataset(path, "y")
    dataset.describe()
    assert dataset.factor("y").tolist() == [2, 0, 1, 2, 1, 0]
    assert dataset.value_names["y"] == ("-1", "7", "30")
    assert dataset.value_names["s"] == dataset.value_names["bytes"] == ("a", "b", "ä")


def _content() -> dict[str, Any]:
    return arrays(12)


@pytest.mark.parametrize("name", ["mine.npz", "mine.h5"])
@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({}, {"principal": "age"}, "there is no array 'age'"),
        ({}, {"images": "x"}, "there is no array 'x'"),
        ({}, {"columns": ["age"]}, "there is no array 'age'"),
        ({}, {"split_array": "fold"}, "there is no array 'fold'"),
        ({"label": np.arange(11)}, {}, r"'label' has the shape \(11,\), but there are 12 images"),
        ({"label": np.zeros((12, 2), int)}, {}, r"'label' has the shape \(12, 2\)"),
        ({"label": np.zeros(12, complex)}, {}, "'label' is complex128: labels are numbers or str"),
        ({"images": np.zeros((12, 8), np.uint8)}, {}, r"'images' has the shape \(12, 8\)"),
        ({"images": np.zeros((12, 8, 8, 4), np.uint8)}, {}, r"shape \(12, 8, 8, 4\): images have"),
        ({"images": np.zeros((0, 8, 8), np.uint8)}, {}, r"shape \(0, 8, 8\): images have"),
        ({"images": np.zeros((12, 8, 8), bool)}, {}, "'images' is bool: images are integers or"),
        ({"images": np.zeros((12, 3, 8, 3), np.uint8)}, {}, "first or last: set layout to NHWC"),
        ({}, {"layout": "NCHW"}, r"shape \(12, 16, 16, 3\): images have NCHW"),
        (
            {"split": np.arange(12) % 4},
            {},
            "'split' has the value '3': splits are 0, 1, 2 or train",
        ),
    ],
)
def test_wrong_content_is_named(
    tmp_path: Path, name: str, change: dict[str, Any], arguments: dict[str, Any], message: str
) -> None:
    path = _save(tmp_path / name, **{**_content(), **change})
    with pytest.raises(UserError, match=rf"{name}: .*{message}.*It holds .*'images': ") as caught:
        _dataset(path, **arguments).describe()
    assert "\n" not in str(caught.value)


def test_objects_are_refused(tmp_path: Path) -> None:
    labels = np.array([{}] * 12)
    path = _save(tmp_path / "mine.npz", **{**_content(), "label": labels})
    with pytest.raises(UserError, match=r"'label' is objects: .*'label': objects \(12,\)"):
        _dataset(path).describe()


@pytest.mark.parametrize("name", ["mine.npz", "mine.h5"])
def test_missing_and_damaged_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(UserError, match=rf"{name} does not exist"):
        _dataset(path).describe()
    for content in (b"", b"<html>404</html>"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"{name} cannot be read as"):
            _dataset(path).describe()
    _save(path, **_content())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=rf"{name} cannot be read as"):
        _dataset(path).describe()


def test_a_flipped_byte_is_found(tmp_path: Path) -> None:
    path = _save(tmp_path / "mine.npz", **_content())
    damaged = bytearray(path.read_bytes())
    damaged[500] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=r"mine\.npz cannot be read as \.npz \(Bad CRC-32"):
        _dataset(path).setup()


def test_groups_of_hdf5(tmp_path: Path) -> None:
    path = tmp_path / "mine.h5"
    content = _content()
    with h5py.File(path, "w") as file:
        file["raw/images"] = content["images"]
        file["labels/class"] = content["label"]
    dataset = _dataset(path, "labels/class", images="raw/images")
    dataset.setup()
    assert dataset.n_classes == 3
    with pytest.raises(UserError, match=r"It holds 'labels/class': int64 \(12,\), 'raw/images'"):
        _dataset(path).describe()


@pytest.mark.parametrize(
    ("path", "arguments", "message"),
    [
        ("a.mat", {}, r"path is .*a\.mat: give a file ending in \.npz, \.h5"),
        ("a.npz", {"image_size": 0}, "image_size is 0"),
        ("a.npz", {"layout": "HWC"}, "layout is 'HWC'"),
        ("a.npz", {"test_share": 1.5}, r"the share of test is 1\.5"),
    ],
)
def test_arguments_outside_their_range(
    tmp_path: Path, path: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _dataset(tmp_path / path, **arguments)


def test_a_cache_of_another_array_is_not_taken(tmp_path: Path) -> None:
    content = _content()
    path = _save(tmp_path / "mine.npz", **content, inverted=255 - content["images"])
    first, second = _dataset(path), _dataset(path, images="inverted")
    first.setup()
    second.setup()
    assert first.pixels is not None
    assert second.pixels is not None
    assert torch.equal(second.pixels, 255 - first.pixels)


def test_stream_of_an_npz(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(10, 3, 4))
    path = tmp_path / "mine.npz"
    np.savez_compressed(
        path, a=array, fortran=np.asfortranarray(array), single=np.float64(1), text=np.array(["ä"])
    )
    assert npz_header(path, "a") == ((10, 3, 4), np.dtype(np.float64))
    blocks = list(iterate_npz(path, "a", 4))
    assert [len(block) for block in blocks] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate(blocks), array)
    assert blocks[0].flags.writeable
    assert [block.tolist() for block in iterate_npz(path, "text", 4)] == [["ä"]]
    with pytest.raises(UserError, match="'fortran' is in Fortran order"):
        next(iterate_npz(path, "fortran", 4))
    with pytest.raises(UserError, match="'single' is a single value"):
        next(iterate_npz(path, "single", 4))
    with pytest.raises(UserError, match=r"mine\.npz has no array 'b': it holds a, fortran"):
        npz_header(path, "b")


@pytest.mark.parametrize(
    ("label", "missing"),
    [
        (np.array([0, 1, -1] * 20), "-1"),
        (np.array([0, 1, np.nan] * 20), "NaN"),
        (np.array(["cat", "dog", ""] * 20), "nothing"),
    ],
)
@pytest.mark.parametrize("kind", ["npz", "h5"])
def test_images_without_a_label(
    tmp_path: Path, label: NDArray[Any], missing: str, kind: str
) -> None:
    images = np.zeros((60, 16, 16), dtype=np.uint8)
    # Values that only images without a label have are unknown, and so is -1.
    side, weight = np.arange(60) % 4, np.where(np.arange(60) % 3 == 2, -1, np.arange(60) % 2)
    split = np.where(np.arange(60) % 3 == 2, "unlabeled", np.repeat(["train", "test"], [45, 15]))
    side[np.arange(60) % 3 == 2] += 2
    content = {"images": images, "label": label, "side": side, "weight": weight, "split": split}
    path = _save(tmp_path / f"mine.{kind}", **content)
    dataset = _dataset(path, unlabelled=True)
    dataset.setup()
    apart = dataset.rows("unlabelled")
    assert apart.tolist() == list(range(2, 60, 3))
    assert set(dataset.labels[apart]) == {-1}
    assert (dataset.n_classes, dataset.factor_sizes[1:]) == (2, (4, 2))
    known = dataset.factor("side")[apart]
    assert known.tolist() == np.where(side[apart] < 4, side[apart], -1).tolist()
    assert set(dataset.factor("weight")[apart]) == {-1}
    rest = np.setdiff1d(np.arange(60), apart)
    assert (dataset.factors[rest] >= 0).all()
    assert set(dataset.splits[rest]) == {0, 1, 2}
    assert set(dataset.rows("test")) == set(rest[rest >= 45])
    dataset.check()
    # Not asked for, they are classes or refused, as ever.
    if missing == "NaN":
        with pytest.raises(UserError, match="NaN or infinite labels of 20 images: mend them"):
            _dataset(path, split_array=None).describe()
    else:
        before = _dataset(path, split_array=None)
        before.describe()
        assert before.n_classes == 3
        assert not before.rows("unlabelled").size
    with pytest.raises(UserError, match="has the value 'unlabeled': splits are 0, 1, 2 or train"):
        _dataset(path, principal="side").describe()


def test_an_array_without_any_label_is_refused(tmp_path: Path) -> None:
    path = _save(
        tmp_path / "mine.npz", images=np.zeros((60, 16, 16), dtype=np.uint8), label=np.full(60, -1)
    )
    with pytest.raises(UserError, match=r"has 60 images without a label of 'label', and no train"):
        _dataset(path, unlabelled=True).describe()
