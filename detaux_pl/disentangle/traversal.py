"""Latent traversals between the two views of a pair."""

from __future__ import annotations

import torch
from torch import Tensor

from detaux_pl.disentangle.autoencoding import AutoencodingDisentangler


@torch.no_grad()
def traversals(disentangler: AutoencodingDisentangler, pair_images: Tensor) -> Tensor:
    """Move from view 1 to view 2 in one subspace at a time.

    A row is `[x1 | rec1 | 3 steps | rec2 | x2]`: step w, for w = 2/3, 1/3, 0, is decoded from the
    codes of view 1 with `w s_i^1 + (1 - w) s_i^2` in place of subspace i.

    Args:
        disentangler: A trained model, in evaluation mode.
        pair_images: Both views of one pair in [0, 1], shape (2, C, H, W), on the model's device.

    Returns:
        Images in [0, 1], one row per subspace, shape (K, 7, C, H, W).

    References:
        Detaux, figures of latent traversals.
    """
    codes = disentangler.encode(pair_images)  # v, k, d
    k, d = codes.shape[1:]
    weights = torch.tensor([2 / 3, 1 / 3, 0.0], device=codes.device)[:, None]
    steps = codes[0].repeat(k, 3, 1, 1)  # row, step, k, d
    every = torch.arange(k, device=codes.device)
    steps[every, :, every] = weights * codes[0][:, None] + (1 - weights) * codes[1][:, None]
    painted = disentangler.decode(torch.cat([codes, steps.view(-1, k, d)])).clamp(0, 1)
    ends = torch.stack([pair_images, painted[:2]])  # given or painted, view
    middle = painted[2:].view(k, 3, *pair_images.shape[1:])
    first, last = (end.expand(k, *end.shape) for end in (ends[:, 0], ends[:, 1].flip(0)))
    return torch.cat([first, middle, last], dim=1)
