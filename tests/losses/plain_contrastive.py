"""The contrastive losses as loops over the formulas, for float64 and a gradient by autograd."""

from __future__ import annotations

from itertools import permutations

import torch

N, DIM = 5, 3
LABELS = {
    "view": [0, 1, 2, 3, 4] * 2,
    "joint": [0, 0, 1, 2, 1] * 2,
    # Views of a pair need not agree: 3, 4 and 5 have no positive.
    "lonely": [0, 0, 1, 2, 3, 0, 4, 1, 2, 5],
}
SLICE_LABELS = {
    "view": [LABELS["view"]] * 3,
    "joint": [LABELS["joint"]] * 3,
    "twice": [LABELS["joint"], LABELS["joint"], LABELS["view"]],
    "disjoint": [[0, 0, 1, 1, 2] * 2, [0, 1, 1, 0, 0] * 2, LABELS["view"]],
}


def embeddings(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


def unit(vector):
    return vector / (vector @ vector).sqrt()


def log_sum(logits):
    return torch.stack(logits).logsumexp(0)


def info_nce(units, labels, temperature, denominator="one_positive", reduction="mean"):
    losses = []
    for i, own in enumerate(labels):
        similar = [units[i] @ other / temperature for other in units]
        others = [a for a in range(len(labels)) if a != i]
        positives = [p for p in others if labels[p] == own]
        terms = []
        for p in positives:
            kept = [a for a in others if denominator == "all" or a == p or labels[a] != own]
            terms.append(log_sum([similar[a] for a in kept]) - similar[p])
        if terms:
            losses.append(sum(terms) / len(terms))
    return sum(losses) / (len(losses) if reduction == "mean" else 1)


def info_min(slices, temperature, variant, reduction):
    units = [[unit(slice_) for slice_ in sample] for sample in slices]
    n, n_slices = len(units) // 2, len(units[0])
    total = 0
    for view in (units[:n], units[n:]):
        for i in range(n):
            for k, other in permutations(range(n_slices), 2):
                if variant == "poster":
                    against = [view[a][k] for a in range(n) if a != i]
                else:
                    against = [view[a][other] for a in range(n)]
                total += view[i][k] @ view[i][other] / temperature
                total -= log_sum([view[i][k] @ vector / temperature for vector in against])
    return total / (2 * n) if reduction == "mean" else total


def orthogonality(slices, pairs, reduction, order=(0, 1, 2)):
    m, n_slices = len(slices), len(slices[0])
    terms = []
    for i in range(m):
        for j in range(m) if pairs == "all" else (i, (i + m // 2) % m):
            term = 0
            for k, other in permutations(range(n_slices), 2):
                left, right = slices[i][k], slices[j][other]
                if k < other:
                    left = left[list(order)]
                else:
                    right = right[list(order)]
                term += abs(left @ right) / ((left @ left).sqrt() * (right @ right).sqrt())
            terms.append(term)
    return sum(terms) / (len(terms) if reduction == "mean" else 1)


def slopes(slices, labels, temperature, denominator, wrt):
    """Gradient of the sum over anchors, shape (M, K * d)."""
    whole = slices.flatten(1)
    point = torch.stack([unit(row) for row in whole]) if wrt == "normalized" else whole
    units = point if wrt == "normalized" else torch.stack([unit(row) for row in whole])
    loss = info_nce(units, labels, temperature, denominator, "sum")
    (gradient,) = torch.autograd.grad(loss, point, create_graph=True)
    return gradient


def hessian_penalty(gradient, n_slices, form, reduction):
    m, dim = len(gradient), gradient.shape[1] // n_slices
    blocks = [
        (range(k * dim, (k + 1) * dim), range(other * dim, (other + 1) * dim))
        for k in range(n_slices)
        for other in range(k + 1, n_slices)
    ]
    size = m if reduction == "mean" else 1
    if form == "gram":
        squares = [
            (sum(row[a] * row[b] for row in gradient) / size) ** 2
            for rows, columns in blocks
            for a in rows
            for b in columns
        ]
        return (sum(squares) + 1e-12).sqrt()
    roots = []
    for row in gradient:
        squares = [(row[a] * row[b]) ** 2 for left, right in blocks for a in left for b in right]
        roots.append((sum(squares) + 1e-12).sqrt())
    return sum(roots) / size


def slice_bound(slices, slice_labels, temperature, denominator, reduction):
    gaps = []
    for labels in {tuple(labels) for labels in slice_labels}:
        losses = []
        for z in (*slices.unbind(1), slices.detach().flatten(1)):
            units = torch.stack([unit(row) for row in z])
            losses.append(info_nce(units, labels, temperature, denominator, reduction))
        gaps.append(torch.clamp(min(losses[:-1]) - losses[-1], min=0))
    return sum(gaps) / len(gaps)
