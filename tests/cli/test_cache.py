"""The image cache and the codes: what the disk has no room for, and what was changed on it."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from detaux_pl.artifacts import space
from detaux_pl.artifacts.codes import CodesShard
from detaux_pl.artifacts.errors import UserError
from detaux_pl.cli.main import main
from detaux_pl.data import pixel_cache
from detaux_pl.data.datasets.image_folder import ImageFolder
from detaux_pl.data.pixel_cache import PixelCache
from tests.cli.test_data import _folders
from tests.data.written import write_class_folders

Refused = Callable[[list[str]], str]


class _Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Say how much is free on every disk."""

    def free(n_bytes: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: _Usage(10**12, 0, n_bytes))

    return free


def _files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_no_byte_is_written_of_a_cache_that_has_no_room(
    tmp_path: Path, error_line: Refused, disk: Callable[[int], None]
):
    words = _folders(tmp_path, all={"big": 30, "few": 10})
    disk(10**11)
    line = error_line(["data", "check", *words, "--dataset.image_size", "200000"])
    assert (
        "no room for the image cache of 40 images: 4,800.0 GB are needed, but 100.0 GB are" in line
    )
    assert "free some space, or give another cache_dir or a smaller image_size" in line
    assert "40 images: 12,000,000,000,000.0 GB are needed" in error_line(
        ["data", "check", *words, "--dataset.image_size", str(10**10)]
    )
    assert [name for name in _files(tmp_path / "cache") if "pixels" in name] == []


@pytest.mark.parametrize(("free", "fits"), [(40_000, False), (50_000, True)])
def test_a_margin_is_left(tmp_path: Path, disk: Callable[[int], None], free: int, fits: bool):
    write_class_folders(tmp_path / "images")
    dataset = ImageFolder(tmp_path / "images", image_size=16, cache_dir=tmp_path / "cache")
    disk(free)
    if fits:
        dataset.prepare()
    else:
        with pytest.raises(UserError, match=r"23\.0 kB are needed, and some for others"):
            dataset.prepare()
    assert dataset.cache.complete == fits


@pytest.mark.parametrize("when", ["reserved", "written"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_what_cannot_be_finished_for_want_of_space_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str, code: int
):
    cache = PixelCache(tmp_path / "cache" / "key", (3, 1, 2, 2))

    def full(*args: Any) -> None:
        raise OSError(code, os.strerror(code))

    def render(rows: Any, write: Any) -> Iterator[Any]:
        write(rows[:1], np.ones((1, 1, 2, 2), np.uint8))
        yield rows[:1]
        full()

    if when == "reserved":
        monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match=r"cannot be filled .*give another cache_dir or free some"):
        cache.fill(render, "", np.ones((3, 32), np.uint8))
    assert _files(tmp_path / "cache") == [".lock"]
    assert code == errno.ENOSPC or space.is_full(OSError(os.strerror(code)))


def test_codes_ask_for_space_and_are_removed_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: Callable[[int], None]
):
    disk(10**9)
    with pytest.raises(
        UserError, match=r"codes of 1,000,000,000 images: 40\.0 GB are needed, but 1\.0"
    ):
        CodesShard(tmp_path / "codes", 0, 10**9, {"code": (5, 2)})
    assert _files(tmp_path) == []
    shard = CodesShard(tmp_path / "codes", 0, 2, {"code": (5, 2)})
    one = np.zeros(1, np.int64)
    for _ in range(2):
        shard.append({"code": np.zeros((1, 5, 2), np.float32)}, one, one.astype(np.int8), one[None])

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match=r"No space left on device.*rank0"):
        shard.close()
    assert _files(tmp_path) == []


def _cached(tmp_path: Path, **given: Any) -> ImageFolder:
    return ImageFolder(tmp_path / "images", image_size=16, cache_dir=tmp_path / "cache", **given)


def _flip(path: Path, place: int, keep_date: bool = False) -> None:
    stat = path.stat()
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))
    if keep_date:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize("cheap", [True, False])
def test_a_flipped_byte_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cheap: bool):
    write_class_folders(tmp_path / "images")
    _cached(tmp_path).setup()
    (path,) = (tmp_path / "cache").rglob("pixels.npy")
    monkeypatch.setattr(pixel_cache, "_CHEAP", 10**9 if cheap else 0)
    _cached(tmp_path).setup()
    _flip(path, 128 + 7 * 768 + 5)
    message = (
        r"pixels\.npy is damaged \(1 of 30 images are not what was written, the first in row 7\)"
    )
    with pytest.raises(UserError, match=message):
        _cached(tmp_path).setup()
    _flip(path, 128 + 7 * 768 + 5)
    _cached(tmp_path).setup()


def test_what_the_disk_flips_in_a_large_cache_is_told_by_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error_line: Refused
):
    words = _folders(tmp_path, all={"big": 30, "few": 10})
    assert main(["data", "check", *words]) == 0
    monkeypatch.setattr(pixel_cache, "_CHEAP", 0)
    (path,) = (tmp_path / "cache").rglob("pixels.npy")
    _flip(path, path.stat().st_size - 1, keep_date=True)
    assert main(["data", "show", *words]) == 0  # to read all would take its time
    line = error_line(["data", "check", *words])
    assert "(1 of 40 images are not what was written, the first in row 39): delete it" in line


def test_a_copied_cache_is_compared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_class_folders(tmp_path / "images")
    _cached(tmp_path).setup()
    monkeypatch.setattr(pixel_cache, "_CHEAP", 0)
    (path,) = (tmp_path / "cache").rglob("pixels.npy")
    compared: list[int] = []
    sums = pixel_cache.crc_sums

    def note(images: Any) -> Any:
        compared.append(len(images))
        return sums(images)

    monkeypatch.setattr(pixel_cache, "crc_sums", note)
    _cached(tmp_path).setup()
    assert compared == []
    os.utime(path)
    for _ in range(2):
        _cached(tmp_path).setup()
    assert sum(compared) == 30


def test_a_cache_of_before_there_were_sums_still_opens_and_goes_on(tmp_path: Path):
    write_class_folders(tmp_path / "images")
    first = _cached(tmp_path)
    first.setup()
    folder = first.cache.folder
    for name in ("sums.npy", "checked.json"):
        (folder / name).unlink()
    again = _cached(tmp_path)
    again.setup()
    assert again.pixels is not None
    assert first.pixels is not None
    assert torch.equal(again.pixels, first.pixels)
    assert not again.cache.verify()
    # As a killed process of before left it, with half of the rows filled.
    wanted = first.pixels.clone()
    (folder / "pixels.npy").rename(folder / "pixels.part.npy")
    np.save(folder / "done.npy", np.repeat(np.array([1, 0], np.uint8), 15))
    rest = _cached(tmp_path)
    rest.setup()
    assert rest.pixels is not None
    assert torch.equal(rest.pixels, wanted)


def test_a_damaged_neighbour_lends_no_damaged_image(tmp_path: Path):
    write_class_folders(tmp_path / "images")
    first = _cached(tmp_path)
    first.setup()
    assert first.pixels is not None
    wanted = first.pixels.clone()
    (path,) = (tmp_path / "cache").rglob("pixels.npy")
    _flip(path, 128 + 7 * 768 + 5)
    (tmp_path / "images" / "bird" / "00.png").unlink()
    fewer = _cached(tmp_path)
    fewer.setup()
    assert fewer.pixels is not None
    assert torch.equal(fewer.pixels, wanted[1:])
    assert fewer.cache.verify()
