"""FactorVAE: independent latents by a discriminator."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from detaux_pl.disentangle.vae import VAE, Posterior, refuse_negative
from detaux_pl.losses.density_ratio import discriminator_loss, total_correlation_ratio
from detaux_pl.losses.gaussian_kl import gaussian_kl
from detaux_pl.losses.permute import permute_latents
from detaux_pl.models.latent_discriminator import LatentDiscriminator


class FactorVAE(VAE):
    """A VAE with `KL(q(z|x) || p(z)) + gamma TC`, TC estimated by a discriminator [nats].

    The discriminator learns to tell latents from such whose dimensions were permuted over the
    batch, each by itself; TC is its log-odds of the former. It sees the latents of the first half
    of the batch as they are and those of the second half permuted; the VAE is trained on both
    halves. Logs `<stage>/total_correlation` and `<stage>/discriminator`, the discriminator's
    loss, which is not in `<stage>/loss`: log 2 where it cannot tell.

    Both are steps of one optimizer: the VAE's loss takes the discriminator's weights as constants,
    the discriminator's loss the latents, and both the weights before the step. So accumulation,
    mixed precision and DDP work as ever, and gradients are clipped by the norm of both nets.

    Args:
        gamma: Weight of the total correlation. disentanglement_lib: 10 to 100.
        discriminator_lr: Learning rate of the discriminator, which has the same optimizer with the
            betas 0.5 and 0.9 and without weight decay.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> model = FactorVAE((3, 16, 16), latent_dim=6, gamma=20.0)
        >>> model.encode(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 6, 1])

    References:
        Kim & Mnih 2018, "Disentangling by Factorising", arXiv 1802.05983. Differs in: the permuted
        half is of the same batch, where the paper draws a second one.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        gamma: float = 10.0,
        discriminator_lr: float = 1e-4,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_shape, **kwargs)
        refuse_negative(gamma=gamma)
        if not 0 < discriminator_lr < math.inf:
            raise ValueError(
                f"discriminator_lr is {discriminator_lr}: give a positive, finite number."
            )
        self.gamma = gamma
        self.discriminator_lr = discriminator_lr
        self.discriminator = LatentDiscriminator(self.latent_dim)

    def regularize(self, posterior: Posterior, latents: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return divergence and weighted total correlation.

        What is returned has the gradient of the discriminator's loss too, though not its value.
        """
        kl = gaussian_kl(*posterior).sum(1).mean()
        constant = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        logits = torch.func.functional_call(self.discriminator, constant, latents)
        correlation = total_correlation_ratio(logits)
        loss = self.discriminator_loss(latents)
        terms = {"kl": kl, "total_correlation": correlation, "discriminator": loss}
        return kl + self.gamma * correlation + (loss - loss.detach()), terms

    def discriminator_loss(self, latents: Tensor) -> Tensor:
        """Return the discriminator's loss; no gradient reaches the latents, shape (B, K)."""
        latents = latents.detach()
        # The image in the middle of an odd batch is in both halves.
        half = (len(latents) + 1) // 2
        joint, permuted = latents[:half], permute_latents(latents[-half:])
        return discriminator_loss(self.discriminator(joint), self.discriminator(permuted))

    def _build_optimizer(self) -> Optimizer:
        own = list(self.discriminator.parameters())
        rest = [*self.encoder.parameters(), *self.decoder.parameters()]
        groups = [
            {"params": rest, "lr": self.lr, "weight_decay": self.weight_decay},
            {
                "params": own,
                "lr": self.discriminator_lr,
                "betas": (0.5, 0.9),
                "weight_decay": 0.0,
            },
        ]
        kind = torch.optim.AdamW if self.optimizer == "adamw" else torch.optim.Adam
        # Lightning does not clip gradients for fused optimisers in mixed precision.
        return kind(groups, fused=not self.trainer.gradient_clip_val)
