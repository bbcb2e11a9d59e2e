"""Backbones: from images to feature maps."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.models import (
    ResNet18_Weights,
    ResNet34_Weights,
    ResNet50_Weights,
    VGG16_Weights,
    resnet18,
    resnet34,
    resnet50,
    vgg16,
)

BackboneName = Literal["small_convnet", "resnet18", "vgg16", "resnet34", "resnet50"]

_SMALLEST: dict[BackboneName, int] = {
    "small_convnet": 8,
    "resnet18": 1,
    "vgg16": 32,
    "resnet34": 1,
    "resnet50": 1,
}
"""Smallest height and width that leave a feature map of at least one place."""

_RESNETS = {
    "resnet18": (resnet18, ResNet18_Weights.IMAGENET1K_V1),
    "resnet34": (resnet34, ResNet34_Weights.IMAGENET1K_V1),
    "resnet50": (resnet50, ResNet50_Weights.IMAGENET1K_V2),
}

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


def build_backbone(
    name: BackboneName, image_shape: tuple[int, int, int], pretrained: bool = False
) -> nn.Sequential:
    """Build a network from images in [0, 1], shape (B, C, H, W), to maps (B, C', H', W').

    The maps keep their places: nothing is pooled to one vector, and heads see the flattened map
    (C.1). A net whose stages are shared or coupled takes them by name.

    Args:
        name: `small_convnet` (four blocks of convolution, batch norm and ReLU, the last three
            with pooling; 103,000 parameters, for images of 16 to 32 pixels), `resnet18`,
            `resnet34` or `resnet50` (standard stem, without average pooling and classifier), or
            `vgg16` (its `features`, without batch norm, as in the official code).
        image_shape: Channels, height and width of the images.
        pretrained: Start from torchvision's ImageNet weights, which are downloaded once: the second
            version for `resnet50`, the first and only one for the others. The images are then
            standardised by ImageNet's mean and deviation first, and filters for other channel
            counts see each channel as a grey image.

    Raises:
        ValueError: If there is no such net, no weights for it, or the images are too small.
    """
    if name not in _SMALLEST:
        raise ValueError(f"backbone is {name!r}: choose one of {', '.join(_SMALLEST)}.")
    channels, height, width = image_shape
    if min(height, width) < _SMALLEST[name]:
        raise ValueError(
            f"images of {height} x {width} pixels are too small for {name}: give at least "
            f"{_SMALLEST[name]} x {_SMALLEST[name]}, or another backbone."
        )
    if name == "small_convnet":
        if pretrained:
            raise ValueError("small_convnet has no pretrained weights: take resnet18 or vgg16.")
        return _small_convnet(channels)
    try:
        net = _vgg16(pretrained) if name == "vgg16" else _resnet(name, pretrained)
    except OSError as error:  # of the network, or of the disk
        raise ValueError(
            f"ImageNet's weights of {name} cannot be downloaded ({error}): set pretrained to "
            f"false, or put their file into {torch.hub.get_dir()}/checkpoints."
        ) from None
    if channels != 3:
        _adapt_first_convolution(net, channels, pretrained)
    if not pretrained:
        return net
    standardize = ("standardize", _Standardize(channels))
    return nn.Sequential(OrderedDict([standardize, *net.named_children()]))


@torch.no_grad()
def feature_size(backbone: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Length of the flattened map of one image, by a dry run that computes nothing.

    Neither the random state nor the batch statistics of `backbone` change.
    """
    shadow = copy.deepcopy(backbone).to("meta").eval()
    maps: Tensor = shadow(torch.empty(1, *image_shape, device="meta"))
    return math.prod(maps.shape[1:])


def _small_convnet(in_channels: int) -> nn.Sequential:
    # The first block keeps full resolution: pooled away, noise of single pixels cannot be undone.
    blocks = [_block(in_channels, 32)]
    blocks += [_block(n_in, n_out, nn.MaxPool2d(2)) for n_in, n_out in pairwise((32, 32, 64, 128))]
    return nn.Sequential(*blocks)


def _block(n_in: int, n_out: int, *pooling: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(n_out),
        nn.ReLU(inplace=True),
        *pooling,
    )


def _resnet(name: str, pretrained: bool) -> nn.Sequential:
    build, weights = _RESNETS[name]
    stages = OrderedDict(build(weights=weights if pretrained else None).named_children())
    del stages["avgpool"], stages["fc"]
    return nn.Sequential(stages)


def _vgg16(pretrained: bool) -> nn.Sequential:
    # On the meta device the classifier, 89 % of the parameters, costs neither memory nor time.
    with torch.device("meta"):
        features: nn.Sequential = vgg16().features
    features = features.to_empty(device="cpu")
    if pretrained:
        state: dict[str, Tensor] = VGG16_Weights.IMAGENET1K_V1.get_state_dict(check_hash=True)
        own = {k.removeprefix("features."): v for k, v in state.items() if "features" in k}
        features.load_state_dict(own)
        return features
    for module in features:
        if isinstance(module, nn.Conv2d):
            initialise_convolution(module)
    return features


def initialise_convolution(convolution: nn.Conv2d) -> None:
    """Draw weights as torchvision does for all its nets here (He et al. 2015, by the fan-out)."""
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)


def _adapt_first_convolution(net: nn.Sequential, in_channels: int, pretrained: bool) -> None:
    first = next(module for module in net.modules() if isinstance(module, nn.Conv2d))
    old = first.weight.detach()
    first.in_channels = in_channels
    first.weight = nn.Parameter(old.new_empty(len(old), in_channels, *old.shape[2:]))
    if pretrained:
        # The answer to a grey image stays what it was: the sum over the channels is kept.
        first.weight.data.copy_(old.sum(dim=1, keepdim=True) / in_channels)
    else:
        initialise_convolution(first)


class _Standardize(nn.Module):
    """Bring images in [0, 1] to what ImageNet's weights were trained on."""

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name, value in (("mean", _IMAGENET_MEAN), ("std", _IMAGENET_STD)):
            own = torch.tensor(value)
            own = own if channels == 3 else own.mean().expand(channels).clone()
            self.register_buffer(name, own.view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std
