from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from detaux_pl.artifacts.errors import ArtifactError, UserError
from detaux_pl.artifacts.labels import AuxiliaryLabels
from detaux_pl.data.batch import Batch
from detaux_pl.data.crop_flip import CropFlip
from detaux_pl.data.datasets.digit_scenes import DigitScenes
from detaux_pl.data.datasets.synthetic_shapes3d import SyntheticShapes3D
from detaux_pl.data.modules import (
    FactorDataModule,
    LabelledDataModule,
    PairDataModule,
    ViewDataModule,
)
from detaux_pl.data.noise import SaltPepper
from detaux_pl.data.pairings import ChangedFactors, GivenPairs, PrincipalPairs, SharedFactors
from detaux_pl.data.simclr_augmentation import SimCLRAugmentation
from tests.data.lazy import LazyScenes

Make = Callable[..., FactorDataModule]


def _ready(module: FactorDataModule) -> Any:
    module.prepare_data()
    module.setup("fit")
    return module


def _on_rank(module: FactorDataModule, rank: int, world: int, **more: object) -> FactorDataModule:
    """Let the module believe that a trainer of several processes holds it."""
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    module.trainer = SimpleNamespace(  # type: ignore[assignment]
        global_rank=rank, world_size=world, strategy=strategy, **more
    )
    return module


def _training(
    module: FactorDataModule, rank: int = 0, world: int = 1, epoch: int = 0, step: int = 0
) -> FactorDataModule:
    """Let the module believe that it is in the middle of a training."""
    progress = SimpleNamespace(current=SimpleNamespace(ready=step))
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
    place = {"current_epoch": epoch, "training": True}
    return _on_rank(module, rank, world, fit_loop=loop, **place)


def _epoch(module: FactorDataModule, epoch: int = 0) -> list[Batch]:
    loader = module.train_dataloader()
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    return [module.on_after_batch_transfer(batch, 0) for batch in loader]


def _rows(batches: Iterable[Batch]) -> list[Any]:
    return [batch.rows.tolist() for batch in batches]


def _labels(dataset: DigitScenes, folder: Path, skip: int = 0) -> AuxiliaryLabels:
    """Save auxiliary labels of 4 classes and some ignored samples, for all ids but the first."""
    dataset.setup()
    n = len(dataset) - skip
    rng = np.random.default_rng(0)
    labels = AuxiliaryLabels(
        ids=dataset.ids[skip:],
        splits=dataset.splits[skip:],
        labels=rng.integers(-1, 4, n),
        is_noise=np.zeros(n, dtype=np.bool_),
        strength=np.ones(n, dtype=np.float32),
        n_classes=4,
    )
    labels.save(folder)
    return labels


class TestBatches:
    def test_pairs(self, scenes: DigitScenes) -> None:
        module = _ready(PairDataModule(scenes, batch_size=8))
        batches = _epoch(module)
        assert len(batches) == 50 // 8 == len(module.train_dataloader())
        for images, targets, rows in batches:
            assert images.shape == (2, 8, 3, 16, 16)
            assert images.dtype == torch.float32
            assert 0 <= images.min() < images.max() <= 1
            assert targets.shape == (2, 8, 1)
            assert targets.dtype == rows.dtype == torch.int64
            assert rows.shape == (2, 8)
            assert (rows[0] != rows[1]).all()
            np.testing.assert_array_equal(scenes.labels[rows], targets[..., 0])
            assert scenes.pixels is not None
            assert torch.equal(images, scenes.pixels[rows].float() / 255)

    def test_labelled(self, scenes: DigitScenes, tmp_path: Path) -> None:
        labels = _labels(scenes, tmp_path)
        module = _ready(LabelledDataModule(scenes, labels=tmp_path, batch_size=8))
        assert module.task_sizes == (10, 4)
        for images, targets, rows in _epoch(module):
            assert images.shape == (8, 3, 16, 16)
            assert images.dtype == torch.float32
            assert 0 <= images.min() < images.max() <= 1
            assert targets.shape == (8, 2)
            np.testing.assert_array_equal(scenes.labels[rows], targets[:, 0])
            np.testing.assert_array_equal(labels.labels[rows], targets[:, 1])

    @pytest.mark.parametrize("p", [0.0, 1.0])
    def test_p_different_reaches_the_pairs(self, p: float) -> None:
        dataset = DigitScenes(principal="location", n_train=64, n_val=16, n_test=1)
        for batch in _epoch(
            _ready(PairDataModule(dataset, PrincipalPairs(p_different=p), batch_size=32))
        ):
            assert ((batch.targets[0] != batch.targets[1]) == bool(p)).all()

    def test_both_stages_see_the_same_noise(self, scenes: DigitScenes) -> None:
        noise = SaltPepper(0.2, seed=3)
        pairs = _ready(PairDataModule(scenes, noise=noise, batch_size=10, seed=1))
        labelled = _ready(LabelledDataModule(scenes, noise=noise, batch_size=25, seed=2))
        seen: dict[int, Tensor] = {}
        for batch in _epoch(labelled, epoch=4):
            seen.update(zip(batch.rows.tolist(), batch.images, strict=True))
        assert sorted(seen) == list(range(50))
        for batch in _epoch(pairs, epoch=7):
            for row, image in zip(
                batch.rows.flatten().tolist(), batch.images.flatten(0, 1), strict=True
            ):
                assert torch.equal(image, seen[row])
        some = np.array([49, 3, 3])
        assert torch.equal(pairs.images(some), torch.stack([seen[row] for row in some]))
        assert not torch.equal(seen[3], _ready(LabelledDataModule(scenes)).images(some)[1])

    def test_noise_is_redrawn_in_training_only(self, scenes: DigitScenes) -> None:
        module = _ready(LabelledDataModule(scenes, noise=SaltPepper(redraw=True), batch_size=50))
        seen = []
        for epoch, training in ((1, True), (2, True), (1, False), (2, False)):
            _on_rank(module, 0, 1, current_epoch=epoch, training=training)
            batch = Batch(scenes.images(torch.arange(5)), torch.zeros(5, 1), torch.arange(5))
            seen.append(module.on_after_batch_transfer(batch, 0).images)
        assert not torch.equal(seen[0], seen[1])
        assert torch.equal(seen[2], seen[3])
        assert torch.equal(seen[2], module.images(np.arange(5)))

    @pytest.mark.parametrize("kind", [PairDataModule, LabelledDataModule])
    def test_resident_pixels_give_the_same_batches(self, scenes: DigitScenes, kind: Make) -> None:
        noise = SaltPepper()
        modules = [
            _ready(kind(scenes, noise=noise, batch_size=16, device_resident=resident))
            for resident in (False, True)
        ]
        for one, other in zip(*map(_epoch, modules), strict=True):
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.rows, other.rows)
        assert next(iter(modules[1].train_dataloader())).images.numel() == 0

    def test_images_composed_on_demand(self, cache_dir: Path) -> None:
        dataset = SyntheticShapes3D(
            image_size=16, n_train=40, n_val=8, n_test=8, cache_dir=cache_dir
        )
        module = _ready(PairDataModule(dataset, batch_size=10))
        for batch in _epoch(module):
            assert batch.images.shape == (2, 10, 3, 16, 16)
            expected = dataset.images(batch.rows.flatten()).float() / 255
            assert torch.equal(batch.images.flatten(0, 1), expected)
        assert module.image_shape == (3, 16, 16)


class TestResizing:
    @pytest.mark.parametrize("size", [8, 12, 40])
    @pytest.mark.parametrize("kind", [PairDataModule, LabelledDataModule])
    def test_resized_on_the_device_before_the_noise(
        self, scenes: DigitScenes, kind: Make, size: int
    ) -> None:
        noise = SaltPepper(0.3)
        module = _ready(kind(scenes, noise=noise, image_size=size, batch_size=10))
        assert module.image_shape == (3, size, size)
        assert scenes.pixels is not None
        for batch in _epoch(module)[:2]:
            rows = batch.rows.flatten()
            clean = resize(scenes.pixels[rows].float() / 255, [size, size], antialias=True)
            expected = noise(clean, rows)
            assert batch.images.shape == (*batch.rows.shape, 3, size, size)
            torch.testing.assert_close(batch.images.flatten(0, -4), expected, atol=1e-6, rtol=0)
        some = np.array([4, 4, 60])
        assert module.images(some).shape == (3, 3, size, size)

    def test_own_size_changes_nothing(self, scenes: DigitScenes) -> None:
        plain, same = (
            _ready(LabelledDataModule(scenes, image_size=size, batch_size=50))
            for size in (None, 16)
        )
        assert torch.equal(_epoch(plain)[0].images, _epoch(same)[0].images)

    def test_resident(self, scenes: DigitScenes) -> None:
        one, two = (
            _ready(PairDataModule(scenes, image_size=8, batch_size=50, device_resident=resident))
            for resident in (False, True)
        )
        assert torch.equal(_epoch(one)[0].images, _epoch(two)[0].images)


class TestAugmentation:
    def _batch(self, module: FactorDataModule, rows: Tensor | None = None) -> Batch:
        rows = torch.arange(40) if rows is None else rows
        pixels = module.dataset.images(rows.flatten()).view(*rows.shape, 3, 16, 16)
        return module.on_after_batch_transfer(Batch(pixels, module.targets[rows], rows), 0)

    def test_crop_and_flip_in_training_alone(self, scenes: DigitScenes) -> None:
        module = _ready(LabelledDataModule(scenes, augment=CropFlip(12), image_size=20))
        assert module.image_shape == (3, 12, 12)
        whole = _ready(LabelledDataModule(scenes, image_size=20)).images(np.arange(40))
        centre = whole[..., 4:16, 4:16]
        assert torch.equal(module.images(np.arange(40)), centre)
        assert torch.equal(self._batch(module).images, centre)
        assert torch.equal(self._batch(_on_rank(module, 0, 1, training=False)).images, centre)
        images = self._batch(_training(module)).images
        found = set()
        for image, source in zip(images, whole, strict=True):
            places = {
                (top, left, flip)
                for top in range(9)
                for left in range(9)
                for flip in (False, True)
                if torch.equal(
                    image.flip(-1) if flip else image,
                    source[:, top : top + 12, left : left + 12],
                )
            }
            assert len(places) == 1
            found |= places
        assert len(found) > 30
        assert {flip for *_, flip in found} == {False, True}

    def test_two_views_in_training_single_images_in_evaluation(self, scenes: DigitScenes) -> None:
        module = _ready(ViewDataModule(scenes, batch_size=10))
        clean = self._batch(module)
        assert clean.images.shape == (40, 3, 16, 16)
        assert torch.equal(clean.images, module.images(np.arange(40)))
        batch = self._batch(_training(module))
        assert batch.images.shape == (2, 40, 3, 16, 16)
        assert batch.targets.shape == (2, 40, 1)
        assert torch.equal(batch.rows, torch.arange(40).expand(2, 40))
        assert not torch.equal(batch.images[0], batch.images[1])
        assert [b.images.shape[0] for b in module.val_dataloader()] == [20]

    def test_views_are_those_of_the_images_repeated(self, scenes: DigitScenes) -> None:
        noise = SaltPepper(0.2, redraw=True)
        module = _ready(ViewDataModule(scenes, noise=noise, views=CropFlip(12), image_size=18))
        whole = LabelledDataModule(scenes, noise=noise, augment=CropFlip(12), image_size=18)
        single = _training(_ready(whole), epoch=2, step=3)
        rows = torch.arange(40).repeat(2)
        expected = self._batch(single, rows).images.view(2, 40, 3, 12, 12)
        assert torch.equal(self._batch(_training(module, epoch=2, step=3)).images, expected)
        shown = module.images(np.arange(40).reshape(4, 10), epoch=2)
        assert torch.equal(shown, expected.view(2, 4, 10, 3, 12, 12))
        resident = _ready(
            ViewDataModule(scenes, CropFlip(12), noise=noise, image_size=18, device_resident=True)
        )
        assert torch.equal(self._batch(_training(resident, epoch=2, step=3)).images, expected)

    def test_images_of_a_pair_are_changed_each_by_its_own_draw(self, scenes: DigitScenes) -> None:
        noise = SaltPepper(0.2)
        module = _ready(PairDataModule(scenes, augment=CropFlip(8), noise=noise))
        whole = _ready(LabelledDataModule(scenes, noise=noise))
        rows = torch.arange(40).expand(2, 40)  # an image with itself
        source = whole.images(np.arange(40))
        centre = source[..., 4:12, 4:12]
        assert torch.equal(module.images(rows.numpy()), torch.stack([centre, centre]))
        assert torch.equal(self._batch(module, rows).images, torch.stack([centre, centre]))
        assert module.image_shape == (3, 8, 8)
        images = self._batch(_training(module), rows).images
        for view in images:
            for crop, image in zip(view, source, strict=True):
                windows = image.unfold(1, 8, 1).unfold(2, 8, 1).permute(1, 2, 0, 3, 4)
                found = [(windows == c).flatten(2).all(-1).any() for c in (crop, crop.flip(-1))]
                assert any(found)
        alike = (images[0] == images[1]).flatten(1).all(1)
        assert alike.float().mean() < 0.1  # by chance 1 in 162

    @pytest.mark.parametrize(
        "make",
        [
            ViewDataModule,
            lambda *a, **k: LabelledDataModule(*a, augment=CropFlip(12), **k),
            lambda *a, **k: PairDataModule(*a, augment=SimCLRAugmentation("color"), **k),
        ],
    )
    def test_draw_follows_from_the_place_in_the_training(
        self, scenes: DigitScenes, make: Make
    ) -> None:
        def images(seed: int = 0, **place: int) -> Tensor:
            return self._batch(_training(_ready(make(scenes, seed=seed)), **place)).images

        before = torch.get_rng_state()
        first = images()
        assert torch.equal(images(), first)
        others = [images(seed=1), images(epoch=1), images(step=1), images(rank=1, world=2)]
        assert torch.equal(torch.get_rng_state(), before)
        for k, other in enumerate(others):
            assert all(not torch.equal(other, seen) for seen in [first, *others[:k]])

    def test_what_does_not_fit_is_refused(self, scenes: DigitScenes) -> None:
        with pytest.raises(UserError, match=r"crops of 17 pixels, but the images have 16 x 16"):
            _ready(LabelledDataModule(scenes, augment=CropFlip(17)))
        scenes.image_shape = (1, 16, 16)
        with pytest.raises(UserError, match=r"1 channel\(s\): it needs 3"):
            _ready(ViewDataModule(scenes))
        with pytest.raises(UserError, match=r"1 channel\(s\): it needs 3"):
            _ready(PairDataModule(scenes, augment=SimCLRAugmentation()))
        with pytest.raises(ValueError, match="size is 0"):
            CropFlip(0)


class TestPairings:
    @pytest.mark.parametrize(
        "pairing",
        [
            ChangedFactors(1, ["background"]),
            SharedFactors(["digit"], ["location"]),
            PrincipalPairs(0.3),
        ],
    )
    def test_pairs_are_rows_of_the_split(
        self, pairing: PrincipalPairs | ChangedFactors | SharedFactors
    ) -> None:
        dataset = DigitScenes(n_train=400, n_val=200, n_test=1, n_locations=4, n_backgrounds=2)
        module = _ready(PairDataModule(dataset, pairing, batch_size=50))
        batches = _epoch(module)
        rows = torch.cat([batch.rows for batch in batches], dim=1)
        assert sorted(rows[0].tolist()) == list(range(400))
        assert rows[1].max() < 400
        val = torch.cat([batch.rows for batch in module.val_dataloader()], dim=1)
        assert sorted(val[0].tolist()) == list(range(400, 600))
        assert val[1].min() >= 400

    def test_given_pairs_come_once_per_epoch(self, scenes: DigitScenes) -> None:
        scenes.setup()
        scenes.partners = np.arange(101)
        scenes.partners[:50] ^= 1
        module = _ready(PairDataModule(scenes, GivenPairs(), batch_size=5))
        assert len(module.train_dataloader()) == 5
        rows = torch.cat([batch.rows for batch in _epoch(module)], dim=1)
        assert sorted(rows.flatten().tolist()) == list(range(50))
        assert (rows[0] ^ 1 == rows[1]).all()
        assert set((rows[0] % 2).tolist()) == {0, 1}
        with pytest.raises(UserError, match="25 pairs, fewer than one batch of 26"):
            _ready(PairDataModule(scenes, GivenPairs(), batch_size=26)).train_dataloader()

    def test_unknown_factor_is_refused_before_the_data_are_read(self, scenes: DigitScenes) -> None:
        module = PairDataModule(scenes, SharedFactors(["digits"]))
        with pytest.raises(UserError, match="did you mean 'digit'"):
            _ = module.image_shape


class TestOrder:
    @pytest.mark.parametrize("kind", [PairDataModule, LabelledDataModule])
    def test_epoch_follows_from_seed_and_epoch_alone(self, scenes: DigitScenes, kind: Make) -> None:
        module = _ready(kind(scenes, batch_size=8, seed=5))
        first, second = _rows(_epoch(module, 0)), _rows(_epoch(module, 1))
        assert first != second
        assert _rows(_epoch(module, 0)) == first
        fresh = _ready(kind(scenes, batch_size=8, seed=5))
        assert _rows(_epoch(fresh, 1)) == second
        assert _rows(_epoch(_ready(kind(scenes, batch_size=8, seed=6)), 0)) != first

    def test_incomplete_batch_is_dropped_and_no_row_comes_twice(self, scenes: DigitScenes) -> None:
        module = _ready(LabelledDataModule(scenes, batch_size=16))
        rows = torch.cat([batch.rows for batch in _epoch(module)])
        assert len(rows) == 48 == len(rows.unique())
        assert rows.max() < 50

    @pytest.mark.parametrize("kind", [PairDataModule, LabelledDataModule])
    @pytest.mark.parametrize("world", [2, 3])
    def test_ranks_share_the_sequence_of_one(
        self, scenes: DigitScenes, kind: Make, world: int
    ) -> None:
        alone = _epoch(_ready(kind(scenes, batch_size=6 * world)), 3)
        module = _ready(kind(scenes, batch_size=6))
        ranks = []
        for rank in range(world):
            _training(module, rank, world, epoch=3)
            ranks.append(_epoch(module, 3))
        for step, batch in enumerate(alone):
            joined = torch.cat([ranks[rank][step].rows for rank in range(world)], dim=-1)
            assert torch.equal(joined, batch.rows)
        assert {len(batches) for batches in ranks} == {len(alone)}

    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # of a process with threads
    def test_workers_give_the_same_sequence(self, scenes: DigitScenes) -> None:
        lazy = LazyScenes(n_train=50, n_val=20, n_test=31)
        one = _ready(PairDataModule(scenes, batch_size=8))
        two = _ready(PairDataModule(lazy, batch_size=8, num_workers=2))
        loader = two.train_dataloader()  # persistent workers: one loader for both epochs
        assert loader.num_workers == 2
        for epoch in (0, 1):
            loader.sampler.set_epoch(epoch)
            for expected, batch in zip(_epoch(one, epoch), loader, strict=True):
                assert torch.equal(batch.rows, expected.rows)
                assert torch.equal(batch.targets, expected.targets)
                assert torch.equal(batch.images.float() / 255, expected.images)

    def test_no_workers_for_pixels_in_memory(self, scenes: DigitScenes) -> None:
        module = _ready(PairDataModule(scenes, batch_size=8, num_workers=2))
        assert module.train_dataloader().num_workers == 0


class TestEvaluation:
    @pytest.mark.parametrize("world", [1, 2, 3])
    @pytest.mark.parametrize("size", [2, 7, 100])
    def test_each_row_on_one_rank_once(self, scenes: DigitScenes, world: int, size: int) -> None:
        module = _ready(LabelledDataModule(scenes, eval_batch_size=size))
        for loader, rows in (
            ("val", scenes.rows("val")),
            ("test", scenes.rows("test")),
            ("predict", np.arange(len(scenes))),
        ):
            batches = []
            for rank in range(world):
                _on_rank(module, rank, world)
                batches.append(list(getattr(module, f"{loader}_dataloader")()))
            assert len({len(part) for part in batches}) == 1
            seen = [batch.rows for part in batches for batch in part]
            assert max(len(part) for part in seen) <= size
            assert min(len(part) for part in seen) >= 1
            assert sorted(torch.cat(seen).tolist()) == rows.tolist()
            if loader == "predict":
                assert torch.cat(seen).tolist() == rows.tolist()

    def test_pairs_cover_the_validation_split(self, scenes: DigitScenes) -> None:
        module = _ready(PairDataModule(scenes, eval_batch_size=6))
        batches = list(module.val_dataloader())
        rows = torch.cat([batch.rows for batch in batches], dim=1)
        assert sorted(rows[0].tolist()) == scenes.rows("val").tolist()
        assert set(rows[1].tolist()) <= set(scenes.rows("val").tolist())
        assert _rows(module.val_dataloader()) == _rows(batches)  # the same in every epoch

    def test_prediction_gives_single_images_of_pairs_too(self, scenes: DigitScenes) -> None:
        module = _ready(PairDataModule(scenes, eval_batch_size=50))
        assert [b.images.shape[0] for b in module.predict_dataloader()] == [34, 34, 33]


class TestTasks:
    def test_principal_alone(self, scenes: DigitScenes) -> None:
        module = _ready(LabelledDataModule(scenes))
        assert module.task_sizes == (10,)
        assert module.targets.shape == (101, 1)

    def test_known_factor(self, scenes: DigitScenes) -> None:
        module = _ready(LabelledDataModule(scenes, auxiliary="location"))
        assert module.task_sizes == (10, 8)
        np.testing.assert_array_equal(module.targets[:, 1], scenes.factor("location"))

    def test_known_factor_goes_before_labels(self, scenes: DigitScenes, tmp_path: Path) -> None:
        _labels(scenes, tmp_path)
        module = _ready(LabelledDataModule(scenes, labels=tmp_path, auxiliary="background"))
        np.testing.assert_array_equal(module.targets[:, 1], scenes.factor("background"))

    def test_labels_are_joined_by_id(self, scenes: DigitScenes, tmp_path: Path) -> None:
        labels = _labels(scenes, tmp_path)
        scenes.ids = scenes.ids[::-1].copy()
        module = _ready(LabelledDataModule(scenes, labels=tmp_path))
        np.testing.assert_array_equal(module.targets[:, 1], labels.labels[::-1])

    def test_shuffled_labels_keep_their_counts_in_each_split(
        self, scenes: DigitScenes, tmp_path: Path
    ) -> None:
        true = _labels(scenes, tmp_path).labels
        module = _ready(LabelledDataModule(scenes, labels=tmp_path, auxiliary="shuffled", seed=1))
        shuffled = module.targets[:, 1].numpy()
        assert (shuffled != true).any()
        for split in ("train", "val", "test"):
            rows = scenes.rows(split)
            np.testing.assert_array_equal(np.sort(shuffled[rows]), np.sort(true[rows]))
        np.testing.assert_array_equal(module.targets[:, 0], scenes.labels)
        assert module.task_sizes == (10, 4)
        again, other = (
            _ready(LabelledDataModule(scenes, labels=tmp_path, auxiliary="shuffled", seed=seed))
            for seed in (1, 2)
        )
        assert torch.equal(again.targets, module.targets)
        assert not torch.equal(other.targets, module.targets)

    def test_class_without_training_sample_is_refused_unless_it_is_noise(
        self, scenes: DigitScenes, tmp_path: Path
    ) -> None:
        labels = _labels(scenes, tmp_path)
        labels.labels[(labels.labels == 2) & (labels.splits == 0)] = 1
        labels.save(tmp_path)
        with pytest.raises(UserError, match=r"class 2 of .* no training sample \(1 of 4 classes"):
            _ready(LabelledDataModule(scenes, labels=tmp_path))
        labels.meta["noise_class"] = 2
        labels.save(tmp_path)
        module = _ready(LabelledDataModule(scenes, labels=tmp_path))
        assert module.task_sizes == (10, 4)
        few = DigitScenes(n_train=12, n_val=20, n_test=9, n_locations=4)
        with pytest.raises(UserError, match="of the auxiliary task 'background' has no training"):
            _ready(LabelledDataModule(few, auxiliary="background"))

    def test_missing_id_is_refused(self, scenes: DigitScenes, tmp_path: Path) -> None:
        _labels(scenes, tmp_path, skip=3)
        with pytest.raises(ArtifactError, match=r"miss 3 of 101 sample ids \(first: 0\)"):
            _ready(LabelledDataModule(scenes, labels=tmp_path))

    @pytest.mark.parametrize("auxiliary", ["digit", "colour"])
    def test_task_that_does_not_exist_is_refused(self, scenes: DigitScenes, auxiliary: str) -> None:
        module = LabelledDataModule(scenes, auxiliary=auxiliary)
        for use in (module.describe, lambda: module.task_sizes, lambda: module.setup("fit")):
            with pytest.raises(ValueError, match=r"discovered, shuffled or .*background, location"):
                use()

    @pytest.mark.parametrize("kind", [PairDataModule, ViewDataModule])
    def test_factors_as_targets(self, kind: Make) -> None:
        dataset = DigitScenes(n_train=40, n_val=20, n_test=9, n_locations=4, principal="location")
        alone = _ready(kind(dataset, batch_size=8))
        assert torch.equal(alone.targets, torch.from_numpy(dataset.labels)[:, None])
        module = _ready(kind(dataset, tasks=["location", "background", "digit"], batch_size=8))
        names = ("location", "background", "digit")
        for batch in _epoch(module):
            for task, name in enumerate(names):
                np.testing.assert_array_equal(
                    batch.targets[..., task], dataset.factor(name)[batch.rows]
                )
        assert _rows(_epoch(module)) == _rows(_epoch(alone))
        assert module.n_classes == 4

    @pytest.mark.parametrize("kind", [PairDataModule, ViewDataModule])
    @pytest.mark.parametrize(
        ("tasks", "message"),
        [
            (["digits"], "tasks names 'digits', .* no such factor: did you mean 'digit'"),
            (["digit", "colour"], "tasks names 'colour', .* choose one of digit, background,"),
            (["location", "digit"], "tasks is .*: name the principal factor 'digit' first"),
            (["digit", "location", "location"], "tasks is .* and each factor once"),
            ([], r"tasks is \[\]: name the principal factor 'digit' first"),
        ],
    )
    def test_tasks_that_do_not_fit_are_refused_before_the_data_are_read(
        self, scenes: DigitScenes, kind: Make, tasks: list[str], message: str
    ) -> None:
        with pytest.raises(UserError, match=message):
            _ = kind(scenes, tasks=tasks).image_shape


class TestRefusals:
    def test_batch_larger_than_the_train_split(self, scenes: DigitScenes) -> None:
        module = _ready(PairDataModule(scenes, batch_size=64))
        with pytest.raises(UserError, match=r"50 pairs, fewer than one batch of 64 on 1 rank"):
            module.train_dataloader()
        small = _on_rank(_ready(PairDataModule(scenes, batch_size=32)), 0, 2)
        with pytest.raises(UserError, match=r"32 on 2 rank"):
            small.train_dataloader()

    def test_one_class_only(self, scenes: DigitScenes) -> None:
        scenes.setup()
        scenes.factors[:, 0] = 1
        with pytest.raises(UserError, match="one class only"):
            _ready(PairDataModule(scenes))

    def test_pairs_of_a_validation_split_of_one_class(self, scenes: DigitScenes) -> None:
        scenes.setup()
        scenes.factors[scenes.rows("val"), 0] = 1
        with pytest.raises(UserError, match=r"the val split of DigitScenes: pairs .* all 20 im"):
            _ready(PairDataModule(scenes)).val_dataloader()

    def test_empty_split(self, scenes: DigitScenes) -> None:
        scenes.setup()
        scenes.splits[scenes.rows("val")] = 0
        with pytest.raises(UserError, match="the val split of DigitScenes is empty"):
            _ready(LabelledDataModule(scenes)).val_dataloader()

    def test_resident_pixels_must_be_in_memory(self, cache_dir: Path) -> None:
        dataset = SyntheticShapes3D(image_size=16, n_train=40, cache_dir=cache_dir)
        with pytest.raises(UserError, match="SyntheticShapes3D is not in memory"):
            _ready(PairDataModule(dataset, device_resident=True))

    @pytest.mark.parametrize(
        "arguments", [{"batch_size": 0}, {"eval_batch_size": 0}, {"image_size": 0}]
    )
    def test_values_outside_their_range(
        self, scenes: DigitScenes, arguments: dict[str, Any]
    ) -> None:
        with pytest.raises(ValueError, match=next(iter(arguments))):
            PairDataModule(scenes, **arguments)
