"""Encoders: from images to feature vectors."""

from __future__ import annotations

from collections import OrderedDict
from difflib import get_close_matches
from typing import Any, cast

import torch
from torch import nn

from detaux_pl.models.backbone import (
    BackboneName,
    build_backbone,
    feature_size,
    initialise_convolution,
)

_RESNETS = ("resnet18", "resnet34", "resnet50")


def build_encoder(
    name: str, image_shape: tuple[int, int, int], small_stem: bool = False
) -> tuple[nn.Module, int]:
    """Build a network from images in [0, 1], shape (B, C, H, W), to features (B, F), and give F.

    No weights are pretrained.

    Args:
        name: `small_convnet` (its maps, flattened), `resnet18`, `resnet34` or `resnet50` (the mean
            over the places of the last map), or `timm/<model>`, any of `timm.list_models()`
            without its classifier.
        image_shape: Channels, height and width of the images.
        small_stem: Give a ResNet a first convolution of 3x3 with stride 1 and no max-pooling, for
            maps of four times the height and width.

    Raises:
        ValueError: If there is no such encoder, it does not take such images, or a small stem is
            asked of one that is no ResNet.
    """
    if small_stem and name not in _RESNETS:
        raise ValueError(
            f"small_stem belongs to {', '.join(_RESNETS)}: set it to false for {name}."
        )
    if name.startswith("timm/"):
        return _build_timm(name.removeprefix("timm/"), image_shape)
    if name not in ("small_convnet", *_RESNETS):
        raise ValueError(
            f"encoder is {name!r}: choose one of small_convnet, {', '.join(_RESNETS)}, or "
            "timm/<model> for a model of timm."
        )
    backbone = build_backbone(cast(BackboneName, name), image_shape)
    if small_stem:
        _shrink_stem(backbone)
    pooling = [("pool", nn.AdaptiveAvgPool2d(1))] if name in _RESNETS else []
    encoder = nn.Sequential(
        OrderedDict([*backbone.named_children(), *pooling, ("flatten", nn.Flatten())])
    )
    return encoder, feature_size(encoder, image_shape)


def _shrink_stem(resnet: nn.Sequential) -> None:
    old = resnet.conv1
    assert isinstance(old, nn.Conv2d)
    resnet.conv1 = nn.Conv2d(
        old.in_channels, old.out_channels, kernel_size=3, padding=1, bias=False
    )
    initialise_convolution(resnet.conv1)
    del resnet.maxpool


def _build_timm(model: str, image_shape: tuple[int, int, int]) -> tuple[nn.Module, int]:
    # Other encoders do without it, and its import takes seconds.
    from timm import create_model, list_models
    from timm.models import get_pretrained_cfg_value

    known = list_models()
    if model not in known:
        close = [f"timm/{match}" for match in get_close_matches(model, known)]
        hint = f"did you mean {' or '.join(close)}?" if close else "see timm.list_models()."
        raise ValueError(f"encoder is 'timm/{model}', which timm does not have: {hint}")
    channels, height, width = image_shape
    # A model whose input size timm calls fixed takes it as an argument.
    fixed = get_pretrained_cfg_value(model, "fixed_input_size")
    size: dict[str, Any] = {"img_size": (height, width)} if fixed else {}
    device = torch.get_default_device()
    try:
        # Models of earlier timm read values while they are built, which "meta" has none of.
        with torch.device("cpu"):
            encoder = create_model(
                model, pretrained=False, num_classes=0, in_chans=channels, **size
            )
        encoder.to(device)
        return encoder, feature_size(encoder, image_shape)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(
            f"timm/{model} does not take images of {channels} x {height} x {width} ({reason}): "
            "choose another encoder, or another image size."
        ) from error
