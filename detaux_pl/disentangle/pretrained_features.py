"""Features of a frozen network as codes, split by the principal labels."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from detaux_pl.artifacts.codes import UNLABELLED
from detaux_pl.data.batch import Batch
from detaux_pl.data.modules import FactorDataModule
from detaux_pl.disentangle.base import Disentangler
from detaux_pl.models.feature_cache import open_features
from detaux_pl.models.feature_split import FeatureSplit, refuse_few_labels, split_features
from detaux_pl.models.pretrained import PretrainedNet


class PretrainedFeatures(Disentangler):
    """Codes that are linear in the features of a frozen network; nothing is trained.

    The features of the training images, those without a label too where there are any, are
    described by their principal axes. What tells the principal labels is erased in the whitened
    space, see `split_features`: subspace `principal_subspace` holds it, the other one what is left.
    The features themselves come beside the codes.

    Features are computed once, before the training, and kept in a cache, see `open_features`;
    `fit` goes through the motions and leaves a checkpoint, as the stages that follow expect: one
    batch is enough. The checkpoint holds the weights of the network, too.

    Args:
        n_classes: Number of principal classes; the command line takes it from the data.
        model: `timm/<model>`, or `timm/<model>.<tag>` for certain weights of it.
        weights: A file with the weights, `.safetensors` or a checkpoint of torch; None for those of
            the tag, or those that timm recommends, which are downloaded once.
        size: Height and width that the network sees [pixels]; None for those of its weights.
        pretrained: Whether weights that `weights` does not give are the pretrained ones; else they
            are random.
        pca: Number of principal axes that describe the features.
        subspace_dim: Dimensions of each subspace.
        principal_subspace: Index of the subspace for the principal factor, 0 or 1.
        shrinkage: What the covariance is shrunken by before it is whitened, as a share of its mean
            eigenvalue; None for the optimal share, which is next to nothing where images are many
            for `pca`.
        batch_size: Images that go through the network at a time; None for 16, or 64 on a GPU.
        cache_dir: Folder of all caches; None for that of the data set, or `detaux_pl` in the user's
            cache folder.

    Raises:
        ValueError: If an argument is outside its range, or there is no such model or weights.

    Example:
        >>> with torch.device("meta"):  # which has shapes alone
        ...     model = PretrainedFeatures((3, 64, 64), n_classes=4, pretrained=False)
        ...     found = model.encode_all(torch.zeros(2, 3, 64, 64))
        >>> {name: tuple(values.shape) for name, values in found.items()}
        {'code': (2, 2, 50), 'features': (2, 1, 1280)}

    References:
        docs/methods.md, 'Frozen features'.
    """

    gives_features: ClassVar[bool] = True
    principal_subspace: int
    mean: Tensor
    analysis: Tensor

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_classes: int,
        model: str = "timm/tf_efficientnet_lite0",
        weights: str | None = None,
        size: int | None = None,
        pretrained: bool = True,
        pca: int = 200,
        subspace_dim: int = 50,
        principal_subspace: int = 0,
        shrinkage: float | None = None,
        batch_size: int | None = None,
        cache_dir: str | None = None,
    ) -> None:
        super().__init__(lr=1.0, weight_decay=0.0, optimizer="sgd", lr_schedule="constant")
        self.check_subspaces(2, principal_subspace)
        if n_classes < 2:
            raise ValueError(f"n_classes is {n_classes}: give at least 2 classes.")
        for name, value in (
            ("pca", pca),
            ("subspace_dim", subspace_dim),
            ("batch_size", batch_size),
        ):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}: give at least 1.")
        if shrinkage is not None and not 0 <= shrinkage <= 1:
            raise ValueError(f"shrinkage is {shrinkage}: give a share in [0, 1], or null.")
        self.save_hyperparameters()
        self.n_classes = n_classes
        self.pca = pca
        self.subspace_dim = subspace_dim
        self.principal_subspace = principal_subspace
        self.shrinkage = shrinkage
        self.batch_size = batch_size
        self.cache_dir = cache_dir
        self.net = PretrainedNet(model, image_shape, weights, size, pretrained)
        self.register_buffer("mean", torch.zeros(self.net.n_features))
        self.register_buffer("analysis", torch.zeros(2, subspace_dim, self.net.n_features))
        # Lightning writes a checkpoint only after a step, and DDP wraps no model without weights.
        self._unused = nn.Parameter(torch.zeros(()))
        self._features: NDArray[np.float32] | None = None

    @property
    def n_subspaces(self) -> int:
        """Number of subspaces: two."""
        return 2

    def encode(self, images: Tensor) -> Tensor:
        """Return the codes, shape (B, 2, D), of images, shape (B, C, H, W).

        Raises:
            RuntimeError: If no split has been fitted.
        """
        return self.encode_all(images)[self.code_name]

    def encode_all(self, images: Tensor) -> dict[str, Tensor]:
        """Return the codes, and the features, shape (B, 1, F), of images, shape (B, C, H, W).

        Raises:
            RuntimeError: If no split has been fitted.
        """
        return self._split(self.net(images))

    def refuse_labels(self, labels: NDArray[np.int64]) -> None:
        """Refuse labels that tell nothing of the classes, before any feature is computed."""
        refuse_few_labels(labels, self.n_classes)

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> dict[str, Tensor]:
        """Return codes and features, float32, of a batch whose features are in the cache."""
        if self._features is None:
            return super().predict_step(batch, batch_idx)
        return self._split(
            torch.from_numpy(self._features[batch.rows.cpu().numpy()]).to(self.device)
        )

    def on_fit_start(self) -> None:
        """Compute the features that are missing, and fit the split to those of the train rows."""
        dataset = self._data.dataset
        rows = np.concatenate([dataset.rows(split) for split in ("train", UNLABELLED)])
        self.refuse_labels(dataset.labels[rows])
        features = self._open()
        split = split_features(
            features, rows, dataset.labels[rows], self.n_classes, self.pca, self.subspace_dim,
            self.principal_subspace, self.shrinkage,
        )  # fmt: skip
        self._take(split)

    def on_predict_start(self) -> None:
        """Open the features, or compute those that are missing."""
        self._features = self._open()

    def on_predict_end(self) -> None:
        """Let go of the features."""
        self._features = None

    def training_step(self, batch: Batch, batch_idx: int = 0) -> Tensor:
        """Return a loss of zero with a gradient of zero."""
        return self._unused.square()

    def validation_step(self, batch: Batch, batch_idx: int = 0) -> None:
        """Do nothing: there is nothing to measure."""

    def test_step(self, batch: Batch, batch_idx: int = 0) -> None:
        """Do nothing: there is nothing to measure."""

    @property
    def _data(self) -> FactorDataModule:
        data: FactorDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        return data

    def _open(self) -> NDArray[np.float32]:
        data = self._data
        return open_features(
            self.net, data.dataset, self.cache_dir, self.batch_size, self.device, data
        )

    def _take(self, split: FeatureSplit) -> None:
        for name in ("mean", "analysis"):
            self.get_buffer(name).copy_(torch.from_numpy(getattr(split, name)))

    def _split(self, features: Tensor) -> dict[str, Tensor]:
        # On the meta device, which has shapes alone, there is nothing to look at.
        if not self.analysis.is_meta and not self.analysis.any():
            raise RuntimeError(
                "PretrainedFeatures has no split yet: train it or load a checkpoint."
            )
        # n = images, k = subspaces, c = dimensions of a subspace, f = features
        codes = torch.einsum("nf,kcf->nkc", features - self.mean, self.analysis)
        return {self.code_name: codes, "features": features[:, None]}
