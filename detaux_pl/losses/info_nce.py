"""The contrastive loss, in memory that grows with a chunk of the batch."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import Function, once_differentiable
from torch.utils.checkpoint import checkpoint

from detaux_pl.losses.precision import at_least_float32

_TINY = 1e-8


def unit_vectors(embeddings: Tensor) -> Tensor:
    """Return embeddings of length 1, in float32 or float64; lengths below 1e-8 count as 1e-8.

    Args:
        embeddings: Shape (..., D).
    """
    return F.normalize(at_least_float32(embeddings), dim=-1, eps=_TINY)


class InfoNCE(nn.Module):
    """Draw embeddings of the same label together, and away from those of other labels.

    `l_i = 1/|P(i)| sum_{p in P(i)} [-s_ip + log sum_{a in A} exp s_ia]` [nats], with
    `s_ij = cos(z_i, z_j) / temperature` and P(i) all others with the label of i. The loss is the
    mean, or the sum, of `l_i` over the anchors i that have a positive; 0, and without a gradient,
    where none has one. The positives are summed outside the logarithm, and the loss is not
    multiplied by the temperature.

    Computes in float32, or in float64 for such embeddings. Similarities are held for `chunk_size`
    anchors at a time, in the backward pass too.

    Args:
        temperature: Scale of the similarities; > 0. Paper: unknown.
        denominator: A of the anchor i and its positive p: `one_positive`, p and all of other
            labels; `all`, all but i.
        reduction: `mean` or `sum` over the anchors.
        chunk_size: Anchors at a time; memory grows with this times the batch.

    Raises:
        ValueError: If `temperature` or `chunk_size` is not positive.

    Example:
        >>> views = torch.eye(4).repeat(2, 1)  # two equal views of four samples at right angles
        >>> labels = torch.arange(4).repeat(2)
        >>> round(InfoNCE(temperature=1.0)(views, labels).item(), 4)  # log(1 + 6 / e)
        1.1654

    References:
        Burns et al. 2021, "Unsupervised Disentanglement without Autoencoding", eq. 1, for one
        positive; the poster has the sum over anchors. Khosla et al. 2020, "Supervised Contrastive
        Learning", eq. 2, for several, with `all` and times the temperature.
    """

    def __init__(
        self,
        temperature: float = 0.1,
        denominator: Literal["one_positive", "all"] = "one_positive",
        reduction: Literal["mean", "sum"] = "mean",
        chunk_size: int = 256,
    ) -> None:
        super().__init__()
        if not temperature > 0 or chunk_size < 1:
            raise ValueError(
                f"temperature is {temperature} and chunk_size is {chunk_size}: give a temperature "
                "above 0 and at least 1 anchor at a time."
            )
        self.temperature = temperature
        self.denominator = denominator
        self.reduction = reduction
        self.chunk_size = chunk_size

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the scalar loss.

        Args:
            embeddings: Un-normalised embeddings, shape (M, D).
            labels: Labels, int64, shape (M,).

        Raises:
            ValueError: If the shapes are others.
        """
        _check_shapes(embeddings, labels)
        with torch.autocast(embeddings.device.type, enabled=False):
            units = unit_vectors(embeddings)
            loss: Tensor = _Loss.apply(units, labels, self)
        return loss

    def gradient(
        self, embeddings: Tensor, labels: Tensor, wrt: Literal["raw", "normalized"] = "raw"
    ) -> Tensor:
        """Return the gradient of the sum of `l_i` over all anchors, whatever the reduction.

        A row holds what its embedding does as an anchor and as a positive or negative of others.
        The result is itself differentiable, once: a loss made of it needs no second derivative.

        Args:
            embeddings: Un-normalised embeddings, shape (M, D).
            labels: Labels, int64, shape (M,).
            wrt: Gradient with respect to the `raw` embeddings or the `normalized` ones.

        Returns:
            Gradient, shape (M, D).

        Raises:
            ValueError: If the shapes are others.
        """
        _check_shapes(embeddings, labels)
        with torch.autocast(embeddings.device.type, enabled=False):
            units = unit_vectors(embeddings)
            gradient = torch.zeros_like(units)
            for start in range(0, len(units), self.chunk_size):
                pull: Tensor = checkpoint(
                    self._pull, units, labels, start, use_reentrant=False, preserve_rng_state=False
                )
                gradient = gradient + pull
            if wrt == "normalized":
                return gradient
            lengths: Tensor = torch.linalg.vector_norm(
                at_least_float32(embeddings), dim=-1, keepdim=True
            )
            radial = (gradient * units).sum(-1, keepdim=True) * units
            return (gradient - radial) / lengths.clamp_min(_TINY)

    def _pull(self, units: Tensor, labels: Tensor, start: int) -> Tensor:
        _, slopes, _ = self._anchors(units, labels, start)
        return _chain(slopes, units, start)

    def _anchors(self, units: Tensor, labels: Tensor, start: int) -> tuple[Tensor, Tensor, Tensor]:
        """Losses of the c anchors from `start` on, their derivatives by the cosines, what counts.

        The shapes are (c,), (c, M) and, for which of the anchors have a positive, (c,).
        """
        rows = slice(start, start + self.chunk_size)
        similar = (units[rows] / self.temperature) @ units.T
        same = labels[rows, None] == labels
        itself = torch.zeros_like(same)
        itself.diagonal(start).fill_(True)
        n_positives = same.sum(1, keepdim=True) - 1
        counted = n_positives > 0
        # What the denominators of all positives of an anchor have in common.
        left_out = itself if self.denominator == "all" else same
        shared = similar.masked_fill(left_out, -torch.inf)
        nothing = left_out.all(1, keepdim=True)
        # torch.logsumexp of nothing but -inf has NaN for a gradient.
        peak = shared.detach().amax(1, keepdim=True).masked_fill(nothing, 0)
        log_shared = peak + ((shared - peak).exp().sum(1, keepdim=True) + nothing).log()
        softmax = (shared - log_shared).exp()
        weights = (same & ~itself & ~nothing) / n_positives.clamp_min(1).to(units.dtype)
        if self.denominator == "all":
            losses = counted * log_shared - (weights * similar).sum(1, keepdim=True)
            slopes = counted * softmax - weights
        else:
            gap = log_shared - similar
            losses = -(weights * F.logsigmoid(-gap)).sum(1, keepdim=True)
            push = weights * gap.sigmoid()
            slopes = softmax * push.sum(1, keepdim=True) - push
        return losses[:, 0], slopes / self.temperature, counted[:, 0]


class _Loss(Function):
    @staticmethod
    def forward(ctx: Any, units: Tensor, labels: Tensor, info_nce: InfoNCE) -> Tensor:
        loss, n_anchors = units.new_zeros(()), labels.new_zeros(())
        gradient = torch.zeros_like(units)
        for start in range(0, len(units), info_nce.chunk_size):
            losses, slopes, counted = info_nce._anchors(units, labels, start)
            loss += losses.sum()
            n_anchors += counted.sum()
            if ctx.needs_input_grad[0]:
                gradient += _chain(slopes, units, start)
        scale = n_anchors.clamp_min(1) if info_nce.reduction == "mean" else 1
        ctx.save_for_backward(gradient / scale)
        return loss / scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return slope * gradient, None, None


def _chain(slopes: Tensor, units: Tensor, start: int) -> Tensor:
    """From derivatives by the cosines of c anchors to those by all unit vectors, shape (M, D)."""
    rows = slice(start, start + len(slopes))
    own = F.pad(slopes @ units, (0, 0, start, len(units) - rows.stop))
    return own + slopes.T @ units[rows]


def _check_shapes(embeddings: Tensor, labels: Tensor) -> None:
    if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1]:
        raise ValueError(
            f"the embeddings have shape {tuple(embeddings.shape)} and the labels "
            f"{tuple(labels.shape)}: give (M, D) and (M,)."
        )
