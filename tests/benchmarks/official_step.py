"""The step of the product manifold as its official code computes it, from a description of that.

Subspaces are a loop of projectors, pairs a loop of lists, the optimiser is `Adam`, every loss is
read at once (`.item()`), and images are of shape (N, H, W, C).
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detaux_pl.disentangle.product_manifold import ProductManifoldAutoencoder
from detaux_pl.losses.schedule import Betas


class OfficialStep:
    """Training of the weights that a model has, by losses of the form `official`.

    Args:
        model: Of images whose code is a vector; it stays as it is.
    """

    def __init__(self, model: ProductManifoldAutoencoder) -> None:
        self.encoder, self.decoder = copy.deepcopy(model.encoder), copy.deepcopy(model.decoder)
        self.projectors = _looped(model)
        self.weights = (
            model.distance_weight,
            model.sparsity_weight,
            model.consistency_weight,
            model.regularization_weight,
        )
        nets = nn.ModuleList([self.encoder, self.projectors, self.decoder])
        # As layers are made; only what the images bring along is in another order.
        nets.to(memory_format=torch.contiguous_format)
        self.optimizer = torch.optim.Adam(nets.parameters(), lr=5e-4, weight_decay=1e-6)

    def __call__(self, images: Tensor, same: Tensor, betas: Betas) -> float:
        """Take a step, and return its loss.

        Args:
            images: Of the first views, then of the second, shape (2 B, H, W, C).
            same: Whether both views have the same principal label, shape (B,).
            betas: Factors of the constraints.
        """
        self.optimizer.zero_grad()
        loss = self.loss(images, same, betas)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def loss(self, images: Tensor, same: Tensor, betas: Betas) -> Tensor:
        """Return the loss of a batch of pairs."""
        views = images.permute(0, 3, 1, 2)
        codes = self._subspaces(views)
        loss = F.mse_loss(self.decoder(torch.stack(codes).sum(0)), views)
        told = [loss.item()]
        distance, sparsity, consistency, regularization = self.weights
        if betas.disentanglement > 0:
            n_pairs = len(same)
            distances = [(s[:n_pairs] - s[n_pairs:]).square().sum(1) for s in codes]
            assignment = self._oracle(codes, distances, same)
            pulled = torch.stack(distances, dim=1)
            hinge = (0.05 - pulled * assignment).relu()
            apart = ((1 - assignment) * pulled + 10 * hinge).mean()
            shared = torch.stack([(s * (sum(codes) - s)).abs() for s in codes]).sum(0).mean()
            spread = 100 * (1 / len(codes) - assignment.mean(0)).square().mean()
            told += [apart.item(), shared.item(), spread.item()]
            loss = loss + betas.disentanglement * (distance * apart + sparsity * shared)
            loss = loss + betas.regularization * regularization * spread
        if betas.consistency > 0.01:
            returned = consistency * self._consistency(codes, len(same))
            told.append(returned.item())
            loss = loss + betas.consistency * returned
        return loss

    def _subspaces(self, views: Tensor) -> list[Tensor]:
        latent = self.encoder(views)
        return [projector(latent) for projector in self.projectors]

    def _oracle(self, codes: list[Tensor], distances: list[Tensor], same: Tensor) -> Tensor:
        """One row a pair, with a 1 where its views differ; subspace 0 is the principal one."""
        mode = "donot_use_mm_for_euclid_dist"
        scales = [torch.cdist(s, s, compute_mode=mode).mean().detach() for s in codes]
        rows = []
        for pair, agrees in enumerate(same.tolist()):
            ratios = [
                (apart[pair] / (scale + 1e-8)).item()
                for apart, scale in zip(distances, scales, strict=True)
            ]
            free = range(1, len(codes))
            chosen = max(free, key=ratios.__getitem__) if agrees else 0
            rows.append(F.one_hot(torch.tensor(chosen), len(codes)))
        return torch.stack(rows).to(codes[0].dtype)

    def _consistency(self, codes: list[Tensor], n_pairs: int) -> Tensor:
        mixtures = torch.randperm(len(codes) * n_pairs)[: 2 * n_pairs]
        mixed: list[list[Tensor]] = [[] for _ in codes]
        for mixture in mixtures.tolist():
            swapped, pair = divmod(mixture, n_pairs)
            for i, s in enumerate(codes):
                mixed[i].append(s[pair] if i == swapped else s[n_pairs + pair])
        together = torch.stack([torch.stack(rows) for rows in mixed])
        returned = torch.stack(self._subspaces(self.decoder(together.sum(0))))
        return (returned - together).square().mean()


def _looped(model: ProductManifoldAutoencoder) -> nn.ModuleList:
    """Give each subspace layers of its own, with the weights of the stack."""
    stack = model.projectors
    loop = nn.ModuleList()
    for k in range(stack.n_subspaces):
        layers = []
        for weight, bias in (
            (stack.hidden_weight[k], stack.hidden_bias[k, 0]),
            (stack.output_weight[k], stack.output_bias[k, 0]),
        ):
            layer = nn.Linear(*weight.T.shape, dtype=weight.dtype)
            layer.load_state_dict({"weight": weight.detach(), "bias": bias.detach()})
            layers.append(layer)
        loop.append(nn.Sequential(layers[0], nn.ReLU(), layers[1]))
    return loop
