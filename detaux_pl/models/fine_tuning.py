"""What is done to a backbone that starts from pretrained weights: parts kept, parts slowed."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from detaux_pl.models.backbone import TimmFeatures, split_stages

Freeze = int | Literal["all"]
_CLASSIFIER = "_classifier_on_top"
"""A name that no model of timm has, which is therefore counted to its classifier."""


def parts_of(backbone: nn.Module, coarse: bool) -> tuple[dict[str, int], int]:
    """Number the parts of a backbone that `build_backbone` built, from the images on.

    Args:
        backbone: The backbone.
        coarse: Whether a stage of a convolutional model of timm is one part, not each of its
            blocks. A transformer has its blocks, another net its stages.

    Returns:
        The part of each parameter by its name, part 0 being the stem, and that of a classifier on
        top, to which timm counts a last norm of some models.

    Raises:
        ValueError: If its parts are not known.
    """
    for name, module in backbone.named_children():
        if isinstance(module, TimmFeatures):
            from timm.models import group_parameters  # its import takes seconds

            net: Any = module.net
            if not hasattr(net, "group_matcher"):
                raise ValueError(
                    f"backbone is {module.name!r}, whose parts timm does not know: leave out "
                    "freeze and lr_decay, or freeze all."
                )
            net.register_parameter(_CLASSIFIER, nn.Parameter(torch.empty(0)))
            found = group_parameters(net, net.group_matcher(coarse=coarse), reverse=True)
            delattr(net, _CLASSIFIER)
            top = found.pop(_CLASSIFIER)
            return {f"{name}.net.{own}": part for own, part in found.items()}, top
    stages = split_stages(backbone)
    found = {name: k for k, stage in enumerate(stages) for name, _ in stage.named_parameters()}
    return found, len(stages)


def freeze_parts(backbone: nn.Module, freeze: Freeze) -> None:
    """Train no more the first parts of a backbone, the stem first, or none of it.

    Args:
        backbone: The backbone.
        freeze: How many parts, see `parts_of` (coarse), or `all`.

    Raises:
        ValueError: If it has not as many.
    """
    if freeze == "all":
        backbone.requires_grad_(False)
        return
    if freeze == 0:
        return
    parts, _ = parts_of(backbone, coarse=True)
    n = max(parts.values()) + 1
    if not 0 < freeze <= n:
        raise ValueError(f"freeze is {freeze}: give 0 to {n} parts, the stem first, or all.")
    for name, parameter in backbone.named_parameters():
        if parts[name] < freeze:
            parameter.requires_grad_(False)


def still_frozen(backbone: nn.Module) -> None:
    """Put what is frozen in evaluation mode: batch statistics stay, and nothing is dropped."""
    for module in backbone.modules():
        own = list(module.parameters())
        if own and not any(parameter.requires_grad for parameter in own):
            module.eval()


def checkpoint_gradients(backbone: nn.Module, given: str) -> None:
    """Compute what lies within parts anew in the backward pass, for less memory.

    Args:
        backbone: The backbone.
        given: What the user calls it.

    Raises:
        ValueError: If it cannot be done.
    """
    features = next((m for m in backbone.children() if isinstance(m, TimmFeatures)), None)
    if features is None or not features.can_checkpoint():
        raise ValueError(
            f"checkpointing is set, which {given} does not do: leave it out, or take a model of "
            "timm that does, such as timm/resnet18."
        )
    features.checkpointing = True
