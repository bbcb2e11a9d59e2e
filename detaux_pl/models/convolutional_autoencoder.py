"""The convolutional autoencoder of the product-manifold experiments."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn


class ConvolutionalEncoder(nn.Module):
    """Four strided convolutions and two dense layers.

    Conv 32, 32, 64, 64 (kernel 4, stride 2, padding 1), Linear 256, Linear `dim`, with ReLU
    between them; 381,386 parameters for 64 x 64 x 3 and 10 dimensions.

    Args:
        image_shape: Channels, height and width; height and width are multiples of 16.
        dim: Number of latent dimensions.
        batch_norm: Normalise after every convolution but the output.

    Raises:
        ValueError: If the image shape does not fit or `dim` is not positive.

    Example:
        >>> import torch
        >>> ConvolutionalEncoder((3, 32, 32), dim=10)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])

    References:
        Fumero et al. 2021, and the official code of Detaux.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], dim: int, batch_norm: bool = False
    ) -> None:
        super().__init__()
        channels, (height, width) = image_shape[0], final_map(image_shape, dim, 16)
        widths = (channels, 32, 32, 64, 64)
        self.layers = nn.Sequential(
            *(
                layer
                for before, after in pairwise(widths)
                for layer in _block(nn.Conv2d(before, after, 4, 2, 1), batch_norm)
            ),
            nn.Flatten(),
            nn.Linear(64 * height * width, 256),
            nn.ReLU(),
            nn.Linear(256, dim),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map images, shape (n, C, H, W), to latent vectors, shape (n, dim)."""
        latent: Tensor = self.layers(images)
        return latent


class ConvolutionalDecoder(nn.Module):
    """Three dense layers and four strided transposed convolutions.

    Linear 256, 256 and to the smallest map, ConvTranspose 64, 32, 32, `channels` (kernel 4,
    stride 2, padding 1), with ReLU between them and a linear output; 448,131 parameters for
    64 x 64 x 3 and 10 dimensions.

    Args:
        image_shape: Channels, height and width; height and width are multiples of 16.
        dim: Number of latent dimensions.
        batch_norm: Normalise after every convolution but the output.

    Raises:
        ValueError: If the image shape does not fit or `dim` is not positive.

    Example:
        >>> import torch
        >>> ConvolutionalDecoder((3, 32, 32), dim=10)(torch.zeros(2, 10)).shape
        torch.Size([2, 3, 32, 32])

    References:
        Fumero et al. 2021, and the official code of Detaux.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], dim: int, batch_norm: bool = False
    ) -> None:
        super().__init__()
        channels, (height, width) = image_shape[0], final_map(image_shape, dim, 16)
        self.layers = nn.Sequential(
            nn.Linear(dim, 256),
            nn.ReLU(),
            nn.Linear(256, 256),
            nn.ReLU(),
            nn.Linear(256, 64 * height * width),
            nn.ReLU(),
            nn.Unflatten(1, (64, height, width)),
            *(
                layer
                for before, after in pairwise((64, 64, 32, 32))
                for layer in _block(nn.ConvTranspose2d(before, after, 4, 2, 1), batch_norm)
            ),
            nn.ConvTranspose2d(32, channels, 4, 2, 1),
        )

    def forward(self, latent: Tensor) -> Tensor:
        """Map latent vectors, shape (n, dim), to images, shape (n, C, H, W)."""
        images: Tensor = self.layers(latent)
        return images


def _block(convolution: nn.Conv2d | nn.ConvTranspose2d, batch_norm: bool) -> list[nn.Module]:
    norm = [nn.BatchNorm2d(convolution.out_channels)] if batch_norm else []
    return [convolution, *norm, nn.ReLU()]


def final_map(image_shape: tuple[int, int, int], dim: int, reduction: int) -> tuple[int, int]:
    """Return height and width of the map that is `reduction` times smaller than the image.

    Raises:
        ValueError: If the image shape does not fit or `dim` is not positive.
    """
    channels, height, width = image_shape
    if channels < 1 or min(height, width) < reduction or height % reduction or width % reduction:
        raise ValueError(
            f"image_shape is {tuple(image_shape)}: give (channels, height, width) with at least "
            f"one channel and a height and width that are multiples of {reduction}; resize the "
            "images."
        )
    if dim < 1:
        raise ValueError(f"dim is {dim}: give at least 1 latent dimension.")
    return height // reduction, width // reduction
