from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from detaux_pl.artifacts.errors import UserError
from detaux_pl.data import image_files
from detaux_pl.data.datasets.image_folder import ImageFolder
from detaux_pl.data.image_files import ImageFiles, find_images
from detaux_pl.data.pixel_cache import PixelCache
from detaux_pl.data.read_image import read_image
from tests.data.written import write_class_folders

_N = 30
"""Images that `write_class_folders` writes."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_class_folders(tmp_path / "images")
    return tmp_path / "images"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are decoded, in this process."""
    names: list[str] = []

    def note(path: Path, *args: Any) -> Any:
        names.append(path.relative_to(path.parents[1]).as_posix())
        return read_image(path, *args)

    monkeypatch.setattr(image_files, "read_image", note)
    return names


def _dataset(root: Path, cache_dir: Path | None = None, **given: Any) -> ImageFolder:
    return ImageFolder(root, image_size=16, cache_dir=cache_dir or root.parent / "cache", **given)


def _expected(dataset: ImageFiles) -> np.ndarray:  # type: ignore[type-arg]
    return np.stack([read_image(path, (16, 16), 3) for path in dataset.index.paths])


def test_pixels_are_those_of_the_files_in_the_order_of_the_ids(
    root: Path, decoded: list[str]
) -> None:
    dataset = _dataset(root)
    dataset.setup()
    assert dataset.ids.tolist() == sorted(decoded)
    assert len(decoded) == _N
    assert dataset.pixels is not None
    np.testing.assert_array_equal(dataset.pixels.numpy(), _expected(dataset))
    rows = torch.tensor([7, 0, 7])
    assert torch.equal(dataset.images(rows), dataset.pixels[[7, 0, 7]])


def test_second_use_decodes_nothing(root: Path, decoded: list[str]) -> None:
    _dataset(root).setup()
    decoded.clear()
    again = _dataset(root)
    again.setup()
    assert decoded == []
    assert again.pixels is not None
    np.testing.assert_array_equal(again.pixels.numpy(), _expected(again))


def test_workers_decode_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_class_folders(tmp_path / "images", n=60)
    monkeypatch.setattr(image_files, "_n_cores", lambda: 2)
    dataset = _dataset(tmp_path / "images")
    dataset.setup()
    assert dataset.pixels is not None
    np.testing.assert_array_equal(dataset.pixels.numpy(), _expected(dataset))


def test_describe_opens_no_image(root: Path, decoded: list[str]) -> None:
    (root / "bird" / "00.png").write_bytes(b"")
    dataset = _dataset(root)
    dataset.describe()
    assert dataset.factor_sizes == (3,)
    assert dataset.image_shape == (3, 16, 16)
    assert decoded == []
    assert not (root.parent / "cache").exists()


def test_other_size_fit_or_channels_are_other_caches(root: Path, decoded: list[str]) -> None:
    _dataset(root).setup()
    for given in ({"channels": 1}, {"fit": "pad"}):
        decoded.clear()
        _dataset(root, **given).setup()
        assert len(decoded) == _N
    decoded.clear()
    dataset = ImageFolder(root, image_size=8, cache_dir=root.parent / "cache")
    dataset.setup()
    assert len(decoded) == _N


def test_split_settings_share_a_cache(root: Path, decoded: list[str]) -> None:
    _dataset(root).setup()
    decoded.clear()
    _dataset(root, seed=1, val_share=0.3).setup()
    assert decoded == []


def test_moved_folder_finds_its_cache(root: Path, decoded: list[str]) -> None:
    cache = root.parent / "cache"
    _dataset(root).setup()
    decoded.clear()
    moved = root.parent / "elsewhere" / "pictures"
    moved.parent.mkdir()
    root.rename(moved)
    dataset = _dataset(moved, cache)
    dataset.setup()
    assert decoded == []
    assert len(list(cache.glob("imagefolder-*/*/pixels.npy"))) == 1


def test_only_what_changed_is_decoded_anew(root: Path, decoded: list[str]) -> None:
    _dataset(root).setup()
    decoded.clear()
    Image.new("RGB", (9, 9), "red").save(root / "cat" / "03.png")
    Image.new("RGB", (9, 9), "blue").save(root / "bird" / "new.png")
    (root / "dog" / "05.png").unlink()
    dataset = _dataset(root)
    dataset.setup()
    assert decoded == ["bird/new.png", "cat/03.png"]
    assert dataset.pixels is not None
    np.testing.assert_array_equal(dataset.pixels.numpy(), _expected(dataset))


def test_file_of_the_same_size_and_date_apart_is_noticed(root: Path, decoded: list[str]) -> None:
    path = root / "cat" / "00.bmp"
    Image.new("RGB", (4, 4), "red").save(path)
    _dataset(root).setup()
    decoded.clear()
    Image.new("RGB", (4, 4), "blue").save(path)
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    _dataset(root).setup()
    assert decoded == ["cat/00.bmp"]


def test_killed_in_the_middle_goes_on_where_it_was(
    root: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[str]
) -> None:
    note: Callable[..., Any] = image_files.read_image
    monkeypatch.setattr(image_files, "_PIECE", 8)

    def kill(path: Path, *args: Any) -> Any:
        if len(decoded) == 10:
            raise KeyboardInterrupt
        return note(path, *args)

    monkeypatch.setattr(image_files, "read_image", kill)
    with pytest.raises(KeyboardInterrupt):
        _dataset(root).setup()
    assert len(decoded) == 10
    monkeypatch.setattr(image_files, "read_image", note)
    decoded.clear()
    dataset = _dataset(root)
    dataset.setup()
    assert len(decoded) == _N - 8  # a piece of eight was kept
    assert dataset.pixels is not None
    np.testing.assert_array_equal(dataset.pixels.numpy(), _expected(dataset))


def test_unreadable_files_are_named_and_the_others_kept(root: Path, decoded: list[str]) -> None:
    (root / "cat" / "00.png").write_bytes(b"")
    (root / "dog" / "01.png").write_text("no image")
    (root / "dog" / "02.png").unlink()
    (root / "dog" / "02.png").symlink_to(root / "nowhere")
    whole = (root / "bird" / "03.png").read_bytes()
    (root / "bird" / "03.png").write_bytes(whole[: len(whole) // 2])
    dataset = _dataset(root)
    with pytest.raises(UserError) as caught:
        dataset.prepare()
    message = str(caught.value)
    assert message.startswith("4 of 30 images cannot be read: ")
    assert "\n" not in message
    assert f"{root / 'cat' / '00.png'} (it is no image)" in message
    assert f"{root / 'dog' / '02.png'} (it does not exist)" in message
    assert [path.name for path, _ in dataset.unreadable] == ["03.png", "00.png", "01.png", "02.png"]
    decoded.clear()
    (root / "bird" / "03.png").write_bytes(whole)
    for name in ("cat/00.png", "dog/01.png", "dog/02.png"):
        (root / name).unlink()
    dataset = _dataset(root)
    dataset.setup()
    assert decoded == ["bird/03.png"]
    assert len(dataset) == 27


def test_missing_file_takes_no_pixels_of_another(root: Path, decoded: list[str]) -> None:
    missing = root / "cat" / "zz.png"
    missing.symlink_to(root / "nowhere")
    with pytest.raises(UserError, match=r"1 of 31 images cannot be read"):
        _dataset(root).prepare()
    # As if it had been readable just after its digest was taken.
    done = next((root.parent / "cache").glob("imagefolder-*/*/done.npy"))
    np.save(done, np.ones(31, np.uint8))
    (root / "cat" / "yy.png").symlink_to(root / "nowhere")
    with pytest.raises(UserError, match=r"2 of 32 images cannot be read"):
        _dataset(root).prepare()


def test_more_than_five_are_counted(root: Path) -> None:
    for path in (root / "cat").iterdir():
        path.write_bytes(b"")
    with pytest.raises(
        UserError, match=r"10 of 30 .*cat/04\.png \(it is no image\); and 5 more\. "
    ):
        _dataset(root).prepare()


def _prepare(root: Path) -> None:
    _dataset(root).prepare()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # of a process with threads
def test_two_processes_decode_each_file_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = root.parent / "log"

    def note(path: Path, *args: Any) -> Any:
        with log.open("a") as file:
            file.write(f"{path}\n")
        return read_image(path, *args)

    monkeypatch.setattr(image_files, "read_image", note)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_prepare, args=(root,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    lines = log.read_text().split()
    assert len(lines) == len(set(lines)) == _N


def test_second_filler_waits_for_the_first(tmp_path: Path) -> None:
    cache = PixelCache(tmp_path / "cache" / "key", (3, 1, 2, 2))
    inside, go = threading.Event(), threading.Event()
    calls = []

    def render(rows: Any, write: Any) -> Any:
        calls.append(rows.tolist())
        inside.set()
        assert go.wait(30)
        write(rows, np.full((len(rows), 1, 2, 2), 7, np.uint8))
        yield rows

    threads = [threading.Thread(target=cache.fill, args=(render, "")) for _ in range(2)]
    threads[0].start()
    assert inside.wait(30)
    threads[1].start()
    go.set()
    for thread in threads:
        thread.join()
    assert calls == [[0, 1, 2]]
    assert cache.open().unique().tolist() == [7]


class _Sums(Dataset[int]):
    def __init__(self, dataset: ImageFiles) -> None:
        self.dataset = dataset

    def __getitem__(self, row: int) -> int:
        return int(self.dataset.images(torch.tensor([row])).sum())

    def __len__(self) -> int:
        return 3


def test_copies_map_the_file_themselves(root: Path) -> None:
    dataset = _dataset(root)
    dataset.setup()
    assert dataset.pixels is not None
    content = pickle.dumps(dataset)
    assert len(content) < dataset.pixels.numel() / 2
    copy = pickle.loads(content)
    assert torch.equal(copy.pixels, dataset.pixels)
    loader = DataLoader(
        _Sums(dataset), batch_size=None, num_workers=1, multiprocessing_context="spawn"
    )
    assert list(loader) == dataset.pixels[:3].sum((1, 2, 3)).tolist()


def test_damaged_cache_is_named(root: Path) -> None:
    _dataset(root).setup()
    path = next((root.parent / "cache").glob("imagefolder-*/*/pixels.npy"))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"pixels\.npy is damaged: delete it and run again"):
        _dataset(root).setup()
    path.unlink()
    dataset = _dataset(root)
    dataset.setup()
    assert dataset.pixels is not None
    np.testing.assert_array_equal(dataset.pixels.numpy(), _expected(dataset))


def test_damaged_neighbours_lend_nothing(root: Path, decoded: list[str]) -> None:
    _dataset(root).setup()
    folder = next((root.parent / "cache").glob("imagefolder-*/*"))
    for name in ("content.npy", "pixels.npy"):
        other = folder.parent / f"other-{name}"
        shutil.copytree(folder, other)
        (other / name).write_bytes(b"\x93NUMPY")
    shutil.rmtree(folder)
    decoded.clear()
    _dataset(root).setup()
    assert len(decoded) == _N


def test_damaged_memory_of_digests_is_made_anew(root: Path, decoded: list[str]) -> None:
    _dataset(root).setup()
    next((root.parent / "cache" / "digests").iterdir()).write_bytes(b"PK\x03\x04 broken")
    decoded.clear()
    _dataset(root).setup()
    assert decoded == []


def test_cache_that_cannot_be_written_is_named(root: Path) -> None:
    (root.parent / "file").write_text("")
    with pytest.raises(
        UserError, match=r"file/cache/digests/.* cannot be written .*: give another c"
    ):
        _dataset(root, root.parent / "file" / "cache").prepare()
    (root.parent / "cache" / "digests").mkdir(parents=True)
    dataset = _dataset(root)
    dataset.describe()
    dataset.cache.folder.parent.write_text("")
    with pytest.raises(
        UserError, match=r"the image cache .* cannot be filled .*23\.0 kB: give anoth"
    ):
        dataset.prepare()


def test_arguments_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="image_size is 0: give the height and width in pixels"):
        ImageFolder(tmp_path, image_size=0)
    with pytest.raises(ValueError, match="channels is 2: give 1 for grey or 3 for RGB"):
        ImageFolder(tmp_path, channels=2)


def test_find_images_leaves_out_what_is_none(tmp_path: Path) -> None:
    for name in ("b/é.JPG", "a/z.png", "a/deep/er.TIFF", "B.jpeg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    others = (".DS_Store", "Thumbs.db", "a/._z.png", "a/notes.txt", "a/noend", "pack.tar.gz")
    for name in others:
        (tmp_path / name).write_bytes(b"")
    for folder in ("__MACOSX", ".ipynb_checkpoints"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "z.png").write_bytes(b"")
    names, ignored = find_images(tmp_path, "")
    assert names == ["B.jpeg", "a/deep/er.TIFF", "a/z.png", "b/é.JPG"]
    assert ignored == sorted(tmp_path / n for n in (*others, "__MACOSX", ".ipynb_checkpoints"))


def test_find_images_follows_links(root: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "birds").symlink_to(root / "bird")
    assert len(find_images(tmp_path / "linked", "").names) == 10


def test_folders_without_images_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the folder .*none does not exist: give one\."):
        find_images(tmp_path / "none", "give one.")
    with pytest.raises(UserError, match=r"there is no image in .*: give one\."):
        find_images(tmp_path, "give one.")
    with pytest.raises(UserError, match=r"py is a file: give one\."):
        find_images(Path(__file__), "give one.")


def test_names_of_another_encoding_are_named(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"gr\xfcn.png")).write_bytes(b"")
    with pytest.raises(UserError, match=r"gr\\udcfcn\.png' is not UTF-8: rename it"):
        find_images(tmp_path, "")
