"""Backbones: from images to feature maps."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

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

from detaux_pl.models.dry_run import dry_run
from detaux_pl.models.timm_model import build_timm_model, refuse_images
from detaux_pl.models.weights import checkpoint_folder, impatient, wants_download

BackboneName = Literal["small_convnet", "resnet18", "vgg16", "resnet34", "resnet50"]
"""The backbones that have stages; others are `timm/<model>`."""

_SMALLEST: dict[str, int] = {
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
    name: str, image_shape: tuple[int, int, int], pretrained: bool = False
) -> nn.Sequential:
    """Build a network from images in [0, 1], shape (B, C, H, W), to maps (B, C', H', W').

    The maps keep their places: nothing is pooled to one vector, and heads see the flattened map
    (docs/methods.md, 'Backbones and heads').
    A net whose stages are shared or coupled takes them by name.

    Args:
        name: `small_convnet` (four blocks of convolution, batch norm and ReLU, the last three
            with pooling; 103,000 parameters, for images of 16 to 32 pixels), `resnet18`,
            `resnet34` or `resnet50` (standard stem, without average pooling and classifier),
            `vgg16` (its `features`, without batch norm, as in the official code), or
            `timm/<model>`, any of `timm.list_models()` that has feature maps, up to them; with a
            tag, `timm/<model>.<tag>`, its pretrained weights are those.
        image_shape: Channels, height and width of the images.
        pretrained: Start from torchvision's ImageNet weights, which are downloaded once: the second
            version for `resnet50`, the first and only one for the others; or from those that timm
            recommends. The images are then standardised first, by ImageNet's mean and deviation
            or by what timm says, and filters for other channel counts see each channel as a grey
            image.

    Raises:
        ValueError: If there is no such net, no weights for it, it has no feature maps, or the
            images are too small.

    Example:
        >>> build_backbone("small_convnet", (3, 16, 16))(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 128, 2, 2])
    """
    if name.startswith("timm/"):
        return _timm_backbone(name, image_shape, pretrained)
    if name not in _SMALLEST:
        raise ValueError(
            f"backbone is {name!r}: choose one of {', '.join(_SMALLEST)}, or timm/<model> for a "
            "model of timm."
        )
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
        with impatient():
            weights_too = wants_download(pretrained)
            net = _vgg16(weights_too) if name == "vgg16" else _resnet(name, weights_too)
    except OSError as error:  # of the network, or of the disk
        weights = VGG16_Weights.IMAGENET1K_V1 if name == "vgg16" else _RESNETS[name][1]
        raise ValueError(
            f"ImageNet's weights of {name} cannot be downloaded "
            f"({getattr(error, 'reason', error)}): set pretrained to false, or put "
            f"{weights.url} into {checkpoint_folder()}."
        ) from None
    if channels != 3:
        _adapt_first_convolution(net, channels, pretrained)
    if not pretrained:
        return net
    standardize = ("standardize", Standardize(channels, _IMAGENET_MEAN, _IMAGENET_STD))
    return nn.Sequential(OrderedDict([standardize, *net.named_children()]))


def feature_size(backbone: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Length of the flattened map of one image, by a dry run that computes nothing.

    Neither the random state nor the batch statistics of `backbone` change.

    Example:
        >>> feature_size(build_backbone("small_convnet", (3, 16, 16)), (3, 16, 16))
        512
    """
    maps: Tensor = dry_run(backbone, image_shape)
    return math.prod(maps.shape[1:])


def split_stages(backbone: nn.Module) -> list[nn.Sequential]:
    """Cut a backbone that `build_backbone` built where its maps become smaller or wider.

    The stages hold the modules of `backbone`, not copies of them, and one after the other they
    compute what it computes. What they return is never negative.

    Returns:
        The four blocks of `small_convnet` (32, 32, 64 and 128 channels); five parts of `vgg16`,
        each up to a max-pooling (64, 128, 256, 512 and 512); or the stem and the four layers of a
        ResNet (64, 64, 128, 256 and 512; for `resnet50` 64, 256, 512, 1024 and 2048).

    Raises:
        ValueError: If the backbone has no such stages, as those of timm.
    """
    modules = list(backbone.named_children())
    names = [name for name, _ in modules]
    ends: Sequence[int]
    if "layer1" in names:
        ends = range(names.index("layer1"), len(modules) + 1)
    elif modules and all(isinstance(module, nn.Sequential) for _, module in modules):
        ends = range(1, len(modules) + 1)
    elif any(isinstance(module, nn.MaxPool2d) for _, module in modules):
        ends = [i for i, (_, m) in enumerate(modules, 1) if isinstance(m, nn.MaxPool2d)]
    else:
        models = [module.name for _, module in modules if isinstance(module, _TimmMaps)]
        given = models[0] if models else type(backbone).__name__
        raise ValueError(
            f"backbone is {given!r}, which cannot be cut in stages: choose one of "
            f"{', '.join(get_args(BackboneName))}."
        )
    return [nn.Sequential(OrderedDict(modules[start:end])) for start, end in pairwise([0, *ends])]


class StageMaps(nn.ModuleList):
    """The stages of a backbone, which return the map after each of them.

    Maps images, shape (B, C, H, W), to maps, shapes (B, C', H', W'), the finest first.

    Args:
        backbone: What `split_stages` can cut.

    Raises:
        ValueError: If the backbone has no stages.

    Example:
        >>> stages = StageMaps(build_backbone("small_convnet", (3, 16, 16)))
        >>> [tuple(maps.shape) for maps in stages(torch.zeros(2, 3, 16, 16))]
        [(2, 32, 16, 16), (2, 32, 8, 8), (2, 64, 4, 4), (2, 128, 2, 2)]
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__(split_stages(backbone))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the map after each stage."""
        maps = []
        for stage in self:
            images = stage(images)
            maps.append(images)
        return tuple(maps)


def _small_convnet(in_channels: int) -> nn.Sequential:
    # The first block keeps full resolution: pooled away, noise of single pixels cannot be undone.
    blocks = [_block(in_channels, 32)]
    blocks += [_block(n_in, n_out, nn.MaxPool2d(2)) for n_in, n_out in pairwise((32, 32, 64, 128))]
    # Convolutions follow the layout of their weights; on a CPU a step takes 3/4 of the time.
    return nn.Sequential(*blocks).to(memory_format=torch.channels_last)


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


def _timm_backbone(name: str, image_shape: tuple[int, int, int], pretrained: bool) -> nn.Sequential:
    model = name.removeprefix("timm/")
    given = f"backbone is {name!r}"
    net = build_timm_model(given, model, image_shape, pretrained, num_classes=0)
    modules: list[tuple[str, nn.Module]] = [("maps", _TimmMaps(name, net))]
    if pretrained:
        modules.insert(0, ("standardize", standardize_for(net, image_shape[0])))
    backbone = nn.Sequential(OrderedDict(modules))
    with refuse_images(model, image_shape):
        maps = dry_run(backbone, image_shape)
    if not isinstance(maps, Tensor) or maps.ndim != 4:
        what = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
        raise ValueError(
            f"{given}, whose features are no maps of shape (B, C, H, W) but {what}: choose a "
            "convolutional model, such as timm/resnet18."
        )
    _drop_unused(net, image_shape)
    return backbone


class _TimmMaps(nn.Module):
    """The last feature maps of a model of timm, shape (B, C, H, W)."""

    def __init__(self, name: str, net: nn.Module) -> None:
        super().__init__()
        self.name = name
        self.net = net
        self.channels_last = getattr(net, "output_fmt", "NCHW") == "NHWC"

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.net.forward_features(images)  # type: ignore[operator]
        return maps.permute(0, 3, 1, 2) if self.channels_last else maps


def _drop_unused(net: nn.Module, image_shape: tuple[int, int, int]) -> None:
    """Take away what follows the feature maps: DDP waits for the gradient of every parameter."""
    shadow = copy.deepcopy(net).to("meta").eval()
    with torch.enable_grad():
        shadow.forward_features(  # type: ignore[operator]
            torch.empty(1, *image_shape, device="meta")
        ).sum().backward()
    unused = {name for name, parameter in shadow.named_parameters() if parameter.grad is None}
    for name, module in list(net.named_modules()):
        own = {f"{name}.{key}" for key, _ in module.named_parameters()}
        if own and own <= unused:
            net.set_submodule(name, nn.Identity())
            unused -= own


def standardize_for(net: nn.Module, channels: int) -> Standardize:
    """Bring images in [0, 1] to what the weights of a model of timm were trained on."""
    trained_on = net.pretrained_cfg
    assert isinstance(trained_on, dict)
    return Standardize(channels, trained_on["mean"], trained_on["std"])


class Standardize(nn.Module):
    """Bring images in [0, 1], shape (B, channels, H, W), to a mean of 0 and a deviation of 1.

    Args:
        channels: Of the images; where these are not 3, all have the average mean and deviation.
        mean: Mean of each of the 3 channels of the images that the weights are from.
        std: Standard deviation of each of them.

    Example:
        >>> standardize = Standardize(1, mean=[0.5, 0.5, 0.5], std=[0.25, 0.25, 0.25])
        >>> standardize(torch.ones(1, 1, 1, 1)).item()
        2.0
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        for name, value in (("mean", mean), ("std", std)):
            own = torch.tensor(value)
            own = own if channels == 3 else own.mean().expand(channels).clone()
            self.register_buffer(name, own.view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the standardised images."""
        return (images - self.mean) / self.std
