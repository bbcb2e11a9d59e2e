import pytest
import torch
from torch import nn

from detaux_pl.models.autoencoder import build_autoencoder
from detaux_pl.models.convolutional_autoencoder import ConvolutionalDecoder, ConvolutionalEncoder
from detaux_pl.models.projectors import ProjectorStack

SHAPE, K, DIM = (3, 64, 32), 3, 4


@pytest.mark.parametrize(
    ("name", "code_dim"), [("convolutional", DIM), ("resnet18", DIM), ("resnet18_1x1", DIM * 2)]
)
def test_codes_are_vectors_whose_sum_is_decoded(name, code_dim):
    encoder, projectors, decoder = build_autoencoder(name, SHAPE, DIM, K)
    images = torch.rand(2, *SHAPE)
    with torch.no_grad():
        codes = projectors(encoder(images))
        assert codes.shape == (K, 2, code_dim)
        assert decoder(codes.sum(0)).shape == images.shape


def test_weights_are_drawn_in_the_order_of_the_parts():
    torch.manual_seed(0)
    built = build_autoencoder("convolutional", SHAPE, DIM, K, batch_norm=True)
    torch.manual_seed(0)
    parts = (
        ConvolutionalEncoder(SHAPE, DIM, batch_norm=True),
        ProjectorStack(K, DIM),
        ConvolutionalDecoder(SHAPE, DIM, batch_norm=True),
    )
    for ours, theirs in zip(built, parts, strict=True):
        for one, two in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(one, two)


@pytest.mark.parametrize("name", ["convolutional", "resnet18"])
def test_without_projectors_the_latent_vector_is_the_code(name):
    encoder, projectors, decoder = build_autoencoder(name, SHAPE, DIM)
    assert isinstance(projectors, nn.Identity)
    with torch.no_grad():
        latent = encoder(torch.rand(2, *SHAPE))
        assert latent.shape == (2, DIM)
        assert decoder(latent).shape == (2, *SHAPE)


def test_what_does_not_exist_is_refused():
    with pytest.raises(
        ValueError, match="'vgg16': choose one of convolutional, resnet18, resnet18_1x1"
    ):
        build_autoencoder("vgg16", SHAPE, DIM, K)
    with pytest.raises(ValueError, match="without them, take resnet18"):
        build_autoencoder("resnet18_1x1", SHAPE, DIM)
