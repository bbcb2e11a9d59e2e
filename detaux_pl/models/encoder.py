"""Encoders: from images to feature vectors."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from detaux_pl.models.backbone import build_backbone, feature_size, initialise_convolution
from detaux_pl.models.timm_model import build_timm_model, refuse_images

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

    Example:
        >>> encoder, n_features = build_encoder("small_convnet", (3, 16, 16))
        >>> n_features
        512
    """
    if small_stem and name not in _RESNETS:
        raise ValueError(
            f"small_stem belongs to {', '.join(_RESNETS)}: set it to false for {name}."
        )
    if name.startswith("timm/"):
        model = name.removeprefix("timm/")
        net = build_timm_model(f"encoder is {name!r}", model, image_shape, num_classes=0)
        with refuse_images(model, image_shape):
            return net, feature_size(net, image_shape)
    if name not in ("small_convnet", *_RESNETS):
        raise ValueError(
            f"encoder is {name!r}: choose one of small_convnet, {', '.join(_RESNETS)}, or "
            "timm/<model> for a model of timm."
        )
    backbone = build_backbone(name, image_shape)
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
