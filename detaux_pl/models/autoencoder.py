"""Autoencoders by name."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

from torch import nn

from detaux_pl.models.convolutional_autoencoder import ConvolutionalDecoder, ConvolutionalEncoder
from detaux_pl.models.projectors import ConvolutionalProjectors, ProjectorStack
from detaux_pl.models.resnet_autoencoder import ResNetDecoder, ResNetEncoder

AutoencoderName = Literal["convolutional", "resnet18", "resnet18_1x1"]


class Autoencoder(NamedTuple):
    """The parts of an autoencoder whose latent space is a sum of subspaces.

    Args:
        encoder: Images, shape (n, C, H, W), to latent vectors or maps.
        projectors: Those to codes, shape (K, n, D).
        decoder: The sum of the codes, shape (n, D), to images.
    """

    encoder: nn.Module
    projectors: nn.Module
    decoder: nn.Module


def build_autoencoder(
    name: AutoencoderName,
    image_shape: tuple[int, int, int],
    dim: int,
    n_subspaces: int | None = None,
    batch_norm: bool = False,
) -> Autoencoder:
    """Build encoder, projectors and decoder, drawing their weights in this order.

    Args:
        name: `convolutional`, for images of a multiple of 16 pixels; `resnet18`, of 32, with
            D = `dim` as well; `resnet18_1x1`, whose latent space is a map of `dim` channels and
            h x w places, 32 times smaller than the image, whose projectors are convolutions of
            1 x 1, and whose codes are flattened maps, D = `dim * h * w`.
        image_shape: Channels, height and width.
        dim: Dimensions of the latent space; of a ResNet also the channels of its last stage.
        n_subspaces: Number of projectors K; None for none: the identity takes their place.
        batch_norm: Normalise in `convolutional`; the others always do.

    Raises:
        ValueError: If there is no such autoencoder, or an argument does not fit it.

    Example:
        >>> import torch
        >>> parts = build_autoencoder("convolutional", (3, 16, 16), dim=8, n_subspaces=3)
        >>> parts.projectors(parts.encoder(torch.zeros(2, 3, 16, 16))).shape
        torch.Size([3, 2, 8])
    """
    if name not in get_args(AutoencoderName):
        known = ", ".join(get_args(AutoencoderName))
        raise ValueError(f"autoencoder is {name!r}: choose one of {known}.")
    if name == "resnet18_1x1" and n_subspaces is None:
        raise ValueError("resnet18_1x1 is made of projectors: without them, take resnet18.")
    if name == "convolutional":
        return Autoencoder(
            ConvolutionalEncoder(image_shape, dim, batch_norm),
            nn.Identity() if n_subspaces is None else ProjectorStack(n_subspaces, dim),
            ConvolutionalDecoder(image_shape, dim, batch_norm),
        )
    dense = name == "resnet18"
    projectors = ProjectorStack if dense else ConvolutionalProjectors
    return Autoencoder(
        ResNetEncoder(image_shape, dim, dense),
        nn.Identity() if n_subspaces is None else projectors(n_subspaces, dim),
        ResNetDecoder(image_shape, dim, dense),
    )
