from __future__ import annotations

import hashlib
import io
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import MNIST, STL10

from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.datasets.mnist_stl10 import MNISTSTL10
from tests.data.written_mnist_stl10 import (
    CLASS_NAMES,
    accept_stl10,
    background_images,
    digit_images,
    labels,
    write_mnist,
    write_stl10,
)

_VARIANTS = {"DC-BC": 2, "DC-DL": 1, "BC-DL": 0}
"""The factor that varies."""
_CORNERS = [(2, 0), (2, 12), (2, 24), (2, 36), (34, 0), (34, 12), (34, 24), (34, 36)]
_COUNTS = {"n_train": 40, "n_val": 12, "n_test": 20}
_LABELS = labels(700, 3), labels(650, 4)
# First and last but one instance of train, val and test: 90 % of all, of which 95 %.
_NOTEBOOK = ((0, 598, 630, 700), (0, 555, 585, 650))
_OFFICIAL = ((0, 570, 600, 700), (0, 237, 250, 650))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("data")
    write_mnist(root)
    write_stl10(root)
    with pytest.MonkeyPatch.context() as monkeypatch:
        accept_stl10(monkeypatch, root)
        yield root


def _ready(root: Path, **arguments: Any) -> MNISTSTL10:
    dataset = MNISTSTL10(root, **{**_COUNTS, **arguments})
    dataset.setup()
    return dataset


def _images(dataset: MNISTSTL10, rows: list[int] | None = None) -> np.ndarray:  # type: ignore[type-arg]
    index = torch.arange(len(dataset)) if rows is None else torch.tensor(rows)
    return dataset.images(index).numpy()


def test_layout(root: Path) -> None:
    dataset = _ready(root)
    assert dataset.factor_names == ("digit", "background", "location")
    assert dataset.factor_sizes == (10, 10, 8)
    assert list(dataset.value_names["background"]) == CLASS_NAMES
    assert np.bincount(dataset.splits).tolist() == [80, 24, 40]
    expected = [*range(80), *range(10**9, 10**9 + 24), *range(2 * 10**9, 2 * 10**9 + 40)]
    assert dataset.ids.tolist() == expected
    assert dataset.ids.dtype == dataset.factors.dtype == np.int64
    assert dataset.n_classes == 10
    assert _ready(root, principal="location").n_classes == 8
    np.testing.assert_array_equal(dataset.corners, _CORNERS)
    dataset.check()


def test_pixels_are_the_maximum_of_digit_and_background(root: Path) -> None:
    dataset = _ready(root, n_train=200)
    digits, backgrounds = digit_images(700), background_images(650)
    images = _images(dataset)
    assert images.dtype == np.uint8
    assert set(dataset.factor("location")) == set(range(8))
    for image, (digit, background), factors in zip(
        images, dataset.instances, dataset.factors, strict=True
    ):
        assert factors[0] == _LABELS[0][digit]
        assert factors[1] == _LABELS[1][background]
        expected = backgrounds[background, :, 16:80, 16:80].copy()
        top, left = _CORNERS[factors[2]]
        for channel in range(3):
            window = expected[channel, top : top + 28, left : left + 28]
            window[window < digits[digit]] = digits[digit][window < digits[digit]]
        np.testing.assert_array_equal(image, expected)


def test_channels_are_red_green_blue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path)
    write_stl10(tmp_path)
    # Reddish, and brighter from left to right, as torchvision shows it to a person.
    picture = np.zeros((250, 3, 96, 96), np.uint8)
    picture[:, 0], picture[:, 1], picture[:, 2] = 200, 90, np.arange(96)
    picture.transpose(0, 1, 3, 2).tofile(tmp_path / "stl10_binary" / "train_X.bin")
    accept_stl10(monkeypatch, tmp_path)
    shown, _ = STL10(str(tmp_path), "test")[0]
    assert shown.mode == "RGB"
    np.testing.assert_array_equal(np.array(shown), background_images(650)[250].transpose(1, 2, 0))
    image = _images(_ready(tmp_path, split="official"), [0])[0]
    np.testing.assert_array_equal(image[:, 0], np.stack([[200] * 64, [90] * 64, range(16, 80)]))


_MASK = (1 << 64) - 1


def _mix(x: int) -> int:
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    x = (x ^ x >> 27) * 0x94D049BB133111EB & _MASK
    return x ^ x >> 31


def _numbers(seed: int, split: int, index: int) -> list[float]:
    order = 0x9E3779B97F4A7C15
    base = _mix(((1 << 40) + split * 500_000_000 + index) * order + seed & _MASK)
    words = [_mix(base + (i + 1) * order & _MASK) >> 40 for i in range(12)]
    return [(high << 24 | low) / 2**48 for high, low in zip(words[:6], words[6:], strict=True)]


@pytest.mark.parametrize(("variant", "varied"), _VARIANTS.items())
def test_pairs_follow_from_seed_split_and_index(root: Path, variant: str, varied: int) -> None:
    dataset = _ready(root, variant=variant, seed=11)
    classes = [*_LABELS, np.arange(8)]
    starts = iter((0, 80, 104))
    for split, count in enumerate(_COUNTS.values()):
        first_row = next(starts)
        pools = [range(bounds[split], bounds[split + 1]) for bounds in _NOTEBOOK] + [range(8)]
        for index in range(count):
            numbers = _numbers(11, split, index)
            views: list[list[int]] = [[], []]
            for factor, (pool, label) in enumerate(zip(pools, classes, strict=True)):
                members = sorted(pool, key=lambda member: label[member])
                first = members[int(numbers[factor] * len(members))]
                differs = factor == varied
                others = [m for m in members if (label[m] != label[first]) == differs]
                views[0].append(first)
                views[1].append(others[int(numbers[3 + factor] * len(others))])
            rows = slice(first_row + 2 * index, first_row + 2 * index + 2)
            found = np.column_stack([dataset.instances[rows], dataset.factors[rows, 2]])
            assert found.tolist() == views


@pytest.mark.parametrize("split", ["notebook", "official"])
@pytest.mark.parametrize(("variant", "varied"), _VARIANTS.items())
def test_views_share_two_factors_and_differ_in_the_third(
    root: Path, variant: str, varied: int, split: str
) -> None:
    dataset = _ready(root, variant=variant, split=split, n_train=3000, n_val=500, n_test=500)
    np.testing.assert_array_equal(dataset.partners, np.arange(8000).reshape(-1, 2)[:, ::-1].ravel())
    np.testing.assert_array_equal(dataset.splits[dataset.partners], dataset.splits)
    equal = dataset.factors == dataset.factors[dataset.partners]
    assert equal.all(axis=0).tolist() == [factor != varied for factor in range(3)]
    assert not equal[:, varied].any()
    # Another instance of the class, as a rule.
    for factor in {0, 1} - {varied}:
        instance = dataset.instances[:, factor]
        assert 0 < (instance == instance[dataset.partners]).mean() < 0.3


@pytest.mark.parametrize(("split", "bounds"), [("notebook", _NOTEBOOK), ("official", _OFFICIAL)])
def test_instances_belong_to_one_split(
    root: Path, split: str, bounds: tuple[tuple[int, ...], ...]
) -> None:
    dataset = _ready(root, split=split, n_train=8000, n_val=4000, n_test=4000)
    for column, limits in enumerate(bounds):
        for number, name in enumerate(("train", "val", "test")):
            drawn = np.unique(dataset.instances[dataset.rows(name), column])
            assert drawn.tolist() == list(range(limits[number], limits[number + 1]))


def test_classes_are_as_frequent_as_in_the_data(root: Path) -> None:
    n = 20_000
    digit, background = _LABELS[0][:598], _LABELS[1][:555]
    for variant, varied in _VARIANTS.items():
        dataset = _ready(root, variant=variant, n_train=n, seed=3)
        rows = dataset.rows("train")
        for factor, label in enumerate((digit, background, np.arange(8))):
            shares = np.bincount(label) / len(label)
            first, second = dataset.factors[rows, factor].reshape(-1, 2).T
            joint = np.zeros((len(shares), len(shares)))
            np.add.at(joint, (first, second), 1 / n)
            # Uniform over the instances of all other classes: shares without the first's, scaled.
            expected = shares[:, None] * shares / (1 - shares[:, None])
            np.fill_diagonal(expected, 0)
            if factor != varied:
                expected = np.diag(shares)
            np.testing.assert_allclose(joint, expected, atol=5 * np.sqrt(expected.max() / n))


def test_first_view_is_the_same_in_all_variants(root: Path) -> None:
    first, second, third = (_images(_ready(root, variant=variant)) for variant in _VARIANTS)
    np.testing.assert_array_equal(first[::2], second[::2])
    np.testing.assert_array_equal(first[::2], third[::2])
    assert not np.array_equal(first[1::2], second[1::2])


def test_pixels_do_not_depend_on_number_or_order(root: Path) -> None:
    dataset = _ready(root)
    larger = _ready(root, n_train=300, n_val=50, n_test=60)
    images = _images(dataset)
    rows = np.searchsorted(larger.ids, dataset.ids)
    np.testing.assert_array_equal(larger.ids[rows], dataset.ids)
    np.testing.assert_array_equal(_images(larger, rows.tolist()), images)
    shuffled = [100, 3, 143, 3, 80]
    np.testing.assert_array_equal(_images(dataset, shuffled), images[shuffled])
    assert _images(dataset, [7]).shape == (1, 3, 64, 64)
    assert dataset.images(torch.empty(0, dtype=torch.int64)).shape == (0, 3, 64, 64)
    assert not np.array_equal(_images(_ready(root, seed=1)), images)
    splits = [images[dataset.rows(name)][:24] for name in ("train", "val", "test")]
    assert not np.array_equal(splits[0], splits[1])
    assert not np.array_equal(splits[1], splits[2])


class _Batches(Dataset[torch.Tensor]):
    def __init__(self, dataset: MNISTSTL10) -> None:
        self.dataset = dataset

    def __getitem__(self, rows: torch.Tensor) -> torch.Tensor:
        return self.dataset.images(rows)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # of a process with threads
@pytest.mark.parametrize("cached", [False, True])
def test_workers_give_the_same(root: Path, tmp_path: Path, cached: bool) -> None:
    dataset = _ready(root, cached=cached, cache_dir=tmp_path / "cache")
    batches = torch.arange(len(dataset)).split(7)
    for workers in (0, 2):
        loader: DataLoader[Any] = DataLoader(
            _Batches(dataset), batch_size=None, sampler=batches, num_workers=workers
        )
        np.testing.assert_array_equal(torch.cat(list(loader)).numpy(), _images(_ready(root)))


def test_another_process_gives_the_same(root: Path) -> None:
    script = (
        "import sys, hashlib, torch, pytest; from pathlib import Path\n"
        "from detaux_pl.data.mnist_stl10 import MNISTSTL10\n"
        "from tests.data.written_mnist_stl10 import accept_stl10\n"
        "accept_stl10(pytest.MonkeyPatch(), Path(sys.argv[1]))\n"
        "d = MNISTSTL10(Path(sys.argv[1]), n_train=9, n_val=1, n_test=5); d.setup()\n"
        "print(hashlib.sha256(d.images(torch.arange(30)).numpy().tobytes()).hexdigest())"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, str(root)], capture_output=True, text=True, check=True
    )
    images = _images(_ready(root, n_train=9, n_val=1, n_test=5))
    assert result.stdout.strip() == hashlib.sha256(images.tobytes()).hexdigest()


def test_cached_scenes_are_the_same(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    composed = _ready(root, cache_dir=cache)
    assert composed.pixels is None
    assert not cache.exists()
    dataset = _ready(root, cached=True, cache_dir=cache)
    assert dataset.pixels is not None
    np.testing.assert_array_equal(_images(dataset), _images(composed))
    np.testing.assert_array_equal(dataset.factors, composed.factors)
    for other in ({"seed": 1}, {"variant": "BC-DL"}, {"split": "official"}, {"n_val": 11}):
        arguments: dict[str, Any] = {"cached": True, "cache_dir": cache, **other}
        expected = _images(_ready(root, **other))
        np.testing.assert_array_equal(_images(_ready(root, **arguments)), expected)
    # Composed once: a second run maps what is there.
    monkeypatch.delattr(MNISTSTL10, "_compose")
    again = _ready(root, cached=True, cache_dir=cache)
    again.setup()
    assert torch.equal(again.images(torch.arange(144)), dataset.images(torch.arange(144)))


def test_pickled_copies_give_the_same(root: Path, tmp_path: Path) -> None:
    expected = _images(_ready(root))
    for cached in (False, True):
        dataset = _ready(root, cached=cached, cache_dir=tmp_path / "cache")
        copy = pickle.loads(pickle.dumps(dataset))
        np.testing.assert_array_equal(_images(copy), expected)
        unread = pickle.loads(
            pickle.dumps(MNISTSTL10(root, cached=cached, cache_dir=tmp_path, **_COUNTS))
        )
        unread.setup()
        np.testing.assert_array_equal(_images(unread), expected)
    file = io.BytesIO()
    pickle.dump(dataset, file)
    assert file.tell() < 20_000  # the mapped scenes are not sent


@pytest.mark.parametrize(
    ("variant", "weights"), [("DC-BC", (10, 1, 0)), ("DC-DL", (8, 0, 1)), ("BC-DL", (0, 1, 10))]
)
def test_joint_labels(root: Path, variant: str, weights: tuple[int, ...]) -> None:
    dataset = _ready(root, variant=variant, n_train=2000)
    joint = dataset.joint_labels
    np.testing.assert_array_equal(joint, dataset.factors @ np.array(weights))
    np.testing.assert_array_equal(joint, joint[dataset.partners])
    assert np.unique(joint).tolist() == list(range(100 if variant == "DC-BC" else 80))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "DC"}, "variant is 'DC': give DC-BC, DC-DL, BC-DL"),
        ({"split": "random"}, "split is 'random': give notebook or official"),
        ({"principal": "colour"}, "'colour' does not exist in MNISTSTL10: choose one of digit"),
        ({"n_val": 0}, "n_val is 0: give 1 to 500000000 pairs"),
        ({"n_test": 500_000_001}, "n_test is 500000001"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MNISTSTL10(Path("nowhere"), **arguments)


def _message(root: Path, **arguments: Any) -> str:
    with pytest.raises(UserError) as caught:
        MNISTSTL10(root, **{**_COUNTS, **arguments}).prepare()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_missing_files_are_named(root: Path, tmp_path: Path) -> None:
    message = _message(tmp_path)
    assert f"MNIST cannot be read, missing or damaged in {tmp_path / 'MNIST' / 'raw'}: " in message
    assert "train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte (" in message
    assert "set download to true, or put the files of https://ossci-datasets.s3" in message
    write_mnist(tmp_path)
    message = _message(tmp_path)
    assert "train_X.bin, train_y.bin, test_X.bin, test_y.bin (Dataset not found" in message
    assert "or put the files of http://ai.stanford.edu/~acoates/stl10/stl10_bin" in message
    assert "damaged and" not in message
    (tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
    assert "raw: t10k-labels-idx1-ubyte (" in _message(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("train-images-idx3-ubyte", b"", "train-images-idx3-ubyte, train-labels-idx1-ubyte"),
        ("train-images-idx3-ubyte", b"<html>404</html>", "train-images-idx3-ubyte"),
        ("t10k-images-idx3-ubyte", b"\0\0\10\3" + b"\0\0\0\1" * 3 + b"\7", r"shape (1, 1, 1), 100"),
        ("t10k-labels-idx1-ubyte", b"\0\0\10\1\0\0\0\2ab", "100, 28, 28), 2 labels"),
        ("t10k-labels-idx1-ubyte", b"\0\0\10\1\0\0\0\x64" + b"\x0b" * 100, "a label is 11"),
        ("t10k-labels-idx1-ubyte", b"\0\0\10\1\0\0\0\x64" + b"\x09" * 9, "shape '[100]' is inv"),
    ],
)
def test_damaged_mnist_is_named(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    write_mnist(tmp_path)
    (tmp_path / "MNIST" / "raw" / name).write_bytes(content)
    message = _message(tmp_path)
    assert name in message
    assert reason in message
    assert ": remove what is damaged and set download to true, or put" in message


def test_damaged_stl10_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path)
    write_stl10(tmp_path)
    accept_stl10(monkeypatch, tmp_path)
    path = tmp_path / "stl10_binary" / "test_X.bin"
    path.write_bytes(path.read_bytes()[:-1])
    message = _message(tmp_path)
    assert "STL-10 cannot be read, missing or damaged in" in message
    assert "stl10_binary: test_X.bin (Dataset not found or corrupted" in message


def test_failing_download_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])
    monkeypatch.setattr(STL10, "url", "http://127.0.0.1:9/stl10_binary.tar.gz")
    message = _message(tmp_path, download=True)
    assert message.startswith("MNIST cannot be read")
    assert "Connection refused" in message
    assert "run again, or put the files of http://127.0.0.1:9/ there." in message
    write_mnist(tmp_path / "other")
    message = _message(tmp_path / "other", download=True)
    assert message.startswith("STL-10 cannot be read")
    assert "Connection refused" in message


def test_too_few_images_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path, 15, 3)
    write_stl10(tmp_path)
    accept_stl10(monkeypatch, tmp_path)
    message = _message(tmp_path)
    assert "the val split of MNIST in" in message
    assert "has 1 images of fewer than 2 classes, and pairs need 2" in message
