"""Auxiliary losses that are learnt, by what training on them does to held-out images."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Literal, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, autograd, nn

from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.labels import IGNORED
from detaux_pl.data.batch import Batch
from detaux_pl.data.modules import LabelledDataModule
from detaux_pl.multitask.bilevel import (
    BilevelModel,
    LabelGenerator,
    Network,
    average,
    dot,
    focal_loss,
    pure,
)

_HIDDEN: dict[str, tuple[int, ...]] = {"mono_linear": (), "mono_nonlinear": (10, 10)}
"""Hidden layers of the networks that combine losses (docs/methods.md, 'AuxiLearn')."""

_DRAWS = 1_000_003
"""Keeps the draws here apart from those of the data module, which have the same seed."""


class HyperGradient(NamedTuple):
    """What a hyper step needs.

    Args:
        gradients: Gradient of each meta parameter, averaged over the ranks, not clipped.
        loss: Principal loss of this rank's held-out batch.
    """

    gradients: list[Tensor]
    loss: Tensor


class _HeldOutModel(BilevelModel):
    """A network trained on `L_T(W, phi)`; phi learns the principal loss L_V of held-out images.

    The hypergradient of phi is `-(d^2 L_T / dphi dW)^T p`, where p approximates `H^-1 dL_V/dW`, H
    the Hessian of L_T, by J + 1 terms of its Neumann series:
    `p = lr * sum_{j=0..J} (I - lr * H)^j dL_V/dW`, lr the present learning rate of W.

    Args:
        held_out: Share of the train images that only the meta parameters learn from, in (0, 0.5].
            Paper: 0.0084, on larger data.
        hyper_every: Training steps from one hyper step to the next. Paper: 30.
        neumann_terms: Terms of the Neumann series beyond the first. Paper: 3.
        legacy_scale: Leave out the leading lr of p, as the official code does.
        clip: Largest norm of the hypergradient. Official code: 50.
        meta_weight_decay: Weight decay of the meta parameters. Paper: 5e-3.

    Raises:
        ValueError: If an argument is outside its range.
    """

    combination: _Combination
    names: tuple[str, ...]
    """What the losses that are combined are called in the log."""

    def __init__(
        self,
        task_sizes: tuple[int, ...],
        held_out: float = 0.05,
        hyper_every: int = 30,
        neumann_terms: int = 3,
        legacy_scale: bool = False,
        clip: float = 50.0,
        meta_weight_decay: float = 5e-3,
        **kwargs: Any,
    ) -> None:
        super().__init__(task_sizes, meta_weight_decay=meta_weight_decay, **kwargs)
        if not 0.0 < held_out <= 0.5:
            raise ValueError(
                f"held_out is {held_out}: give a share of the train images in (0, 0.5]."
            )
        if hyper_every < 1 or neumann_terms < 0 or clip <= 0:
            raise ValueError(
                f"hyper_every is {hyper_every}, neumann_terms is {neumann_terms} and clip is "
                f"{clip}: give at least 1 step, at least 0 terms and a positive norm."
            )
        self.held_out = held_out
        self.hyper_every = hyper_every
        self.neumann_terms = neumann_terms
        self.legacy_scale = legacy_scale
        self.clip = clip

    @abstractmethod
    def sample_losses(self, images: Tensor, targets: Tensor, meta: bool = False) -> Tensor:
        """Return the losses of each sample, shape (B, K), the principal one first.

        Args:
            images: Float images in [0, 1], shape (B, C, H, W).
            targets: Labels, shape (B, T).
            meta: Whether generated labels are to have a gradient.
        """

    @abstractmethod
    def principal_losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the principal loss of each sample, shape (B,).

        Args:
            logits: Principal logits, shape (B, classes).
            targets: Principal labels, shape (B,).
        """

    def on_fit_start(self) -> None:
        """Draw the held-out images, the same in every run with the data module's seed.

        Raises:
            UserError: If there is no data module to read them from, or they are too few.
        """
        super().on_fit_start()
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, LabelledDataModule):
            raise UserError(
                f"{type(self).__name__} draws held-out images from a LabelledDataModule, and the "
                f"trainer has {'none' if data is None else type(data).__name__}: give it as "
                "datamodule to fit."
            )
        rows = data.dataset.rows("train")
        rng = np.random.default_rng([data.seed, 0, _DRAWS])
        self._held_out_rows = _draw_by_class(rows, data.dataset.labels, self.held_out, rng)
        self._train_rows = np.setdiff1d(rows, self._held_out_rows)
        n, world = len(self._held_out_rows), self.trainer.world_size
        if n < 2 * world:
            raise UserError(
                f"held_out is {self.held_out}, {n} of {len(rows)} train images: {world} rank(s) "
                "need 2 each; raise it."
            )
        is_held_out = torch.zeros(len(data.dataset), dtype=torch.bool)
        is_held_out[torch.from_numpy(self._held_out_rows)] = True
        self._is_held_out = is_held_out.to(self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Step the network on what is not held out and, now and then, the meta parameters.

        Losses are sums over these images over the size of the whole batch, as if the others had
        the loss 0: so the gradients of the ranks average to that of their joined batch.
        """
        n = len(batch.images)
        own = list(self.network.parameters())
        kept = ~self._is_held_out[batch.rows]
        n_kept = int(kept.sum())
        if n_kept >= min(2, n):
            losses = self.sample_losses(batch.images[kept], self._own_targets(batch)[kept])
            loss: Tensor = self.combination(losses).sum() / n
            gradients = autograd.grad(loss, own, materialize_grads=True)
            parts = losses.detach().sum(0) / n
        else:  # too few for batch statistics
            loss = batch.images.new_zeros(())
            gradients = tuple(torch.zeros_like(w) for w in own)
            parts = loss.expand(len(self.names))
        self.step_network(gradients)
        logged = {"train/loss": loss.detach()}
        logged |= {f"train/loss/{k}": x for k, x in zip(self.names, parts, strict=True)}
        if self.global_step % self.hyper_every == 0:
            logged["train/loss/meta"] = self._hyper_step()
        self.log_means(logged, n)
        return loss.detach()

    def hyper_gradient(
        self,
        train: tuple[Tensor, Tensor],
        held_out: tuple[Tensor, Tensor],
        lr: float,
    ) -> HyperGradient:
        """Return the gradient of L_V with respect to the meta parameters; nothing is changed.

        Each product with the Hessian is averaged over the ranks, which makes the result that of
        one rank on the joined batches.

        Args:
            train: Images, shape (B, C, H, W), and labels, shape (B, T), for L_T.
            held_out: The same for L_V.
            lr: Learning rate of the network.
        """
        own, meta = list(self.network.parameters()), self.meta_parameters()
        with pure(self.network):
            images, targets = held_out
            loss = self.principal_losses(self.network(images)[0], targets[:, 0]).mean()
            term = average(autograd.grad(loss, own, materialize_grads=True))
            train_loss = self.combination(self.sample_losses(*train, meta=True)).mean()
            inner = autograd.grad(train_loss, own, create_graph=True, materialize_grads=True)
            total = term
            for _ in range(self.neumann_terms):
                product = average(
                    autograd.grad(dot(inner, term), own, retain_graph=True, materialize_grads=True)
                )
                term = [t - lr * h for t, h in zip(term, product, strict=True)]
                total = [s + t for s, t in zip(total, term, strict=True)]
            scale = 1.0 if self.legacy_scale else lr
            gradients = autograd.grad(-scale * dot(inner, total), meta, materialize_grads=True)
        return HyperGradient(average(gradients), loss.detach())

    def _hyper_step(self) -> Tensor:
        """Step the meta parameters on fresh batches; return L_V before it."""
        rng = np.random.default_rng([self._data.seed, self.global_step, _DRAWS])
        train = self._read(self._draw(self._train_rows, rng), self.current_epoch)
        # As in a validation, without random changes.
        held_out = self._read(self._draw(self._held_out_rows, rng), None)
        hyper = self.hyper_gradient(train, held_out, self.current_lr)
        norm = dot(hyper.gradients, hyper.gradients).sqrt()
        share = (self.clip / norm.clamp_min(torch.finfo(norm.dtype).tiny)).clamp_max(1.0)
        self.step_meta([share * gradient for gradient in hyper.gradients])
        self.combination.keep_monotone()
        return hyper.loss

    def _draw(self, rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw this rank's part of a batch of all ranks."""
        rank, world = self.trainer.global_rank, self.trainer.world_size
        n = min(self._data.batch_size, len(rows) // world)
        return rng.permutation(rows)[rank : n * world : world]

    def _read(self, rows: NDArray[np.int64], epoch: int | None) -> tuple[Tensor, Tensor]:
        images = self._data.images(rows, epoch).to(self.device, cast(torch.dtype, self.dtype))
        return images, self._data.targets[rows].to(self.device)

    @property
    def _data(self) -> LabelledDataModule:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, LabelledDataModule)  # checked in on_fit_start
        return data


class AuxiLearn(_HeldOutModel):
    """An auxiliary task whose labels are generated to help on held-out images.

    The network has a head for the principal task and one for the generated labels; the generator
    is a second backbone with a head, whose softmax gives mass to the auxiliary classes of the
    true class alone, as in `MAXL`. The network minimises the mean over the batch of a combination
    of both focal losses (gamma = 2); the meta parameters, those of the generator and of the
    combination, minimise the principal loss of images that the network is never trained on, by a
    hypergradient through the implicit function theorem: `-(d^2 L_T / dphi dW)^T p`, where
    `p = lr * sum_{j=0..neumann_terms} (I - lr * H)^j dL_V/dW`, H the Hessian of the training loss
    L_T, L_V the held-out loss and lr the present learning rate of the network.

    The held-out images are a share of the train split, drawn once by the seed of the data and
    spread over the classes; they are left out of the training batches, in which they count as a
    loss of 0. Every `hyper_every` steps the meta parameters make one, on a fresh batch of each
    kind. Small data have few steps in an epoch: DigitScenes of 2000 images, at batch 32, has two
    hyper steps in an epoch, or 12 with `hyper_every: 5`.

    Auxiliary labels of the data are ignored, and only training images are used. Evaluation sees
    the principal task alone. Logs `train/loss`, `train/loss/principal`, `train/loss/auxiliary`
    and, in epochs with a hyper step, `train/loss/meta` (L_V).

    The paper trains the network with SGD, a cosine schedule from 1e-3 and a weight decay of 5e-3.

    Args:
        image_shape: Channels, height and width of the images. Filled in from the data module by
            the command line.
        backbone: `small_convnet`, `resnet18` or `vgg16`, for the network and for the generator.
        pretrained: Start both from ImageNet weights.
        n_auxiliary: Auxiliary classes of each principal class. Paper: 5.
        combination: `sum` (paper, for generated labels), `l_pri + auxiliary_weight * l_aux`;
            `mono_linear`, `l_pri + sum_k w_k l_k` with learnt `w_k >= 0`; or `mono_nonlinear`,
            `l_pri` plus a network of two hidden layers of 10 units and no negative weight.
        auxiliary_weight: Weight of the auxiliary loss in `sum`. Paper: 0.25.
        hidden: Width of the heads' hidden layer.
        dropout: Share of hidden units that are dropped when the network is trained.

    Raises:
        ValueError: If the images are too small for the backbone, or an argument is outside its
            range.

    Example:
        >>> model = AuxiLearn((3, 16, 16), task_sizes=(10, 4), backbone="small_convnet")
        >>> [tuple(logits.shape) for logits in model(torch.zeros(2, 3, 16, 16))]  # principal alone
        [(2, 10)]

    References:
        Navon et al. 2021, arXiv 2007.02693, sections 3 and 4 (docs/methods.md, 'AuxiLearn').
        Differs from its official code
        in the leading lr, without which the rate of the meta parameters has another unit.
    """

    uses_auxiliary: ClassVar[bool] = False

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        task_sizes: tuple[int, ...],
        backbone: str = "resnet18",
        pretrained: bool = False,
        n_auxiliary: int = 5,
        combination: Literal["sum", "mono_linear", "mono_nonlinear"] = "sum",
        auxiliary_weight: float = 0.25,
        hidden: int = 512,
        dropout: float = 0.1,
        **kwargs: Any,
    ) -> None:
        if auxiliary_weight < 0:
            raise ValueError(f"auxiliary_weight is {auxiliary_weight}: it must not be negative.")
        super().__init__(task_sizes[:1], **kwargs)
        self.names = ("principal", "auxiliary")
        sizes = (task_sizes[0], task_sizes[0] * n_auxiliary)
        self.network = Network(image_shape, sizes, backbone, pretrained, hidden, dropout)
        self.generator = LabelGenerator(
            image_shape, task_sizes[0], n_auxiliary, backbone, pretrained, hidden
        )
        self.combination = (
            _Sum(auxiliary_weight)
            if combination == "sum"
            else _Monotone(len(sizes), _HIDDEN[combination])
        )

    def meta_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the generator and of the combination."""
        return [*self.generator.parameters(), *self.combination.parameters()]

    def sample_losses(self, images: Tensor, targets: Tensor, meta: bool = False) -> Tensor:
        """Return the focal losses of each sample, principal and auxiliary, shape (B, 2)."""
        principal, auxiliary = self.network(images)
        with torch.set_grad_enabled(meta):
            labels = self.generator.labels(images, targets[:, 0])
        return torch.stack(
            [focal_loss(principal, targets[:, 0]), focal_loss(auxiliary, labels)], dim=1
        )

    def principal_losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the focal loss of each sample, shape (B,)."""
        return focal_loss(logits, targets)


class AuxiLearnCombine(_HeldOutModel):
    """One backbone and a head per task, whose losses a learnt network combines.

    The network minimises the mean over the batch of a combination of the cross entropies of the
    principal and of the given auxiliary tasks. The meta parameters, those of the combination, learn
    from held-out images as in `AuxiLearn`, whose notes on these hold here too. Logs `train/loss`,
    `train/loss/<task>` and, in epochs with a hyper step, `train/loss/meta`.

    Args:
        image_shape: Channels, height and width of the images. Filled in from the data module by
            the command line.
        backbone: `small_convnet`, `resnet18` or `vgg16`.
        pretrained: Start from ImageNet weights.
        combination: `mono_linear`, `l_pri + sum_k w_k l_k` with learnt `w_k >= 0`; or
            `mono_nonlinear`, `l_pri` plus a network of two hidden layers of 10 units and no
            negative weight.
        hidden: Width of the heads' hidden layer.
        dropout: Share of hidden units that are dropped when the network is trained.

    Raises:
        ValueError: If there is no auxiliary task, the images are too small for the backbone, or an
            argument is outside its range.

    Example:
        >>> model = AuxiLearnCombine((3, 16, 16), task_sizes=(10, 4), backbone="small_convnet")
        >>> [tuple(logits.shape) for logits in model(torch.zeros(2, 3, 16, 16))]
        [(2, 10), (2, 4)]

    References:
        Navon et al. 2021, arXiv 2007.02693, section 3 (docs/methods.md, 'AuxiLearn').
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        task_sizes: tuple[int, ...],
        backbone: str = "resnet18",
        pretrained: bool = False,
        combination: Literal["mono_linear", "mono_nonlinear"] = "mono_linear",
        hidden: int = 512,
        dropout: float = 0.1,
        **kwargs: Any,
    ) -> None:
        if len(task_sizes) < 2:
            raise ValueError(
                "AuxiLearnCombine combines the losses of tasks, and the data have the principal "
                "one only: give the data module `labels` or an `auxiliary` factor, or take "
                "AuxiLearn."
            )
        super().__init__(task_sizes, **kwargs)
        self.names = self.task_names
        self.network = Network(image_shape, task_sizes, backbone, pretrained, hidden, dropout)
        self.combination = _Monotone(len(task_sizes), _HIDDEN[combination])

    def meta_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the combination."""
        return list(self.combination.parameters())

    def sample_losses(self, images: Tensor, targets: Tensor, meta: bool = False) -> Tensor:
        """Return the cross entropies of each sample, shape (B, T); 0 where a label is left out."""
        pairs = zip(self.network(images), targets.unbind(1), strict=True)
        return torch.stack([self.principal_losses(z, y) for z, y in pairs], dim=1)

    def principal_losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the cross entropy of each sample, shape (B,)."""
        return F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="none")


class _Combination(nn.Module):
    """Combine the K losses of each sample, shape (B, K), principal one first, to one, (B,)."""

    @torch.no_grad()
    def keep_monotone(self) -> None:
        """Set negative weights to 0, so that no loss is ever rewarded."""
        for weight in (p for p in self.parameters() if p.ndim == 2):
            weight.clamp_min_(0.0)


class _Sum(_Combination):
    def __init__(self, auxiliary_weight: float) -> None:
        super().__init__()
        self.auxiliary_weight = auxiliary_weight

    def forward(self, losses: Tensor) -> Tensor:
        return losses[:, 0] + self.auxiliary_weight * losses[:, 1:].sum(1)


class _Monotone(_Combination):
    """The principal loss plus a network of all losses, without one negative weight."""

    def __init__(self, n_losses: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for n_in, n_out in zip((n_losses, *hidden), hidden, strict=False):
            layers += [nn.Linear(n_in, n_out), nn.Softplus()]
        # A constant beside the losses would change nothing.
        self.layers = nn.Sequential(*layers, nn.Linear((n_losses, *hidden)[-1], 1, bias=False))
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.uniform_(parameter, 0.0, 0.2)  # docs/methods.md, 'AuxiLearn'
            else:
                nn.init.zeros_(parameter)

    def forward(self, losses: Tensor) -> Tensor:
        # The losses are in float32 at least, and so shall be what is learnt from them.
        with torch.autocast(losses.device.type, enabled=False):
            added: Tensor = self.layers(losses).squeeze(1)
            return losses[:, 0] + added


def _draw_by_class(
    rows: NDArray[np.int64], labels: NDArray[np.int64], share: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw a share of some rows, spread evenly over the classes, however small these are.

    Args:
        rows: Row numbers, shape (n,).
        labels: Class of every row of the data set.
        share: Share of them.
        rng: Source of the randomness.
    """
    rows = rng.permutation(rows)
    rows = rows[np.argsort(labels[rows], kind="stable")]  # by class, in random order
    n = round(share * len(rows))
    # One of each n-th part of the list.
    places = (np.arange(n) + rng.random()) * (len(rows) / max(n, 1))
    return np.sort(rows[places.astype(np.int64)])
