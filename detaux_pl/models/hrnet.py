"""HRNet: from images to feature maps of four scales."""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from detaux_pl.models.backbone import standardize_for
from detaux_pl.models.timm_model import build_timm_model


class HRNet(nn.Module):
    """The four branches of an HRNet of timm, which see each other in all its layers.

    Maps images in [0, 1], shape (B, C, H, W), to four maps at strides 4, 8, 16 and 32, the finest
    first; HRNet-W18 has 18, 36, 72 and 144 channels. Zeros at the right and lower edge fill the
    images up to multiples of 32, for timm's branches differ by factors of exactly 2.

    Args:
        name: One of `timm.list_models(module="hrnet")`, such as `hrnet_w18` or the smaller
            `hrnet_w18_small`.
        image_shape: Channels, height and width of the images.
        pretrained: Start from the weights that timm recommends, which are downloaded once; the
            images are then standardised first as timm says.

    Raises:
        ValueError: If there is no such net, or no weights for it.

    References:
        Wang et al. 2020, arXiv 1908.07919.
    """

    def __init__(
        self, name: str, image_shape: tuple[int, int, int], pretrained: bool = False
    ) -> None:
        super().__init__()
        # timm's default location is behind the branches, where the classifier widens them.
        net = build_timm_model(
            f"backbone is 'timm/{name}'",
            name,
            image_shape,
            pretrained,
            features_only=True,
            out_indices=(1, 2, 3, 4),
            feature_location="",
        )
        self.standardize = standardize_for(net, image_shape[0]) if pretrained else nn.Identity()
        self.net = net

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the four maps."""
        height, width = images.shape[2:]
        filled = F.pad(self.standardize(images), (0, -width % 32, 0, -height % 32))
        return tuple(cast(list[Tensor], self.net(filled)))
