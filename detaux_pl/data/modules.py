"""LightningDataModules: from rows of a data set to batches on the device."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from detaux_pl.artifacts.codes import SPLITS, UNLABELLED
from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.files import as_path
from detaux_pl.artifacts.labels import load_tasks
from detaux_pl.data.augmentation import Augmentation
from detaux_pl.data.balance import draw_balanced
from detaux_pl.data.batch import Batch, Fold, Rows, as_is
from detaux_pl.data.demands import draw_first, in_split, refuse_small
from detaux_pl.data.factor_dataset import FactorDataset, as_rows, naming_text_of
from detaux_pl.data.few_labels import FewLabels
from detaux_pl.data.noise import SaltPepper
from detaux_pl.data.pairings import Pairing, PrincipalPairs, check_factors
from detaux_pl.data.photo_augmentation import PhotoAugmentation, Strength
from detaux_pl.data.preprocessing import as_floats
from detaux_pl.data.samplers import EvalSampler, TrainLoader, TrainSampler
from detaux_pl.data.simclr_augmentation import SimCLRAugmentation


class FactorDataModule(LightningDataModule):
    """What all data modules share: the way of a batch from row numbers to float images.

    The order of an epoch follows from `(seed, epoch)` alone and is cut into one block per rank
    and step, so that a resumed run, or one with more workers, sees the same samples. Images stay
    uint8 until they are on the batch's device, where they become floats, are resized, get their
    noise and, in training, are augmented.

    Args:
        dataset: The images and their factors.
        noise: Corruption of the images of all splits; None for clean images.
        image_size: Height and width to which the images are resized [pixels]; None for theirs.
        batch_size: Training batch of one rank, in images (pairs where the module gives pairs).
            Paper: 32.
        eval_batch_size: Batch of one rank in validation, test and prediction.
        num_workers: Processes that read images; none are started for pixels that are in memory
            or mapped to it, which is faster.
        device_resident: Keep all pixels on the accelerator; for data that fit there.
        seed: Seed of the order and of what is drawn; the command line gives it `seed_everything`.
        few_labels: How many training labels of each class are known; None for all that there are.

    Raises:
        ValueError: If a batch size or `image_size` is not positive.
    """

    unit = "images"
    n_views = 1  # images in a training batch for each of `batch_size`

    def __init__(
        self,
        dataset: FactorDataset,
        noise: SaltPepper | None = None,
        image_size: int | None = None,
        batch_size: int = 32,
        eval_batch_size: int = 256,
        num_workers: int = 0,
        device_resident: bool = False,
        seed: int = 0,
        few_labels: FewLabels | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1 or eval_batch_size < 1:
            raise ValueError("batch_size and eval_batch_size must be at least 1.")
        if image_size is not None and image_size < 1:
            raise ValueError(f"image_size is {image_size}: give at least 1 pixel, or null.")
        self.dataset = dataset
        self.noise = noise
        self.image_size = image_size
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.device_resident = device_resident
        self.seed = seed
        self.few_labels = few_labels
        self.augmentation: Augmentation | None = None
        self.tasks: list[str] | None = None
        self.fold: Fold | None = None
        self.balanced = 0  # by the labels of how many tasks, each as often trained on as the others
        self._resident: Tensor | None = None

    def describe(self) -> None:
        """Learn what models are built for, without reading images; may be called again.

        Raises:
            UserError: If the data, or what is to be done with them, do not fit.
            ValueError: If a factor does not exist.
        """
        with naming_text_of(self.dataset):
            self.dataset.describe()
        if self.few_labels is not None and hasattr(self.dataset, "splits"):
            self.few_labels.apply(self.dataset)
        self._check_tasks()
        shape, size = self.dataset.image_shape, self.image_size
        shape = shape if size is None else (shape[0], size, size)
        self._shape = shape if self.augmentation is None else self.augmentation.output_shape(shape)

    def _check_tasks(self) -> None:
        if self.tasks is None:
            return
        check_factors("tasks", self.tasks, self.dataset)
        if self.tasks[:1] != [self.dataset.principal] or len(set(self.tasks)) < len(self.tasks):
            raise UserError(
                f"tasks is {self.tasks}: name the principal factor {self.dataset.principal!r} "
                "first, and each factor once."
            )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images as the models see them."""
        self.describe()
        return self._shape

    @property
    def n_classes(self) -> int:
        """Number of values of the principal factor."""
        self.describe()
        return self.dataset.n_classes

    def prepare_data(self) -> None:
        """Fill the caches of the data set, once per machine."""
        self.dataset.prepare()

    def setup(self, stage: str) -> None:
        """Read the data set and check that it can be trained on.

        Raises:
            UserError: If it cannot, or shall live on the accelerator but is not in memory.
        """
        self.describe()
        self.dataset.setup()
        if self.few_labels is not None:
            self.few_labels.apply(self.dataset)
        self.dataset.check()
        if self.device_resident and self.dataset.pixels is None:
            raise UserError(
                f"device_resident is set, but {type(self.dataset).__name__} is not in memory: "
                "set it to false and give num_workers."
            )
        self.targets = torch.from_numpy(
            self.build_targets() if self.fold is None else self.fold.targets
        )

    def build_targets(self) -> NDArray[np.int64]:
        """Return the labels of all tasks, shape (N, T)."""
        tasks = [self.dataset.principal] if self.tasks is None else self.tasks
        return np.stack([self.dataset.factor(name) for name in tasks], axis=1)

    @abstractmethod
    def draw(self, rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw what an epoch sees of some rows: shape (n,), or (2, n) for pairs."""

    def epoch_length(self, rows: NDArray[np.int64]) -> int:
        """Return how many images, or pairs, `draw` gives for some rows."""
        return len(rows)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches of one epoch, drawn anew in each."""
        rows = self.dataset.rows("train") if self.fold is None else self.fold.train
        rank, world = self._world()
        n = refuse_small(self, rows, world)

        def draw(rng: np.random.Generator) -> NDArray[np.int64]:
            if self.balanced:
                return draw_balanced(self.targets.numpy()[rows, : self.balanced], rows, rng)
            return in_split(self.dataset, "train", self.draw, rows, rng)

        sampler = TrainSampler(draw, n, self.batch_size, self.seed, rank, world, self._batches_done)
        return self._loader(TrainLoader, sampler)

    def val_dataloader(self) -> DataLoader[Batch]:
        """The validation split, the same in every epoch."""
        return self._eval_loader("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        """The test split."""
        return self._eval_loader("test")

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Every image of every split, once, in the order of the rows; or those of the fold."""
        rows = np.arange(len(self.dataset)) if self.fold is None else self.fold.asked
        sampler = EvalSampler(rows, self.eval_batch_size, *self._world())
        return self._loader(DataLoader, sampler)

    def images(self, rows: NDArray[np.int64], epoch: int | None = None) -> Tensor:
        """Return the float images of some rows as the models see them, noise included.

        Args:
            rows: Row numbers, any shape.
            epoch: Epoch whose training would see them, augmented; None as in evaluation.

        Returns:
            Shape (*rows.shape, C, H, W).
        """
        index = as_rows(rows)
        pixels = self.dataset.images(index.flatten())
        return self._finish(pixels.view(*index.shape, *pixels.shape[1:]), index, epoch)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Turn a batch's pixels into floats, on its device, and change them as asked for."""
        pixels, targets, rows = batch
        if self.device_resident:
            pixels = self._pixels_on(rows.device)[rows]
        return Batch(self._finish(pixels, rows, self._epoch), targets, rows)

    def _finish(self, pixels: Tensor, rows: Tensor, epoch: int | None = None) -> Tensor:
        """Floats of some images, shape (*rows.shape, C, H, W); `epoch` only in training."""
        images = as_floats(pixels.flatten(0, -4), self.image_size)  # pairs are one batch here
        if self.noise is not None:
            images = self.noise(images, rows.flatten(), epoch or 0)
        if self.augmentation is not None:
            if epoch is None:
                images = self.augmentation.clean(images)
            else:
                place = [self.seed, epoch, self._batches_done(), self._world()[0]]
                seed = int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0] >> 1)
                images = self.augmentation(images, seed)
        return images.reshape(*rows.shape, *images.shape[1:])

    @property
    def _epoch(self) -> int | None:
        """The epoch that the training is in; None outside of it."""
        trainer = self.trainer
        return trainer.current_epoch if trainer is not None and trainer.training else None

    def _batches_done(self) -> int:
        """How many batches of this epoch the training has taken."""
        if self.trainer is None or not self.trainer.training:
            return 0
        taken: int = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        return taken

    def _pixels_on(self, device: torch.device) -> Tensor:
        if self._resident is None or self._resident.device != device:
            assert self.dataset.pixels is not None  # checked in setup
            self._resident = self.dataset.pixels.to(device)
        return self._resident

    def _eval_loader(self, split: str) -> DataLoader[Batch]:
        sampler = EvalSampler(draw_first(self, split), self.eval_batch_size, *self._world())
        return self._loader(DataLoader, sampler)

    def _loader(
        self, kind: type[DataLoader[Batch]], sampler: TrainSampler | EvalSampler
    ) -> DataLoader[Batch]:
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        # A worker would copy mapped pixels twice: to its memory, and to that which it shares.
        workers = self.num_workers if self.dataset.pixels is None else 0
        return kind(
            Rows(self.dataset, self.targets, read=not self.device_resident),
            batch_size=None,  # an item is a whole batch
            collate_fn=as_is,
            sampler=sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=on_gpu and not self.device_resident,
        )

    def _world(self) -> tuple[int, int]:
        trainer = self.trainer
        return (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)


class PairDataModule(FactorDataModule):
    """Pairs of images, for models that learn from what two images have in common.

    Args:
        pairing: Which images make a pair; None for `PrincipalPairs()`.
        augment: Random changes of the training images, such as `SimCLRAugmentation`, drawn for
            each image of a pair; None for none.
        tasks: Names of the factors whose values are the targets, the principal one first; None
            for the principal one alone.

    Example:
        >>> from detaux_pl.data.datasets.digit_scenes import DigitScenes
        >>> data = PairDataModule(DigitScenes(n_train=100, n_val=10, n_test=10), batch_size=8)
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> batch.rows.shape, batch.targets.shape  # two views of 8 pairs, one task
        (torch.Size([2, 8]), torch.Size([2, 8, 1]))
    """

    unit = "pairs"
    n_views = 2

    def __init__(
        self,
        dataset: FactorDataset,
        pairing: Pairing | None = None,
        augment: Augmentation | None = None,
        tasks: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(dataset, **kwargs)
        self.pairing = PrincipalPairs() if pairing is None else pairing
        self.augmentation = augment
        self.tasks = tasks

    def describe(self) -> None:
        """Learn what models are built for, and check that the data have the factors of the pairs.

        Raises:
            UserError: If they have not.
        """
        super().describe()
        self.pairing.check(self.dataset)

    def epoch_length(self, rows: NDArray[np.int64]) -> int:
        """Return the number of pairs."""
        return self.pairing.n_pairs(self.dataset, rows)

    def draw(self, rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw the pairs: shape (2, n)."""
        return self.pairing.draw(self.dataset, rows, rng)


class ImageDataModule(FactorDataModule):
    """Single images in random order, for models that need no label and no partner, such as VAEs.

    Example:
        >>> from detaux_pl.data.datasets.digit_scenes import DigitScenes
        >>> data = ImageDataModule(DigitScenes(n_train=100), noise=SaltPepper())
        >>> data.setup("fit")
        >>> data.images(np.array([3, 5])).shape
        torch.Size([2, 3, 16, 16])
    """

    def draw(self, rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Put the rows in random order."""
        return rng.permutation(rows)


class ViewDataModule(ImageDataModule):
    """Two views of each training image, for contrastive models; evaluation sees single images.

    Args:
        views: How each view is distorted; None for `SimCLRAugmentation()`.
        tasks: Names of the factors whose values are the targets, the principal one first; None
            for the principal one alone.
        batch_size: Images in a training batch of one rank, each in two views.

    Example:
        >>> from detaux_pl.data.datasets.digit_scenes import DigitScenes
        >>> data = ViewDataModule(DigitScenes(n_train=100), SimCLRAugmentation("color"))
        >>> data.setup("fit")
        >>> data.images(np.array([3, 5]), epoch=0).shape  # two views of each
        torch.Size([2, 2, 3, 16, 16])
    """

    n_views = 2

    def __init__(
        self,
        dataset: FactorDataset,
        views: Augmentation | None = None,
        tasks: list[str] | None = None,
        noise: SaltPepper | None = None,
        image_size: int | None = None,
        batch_size: int = 256,
        **kwargs: Any,
    ) -> None:
        super().__init__(dataset, noise, image_size, batch_size, **kwargs)
        self.augmentation = SimCLRAugmentation() if views is None else views
        self.tasks = tasks

    def images(self, rows: NDArray[np.int64], epoch: int | None = None) -> Tensor:
        """Return images as the base class does; in training two views, on a first axis."""
        return super().images(rows if epoch is None else np.stack([rows, rows]), epoch)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Turn a batch's pixels into floats, on its device, and in training into two views."""
        if self._epoch is not None:
            batch = Batch(*(part.expand(2, *part.shape) for part in batch))
        return super().on_after_batch_transfer(batch, dataloader_idx)


class LabelledDataModule(ImageDataModule):
    """Images with the labels of the principal and of the auxiliary tasks.

    Args:
        labels: Folder of the auxiliary labels; None for the principal task alone. In a run
            folder the command line fills it in.
        auxiliary: `discovered` for the labels as they are, `shuffled` for the same labels dealt
            out at random within each split (a control), or one factor of the data set or several
            (a ceiling, where the hidden factors are known).
        augment: Random changes of the training images: `light`, `standard` or `strong`, see
            `PhotoAugmentation`, or an object, such as `CropFlip`; None for none.

    Example:
        >>> from detaux_pl.data.datasets.digit_scenes import DigitScenes
        >>> data = LabelledDataModule(DigitScenes(n_train=300), auxiliary="location")
        >>> data.setup("fit")
        >>> data.task_sizes, next(iter(data.train_dataloader())).targets.shape
        ((10, 8), torch.Size([32, 2]))
    """

    def __init__(
        self,
        dataset: FactorDataset,
        labels: Path | str | None = None,
        auxiliary: str | list[str] = "discovered",
        augment: Augmentation | Strength | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(dataset, **kwargs)
        self.labels = as_path(labels)
        self.auxiliary = auxiliary
        self.augmentation = PhotoAugmentation(augment) if isinstance(augment, str) else augment

    def describe(self) -> None:
        """Learn what models are built for, and check that the auxiliary task exists.

        Raises:
            ValueError: If `auxiliary` names nothing that exists.
        """
        super().describe()
        given = self.factors
        if given is None:
            return
        others = [name for name in self.dataset.factor_names if name != self.dataset.principal]
        if not given or len({*given}) < len(given) or not {*given} <= {*others}:
            raise ValueError(
                f"auxiliary is {self.auxiliary!r}: give discovered, shuffled or factors other "
                f"than the principal one, each once ({', '.join(others) or 'there is none'})."
            )

    @property
    def task_sizes(self) -> tuple[int, ...]:
        """Number of classes of each task, the principal one first."""
        if self.factors is not None:
            return (self.n_classes, *map(self._factor_size, self.factors))
        if self.labels is None:
            return (self.n_classes,)
        return (self.n_classes, *(task.n_classes for task in load_tasks(self.labels)))

    def build_targets(self) -> NDArray[np.int64]:
        """Join the labels of the tasks by sample id, shape (N, T).

        Raises:
            ArtifactError: If a sample has no auxiliary label.
            UserError: If a class of an auxiliary task has no training sample.
        """
        columns, noise = [super().build_targets()], list[int | None]()
        if self.factors is not None:
            columns += [self.dataset.factor(name)[:, None] for name in self.factors]
        elif self.labels is not None:
            tasks = load_tasks(self.labels)
            columns += [task.of(self.dataset.ids)[:, None] for task in tasks]
            noise = [task.meta.get("noise_class") for task in tasks]
        targets = np.hstack(columns)
        self._check_classes(targets, noise)
        if self.auxiliary == "shuffled":
            rng = np.random.default_rng([self.seed, 1])
            for split in SPLITS:
                rows = self.dataset.rows(split)
                targets[rows, 1:] = rng.permutation(targets[rows, 1:])
        return targets

    @property
    def factors(self) -> list[str] | None:
        """The factors that serve as auxiliary tasks; None where these are discovered."""
        if isinstance(self.auxiliary, str):
            return None if self.auxiliary in ("discovered", "shuffled") else [self.auxiliary]
        return self.auxiliary

    def _factor_size(self, name: str) -> int:
        return self.dataset.factor_sizes[self.dataset.factor_names.index(name)]

    def _check_classes(self, targets: NDArray[np.int64], noise: Sequence[int | None]) -> None:
        # Images without a principal label tell of groups, too, to what is fitted to features.
        kept = [self.dataset.rows(split) for split in ("train", UNLABELLED)]
        train = targets[np.concatenate(kept)]
        for task, size in enumerate(self.task_sizes[1:], start=1):
            # What a clusterer calls noise may be found in the other splits alone.
            spared = -1 if not noise or (own := noise[task - 1]) is None else own
            missing = np.setdiff1d(np.arange(size), np.append(train[:, task], spared))
            if missing.size:
                name = self.factors[task - 1] if self.factors is not None else self.auxiliary
                raise UserError(
                    f"class {missing[0]} of the auxiliary task {name!r} has no training sample "
                    f"({missing.size} of {size} classes have none): merge or leave out such "
                    "classes, or take another task."
                )
