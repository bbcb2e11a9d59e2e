"""DIP-VAE: an aggregate posterior with uncorrelated latents."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from detaux_pl.disentangle.vae import VAE, Posterior, refuse_negative
from detaux_pl.losses.dip import dip_penalty
from detaux_pl.losses.gaussian_kl import gaussian_kl


class DIPVAE(VAE):
    """A VAE with `KL(q(z|x) || p(z)) + R`, R a penalty of the covariance C of the batch.

    `R = off_diagonal sum_{k != l} C_kl^2 + diagonal sum_k (C_kk - 1)^2`, C that of the posterior
    means (`i`) or of the latents (`ii`), see `dip_penalty`. The divergence is the sum over latents
    and the mean over images [nats].

    Args:
        variant: `i` or `ii`.
        off_diagonal: Weight of the squared covariances. disentanglement_lib: 1 to 50.
        diagonal: Weight of the squared distances of the variances to 1; null for 10 times
            `off_diagonal` in `i`, as much as it in `ii`, as in disentanglement_lib.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> import torch
        >>> model = DIPVAE((3, 16, 16), latent_dim=6, variant="ii")
        >>> model.encode(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 6, 1])

    References:
        Kumar et al. 2018, "Variational Inference of Disentangled Latent Concepts from Unlabeled
        Observations", arXiv 1711.00848.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        variant: Literal["i", "ii"] = "i",
        off_diagonal: float = 10.0,
        diagonal: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_shape, **kwargs)
        if diagonal is None:
            diagonal = off_diagonal * (10 if variant == "i" else 1)
        refuse_negative(off_diagonal=off_diagonal, diagonal=diagonal)
        self.variant = variant
        self.off_diagonal = off_diagonal
        self.diagonal = diagonal

    def regularize(self, posterior: Posterior, latents: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the divergence and the weighted penalty, which is logged with its weights."""
        kl = gaussian_kl(*posterior).sum(1).mean()
        penalty = dip_penalty(*posterior, self.variant, self.off_diagonal, self.diagonal)
        return kl + penalty, {"kl": kl, "covariance_penalty": penalty}
