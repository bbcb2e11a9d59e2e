"""An auxiliary task that is learnt, by how one step on it helps the principal task."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, autograd, nn

from detaux_pl.data.batch import Batch
from detaux_pl.losses.gather import gather_with_gradient
from detaux_pl.multitask.bilevel import (
    BilevelModel,
    LabelGenerator,
    Network,
    average,
    dot,
    focal_loss,
    focal_terms,
    pure,
)


class MetaGradient(NamedTuple):
    """What a meta step needs.

    Args:
        gradients: Gradient of each of the generator's parameters, averaged over the ranks.
        loss: Principal loss of this rank after the virtual step.
        entropy: Entropy of the mean label of all ranks [nats].
    """

    gradients: list[Tensor]
    loss: Tensor
    entropy: Tensor


class MAXL(BilevelModel):
    """Meta auxiliary learning: a generator splits every principal class in auxiliary ones.

    The network h (parameters theta1) has a head for the principal task and one for the generated
    labels; the generator g (theta2) is a second backbone with a head, whose softmax gives mass to
    the auxiliary classes of the true class alone. Every batch makes two steps:

    1. theta1 on `L_pri + L_aux`, means over the batch of the focal loss (gamma = 2) for the
       true and for the soft generated label;
    2. theta2 on `L_pri(theta1+) + entropy_weight * sum_c q_c log q_c`, where
       `theta1+ = theta1 - lr * grad(L_pri + L_aux)` is a virtual step from the new theta1 with its
       present learning rate, and q the mean label of the batch, over all ranks: the negative
       entropy keeps the labels from collapsing into one.

    Auxiliary labels of the data are ignored, and only training images are used. Evaluation sees
    the principal task alone. Logs `train/loss`, `train/loss/principal`, `train/loss/auxiliary`,
    `train/loss/meta` (`L_pri(theta1+)`) and `train/entropy` (of q [nats]).

    The paper trains the network with SGD and a learning rate of 0.01.

    Args:
        image_shape: Channels, height and width of the images. Filled in from the data module by
            the command line.
        backbone: `small_convnet`, `resnet18` or `vgg16`, for the network and for the generator.
        pretrained: Start both from ImageNet weights.
        n_auxiliary: Auxiliary classes of each principal class. Paper: 5 in most experiments.
        entropy_weight: Weight of the negative entropy. Paper: 0.2.
        second_order: Differentiate the virtual step exactly; otherwise by the difference of two
            gradients at `theta1 +- 0.01 v / |v|`, v the gradient at theta1+, which takes less time
            and memory, and needs no second derivative.
        hidden: Width of the heads' hidden layer.
        dropout: Share of hidden units that are dropped when the network is trained.

    Raises:
        ValueError: If the images are too small for the backbone, or an argument is outside its
            range.

    Example:
        >>> model = MAXL((3, 16, 16), task_sizes=(10, 4), backbone="small_convnet")
        >>> [tuple(logits.shape) for logits in model(torch.zeros(2, 3, 16, 16))]  # principal alone
        [(2, 10)]

    References:
        Liu, Davison, Johns 2019, arXiv 1901.08933 (docs/methods.md, 'MAXL').
        Differs in: both steps on each batch,
        where the paper reads all batches twice per epoch, once for each step, so that an epoch
        costs one reading of the data and budgets in epochs equal those of the other models; the
        learning rate of the generator stays, where the paper halves both every 50 epochs; the
        official first-order code loses the gradient of the entropy.
    """

    uses_auxiliary: ClassVar[bool] = False

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        task_sizes: tuple[int, ...],
        backbone: str = "resnet18",
        pretrained: bool = False,
        n_auxiliary: int = 5,
        entropy_weight: float = 0.2,
        second_order: bool = True,
        hidden: int = 512,
        dropout: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(task_sizes[:1], **kwargs)
        if entropy_weight < 0:
            raise ValueError(f"entropy_weight is {entropy_weight}: it must not be negative.")
        self.entropy_weight = entropy_weight
        self.second_order = second_order
        sizes = (task_sizes[0], task_sizes[0] * n_auxiliary)
        self.network = Network(image_shape, sizes, backbone, pretrained, hidden, dropout)
        self.generator = LabelGenerator(
            image_shape, task_sizes[0], n_auxiliary, backbone, pretrained, hidden
        )

    def meta_parameters(self) -> list[nn.Parameter]:
        """Return the generator's parameters."""
        return list(self.generator.parameters())

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Step the network, then the generator; return the network's loss."""
        images, targets = batch.images, batch.targets[:, 0]
        with torch.no_grad():
            labels = self.generator.labels(images, targets)
        principal, auxiliary = _losses(self.network(images), targets, labels)
        loss = principal + auxiliary
        self.step_network(autograd.grad(loss, list(self.network.parameters())))
        meta = self.meta_gradient(images, targets, self.current_lr)
        self.step_meta(meta.gradients)
        logged = {
            "train/loss": loss.detach(),
            "train/loss/principal": principal.detach(),
            "train/loss/auxiliary": auxiliary.detach(),
            "train/loss/meta": meta.loss,
            "train/entropy": meta.entropy,
        }
        self.log_means(logged, len(images))
        return loss.detach()

    def meta_gradient(self, images: Tensor, targets: Tensor, lr: float) -> MetaGradient:
        """Return the gradient of what the generator minimises; nothing is changed.

        The principal loss depends on the generator through the virtual step alone, so that its
        gradient is `-lr * d/dtheta2 (grad_theta1 L_aux . v)`, with v its gradient at theta1+.
        Both gradients are averaged over the ranks where they meet, which makes the result that of
        one rank on the joined batch.

        Args:
            images: Float images in [0, 1], shape (B, C, H, W).
            targets: Principal labels, int64, shape (B,).
            lr: Length of the virtual step.
        """
        own = list(self.network.parameters())
        labels = self.generator.labels(images, targets)
        with pure(self.network):
            principal, auxiliary = _losses(self.network(images), targets, labels)
            inner = autograd.grad(principal + auxiliary, own, create_graph=self.second_order)
            step = average([gradient.detach() for gradient in inner])
            virtual = [
                (w.detach() - lr * g).requires_grad_() for w, g in zip(own, step, strict=True)
            ]
            loss = focal_loss(self.logits_at(virtual, images)[0], targets).mean()
            direction = average(autograd.grad(loss, virtual, materialize_grads=True))
            if self.second_order:
                change = dot(inner, direction)
            else:
                change = self._finite_difference(images, labels, direction)
        # Equal on all ranks; what each of them says about its part is summed by the gather.
        q = gather_with_gradient(labels.mean(0, keepdim=True)).mean(0)
        # Classes that the batch does not have get no mass, and log 0 no gradient.
        entropy = -(q * q.clamp_min(torch.finfo(q.dtype).tiny).log()).sum()
        gradients = autograd.grad(
            -lr * change - self.entropy_weight * entropy, self.meta_parameters()
        )
        return MetaGradient(average(gradients), loss.detach(), entropy.detach())

    def _finite_difference(self, images: Tensor, labels: Tensor, direction: list[Tensor]) -> Tensor:
        """Slope of L_aux along a direction at theta1, a function of the labels."""
        own = list(self.network.parameters())
        norm = dot(direction, direction).sqrt()
        epsilon = 0.01 / norm.clamp_min(torch.finfo(norm.dtype).tiny)
        # Half precision would round the difference away.
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            ahead, behind = (
                focal_terms(
                    self.logits_at(
                        [w + sign * epsilon * d for w, d in zip(own, direction, strict=True)],
                        images,
                    )[1]
                )
                for sign in (1, -1)
            )
            slope = (ahead - behind) / (2 * epsilon)
        # L_aux is linear in the labels: the difference of its gradients is one of its terms.
        return -(labels * slope).sum(1).mean()


def _losses(logits: tuple[Tensor, ...], targets: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Principal and auxiliary loss, means over the batch."""
    principal, auxiliary = logits
    return focal_loss(principal, targets).mean(), focal_loss(auxiliary, labels).mean()
