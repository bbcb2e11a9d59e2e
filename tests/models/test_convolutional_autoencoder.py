import pytest
import torch

from detaux_pl.models.convolutional_autoencoder import ConvolutionalDecoder, ConvolutionalEncoder


def n_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_sizes_of_the_official_code():
    assert n_parameters(ConvolutionalEncoder((3, 64, 64), 10)) == 381_386
    assert n_parameters(ConvolutionalDecoder((3, 64, 64), 10)) == 448_131


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 32, 32), (4, 16, 48)])
def test_any_multiple_of_16_goes_there_and_back(shape):
    images = torch.rand(2, *shape)
    latent = ConvolutionalEncoder(shape, 5)(images)
    assert latent.shape == (2, 5)
    assert ConvolutionalDecoder(shape, 5)(latent).shape == images.shape


def test_the_output_is_linear():
    torch.manual_seed(0)
    decoder = ConvolutionalDecoder((3, 16, 16), 5)
    painted = decoder(100 * torch.randn(50, 5))
    assert painted.min() < 0 < painted.max()


@pytest.mark.parametrize("module", [ConvolutionalEncoder, ConvolutionalDecoder])
@pytest.mark.parametrize("shape", [(3, 40, 64), (3, 64, 0), (0, 64, 64)])
def test_other_image_shapes_are_refused(module, shape):
    with pytest.raises(ValueError, match=r"image_shape is \(.*\): .* multiples of 16"):
        module(shape, 10)


@pytest.mark.parametrize("module", [ConvolutionalEncoder, ConvolutionalDecoder])
def test_an_empty_latent_space_is_refused(module):
    with pytest.raises(ValueError, match="dim is 0"):
        module((3, 16, 16), 0)


def test_batch_norm_follows_every_convolution_but_the_output():
    encoder = ConvolutionalEncoder((3, 16, 16), 5, batch_norm=True)
    decoder = ConvolutionalDecoder((3, 16, 16), 5, batch_norm=True)
    for layers, convolutions, norms in ((encoder.layers, 4, 4), (decoder.layers, 4, 3)):
        kinds = [type(layer).__name__ for layer in layers]
        assert sum(kind.startswith("Conv") for kind in kinds) == convolutions
        assert kinds.count("BatchNorm2d") == norms
    assert type(decoder.layers[-1]).__name__ == "ConvTranspose2d"
