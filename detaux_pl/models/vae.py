"""The convolutional nets of the VAEs."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from detaux_pl.models.convolutional_autoencoder import final_map


class VAEEncoder(nn.Module):
    """From images to the parameters of a Gaussian posterior.

    Conv 32, 32 (kernel 4, stride 2, padding 1), Conv 64, 64 (kernel 2, stride 2), Linear 256,
    with ReLU after each, and one linear head for means and one for log-variances. Weights are
    Glorot uniform, biases 0.

    Args:
        image_shape: Channels, height and width; height and width are multiples of 16.
        latent_dim: Number of latents K.
        width: Factor of all channels and units.

    Raises:
        ValueError: If the image shape does not fit or a number is not positive.

    Example:
        >>> import torch
        >>> mean, log_variance = VAEEncoder((3, 32, 32), latent_dim=6)(torch.zeros(2, 3, 32, 32))
        >>> mean.shape
        torch.Size([2, 6])

    References:
        disentanglement_lib: `conv_encoder`, for the nets of beta-VAE; the cited paper has kernel 4
        throughout. The enlarged nets of "Stage 2" of the disentanglement challenge are in a
        figure that is lost: `width` stands for them.
    """

    def __init__(self, image_shape: tuple[int, int, int], latent_dim: int, width: int = 1) -> None:
        super().__init__()
        channels, (height, columns) = image_shape[0], final_map(image_shape, latent_dim, 16)
        narrow, wide, units = _widths(width)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, narrow, 4, 2, 1),
            nn.ReLU(),
            nn.Conv2d(narrow, narrow, 4, 2, 1),
            nn.ReLU(),
            nn.Conv2d(narrow, wide, 2, 2),
            nn.ReLU(),
            nn.Conv2d(wide, wide, 2, 2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(wide * height * columns, units),
            nn.ReLU(),
        )
        self.mean = nn.Linear(units, latent_dim)
        self.log_variance = nn.Linear(units, latent_dim)
        self.apply(_initialise)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images, shape (n, C, H, W), to means and log-variances, both (n, K)."""
        features = self.layers(images)
        return self.mean(features), self.log_variance(features)


class VAEDecoder(nn.Module):
    """From latents to images before the sigmoid.

    Linear 256 and to 64 maps, ConvTranspose 64, 32, 32, `channels` (kernel 4, stride 2, padding
    1), with ReLU between them. Weights are Glorot uniform, biases 0.

    Args:
        image_shape: Channels, height and width; height and width are multiples of 16.
        latent_dim: Number of latents K.
        width: Factor of all channels and units.

    Raises:
        ValueError: If the image shape does not fit or a number is not positive.

    Example:
        >>> import torch
        >>> VAEDecoder((3, 32, 32), latent_dim=6)(torch.zeros(2, 6)).shape
        torch.Size([2, 3, 32, 32])

    References:
        disentanglement_lib: `deconv_decoder`. See `VAEEncoder` for the width.
    """

    def __init__(self, image_shape: tuple[int, int, int], latent_dim: int, width: int = 1) -> None:
        super().__init__()
        channels, (height, columns) = image_shape[0], final_map(image_shape, latent_dim, 16)
        narrow, wide, units = _widths(width)
        self.layers = nn.Sequential(
            nn.Linear(latent_dim, units),
            nn.ReLU(),
            nn.Linear(units, wide * height * columns),
            nn.ReLU(),
            nn.Unflatten(1, (wide, height, columns)),
            *(
                layer
                for before, after in pairwise((wide, wide, narrow, narrow))
                for layer in (nn.ConvTranspose2d(before, after, 4, 2, 1), nn.ReLU())
            ),
            nn.ConvTranspose2d(narrow, channels, 4, 2, 1),
        )
        self.apply(_initialise)

    def forward(self, latents: Tensor) -> Tensor:
        """Map latents, shape (n, K), to images before the sigmoid, shape (n, C, H, W)."""
        images: Tensor = self.layers(latents)
        return images


def _widths(width: int) -> tuple[int, int, int]:
    if width < 1:
        raise ValueError(f"width is {width}: give a factor of the nets' channels, at least 1.")
    return 32 * width, 64 * width, 256 * width


def _initialise(layer: nn.Module) -> None:
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.xavier_uniform_(layer.weight)
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)
