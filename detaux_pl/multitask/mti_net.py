"""Tasks that exchange features at four scales, from the coarsest to the finest."""

from __future__ import annotations

from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock
from torchvision.ops import SqueezeExcitation

from detaux_pl.models.backbone import BackboneName, StageMaps, build_backbone
from detaux_pl.models.dry_run import dry_run
from detaux_pl.models.hrnet import HRNet
from detaux_pl.multitask.base import MultitaskModel, refuse_one_task
from detaux_pl.multitask.weighting.base import Weighting

AttentionName = Literal["tasks", "legacy"]


class MTINet(MultitaskModel):
    """Multi-scale task interaction on the four branches of an HRNet, for classification.

    From the coarsest scale to the finest, each task refines the backbone's map, joined with what
    the coarser scale hands up for it, by two residual blocks: `f_st`. The scale hands up
    `SE_t(r) + f_st`, where r is what all tasks' `f_s`, weighted by a softmax attention, are reduced
    to. Then, at every scale, tasks are distilled into each other,
    `o_st = f_st + sum_{u != t} sigmoid(G f_su) * (V f_su)`, G and V convolutions of 3 x 3 for each
    pair; the `o_st` of all scales, resized to the finest, give the logits. The training loss of
    a task is `CE(logits) + deep_supervision_weight * sum_s CE(initial_s)`, where `initial_s` is
    predicted from the mean of `f_st` over the places. The official code has a learning rate and a
    weight decay of 1e-4.

    Args:
        image_shape: Channels, height and width of the images. Filled in from the data module by
            the command line.
        backbone: An HRNet of timm, such as `hrnet_w18` (paper) or `hrnet_w18_small`; or
            `small_convnet`, `vgg16`, `resnet18`, `resnet34` or `resnet50`, for MTI-Net's
            interaction on the maps after the last four stages of a plain network.
        pretrained: Start the backbone from ImageNet weights.
        attention: What the softmax runs over: `tasks`, so that for each channel and place the
            weights of the tasks sum to one, or `legacy`, T adjacent channels of one task, as in
            the official code, which takes the order of the joined channels for another.
        deep_supervision_weight: Weight of the initial predictions' losses; not negative.
            Paper: 1.

    Raises:
        ValueError: If there is no auxiliary task, no such backbone or attention, the images are
            too small, or the weight is negative.

    Example:
        >>> model = MTINet((3, 16, 16), task_sizes=(10, 4), backbone="small_convnet")
        >>> [tuple(logits.shape) for logits in model(torch.zeros(2, 3, 16, 16))]
        [(2, 10), (2, 4)]

    References:
        Vandenhende, Georgoulis, Van Gool 2020, "MTI-Net", arXiv 2001.06902, and its official
        code (docs/methods.md, 'Architectures').
        Differs in: images are classified, not pixels; the axis of the attention.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        task_sizes: tuple[int, ...],
        backbone: str = "hrnet_w18",
        pretrained: bool = False,
        weighting: Weighting | None = None,
        attention: AttentionName = "tasks",
        deep_supervision_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        refuse_one_task("MTINet", task_sizes)
        if attention not in get_args(AttentionName):
            raise ValueError(f"attention is {attention!r}: choose `tasks` or `legacy`.")
        if deep_supervision_weight < 0:
            raise ValueError(
                f"deep_supervision_weight is {deep_supervision_weight}: it must not be negative."
            )
        super().__init__(task_sizes, weighting, **kwargs)
        self.deep_supervision_weight = deep_supervision_weight
        self.backbone = _build_scales(backbone, image_shape, pretrained)
        maps: tuple[Tensor, ...] = dry_run(self.backbone, image_shape)[-4:]
        channels = [scale.shape[1] for scale in maps]
        n_tasks, n_all = len(task_sizes), sum(channels)
        # Scale 0 is the finest; what the coarser one hands up is joined to its map.
        n_inputs = [n + handed for n, handed in zip(channels, [*channels[1:], 0], strict=True)]
        self.refinements = nn.ModuleList(
            nn.ModuleList(nn.Sequential(_block(n_in, n), _block(n, n)) for _ in task_sizes)
            for n_in, n in zip(n_inputs, channels, strict=True)
        )
        self.propagations = nn.ModuleList(_Propagation(n_tasks, n, attention) for n in channels[1:])
        self.distillations = nn.ModuleList(_Distillation(n_tasks, n) for n in channels)
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(n_all, n_all, kernel_size=1, bias=False),
                nn.BatchNorm2d(n_all),
                nn.ReLU(inplace=True),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(n_all, size),
            )
            for size in task_sizes
        )
        self.initial_heads = nn.ModuleList(
            nn.ModuleList(nn.Linear(n, size) for size in task_sizes) for n in channels
        )

    def represent(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the backbone's four maps, shapes (B, C', H', W'), the finest first."""
        maps: tuple[Tensor, ...] = self.backbone(images)
        return maps[-4:]

    def classify(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the final logits of each task, shape (B, task size)."""
        return self._finish(self._refine(features))

    def task_losses(self, features: tuple[Tensor, ...], targets: Tensor) -> Tensor:
        """Return the training loss of each task, shape (T,), with that of initial predictions.

        Args:
            features: What `represent` returned.
            targets: Labels, shape (B, T), or `IGNORED`.
        """
        refined = self._refine(features)
        losses = self.cross_entropies(self._finish(refined), targets)
        for maps, heads in zip(refined, self.initial_heads, strict=True):
            scale = cast(nn.ModuleList, heads)
            initial = [head(own.mean((2, 3))) for head, own in zip(scale, maps, strict=True)]
            added = self.cross_entropies(initial, targets)
            losses = losses + self.deep_supervision_weight * added
        return losses

    def shared_parameters(self) -> list[nn.Parameter]:
        """Return the backbone's parameters."""
        return list(self.backbone.parameters())

    def _refine(self, features: tuple[Tensor, ...]) -> list[list[Tensor]]:
        """Refined maps of each scale, the finest first, and each task."""
        refined: list[list[Tensor]] = []
        handed: list[Tensor] | None = None
        for scale in reversed(range(len(features))):
            shared = features[scale]
            tasks = cast(nn.ModuleList, self.refinements[scale])
            if handed is None:
                inputs = [shared] * len(tasks)
            else:
                inputs = [torch.cat([shared, _resize(own, shared)], dim=1) for own in handed]
            maps = [refine(own) for refine, own in zip(tasks, inputs, strict=True)]
            if scale:
                handed = self.propagations[scale - 1](maps)
            refined.insert(0, maps)
        return refined

    def _finish(self, refined: list[list[Tensor]]) -> tuple[Tensor, ...]:
        distilled = [mix(maps) for mix, maps in zip(self.distillations, refined, strict=True)]
        return tuple(
            head(torch.cat([finest, *(_resize(own, finest) for own in coarser)], dim=1))
            for head, (finest, *coarser) in zip(
                self.heads, zip(*distilled, strict=True), strict=True
            )
        )


class _Propagation(nn.Module):
    """Feature propagation: what one scale hands up for each task."""

    def __init__(self, n_tasks: int, n_channels: int, attention: AttentionName) -> None:
        super().__init__()
        self.attention = attention
        n_all = n_tasks * n_channels
        n_narrow = max(1, n_all // 4)
        self.attend = nn.Sequential(
            _block(n_all, n_narrow),
            _block(n_narrow, n_narrow),
            nn.Conv2d(n_narrow, n_all, kernel_size=1),
        )
        self.reduce = _block(n_all, n_channels)
        self.excitations = nn.ModuleList(
            SqueezeExcitation(n_channels, max(1, n_channels // 16)) for _ in range(n_tasks)
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        joined = torch.cat(maps, dim=1)
        reduced = self.reduce(self.weigh(joined) * joined)
        return [excite(reduced) + own for excite, own in zip(self.excitations, maps, strict=True)]

    def weigh(self, joined: Tensor) -> Tensor:
        """Attention of each channel and place, of the shape of the joined maps."""
        scores: Tensor = self.attend(joined)
        n_tasks = len(self.excitations)
        if self.attention == "tasks":
            weights = torch.unflatten(scores, 1, (n_tasks, -1)).softmax(dim=1)
        else:
            weights = torch.unflatten(scores, 1, (-1, n_tasks)).softmax(dim=2)
        return weights.flatten(1, 2)


class _Distillation(nn.Module):
    """What each task reads from the others at one scale."""

    def __init__(self, n_tasks: int, n_channels: int) -> None:
        super().__init__()
        # Gates and values for all the other tasks at once.
        n_out = 2 * (n_tasks - 1) * n_channels
        self.convolutions = nn.ModuleList(
            nn.Conv2d(n_channels, n_out, kernel_size=3, padding=1, bias=False)
            for _ in range(n_tasks)
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        distilled = list(maps)
        for source, convolution in enumerate(self.convolutions):
            gates, values = convolution(maps[source]).chunk(2, dim=1)
            messages = (gates.sigmoid() * values).chunk(len(maps) - 1, dim=1)
            readers = [task for task in range(len(maps)) if task != source]
            for reader, message in zip(readers, messages, strict=True):
                distilled[reader] = distilled[reader] + message
        return distilled


def _build_scales(name: str, image_shape: tuple[int, int, int], pretrained: bool) -> nn.Module:
    plain = get_args(BackboneName)
    if name in plain:
        return StageMaps(build_backbone(name, image_shape, pretrained))
    model = name.removeprefix("timm/")
    if not model.startswith("hrnet"):
        raise ValueError(
            f"backbone is {name!r}: choose an HRNet of timm, such as hrnet_w18 or "
            f"hrnet_w18_small, or one of {', '.join(plain)}."
        )
    return HRNet(model, image_shape, pretrained)


def _block(n_in: int, n_out: int) -> nn.Module:
    shortcut = None
    if n_in != n_out:
        shortcut = nn.Sequential(
            nn.Conv2d(n_in, n_out, kernel_size=1, bias=False), nn.BatchNorm2d(n_out)
        )
    block: nn.Module = BasicBlock(n_in, n_out, downsample=shortcut)
    return block


def _resize(maps: Tensor, finer: Tensor) -> Tensor:
    return F.interpolate(maps, size=finer.shape[2:], mode="bilinear", align_corners=False)
