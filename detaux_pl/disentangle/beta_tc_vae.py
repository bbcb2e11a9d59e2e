"""beta-TCVAE: a heavier total correlation."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from detaux_pl.data.modules import FactorDataModule
from detaux_pl.disentangle.vae import VAE, Posterior, refuse_negative
from detaux_pl.losses.gaussian_kl import gaussian_kl
from detaux_pl.losses.total_correlation import Estimator, decompose_kl


class BetaTCVAE(VAE):
    """A VAE with `KL(q(z|x) || p(z)) + (beta - 1) TC`, TC the total correlation [nats].

    The divergence is the closed form, sum over latents and mean over images. TC is estimated within
    the batch of a rank, see `decompose_kl`; the number N of training images is that of the data
    module. Without one of ours, and for batches that are larger, N is the size of the batch: the
    estimate is then that of a data set of this batch alone. A batch of one image has a TC of 0.
    Logs the three parts of the divergence.

    Args:
        beta: Weight of the total correlation. disentanglement_lib: 1 to 10.
        estimator: `weighted` or `stratified`.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> import torch
        >>> model = BetaTCVAE((3, 16, 16), latent_dim=6, beta=4.0)
        >>> model.encode(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 6, 1])

    References:
        Chen et al. 2018, "Isolating Sources of Disentanglement in VAEs", arXiv 1802.04942, eq. 4
        with alpha = gamma = 1.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        beta: float = 6.0,
        estimator: Estimator = "weighted",
        **kwargs: Any,
    ) -> None:
        super().__init__(image_shape, **kwargs)
        refuse_negative(beta=beta)
        self.beta = beta
        self.estimator: Estimator = estimator
        self._n_samples = 0

    def setup(self, stage: str) -> None:
        """Learn how many images the training has."""
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, FactorDataModule):
            self._n_samples = len(data.dataset.rows("train"))

    def regularize(self, posterior: Posterior, latents: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the divergence, and the total correlation at what beta has beyond 1."""
        kl = gaussian_kl(*posterior).sum(1).mean()
        n_samples, estimator = max(self._n_samples, len(latents)), self.estimator
        if len(latents) == 1:
            # There are no others to compare it with.
            n_samples, estimator = 1, "weighted"
        parts = decompose_kl(latents, *posterior, n_samples, estimator)
        added = (self.beta - 1) * parts.total_correlation
        return kl + added, {"kl": kl, **parts._asdict()}
