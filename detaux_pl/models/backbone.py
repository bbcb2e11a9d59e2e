"""Backbones: from images to feature maps."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
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
from detaux_pl.models.resize import Resize
from detaux_pl.models.timm_model import build_timm_model, check_timm_name, refuse_images
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
    name: str,
    image_shape: tuple[int, int, int],
    pretrained: bool = False,
    weights: Path | str | None = None,
    size: int | Literal["weights"] | None = None,
    pooled: bool = False,
) -> nn.Sequential:
    """Build a network from images in [0, 1], shape (B, C, H, W), to maps (B, C', H', W').

    The maps keep their places: nothing is pooled to one vector, and heads see the flattened map
    (docs/methods.md, 'Backbones and heads'), unless it is asked for or the network has no maps.
    A net whose stages are shared or coupled takes them by name.

    Args:
        name: `small_convnet` (four blocks of convolution, batch norm and ReLU, the last three
            with pooling; 103,000 parameters, for images of 16 to 32 pixels), `resnet18`,
            `resnet34` or `resnet50` (standard stem, without average pooling and classifier),
            `vgg16` (its `features`, without batch norm, as in the official code), or
            `timm/<model>`, any of `timm.list_models()`, up to its maps, or, where it has none,
            as transformers, to its pooled features, which are maps of one place; with a tag,
            `timm/<model>.<tag>`, its pretrained weights are those.
        image_shape: Channels, height and width of the images.
        pretrained: Start from torchvision's ImageNet weights, which are downloaded once: the second
            version for `resnet50`, the first and only one for the others; or from those that timm
            recommends. The images are then standardised first, by ImageNet's mean and deviation
            or by what timm says, and filters for other channel counts see each channel as a grey
            image.
        weights: A file with weights of a model of timm, see `load_weights`, which is pretrained
            by them.
        size: Height and width that the network sees [pixels], `weights` for those of its weights;
            None for those of the images.
        pooled: Pool the maps to one place, a model of timm as it does for its classifier.

    Raises:
        ValueError: If there is no such net, no weights for it, it gives no features, or the
            images are too small.

    Example:
        >>> build_backbone("small_convnet", (3, 16, 16))(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 128, 2, 2])
    """
    of_timm = name.startswith("timm/")
    if weights is not None and not of_timm:
        raise ValueError(
            f"weights is '{weights}', but backbone is {name!r}: files are read for models of timm, "
            f"such as timm/{name}."
        )
    path = None if weights is None else Path(weights)
    given, interpolation = image_shape[1:], "bilinear"
    if size is None:
        seen = given
    elif size == "weights":
        if not pretrained and path is None:
            raise ValueError(
                "size is weights, but the network starts from random ones: set pretrained, give "
                "weights, or a number of pixels."
            )
        seen, interpolation = _size_of_weights(name)
    elif size < 1:
        raise ValueError(f"size is {size}: give at least 1 pixel, weights, or null.")
    else:
        seen = (size, size)
    shape = (image_shape[0], *seen)
    if of_timm:
        net = _timm_backbone(name, shape, pretrained, path, pooled)
    else:
        net = _plain_backbone(name, shape, pretrained)
    before = [] if seen == given else [("resize", Resize(given, seen, interpolation))]
    after = [("pool", nn.AdaptiveAvgPool2d(1))] if pooled and not of_timm else []
    return nn.Sequential(OrderedDict([*before, *net.named_children(), *after]))


def _size_of_weights(name: str) -> tuple[tuple[int, int], str]:
    """Height and width of the images that weights were trained on, and how these were resized."""
    if not name.startswith("timm/"):
        return (224, 224), "bilinear"
    model = name.removeprefix("timm/")
    check_timm_name(f"backbone is {name!r}", model)
    from timm.models import get_pretrained_cfg  # its import takes seconds

    trained_on = get_pretrained_cfg(model)
    assert trained_on is not None  # registered names have one
    return trained_on.input_size[1:], trained_on.interpolation


def _plain_backbone(
    name: str, image_shape: tuple[int, int, int], pretrained: bool
) -> nn.Sequential:
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
        models = [module.name for _, module in modules if isinstance(module, TimmFeatures)]
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
        *pooling,  # before the ReLU, which comes to the same of a quarter of the numbers
        nn.ReLU(inplace=True),
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


def _timm_backbone(
    name: str,
    image_shape: tuple[int, int, int],
    pretrained: bool,
    weights: Path | None,
    pooled: bool,
) -> nn.Sequential:
    model = name.removeprefix("timm/")
    given = f"backbone is {name!r}"
    net = build_timm_model(given, model, image_shape, pretrained, weights, num_classes=0)
    with refuse_images(model, image_shape):
        features = TimmFeatures(name, net, pooled)
        maps = dry_run(features, image_shape)
        if not pooled and not (isinstance(maps, Tensor) and maps.ndim == 4):
            features = TimmFeatures(name, net, pooled=True)
            maps = dry_run(features, image_shape)
    if not isinstance(maps, Tensor) or maps.ndim != 4:
        what = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
        raise ValueError(
            f"{given}, whose features are neither maps nor one vector but {what}: choose another "
            "model, such as timm/resnet18."
        )
    _drop_unused(features, image_shape)
    modules: list[tuple[str, nn.Module]] = [("maps", features)]
    if pretrained or weights is not None:
        modules.insert(0, ("standardize", standardize_for(net, image_shape[0])))
    return nn.Sequential(OrderedDict(modules))


class TimmFeatures(nn.Module):
    """The last feature maps of a model of timm, or its pooled features, shape (B, C, H, W).

    Args:
        name: What the user calls it.
        net: The model, without its classifier.
        pooled: Whether its features are pooled, to maps of one place.
    """

    def __init__(self, name: str, net: nn.Module, pooled: bool) -> None:
        super().__init__()
        self.name = name
        self.net = net
        self.pooled = pooled
        self.channels_last = getattr(net, "output_fmt", "NCHW") == "NHWC"
        self.checkpointing = False  # whether a training computes what lies between anew

    def forward(self, images: Tensor) -> Tensor:
        """Return the features."""
        if not (self.checkpointing and self.training):
            return self._features(images)
        self._checkpoint(True)
        try:
            return self._features(images)
        finally:
            self._checkpoint(False)

    def can_checkpoint(self) -> bool:
        """Whether the model can compute what lies between anew."""
        try:
            self._checkpoint(True)
        except (AttributeError, AssertionError):
            return False
        self._checkpoint(False)
        return True

    def _checkpoint(self, on: bool) -> None:
        self.net.set_grad_checkpointing(on)  # type: ignore[operator]

    def _features(self, images: Tensor) -> Tensor:
        if self.pooled:
            vector: Tensor = self.net(images)
            return vector[:, :, None, None] if vector.ndim == 2 else vector
        maps: Tensor = self.net.forward_features(images)  # type: ignore[operator]
        return maps.permute(0, 3, 1, 2) if self.channels_last else maps


def _drop_unused(net: TimmFeatures, image_shape: tuple[int, int, int]) -> None:
    """Take away what follows the features: DDP waits for the gradient of every parameter."""
    shadow = copy.deepcopy(net).to("meta").eval()
    with torch.enable_grad():
        shadow(torch.empty(1, *image_shape, device="meta")).sum().backward()
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
