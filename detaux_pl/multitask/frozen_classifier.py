"""Logistic regression on the features of a frozen network."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from detaux_pl.data.batch import Batch
from detaux_pl.data.modules import LabelledDataModule
from detaux_pl.models.erased_probe import fit_erased_probe
from detaux_pl.models.feature_cache import open_features
from detaux_pl.models.linear_probe import LinearProbe
from detaux_pl.models.pretrained import PretrainedNet
from detaux_pl.multitask.base import MultitaskModel

_MODEL = "timm/tf_efficientnet_lite0"


class FrozenClassifier(MultitaskModel):
    """Logistic regression on the features of a frozen network, for the principal task.

    Nothing is trained by steps: the features of the training images are computed once, or taken
    from their cache, and the regression is fitted to their leading principal axes before the
    first step, its L2 penalty chosen by cross-validation on the training images. One epoch is
    enough. The network and the regression are one network to all that follows.

    Args:
        image_shape: Channels, height and width of the images. Filled in from the data module by
            the command line.
        task_sizes: Number of classes of each task, the principal one first. Filled in likewise.
        model: `timm/<model>`, or `timm/<model>.<tag>` for certain weights of it; None for
            `timm/tf_efficientnet_lite0`. In a chain, None is the network of the disentangler, with
            its weights and size, if it has a frozen one.
        weights: A file with the weights, `.safetensors` or a checkpoint of torch; None for those
            of the tag, or those that timm recommends, which are downloaded once.
        size: Height and width that the network sees [pixels]; None for those of its weights.
        pretrained: Whether weights that `weights` does not give are the pretrained ones; else they
            are random.
        pca: Number of principal axes that describe the features.
        batch_size: Images that go through the network at a time.
        cache_dir: Folder of all caches; None for that of the data set, or `detaux_pl` in the
            user's cache folder.

    Raises:
        ValueError: If an argument is outside its range, or there is no such model or weights.

    Example:
        >>> with torch.device("meta"):  # which has shapes alone
        ...     model = FrozenClassifier((3, 64, 64), (10, 4), pretrained=False)
        ...     logits = model(torch.zeros(2, 3, 64, 64))
        >>> [tuple(values.shape) for values in logits]  # principal alone
        [(2, 10)]

    References:
        docs/methods.md, 'Frozen features'.
    """

    uses_auxiliary: ClassVar[bool] = False
    trained: ClassVar[bool] = False

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        task_sizes: tuple[int, ...],
        model: str | None = None,
        weights: str | None = None,
        size: int | None = None,
        pretrained: bool = True,
        pca: int = 200,
        batch_size: int = 32,
        cache_dir: str | None = None,
    ) -> None:
        sizes = task_sizes if self.uses_auxiliary else task_sizes[:1]
        super().__init__(sizes, lr=1.0, weight_decay=0.0, optimizer="sgd")
        for name, value in (("pca", pca), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name} is {value}: give at least 1.")
        self.save_hyperparameters()
        self.pca = pca
        self.batch_size = batch_size
        self.cache_dir = cache_dir
        self.net = PretrainedNet(model or _MODEL, image_shape, weights, size, pretrained)
        self.heads = nn.ModuleList(self.build_head(n) for n in sizes)
        # Lightning writes a checkpoint only after a step, and DDP wraps no model without weights.
        self._unused = nn.Parameter(torch.zeros(()))
        self._features: NDArray[np.float32] | None = None
        self._losses: Tensor | None = None

    def represent(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the features, shape (B, F), alone in a tuple."""
        return (self.net(images),)

    def classify(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the logits of each task, shape (B, task size)."""
        return tuple(head(features[0]) for head in self.heads)

    def shared_parameters(self) -> list[nn.Parameter]:
        """Return none: nothing is trained by steps."""
        return []

    def on_fit_start(self) -> None:
        """Compute the features that are missing, and fit to those of the training images."""
        data = self._open()
        assert self._features is not None  # opened
        targets = data.targets.numpy()
        rows = data.dataset.rows("train") if data.fold is None else data.fold.train
        # Images without a label show where the features vary, too.
        rows = np.union1d(rows, np.flatnonzero(targets[:, 0] < 0))
        own = targets[rows, : len(self.task_names)]
        self.fit_heads(self._features[rows], own, data)
        known = own[:, 0] >= 0
        with torch.no_grad():
            features = (torch.from_numpy(self._features[rows[known]]).to(self.device),)
            self._losses = self.task_losses(features, torch.from_numpy(own[known]).to(self.device))

    def build_head(self, n_classes: int) -> nn.Module:
        """Build what tells a task by the features, to be fitted later."""
        return nn.Linear(self.net.n_features, n_classes).requires_grad_(False)

    def fit_heads(
        self, features: NDArray[np.float32], targets: NDArray[np.int64], data: LabelledDataModule
    ) -> None:
        """Fit what tells each task; for the arguments see `fit_probes`."""
        probes = self.fit_probes(features, targets, data)
        for head, probe in zip(self.heads, probes, strict=True):
            assert isinstance(head, nn.Linear)
            head.weight.copy_(torch.from_numpy(probe.weight))
            head.bias.copy_(torch.from_numpy(probe.bias))

    def fit_probes(
        self, features: NDArray[np.float32], targets: NDArray[np.int64], data: LabelledDataModule
    ) -> list[LinearProbe]:
        """Fit the classifier of each task.

        Args:
            features: Of the training images, labelled or not, shape (n, F).
            targets: Their labels, shape (n, T), or `IGNORED`.
            data: The data module.

        Returns:
            One probe for each task.
        """
        nothing = targets[:, :0]
        return [fit_erased_probe(features, targets[:, 0], self.sizes[0], nothing, self.pca)]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Log the losses of what was fitted, of all training images; nothing is left to train."""
        assert self._losses is not None  # fitted
        logged = {"train/loss": self._losses.sum()}
        for task, value in zip(self.task_names, self._losses, strict=True):
            logged[f"train/loss/{task}"] = value
        self.log_means(logged, len(batch.rows))
        return self._unused.square()

    def on_validation_start(self) -> None:
        """Open the features, or compute those that are missing."""
        if self._features is None:
            self._open()

    on_test_start = on_predict_start = on_validation_start

    def teardown(self, stage: str) -> None:
        """Let go of the features."""
        self._features = None

    def answer(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return the logits of each task for a batch whose features are in the cache."""
        return self.classify((self._features_of(batch),))

    def _open(self) -> LabelledDataModule:
        data: LabelledDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        self._features = open_features(
            self.net,
            data.dataset,
            self.cache_dir,
            self.batch_size,
            self.device,
            data,
        )
        return data

    def _features_of(self, batch: Batch) -> Tensor:
        if self._features is None:
            features: Tensor = self.net(batch.images)
            return features
        return torch.from_numpy(self._features[batch.rows.cpu().numpy()]).to(self.device)
