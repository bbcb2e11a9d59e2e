"""The ResNet-18 autoencoder of the experiments on real images."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from detaux_pl.models.convolutional_autoencoder import final_map

_REDUCTION = 32


class ResNetEncoder(nn.Module):
    """ResNet-18 up to its last map, and a dense layer.

    The standard stem (convolution 7 x 7 with stride 2, batch norm, ReLU, pooling), four stages
    of two residual blocks with 64, 128, 256 and `dim` channels, Linear `dim`; 12,225,600
    parameters for 64 x 64 x 3 and 512 dimensions. Weights are drawn as torch does by default, as
    in the official code.

    Args:
        image_shape: Channels, height and width; height and width are multiples of 32.
        dim: Number of latent dimensions, and of channels of the last stage.
        dense: End in the dense layer. Without it the last map, 32 times smaller than the image,
            is the latent space.

    Raises:
        ValueError: If the image shape does not fit or `dim` is not positive.

    Example:
        >>> import torch
        >>> ResNetEncoder((3, 32, 32), dim=16)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 16])

    References:
        He et al. 2015, arXiv 1512.03385. The official code of Detaux, whose dense layer fits
        images of 64 pixels alone.
    """

    def __init__(self, image_shape: tuple[int, int, int], dim: int, dense: bool = True) -> None:
        super().__init__()
        height, width = final_map(image_shape, dim, _REDUCTION)
        self.layers = nn.Sequential(
            nn.Conv2d(image_shape[0], 64, 7, 2, 3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1),
            BasicBlock(64, 64),
            BasicBlock(64, 64),
            *(
                block
                for before, after in pairwise((64, 128, 256, dim))
                for block in (_halving_block(before, after), BasicBlock(after, after))
            ),
        )
        if dense:
            self.layers.extend([nn.Flatten(), nn.Linear(dim * height * width, dim)])

    def forward(self, images: Tensor) -> Tensor:
        """Map images, shape (n, C, H, W), to latent vectors, shape (n, dim).

        Without the dense layer, to latent maps, shape (n, dim, H / 32, W / 32).
        """
        latent: Tensor = self.layers(images)
        return latent


class ResNetDecoder(nn.Module):
    """A dense layer and ResNet-18 the other way round, with pre-activation blocks.

    Linear to the smallest map of `dim` channels; four stages of two residual blocks, of which
    the second doubles the size and leads to 256, 128, 64 and 64 channels; batch norm, ReLU and
    a transposed convolution 7 x 7, linear; 12,231,360 parameters for 64 x 64 x 3 and 512
    dimensions. Weights are drawn as torch does by default, as in the official code.

    Args:
        image_shape: Channels, height and width; height and width are multiples of 32.
        dim: Number of latent dimensions, and of channels of the smallest map.
        dense: Begin with the dense layer. Without it a latent vector is a flattened map, 32
            times smaller than the image.

    Raises:
        ValueError: If the image shape does not fit or `dim` is not positive.

    Example:
        >>> import torch
        >>> ResNetDecoder((3, 32, 32), dim=16)(torch.zeros(2, 16)).shape
        torch.Size([2, 3, 32, 32])

    References:
        He et al. 2016, arXiv 1603.05027: the blocks. The official code of Detaux.
    """

    def __init__(self, image_shape: tuple[int, int, int], dim: int, dense: bool = True) -> None:
        super().__init__()
        height, width = final_map(image_shape, dim, _REDUCTION)
        self.layers = nn.Sequential(
            *([nn.Linear(dim, dim * height * width)] if dense else []),
            nn.Unflatten(1, (dim, height, width)),
            *(
                block
                for before, after in pairwise((dim, 256, 128, 64, 64))
                for block in (_PreActivationBlock(before), _DoublingBlock(before, after))
            ),
            *_activated(64, nn.ConvTranspose2d(64, image_shape[0], 7, 2, 3, 1, bias=False)),
        )

    def forward(self, latent: Tensor) -> Tensor:
        """Map latent vectors, shape (n, dim), to images, shape (n, C, H, W).

        Without the dense layer, from flattened maps, shape (n, dim * H / 32 * W / 32).
        """
        images: Tensor = self.layers(latent)
        return images


class _PreActivationBlock(nn.Module):
    """Residual block of two convolutions, each after batch norm and ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            *_activated(channels, nn.Conv2d(channels, channels, 3, 1, 1, bias=False)),
            *_activated(channels, nn.Conv2d(channels, channels, 3, 1, 1, bias=False)),
        )

    def forward(self, maps: Tensor) -> Tensor:
        residual: Tensor = self.residual(maps)
        return maps + residual


class _DoublingBlock(nn.Module):
    """Pre-activation block whose second convolution, like its shortcut, doubles the size."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            *_activated(before, nn.Conv2d(before, before, 3, 1, 1, bias=False)),
            *_activated(before, nn.ConvTranspose2d(before, after, 3, 2, 1, 1, bias=False)),
        )
        self.shortcut = nn.Sequential(
            *_activated(before, nn.ConvTranspose2d(before, after, 1, 2, 0, 1, bias=False))
        )

    def forward(self, maps: Tensor) -> Tensor:
        sums: Tensor = self.residual(maps) + self.shortcut(maps)
        return sums


def _halving_block(before: int, after: int) -> BasicBlock:
    shortcut = nn.Sequential(
        nn.Conv2d(before, after, 1, 2, bias=False),
        nn.BatchNorm2d(after),
    )
    return BasicBlock(before, after, 2, shortcut)


def _activated(channels: int, convolution: nn.Module) -> tuple[nn.Module, ...]:
    return nn.BatchNorm2d(channels), nn.ReLU(inplace=True), convolution
