"""Features on disk: computed once, shared, resumed, and not believed when they are damaged."""

import os
import shutil
import signal
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.crop_flip import CropFlip
from detaux_pl.data.datasets.digit_scenes import DigitScenes
from detaux_pl.data.datasets.image_folder import ImageFolder
from detaux_pl.data.modules import LabelledDataModule
from detaux_pl.data.noise import SaltPepper
from detaux_pl.models.feature_cache import FeatureCache, open_features
from detaux_pl.models.pretrained import PretrainedNet
from tests.children import run_child, start_child
from tests.data.written import write_class_folders


def drawn_net(seed=0, size=32, shape=(3, 16, 16)):
    torch.manual_seed(seed)
    return PretrainedNet("timm/test_resnet", shape, size=size, pretrained=False)


@pytest.fixture
def net():
    return drawn_net()


@pytest.fixture
def scenes():
    dataset = DigitScenes(n_train=40, n_val=7, n_test=8)
    dataset.setup()
    return dataset


@pytest.fixture
def module(scenes):
    module = LabelledDataModule(scenes, noise=SaltPepper(0.1))
    module.setup("fit")
    return module


@pytest.fixture
def calls(monkeypatch):
    """Sizes of the batches that go through networks."""
    sizes = []
    forward = PretrainedNet.forward

    def counted(self, images):
        sizes.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(PretrainedNet, "forward", counted)
    return sizes


def folders(root):
    return sorted(path.parent for path in root.rglob("features.npy"))


def test_features_are_those_of_the_net_and_are_computed_once(net, scenes, calls, tmp_path):
    found = open_features(net, scenes, tmp_path, batch_size=16)
    assert calls == [16, 16, 16, 7]
    with torch.no_grad():
        expected = net(scenes.images(torch.arange(55)) / 255).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert found.dtype == np.float32
    calls.clear()
    again = open_features(net, scenes, tmp_path, batch_size=5)
    np.testing.assert_array_equal(again, found)
    assert calls == []
    assert not again.flags.writeable


def test_the_noise_that_a_module_adds_is_seen(net, scenes, module, tmp_path):
    clean = open_features(net, scenes, tmp_path)
    noisy = open_features(net, scenes, tmp_path, seen=module)
    with torch.no_grad():
        expected = net(module.images(np.arange(55))).numpy()
    np.testing.assert_allclose(noisy, expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(noisy, clean, rtol=1e-2)
    assert len(folders(tmp_path)) == 2


def test_what_changes_features_has_a_folder_of_its_own(net, scenes, module, tmp_path):
    def count(used=net, dataset=scenes, **kwargs):
        open_features(used, dataset, tmp_path, **kwargs)
        return len(folders(tmp_path))

    assert count() == 1
    assert count(drawn_net(seed=1)) == 2
    assert count(drawn_net(size=64)) == 3
    assert count(seen=module) == 4
    weaker = LabelledDataModule(scenes, noise=SaltPepper(0.2))
    assert count(seen=weaker) == 5
    assert count(seen=LabelledDataModule(scenes, noise=SaltPepper(0.2))) == 5
    assert count(seen=LabelledDataModule(scenes)) == 6  # as without, which is known less surely
    # Of changes in training, only what evaluation keeps of them counts.
    assert (
        count(drawn_net(shape=(3, 8, 8)), seen=LabelledDataModule(scenes, augment=CropFlip(8))) == 7
    )
    assert (
        count(drawn_net(shape=(3, 8, 8)), seen=LabelledDataModule(scenes, augment=CropFlip(8))) == 7
    )
    other = DigitScenes(n_train=40, n_val=7, n_test=8, seed=1)
    other.setup()
    assert count(dataset=other) == 8
    scenes.pixels[54, 0, 0, 0] ^= 1
    assert count() == 9


def test_files_are_known_by_their_content(tmp_path, calls):
    write_class_folders(tmp_path / "images")
    net = drawn_net()

    def run(root):
        dataset = ImageFolder(root, image_size=16, cache_dir=tmp_path / "cache")
        dataset.setup()
        calls.clear()
        open_features(net, dataset)  # beside the images
        return sum(calls)

    n = run(tmp_path / "images")
    assert n > 10
    (tmp_path / "images").rename(tmp_path / "moved")
    assert run(tmp_path / "moved") == 0
    file = next(path for path in (tmp_path / "moved").rglob("*") if path.is_file())
    shutil.copy(next(p for p in (tmp_path / "moved").rglob("*") if p.is_file() and p != file), file)
    assert run(tmp_path / "moved") == n
    assert len(folders(tmp_path / "cache" / "features")) == 2


def kill_at_fourth_batch(net, scenes, folder):
    forward = net.forward
    done = []

    def fatal(images):
        done.append(len(images))
        if len(done) == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return forward(images)

    net.forward = fatal
    open_features(net, scenes, folder, batch_size=8)


@pytest.mark.usefixtures("one_thread")
def test_a_killed_one_is_resumed_and_gives_the_same_bytes(net, scenes, calls, tmp_path):
    whole = open_features(net, scenes, tmp_path / "whole", batch_size=8)

    killed = tmp_path / "killed"
    assert run_child(kill_at_fourth_batch, net, scenes, killed) == -signal.SIGKILL
    assert folders(tmp_path / "killed") == []
    calls.clear()
    resumed = open_features(net, scenes, tmp_path / "killed", batch_size=8)
    assert calls == [8, 8, 8, 7]  # three of seven batches were done
    np.testing.assert_array_equal(resumed, whole)
    names = {path.name for path in folders(tmp_path / "killed")[0].iterdir()}
    assert names == {".claims", ".lock", "checked.json", "features.npy", "sums.npy"}
    for name in ("features.npy", "sums.npy"):
        one, other = (folders(tmp_path / run)[0] / name for run in ("whole", "killed"))
        assert one.read_bytes() == other.read_bytes()


def take(folder, own):
    """Compute rows until all are done; say which. Process 0 waits for 1 to come, after a batch."""
    cache = FeatureCache(folder / "cache", (90, 4))
    taken = []

    def compute(rows):
        taken.extend(rows.tolist())
        (folder / f"begun{own}").touch()
        while own == 0 and not (folder / "begun1").exists():
            time.sleep(0.01)
        return np.repeat(rows[:, None], 4, axis=1).astype(np.float32)

    cache.fill(compute, 10, "rows")
    (folder / f"{own}.txt").write_text(" ".join(map(str, taken)))
    assert cache.complete


def test_processes_share_the_rows_and_wait_for_each_other(tmp_path):
    first = start_child(take, tmp_path, 0)
    while not (tmp_path / "begun0").exists():
        time.sleep(0.01)
    other = start_child(take, tmp_path, 1)
    for process in (first, other):
        process.join()
        assert process.exitcode == 0
    rows = [[int(word) for word in (tmp_path / f"{i}.txt").read_text().split()] for i in (0, 1)]
    assert sorted(rows[0] + rows[1]) == list(range(90))
    assert rows[0]
    assert rows[1]
    cache = FeatureCache(tmp_path / "cache", (90, 4))
    np.testing.assert_array_equal(cache.open(), np.repeat(np.arange(90.0)[:, None], 4, axis=1))


def damage(path, offset=-3):
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["features.npy", "sums.npy"])
def test_a_changed_byte_is_noticed(name, net, scenes, tmp_path):
    open_features(net, scenes, tmp_path)
    damage(folders(tmp_path)[0] / name)
    message = rf"^the cache {folders(tmp_path)[0]}/features.npy is damaged \(row 54 is not what"
    with pytest.raises(UserError, match=message):
        open_features(net, scenes, tmp_path)


def test_a_changed_byte_of_an_unfinished_one_is_noticed(tmp_path):
    cache = FeatureCache(tmp_path, (30, 2))

    def killed(rows):
        if rows[0] >= 20:
            raise RuntimeError("away")
        return np.ones((len(rows), 2), np.float32)

    with pytest.raises(RuntimeError, match="away"):
        cache.fill(killed, 10, "rows")
    damage(tmp_path / "features.part.npy", 135)
    cache.fill(lambda rows: np.ones((len(rows), 2), np.float32), 10, "rows")
    with pytest.raises(UserError, match="row 0 is not what was written"):
        cache.open()


@pytest.mark.parametrize("what", ["short", "gone"])
def test_other_damage_is_one_line(what, net, scenes, tmp_path):
    open_features(net, scenes, tmp_path)
    path = folders(tmp_path)[0] / "features.npy"
    if what == "short":
        path.write_bytes(path.read_bytes()[:1000])
    else:
        (path.parent / "sums.npy").unlink()
    with pytest.raises(UserError, match=r"is damaged .*: delete its folder and run again.$"):
        open_features(net, scenes, tmp_path)


def test_space_is_asked_for_first(net, scenes, calls, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000))
    message = (
        r"^there is no room for the features of 55 images: 21.1 kB are needed, but 10.0 kB are free"
        ".*or give another cache_dir.$"
    )
    with pytest.raises(UserError, match=message):
        open_features(net, scenes, tmp_path)
    assert calls == []
    assert not list(tmp_path.rglob("*.npy"))
