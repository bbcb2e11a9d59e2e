"""Weights that are a function of how the tasks' gradients lie to each other."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor

from detaux_pl.losses.gather import world_size
from detaux_pl.multitask.weighting.base import Shared, Weighting, refuse_one_task
from detaux_pl.multitask.weighting.state import mean_over_ranks

GramianName = Literal["features", "parameters"]

_SCALE = 2.0**12
"""Factor of the losses, without which gradients in float16 vanish; exact in every precision."""


class GramianWeighting(Weighting):
    """Weigh tasks by the Gramian of their gradients: `G_tu = <g_t, g_u>`, shape (T, T).

    The weights are constants of the step: the loss is `sum_t w_t L_t`, which the model minimises
    as any other, and the gradients are computed beside it. The heads' gradients are therefore
    weighted as well. Under several ranks the Gramian, and with it the weights, is that of one
    rank on the joined batch. Where it is not finite the last weights stay.

    Args:
        gramian: With respect to what the gradients are taken: `features`, those of the present
            batch, per sample, or `parameters`, all that are shared. The first takes T backward
            passes through the heads alone and is a proxy: times the norm of the Jacobian of the
            features, the norm of a combination of the tasks' gradients is an upper bound of the
            exact one (MGDA-UB of Sener and Koltun 2018, arXiv 1810.04650, section 3.3). The
            second is exact and takes T more backward passes through the whole model.

    Raises:
        ValueError: If there is no such choice.
    """

    _weights: Tensor

    def __init__(self, gramian: GramianName = "features") -> None:
        super().__init__()
        if gramian not in ("features", "parameters"):
            raise ValueError(f"gramian is {gramian!r}: choose `features` or `parameters`.")
        self.gramian = gramian

    def setup(self, n_tasks: int) -> None:
        """Start with equal weights.

        Raises:
            ValueError: If there is one task.
        """
        refuse_one_task(self, n_tasks)
        self.register_buffer("_weights", torch.ones(n_tasks), persistent=False)

    @property
    def weights(self) -> Tensor:
        """Weights of the last step, shape (T,)."""
        return self._weights

    @abstractmethod
    def weigh(self, gramian: Tensor, losses: Tensor) -> Tensor:
        """Return the weight of each task, shape (T,), the same for the same input on every rank.

        Called once in each training step.

        Args:
            gramian: Finite, float64 on the CPU, shape (T, T).
            losses: Mean over the ranks, float64 on the CPU, shape (T,).
        """

    def forward(self, losses: Tensor, shared: Shared | None = None) -> Tensor:
        """Weigh the losses, shape (T,), and combine them to a scalar.

        Raises:
            ValueError: If the tasks share nothing that is trained.
        """
        gramian, means = self._measure(losses, shared)
        if gramian.isfinite().all() and means.isfinite().all():
            self._weights = self.weigh(gramian, means).to(losses)
        return super().forward(losses)

    def _measure(self, losses: Tensor, shared: Shared | None) -> tuple[Tensor, Tensor]:
        """Gramian and losses of the joined batch, on the CPU by one transfer."""
        inputs: list[Tensor] = []
        if shared is not None:
            sources = shared.features if self.gramian == "features" else shared.parameters
            inputs = [source for source in sources if source.requires_grad]
        if not inputs:
            raise ValueError(
                f"{type(self).__name__} compares the tasks' gradients with respect to the shared "
                f"{self.gramian}, and none of these is trained: take EqualWeighting."
            )
        dtype = torch.promote_types(losses.dtype, torch.float32)
        start = torch.full_like(losses[0], _SCALE)
        with torch.autocast(losses.device.type, enabled=False):
            gradients = torch.stack(
                [_flat_gradient(loss, inputs, start).to(dtype) for loss in losses.unbind()]
            )
            if self.gramian == "parameters":
                gradients = mean_over_ranks(gradients)
            # Not `gradients @ gradients.T`, which may be allowed to round to ten bits.
            products = [torch.dot(one, other) for one in gradients for other in gradients]
            local = torch.stack([*products, *losses.detach().to(dtype)])
            # The parameters' Gramian is averaged too: ranks may differ in how they round.
            joined = mean_over_ranks(local).cpu().double()
        if self.gramian == "features":
            # The mean over the joined batch divides each sample's gradient by the world size.
            joined[: len(products)] /= world_size()
        n_tasks = len(losses)
        gramian = joined[: len(products)].view(n_tasks, n_tasks) / _SCALE**2
        return gramian, joined[len(products) :]


def _flat_gradient(loss: Tensor, inputs: list[Tensor], start: Tensor) -> Tensor:
    # Not `backward`: DDP's hooks, which wait for every gradient once, must not see this one.
    gradients = torch.autograd.grad(loss, inputs, start, retain_graph=True, materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in gradients])
