"""The range of pixels: one for a data set, found or given, and told by `detaux data check`."""

from __future__ import annotations

import csv
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from detaux_pl.artifacts.files import read_json
from detaux_pl.cli.main import main
from detaux_pl.data.datasets.image_arrays import ImageArrays
from detaux_pl.data.datasets.image_folder import ImageFolder
from tests.cli.conftest import CONF

Refused = Callable[[list[str]], str]
pytestmark = pytest.mark.slow  # many data sets, each through the commands

_SIZE = (16, 16)


def _level(value: Any, dtype: Any = np.uint16) -> np.ndarray:  # type: ignore[type-arg]
    return np.full(_SIZE, value, dtype)


def _folder(root: Path, images: list[np.ndarray], suffix: str) -> Path:  # type: ignore[type-arg]
    """Write images in turn to two classes, with a bit of black in each that tells them apart."""
    for k, image in enumerate(images):
        path = root / "ab"[k % 2] / f"{k:02}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return root


def _words(tmp_path: Path, command: str, kind: str, **given: Any) -> list[str]:
    settings = yaml.safe_load((CONF / "chain.yaml").read_text())
    given = {"cache_dir": str(tmp_path / "cache"), **given}
    settings["dataset"] = {"class_path": kind, "init_args": given}
    settings["disentangle"]["data"] = {"init_args": {"batch_size": 4}}
    settings["multitask"]["data"] = {"init_args": {"batch_size": 4}}
    path = tmp_path / "chain.yaml"
    path.write_text(yaml.safe_dump(settings))
    return ["data", command, "--config", str(path), "--run_dir", str(tmp_path / "run")]


def _values(tmp_path: Path) -> str:
    values: str = read_json(tmp_path / "run" / "data" / "check.json")["values"]
    return values


def _whites(dataset: Any) -> list[int]:
    dataset.setup()
    return [int(value) for value in dataset.pixels.flatten(1).max(1).values]


def _ramp(most: int, n: int, dtype: Any = np.uint16) -> list[np.ndarray]:  # type: ignore[type-arg]
    """Flat images from black to `most`."""
    return [_level(most * k // (n - 1), dtype) for k in range(n)]


@pytest.mark.parametrize(
    ("most", "range_", "bits"),
    [(255, "0 to 255", 8), (4000, "0 to 4095", 12), (65535, "0 to 65535", 16)],
)
@pytest.mark.parametrize(("suffix", "dtype"), [(".png", np.uint16), (".tif", np.int32)])
def test_check_finds_one_range_for_all_files(
    tmp_path: Path, most: int, range_: str, bits: int, suffix: str, dtype: Any
):
    ramp = _ramp(most, 12, dtype)
    root = _folder(tmp_path / "images", ramp, suffix)
    words = _words(tmp_path, "check", "ImageFolder", root=str(root), image_size=16)
    main(words)
    assert _values(tmp_path) == (
        f"{range_} become 0 to 255 (found: 0 to {most}) in 12 images of more than 8 bits, found"
    )
    dataset = ImageFolder(root, image_size=16, cache_dir=tmp_path / "cache")
    wanted = [int(image.max()) >> (bits - 8) for image in [*ramp[::2], *ramp[1::2]]]
    assert _whites(dataset) == wanted


def test_a_given_range_is_used_and_what_is_beyond_is_clipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    root = _folder(tmp_path / "images", _ramp(4000, 12), ".png")
    given = {"root": str(root), "image_size": 16, "value_range": [1000, 2000]}
    main(_words(tmp_path, "check", "ImageFolder", **given))
    out = capsys.readouterr().out
    assert "note  pixels from 0 to 4000 are clipped to the value_range, 1000 to 2000" in out
    assert "1000 to 2000 become 0 to 255 (found: 0 to 4000)" in _values(tmp_path)
    dataset = ImageFolder(
        root, image_size=16, cache_dir=tmp_path / "cache", value_range=(1000, 2000)
    )
    levels = [4000 * k // 11 for k in [*range(0, 12, 2), *range(1, 12, 2)]]
    assert _whites(dataset) == [round(min(max(v - 1000, 0), 1000) * 0.255) for v in levels]


def test_floats_are_from_zero_to_one_unless_it_is_said(tmp_path: Path, error_line: Refused):
    shares = [_level(k / 11, np.float32) for k in range(12)]
    root = _folder(tmp_path / "images", shares, ".tif")
    given = {"root": str(root), "image_size": 16}
    main(_words(tmp_path, "check", "ImageFolder", **given))
    assert _values(tmp_path).startswith("0 to 1 become 0 to 255 (found: 0 to 1) in 12 images")
    dataset = ImageFolder(root, image_size=16, cache_dir=tmp_path / "cache")
    order = [*range(0, 12, 2), *range(1, 12, 2)]
    assert _whites(dataset) == [round(255 * k / 11) for k in order]
    Image.fromarray(_level(300.5, np.float32)).save(root / "a" / "00.tif")
    line = error_line(_words(tmp_path, "show", "ImageFolder", **given))
    assert f"{root} has floating-point pixels from 0.09090" in line
    assert (
        f"to 300.5 (in {root / 'a' / '00.tif'}), which tell no range (only 0 to 1 is told)" in line
    )
    assert "set value_range to what becomes black and white, such as [0.0909" in line


def test_integers_beyond_sixteen_bits_tell_no_range(tmp_path: Path, error_line: Refused):
    images = [_level(value, np.int32) for value in (0, 70_000, 260, -5)]
    root = _folder(tmp_path / "images", images, ".tif")
    given = {"root": str(root), "image_size": 16}
    line = error_line(_words(tmp_path, "check", "ImageFolder", **given))
    assert "has pixels from -5 to 70000 (in " in line
    assert "such as [-5, 70000]; what lies outside is clipped" in line
    dataset = ImageFolder(
        root, image_size=16, cache_dir=tmp_path / "cache", value_range=(-5, 70_000)
    )
    assert _whites(dataset) == [0, 1, 255, 0]  # 0 and 260, then 70,000 and -5


def test_a_range_for_eight_bits_is_refused(tmp_path: Path, error_line: Refused):
    root = _folder(tmp_path / "images", _ramp(255, 12, np.uint8), ".png")
    given = {"root": str(root), "image_size": 16}
    line = error_line(_words(tmp_path, "check", "ImageFolder", **given, value_range=[0, 15]))
    assert "value_range is [0, 15], but all images of" in line
    assert "have 8 bits, whose range is always 0 to 255: leave it out" in line
    for wrong in ([5, 5], [1, 0]):
        line = error_line(_words(tmp_path, "check", "ImageFolder", **given, value_range=wrong))
        assert "give the least and the greatest pixel, such as [0, 4095]" in line


def test_eight_bits_beside_twelve_keep_theirs(tmp_path: Path):
    images = [_level(255, np.uint8), _level(4095), _level(51, np.uint8), _level(2048)]
    root = _folder(tmp_path / "images", images, ".png")
    dataset = ImageFolder(root, image_size=16, cache_dir=tmp_path / "cache")
    assert _whites(dataset) == [255, 51, 255, 128]
    assert dataset.deep.n == 2


def _png_of_sixteen_bit_colours(path: Path, image: np.ndarray) -> None:  # type: ignore[type-arg]
    """Write a PNG, which Pillow cannot, of shape (height, width, 3 or 4)."""
    height, width, channels = image.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in image)
    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


@pytest.mark.parametrize("opacity", [None, 65535])
@pytest.mark.parametrize(("most", "bits"), [(4095, 12), (65535, 16)])
def test_colours_of_twelve_bits(tmp_path: Path, opacity: int | None, most: int, bits: int):
    for k in range(4):
        image = np.zeros((*_SIZE, 3 if opacity is None else 4), np.uint16)
        image[..., :3] = [most, most * k // 3, 0]
        if opacity is not None:
            image[..., 3] = opacity
        _png_of_sixteen_bit_colours(tmp_path / "images" / "ab"[k % 2] / f"{k}.png", image)
    dataset = ImageFolder(tmp_path / "images", image_size=16, cache_dir=tmp_path / "cache")
    dataset.setup()
    assert dataset.pixels is not None
    assert dataset.levels.integers == (0, most)
    found = dataset.pixels[:, :, 5, 5].tolist()
    assert found == [[255, (most * k // 3) >> (bits - 8), 0] for k in (0, 2, 1, 3)]


def test_tables_and_hugging_face_follow_the_same_rule(tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    ramp = _ramp(1023, 12)
    root = _folder(tmp_path / "images", ramp, ".png")
    with (root / "table.csv").open("w", newline="") as file:
        rows = [[f"{'ab'[k % 2]}/{k:02}.png", "ab"[k % 2]] for k in range(12)]
        csv.writer(file).writerows([["image", "kind"], *rows])
    table = {"path": str(root / "table.csv"), "principal": "kind", "image_size": 16}
    main(_words(tmp_path, "check", "ImageTable", **table))
    said = _values(tmp_path)
    assert said.startswith("0 to 1023 become 0 to 255 (found: 0 to 1023) in 12 images")
    stored = []
    for image in ramp:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        stored.append({"bytes": buffer.getvalue(), "path": None})
    features = datasets.Features(image=datasets.Image(), kind=datasets.Value("int64"))
    values = {"image": stored, "kind": [k % 2 for k in range(12)]}
    datasets.Dataset.from_dict(values, features).save_to_disk(str(tmp_path / "hf"))
    hub = {"path": str(tmp_path / "hf"), "principal": "kind", "image_size": 16}
    main(_words(tmp_path, "check", "HuggingFace", **hub))
    assert _values(tmp_path) == said
    arrays = {"path": str(tmp_path / "x.npz"), "principal": "kind"}
    np.savez(arrays["path"], images=np.stack(ramp), kind=np.arange(12) % 2)
    main(_words(tmp_path, "check", "ImageArrays", **arrays))
    assert _values(tmp_path) == said
    dataset = ImageArrays(Path(arrays["path"]), "kind", cache_dir=tmp_path / "cache")
    assert _whites(dataset) == [int(image.max()) >> 2 for image in ramp]


def test_bytes_and_keys_of_eight_bits_and_of_whole_sixteen_bits_stay(tmp_path: Path):
    """What was cached and trained before there was one rule is found again where it was right."""
    for dtype, most in ((np.uint8, 255), (np.uint16, 65535)):
        root = _folder(tmp_path / str(most), _ramp(most, 12, dtype), ".png")
        dataset = ImageFolder(root, image_size=16, cache_dir=tmp_path / "cache")
        dataset.describe()
        assert dataset.cache.folder.parent.name == "imagefolder-f9df4dbd4537"
    narrow = _folder(tmp_path / "narrow", _ramp(4095, 12), ".png")
    dataset = ImageFolder(narrow, image_size=16, cache_dir=tmp_path / "cache")
    dataset.describe()
    assert dataset.cache.folder.parent.name != "imagefolder-f9df4dbd4537"


def test_a_file_that_needs_more_bits_changes_the_range_of_all(tmp_path: Path):
    root = _folder(tmp_path / "images", _ramp(1000, 4), ".png")
    first = ImageFolder(root, image_size=16, cache_dir=tmp_path / "cache")
    first.describe()
    print_ = first.fingerprint()
    assert _whites(first) == [0, 666 >> 2, 333 >> 2, 1000 >> 2]
    Image.fromarray(_level(5000)).save(root / "a" / "new.png")
    again = ImageFolder(root, image_size=16, cache_dir=tmp_path / "cache")
    assert _whites(again) == [0, 666 >> 6, 5000 >> 6, 333 >> 6, 1000 >> 6]
    assert again.fingerprint() != print_
