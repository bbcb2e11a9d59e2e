"""The losses of product-manifold disentanglement.

Shapes: v = 2 views of a pair, k = subspaces, b = pairs, d = dimensions. Codes have shape
(v, k, b, d), squared distances and assignments (b, k). The distance, sparsity and consistency
losses are means, as in the official code, and the published weights belong to them; the
reconstruction loss is `torch.nn.functional.mse_loss`, a mean over all elements.

References:
    Fumero et al. 2021, "Learning disentangled representations via product manifold projection".
    Skenderi et al., "Disentangled Latent Spaces Facilitate Data-Driven Auxiliary Learning"
    (Detaux), section 3 and appendix A, and its official code.
    docs/methods.md, 'Differences from the paper and its code'.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

_TINY = 1e-8


def squared_distances(codes: Tensor) -> Tensor:
    """Return `D_bi = |s_i^1 - s_i^2|^2`, how far the views of a pair are apart in each subspace.

    Args:
        codes: Codes, shape (2, k, b, d).

    Returns:
        Squared Euclidean distances, shape (b, k).

    Raises:
        ValueError: If the codes are not of two views.
    """
    if codes.ndim != 4 or codes.shape[0] != 2:
        raise ValueError(
            f"the codes have shape {tuple(codes.shape)}: give those of two views, "
            "(2, subspaces, pairs, dimensions)."
        )
    return (codes[0] - codes[1]).square().sum(-1).T


@torch.no_grad()
def oracle(
    codes: Tensor,
    same: Tensor,
    principal: int = 0,
    norm: Literal["pairwise", "length"] = "pairwise",
    power: Literal[1, 2] = 2,
) -> Tensor:
    """Say in which subspace the views of each pair differ.

    A pair of different principal labels differs in the principal subspace, by decree. A pair of
    the same label differs in that other subspace where `|s_i^1 - s_i^2|^power / m_i` is largest,
    the first of them if several are. No gradient flows.

    Args:
        codes: Codes, shape (2, k, b, d), k > 1.
        same: Whether both views have the same principal label, shape (b,).
        principal: Index of the principal subspace.
        norm: What `m_i` averages: `pairwise`, the Euclidean distance over all ordered pairs of
            the 2b embeddings, self-pairs included (official code); `length`, the length of the
            2b embeddings (paper).
        power: Power of the distance: 2 as in the official code, or 1 as in the paper.

    Returns:
        One-hot assignment, shape (b, k), of the codes' type.

    Example:
        >>> codes = torch.zeros(2, 3, 2, 4)  # two views, three subspaces, two pairs
        >>> codes[1, 2] = 1.0  # the views differ in subspace 2
        >>> oracle(codes, same=torch.tensor([True, False]))
        tensor([[0., 0., 1.],
                [1., 0., 0.]])

    References:
        Detaux, equations 3 and 4. Its softmax with factor 1e6 is an argmax up to ties.
    """
    distances = squared_distances(codes)
    embeddings = codes.transpose(0, 1).flatten(1, 2)  # k, vb, d
    if norm == "pairwise":
        # The matrix-product form of cdist gives noisy distances, and self-distances above 0.
        mode = "donot_use_mm_for_euclid_dist"
        scale = torch.cdist(embeddings, embeddings, compute_mode=mode).mean((1, 2))
    else:
        scale = embeddings.norm(dim=-1).mean(1)
    ratios = (distances if power == 2 else distances.sqrt()) / (scale + _TINY)
    subspaces = torch.arange(ratios.shape[1], device=ratios.device)
    free = ratios.masked_fill(subspaces == principal, -torch.inf)
    chosen = torch.where(same, free.argmax(1), principal)
    return (chosen[:, None] == subspaces).to(codes.dtype)


def soft_oracle(
    distances: Tensor, same: Tensor, principal: int = 0, sharpness: float = 1e3
) -> Tensor:
    """Return an assignment that has a gradient: `softmax(sharpness * D)` over the free subspaces.

    Args:
        distances: Squared distances, shape (b, k), k > 1.
        same: Whether both views have the same principal label, shape (b,).
        principal: Index of the principal subspace, which takes all pairs of different labels.
        sharpness: Inverse temperature. Official code of Fumero et al.: 1e3.

    Returns:
        Assignment, shape (b, k), rows summing to 1.
    """
    is_principal = torch.arange(distances.shape[1], device=distances.device) == principal
    logits = (sharpness * distances).masked_fill(is_principal, -torch.inf)
    return torch.where(same[:, None], logits.softmax(1), is_principal.to(distances.dtype))


def distance_loss(
    distances: Tensor,
    assignment: Tensor,
    form: Literal["code", "paper"] = "code",
    margin: float = 0.05,
    margin_weight: float = 10.0,
    legacy_constant: bool = False,
) -> Tensor:
    """Pull the views of a pair together in all subspaces but the assigned one; there, push.

    `code`: `mean_bi (1 - A) D + margin_weight * A relu(margin - D)`.
    `paper`: `mean_bi (1 - A) D + margin_weight * A relu(sqrt(margin) - sqrt(D))^2`.

    Args:
        distances: Squared distances, shape (b, k).
        assignment: One-hot assignment, shape (b, k).
        form: Which hinge.
        margin: Squared distance that assigned pairs shall keep. Official code: 0.05.
        margin_weight: Weight of the hinge. Official code: 10.
        legacy_constant: Evaluate the hinge of `code` on unassigned entries too, as the official
            code does: adds `margin_weight * margin * (k - 1) / k` and no gradient.

    Returns:
        Scalar loss, mean over pairs and subspaces.

    Raises:
        ValueError: If `margin` is negative.

    Example:
        >>> assignment = torch.tensor([[0.0, 1.0]])
        >>> distance_loss(torch.tensor([[0.0, 2.0]]), assignment)  # far apart where it should be
        tensor(0.)
        >>> distance_loss(torch.tensor([[2.0, 0.0]]), assignment)  # (2 + 10 * 0.05) / 2
        tensor(1.2500)

    References:
        Detaux, equation 7, which sums over subspaces and gives the hinge weight 1.
    """
    if margin < 0:
        raise ValueError(f"margin is {margin}: a squared distance is at least 0.")
    if form == "paper":
        # The clamp keeps the slope of the root finite where both views coincide.
        hinge = assignment * (math.sqrt(margin) - distances.clamp_min(1e-12).sqrt()).relu().square()
    elif legacy_constant:
        hinge = (margin - distances * assignment).relu()
    else:
        hinge = assignment * (margin - distances).relu()
    return ((1 - assignment) * distances + margin_weight * hinge).mean()


def sparsity_loss(codes: Tensor) -> Tensor:
    """Return `mean_vbd sum_i |s_i * sum_{j != i} s_j|`: subspaces shall not share dimensions.

    Args:
        codes: Codes, shape (2, k, b, d).

    Returns:
        Scalar loss, mean over views, pairs and dimensions, sum over subspaces.

    Example:
        >>> shared, apart = torch.ones(2, 2, 3, 2), torch.eye(2).view(1, 2, 1, 2).expand(2, 2, 3, 2)
        >>> sparsity_loss(shared), sparsity_loss(apart)
        (tensor(2.), tensor(0.))

    References:
        Detaux, equation 8, which sums over dimensions.
    """
    others = codes.sum(1, keepdim=True) - codes
    return (codes * others).abs().sum(1).mean()


def mix(codes: Tensor, mixtures: Tensor) -> tuple[Tensor, Tensor]:
    """Swap one subspace of a second view for that of the first.

    Mixture `i * b + n` has subspace i from view 1 of pair n and all others from view 2.

    Args:
        codes: Codes, shape (2, k, b, d).
        mixtures: Numbers of the wanted mixtures, int64, shape (m,), each in [0, k * b).

    Returns:
        Codes of the mixtures, shape (k, m, d), and the subspace swapped in, shape (m,).

    Example:
        >>> codes = torch.zeros(2, 3, 2, 1)  # two views, three subspaces, two pairs
        >>> codes[1] = 1.0
        >>> mixed, swapped = mix(codes, torch.tensor([4]))  # subspace 2 of pair 0 is from view 1
        >>> mixed[:, 0, 0], swapped
        (tensor([1., 1., 0.]), tensor([2]))
    """
    k, b = codes.shape[1:3]
    swapped, pairs = mixtures // b, mixtures % b
    is_swapped = torch.arange(k, device=codes.device)[:, None, None] == swapped[:, None]
    return torch.where(is_swapped, codes[0][:, pairs], codes[1][:, pairs]), swapped


def consistency_loss(mixed: Tensor, returned: Tensor, swapped: Tensor | None = None) -> Tensor:
    """Return the mean squared error between mixtures and what comes back of them.

    Decoding a mixture and encoding the image again shall give the mixture. Gradients flow
    through both arguments.

    Args:
        mixed: Codes of the mixtures, shape (k, m, d).
        returned: Codes of the decoded mixtures, shape (k, m, d).
        swapped: The subspace swapped into each mixture, shape (m,): compare only this one, as
            the paper does. None compares all subspaces, as the official code does.

    Returns:
        Scalar loss, mean over mixtures, dimensions and the compared subspaces.

    References:
        Detaux, equation 9, which sums over subspaces and dimensions.
    """
    error = (returned - mixed).square()
    if swapped is None:
        return error.mean()
    return error[swapped, torch.arange(len(swapped), device=swapped.device)].mean()


def regularization_loss(
    assignment: Tensor, same: Tensor | None = None, principal: int = 0
) -> Tensor:
    """Return `100 * mean_j (1/k - mean_b A_bj)^2`: pairs shall spread over all subspaces.

    Args:
        assignment: Assignment, shape (b, k): a `soft_oracle` for a gradient, or an `oracle` for
            the loss of the official code, which is a constant.
        same: Whether both views have the same principal label, shape (b,): spread only these
            pairs, over the free subspaces. None spreads all pairs over all subspaces, though
            the share of the principal one is fixed by the pairs.
        principal: Index of the principal subspace; counts only where `same` is given.

    Returns:
        Scalar loss, mean over subspaces of the squared error of the mean over pairs.

    Example:
        >>> round(regularization_loss(torch.tensor([[1.0, 0.0], [1.0, 0.0]])).item(), 4)
        25.0

    References:
        Detaux, equation 10, which has a sum over subspaces and no factor 100.
    """
    if same is None:
        shares = assignment.mean(0)
        return 100 * (1 / len(shares) - shares).square().mean()
    weights = same.to(assignment.dtype)
    weights = weights / weights.sum().clamp_min(1)
    shares = weights @ assignment
    free = torch.cat([shares[:principal], shares[principal + 1 :]])
    target = weights.sum() / len(free)  # 0 where no pair has the same label
    return 100 * (target - free).square().mean()
