"""LightningDataModules: from rows of a data set to batches on the device."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning import LightningDataModule
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.labels import AuxiliaryLabels
from detaux_pl.data.factor_dataset import FactorDataset, as_rows
from detaux_pl.data.noise import SaltPepper
from detaux_pl.data.pairs import draw_pairs


class Batch(NamedTuple):
    """Images with what belongs to them.

    Args:
        images: Float images in [0, 1], shape (*shape, C, H, W).
        targets: Labels of T tasks, int64, shape (*shape, T); task 0 is the principal one, and
            `IGNORED` marks a sample that a task leaves out.
        rows: Row of each image in the data set, int64, shape (*shape,).

    `shape` is (B,) for single images and (2, B) for pairs, whose views are stacked first.
    """

    images: Tensor
    targets: Tensor
    rows: Tensor


class FactorDataModule(LightningDataModule):
    """What all data modules share: the way of a batch from row numbers to float images.

    The order of an epoch follows from `(seed, epoch)` alone and is cut into one block per rank
    and step, so that a resumed run, or one with more workers, sees the same samples. Images stay
    uint8 until they are on the batch's device, where they become floats and get their noise.

    Args:
        dataset: The images and their factors.
        noise: Corruption of the images of all splits; None for clean images.
        batch_size: Training batch of one rank, in images (pairs where the module gives pairs).
        eval_batch_size: Batch of one rank in validation, test and prediction.
        num_workers: Processes that read images; 0 is fastest for data in memory.
        device_resident: Keep all pixels on the accelerator; for data that fit there.
        seed: Seed of the order and of the pairs; the command line gives it `seed_everything`.

    Raises:
        ValueError: If a batch size is not positive.
    """

    def __init__(
        self,
        dataset: FactorDataset,
        noise: SaltPepper | None = None,
        batch_size: int = 32,
        eval_batch_size: int = 256,
        num_workers: int = 0,
        device_resident: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1 or eval_batch_size < 1:
            raise ValueError("batch_size and eval_batch_size must be at least 1.")
        self.dataset = dataset
        self.noise = noise
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.device_resident = device_resident
        self.seed = seed
        self._resident: Tensor | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images."""
        return self.dataset.image_shape

    def prepare_data(self) -> None:
        """Fill the caches of the data set, once per machine."""
        self.dataset.prepare()

    def setup(self, stage: str) -> None:
        """Read the data set and check that it can be trained on.

        Raises:
            UserError: If it cannot, or shall live on the accelerator but is not in memory.
        """
        self.dataset.setup()
        self.dataset.check()
        if self.device_resident and self.dataset.pixels is None:
            raise UserError(
                f"device_resident is set, but {type(self.dataset).__name__} is not in memory: "
                "set it to false and give num_workers."
            )
        self.targets = torch.from_numpy(self.build_targets())

    def build_targets(self) -> NDArray[np.int64]:
        """Return the labels of all tasks, shape (N, T)."""
        return self.dataset.labels[:, None]

    @abstractmethod
    def draw(self, rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw what an epoch sees of some rows: shape (n,), or (2, n) for pairs."""

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches of one epoch, drawn anew in each."""
        rows = self.dataset.rows("train")
        world = self._world()[1]
        if len(rows) < self.batch_size * world:
            raise UserError(
                f"the train split has {len(rows)} images, fewer than one batch of "
                f"{self.batch_size} on {world} rank(s): lower batch_size."
            )
        return self._loader(_TrainSampler(self, rows, *self._world()))

    def val_dataloader(self) -> DataLoader[Batch]:
        """The validation split, the same in every epoch."""
        return self._eval_loader("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        """The test split."""
        return self._eval_loader("test")

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Every image of every split, once, in the order of the rows."""
        return self._loader(
            _EvalSampler(np.arange(len(self.dataset)), self.eval_batch_size, *self._world())
        )

    def images(self, rows: NDArray[np.int64]) -> Tensor:
        """Return the float images of some rows as the models see them, noise included."""
        index = as_rows(rows)
        return self._finish(self.dataset.images(index), index, epoch=0)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Turn a batch's pixels into floats, on its device, and corrupt them."""
        pixels = batch.images
        if self.device_resident:
            pixels = self._pixels_on(batch.rows.device)[batch.rows]
        trainer = self.trainer
        epoch = trainer.current_epoch if trainer is not None and trainer.training else 0
        return batch._replace(images=self._finish(pixels, batch.rows, epoch))

    def _finish(self, pixels: Tensor, rows: Tensor, epoch: int) -> Tensor:
        images = pixels / 255.0  # one pass over the memory, where float() and div_() take two
        if self.noise is None:
            return images
        return self.noise(images.flatten(0, -4), rows.flatten(), epoch).view_as(images)

    def _pixels_on(self, device: torch.device) -> Tensor:
        if self._resident is None or self._resident.device != device:
            assert self.dataset.pixels is not None  # checked in setup
            self._resident = self.dataset.pixels.to(device)
        return self._resident

    def _eval_loader(self, split: str) -> DataLoader[Batch]:
        rng = np.random.default_rng([self.seed, 0])
        rows = self.draw(self.dataset.rows(split), rng) if self.dataset.rows(split).size else None
        if rows is None:
            raise UserError(f"the {split} split of {type(self.dataset).__name__} is empty.")
        return self._loader(_EvalSampler(rows, self.eval_batch_size, *self._world()))

    def _loader(self, sampler: _TrainSampler | _EvalSampler) -> DataLoader[Batch]:
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return DataLoader(
            _Rows(self.dataset, self.targets, read=not self.device_resident),
            batch_size=None,  # an item is a whole batch
            collate_fn=_as_is,
            sampler=sampler,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=on_gpu and not self.device_resident,
        )

    def _world(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size


class PairDataModule(FactorDataModule):
    """Pairs that agree or disagree in the principal label, for product-manifold models.

    Args:
        dataset: The images and their factors.
        p_different: Probability that the partner has another principal label, in [0, 1].
            Paper: unknown; 0.5 is the official code's flag (B.2, row 23).
        noise: Corruption of the images of all splits; None for clean images.
        batch_size: Pairs in a training batch of one rank. Paper: 32.
        eval_batch_size: Batch of one rank in validation and prediction.
        num_workers: Processes that read images; 0 is fastest for data in memory.
        device_resident: Keep all pixels on the accelerator; for data that fit there.
        seed: Seed of the order and of the pairs; the command line gives it `seed_everything`.

    Raises:
        ValueError: If `p_different` is outside [0, 1].
    """

    def __init__(
        self,
        dataset: FactorDataset,
        p_different: float = 0.5,
        noise: SaltPepper | None = None,
        batch_size: int = 32,
        eval_batch_size: int = 256,
        num_workers: int = 0,
        device_resident: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(
            dataset, noise, batch_size, eval_batch_size, num_workers, device_resident, seed
        )
        if not 0.0 <= p_different <= 1.0:
            raise ValueError(f"p_different is {p_different}: a probability is in [0, 1].")
        self.p_different = p_different

    def draw(self, rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw a partner for every row: shape (2, n)."""
        first, second = draw_pairs(self.dataset.labels[rows], self.p_different, rng)
        return np.stack([rows[first], rows[second]])


class LabelledDataModule(FactorDataModule):
    """Images with the labels of the principal and of the auxiliary task.

    Args:
        dataset: The images and their factors.
        labels: Folder of the auxiliary labels; None for the principal task alone. In a run
            folder the command line fills it in.
        auxiliary: `discovered` for the labels as they are, `shuffled` for the same labels dealt
            out at random within each split (a control), or the name of a factor of the data set
            (a ceiling, where the hidden factors are known).
        noise: Corruption of the images of all splits; None for clean images.
        batch_size: Images in a training batch of one rank. Paper: 32.
        eval_batch_size: Batch of one rank in validation, test and prediction.
        num_workers: Processes that read images; 0 is fastest for data in memory.
        device_resident: Keep all pixels on the accelerator; for data that fit there.
        seed: Seed of the order; the command line gives it `seed_everything`.

    Raises:
        ValueError: If `auxiliary` names nothing that exists.
    """

    def __init__(
        self,
        dataset: FactorDataset,
        labels: Path | None = None,
        auxiliary: str = "discovered",
        noise: SaltPepper | None = None,
        batch_size: int = 32,
        eval_batch_size: int = 256,
        num_workers: int = 0,
        device_resident: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(
            dataset, noise, batch_size, eval_batch_size, num_workers, device_resident, seed
        )
        others = tuple(name for name in dataset.factor_names if name != dataset.principal)
        if auxiliary not in ("discovered", "shuffled", *others):
            raise ValueError(
                f"auxiliary is {auxiliary!r}: give discovered, shuffled or a factor other than "
                f"the principal one ({', '.join(others) or 'there is none'})."
            )
        self.labels = labels
        self.auxiliary = auxiliary

    @property
    def task_sizes(self) -> tuple[int, ...]:
        """Number of classes of each task, the principal one first."""
        return (self.dataset.n_classes, *((self._auxiliary_size(),) if self._has_task else ()))

    @property
    def _has_task(self) -> bool:
        return self.labels is not None or self.auxiliary in self.dataset.factor_names

    def _auxiliary_size(self) -> int:
        if self.auxiliary in self.dataset.factor_names:
            return self.dataset.factor_sizes[self.dataset.factor_names.index(self.auxiliary)]
        assert self.labels is not None  # implied by _has_task
        return AuxiliaryLabels.load(self.labels).n_classes

    def build_targets(self) -> NDArray[np.int64]:
        """Join the labels of the tasks by sample id, shape (N, T).

        Raises:
            ArtifactError: If a sample has no auxiliary label.
        """
        principal = super().build_targets()
        if self.auxiliary in self.dataset.factor_names:
            auxiliary = self.dataset.factor(self.auxiliary)
        elif self.labels is not None:
            auxiliary = AuxiliaryLabels.load(self.labels).of(self.dataset.ids)
        else:
            return principal
        if self.auxiliary == "shuffled":
            auxiliary = auxiliary.copy()
            rng = np.random.default_rng([self.seed, 1])
            for split in ("train", "val", "test"):
                rows = self.dataset.rows(split)
                auxiliary[rows] = rng.permutation(auxiliary[rows])
        return np.column_stack([principal, auxiliary])

    def draw(self, rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Put the rows in random order."""
        return rng.permutation(rows)


class _Rows(Dataset[Batch]):
    """A data set whose items are whole batches, addressed by their row numbers."""

    def __init__(self, dataset: FactorDataset, targets: Tensor, read: bool) -> None:
        self.dataset = dataset
        self.targets = targets
        self.read = read

    def __getitem__(self, rows: Tensor) -> Batch:
        if self.read:
            flat = self.dataset.images(rows.flatten())
            images = flat.view(*rows.shape, *flat.shape[1:])
        else:
            images = torch.empty(0, dtype=torch.uint8)
        return Batch(images, self.targets[rows], rows)


def _as_is(batch: Any) -> Any:
    """Spare a batch of tensors the search for something to convert; a lambda cannot be pickled."""
    return batch


class _TrainSampler(DistributedSampler[Any]):
    """Row numbers of the training batches of one rank; incomplete batches are left out.

    A DistributedSampler by name, so that Lightning leaves it as it is and tells it the epoch.
    """

    def __init__(
        self, module: FactorDataModule, rows: NDArray[np.int64], rank: int, world: int
    ) -> None:
        super().__init__(_Sized(len(rows)), num_replicas=world, rank=rank)
        self.module = module
        self.source = rows

    def __iter__(self) -> Iterator[Tensor]:
        rng = np.random.default_rng([self.module.seed, self.epoch + 1])
        drawn = as_rows(self.module.draw(self.source, rng))
        blocks = torch.split(drawn, self.module.batch_size, dim=-1)
        yield from blocks[self.rank : len(self) * self.num_replicas : self.num_replicas]

    def __len__(self) -> int:
        return len(self.source) // (self.module.batch_size * self.num_replicas)


class _EvalSampler(DistributedSampler[Any]):
    """Row numbers of the evaluation batches of one rank: each row on one rank, none repeated.

    All ranks get the same number of batches, so that none waits for another.
    """

    def __init__(self, rows: NDArray[np.int64], size: int, rank: int, world: int) -> None:
        super().__init__(_Sized(rows.shape[-1]), num_replicas=world, rank=rank)
        self.batches = [
            part
            for part in torch.tensor_split(
                torch.tensor_split(as_rows(rows), world, dim=-1)[rank],
                -(-rows.shape[-1] // (size * world)),
                dim=-1,
            )
        ]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class _Sized(Dataset[Any]):
    """A data set of which only the length is known, as DistributedSampler asks for one."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length
