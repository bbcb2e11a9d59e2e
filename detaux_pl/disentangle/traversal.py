"""Latent traversals: from one view of a pair to the other, and of single latents."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detaux_pl.disentangle.autoencoding import AutoencodingDisentangler

STEPS = (-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)
"""Where a traversal of a single latent puts it [standard deviations of its codes]."""


@torch.no_grad()
def traversals(
    disentangler: AutoencodingDisentangler,
    pair_images: Tensor,
    subspaces: Sequence[int] | None = None,
) -> Tensor:
    """Move from view 1 to view 2 in one subspace at a time.

    A row is `[x1 | rec1 | 3 steps | rec2 | x2]`: step w, for w = 2/3, 1/3, 0, is decoded from the
    codes of view 1 with `w s_i^1 + (1 - w) s_i^2` in place of subspace i.

    Args:
        disentangler: A trained model, in evaluation mode.
        pair_images: Both views of one pair in [0, 1], shape (2, C, H, W), on the model's device.
        subspaces: Indices of the R subspaces to move in; None for all K.

    Returns:
        Images in [0, 1], one row per subspace, shape (R, 7, C, H, W).

    References:
        Detaux, figures of latent traversals.
    """
    codes = disentangler.encode(pair_images)  # v, k, d
    k, d = codes.shape[1:]
    moved = torch.arange(k) if subspaces is None else torch.as_tensor(list(subspaces))
    moved = moved.to(codes.device)
    rows = torch.arange(len(moved), device=codes.device)
    weights = torch.tensor([2 / 3, 1 / 3, 0.0], device=codes.device)[:, None]
    steps = codes[0].repeat(len(moved), 3, 1, 1)  # row, step, k, d
    ends = codes[:, moved, None]  # v, row, 1, d
    steps[rows, :, moved] = weights * ends[0] + (1 - weights) * ends[1]
    painted = disentangler.decode(torch.cat([codes, steps.view(-1, k, d)])).clamp(0, 1)
    middle = painted[2:].view(len(moved), 3, *pair_images.shape[1:])
    given = torch.stack([pair_images, painted[:2]])  # given or painted, view
    first, last = (end.expand(len(moved), *end.shape) for end in (given[:, 0], given[:, 1].flip(0)))
    return torch.cat([first, middle, last], dim=1)


@torch.no_grad()
def latent_traversals(
    disentangler: AutoencodingDisentangler, image: Tensor, codes: Tensor, latents: Sequence[int]
) -> Tensor:
    """Move one latent at a time over the range of its codes, and keep the others.

    A row is `[x | rec | 9 steps]`: step s, of `STEPS`, is decoded from the codes of the image with
    `mean_k + s std_k` in place of latent k, its mean and standard deviation over some images. For
    a latent that follows the prior N(0, 1) this is the usual range from -2 to 2, and it fits codes
    of any other place and scale. A latent that never varies moves nowhere.

    Args:
        disentangler: A trained model with subspaces of one dimension, in evaluation mode.
        image: The image in [0, 1], shape (C, H, W), on the model's device.
        codes: Codes of the images that the range is taken from, shape (n, K, 1).
        latents: Indices of the R latents to move.

    Returns:
        Images in [0, 1], one row per latent, shape (R, 11, C, H, W).

    Raises:
        ValueError: If the subspaces have more than one dimension.

    References:
        Locatello et al. 2019, arXiv 1811.12359. Its code goes from -2 to 2, or over 2 deviations
        on both sides of the mean; there the deviation is that of samples of the posterior.
    """
    own = disentangler.encode(image[None])  # 1, k, 1
    if own.shape[2] != 1 or codes.shape[1:] != own.shape[1:]:
        raise ValueError(
            f"the model has codes of shape {tuple(own.shape[1:])}, those given have "
            f"{tuple(codes.shape[1:])}: give (n, K, 1) of the same model, or take `traversals`."
        )
    chosen = torch.as_tensor(list(latents))
    deviation, mean = torch.std_mean(codes[:, chosen, 0].double(), dim=0, correction=0)
    values = mean[:, None] + deviation[:, None] * torch.tensor(STEPS).to(mean)
    steps = own.repeat(len(chosen), len(STEPS), 1, 1)[..., 0]  # row, step, k
    steps[torch.arange(len(chosen)), :, chosen] = values.to(own)
    painted = disentangler.decode(torch.cat([own, steps.view(-1, own.shape[1], 1)])).clamp(0, 1)
    given = torch.stack([image, painted[0]]).expand(len(chosen), 2, *image.shape)
    return torch.cat([given, painted[1:].view(len(chosen), len(STEPS), *image.shape)], dim=1)
