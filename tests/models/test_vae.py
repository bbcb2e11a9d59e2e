import math

import pytest
import torch
from torch import nn

from detaux_pl.models.latent_discriminator import LatentDiscriminator
from detaux_pl.models.vae import VAEDecoder, VAEEncoder


def n_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def weighted(module):
    kinds = nn.Conv2d | nn.ConvTranspose2d | nn.Linear
    return [layer for layer in module.modules() if isinstance(layer, kinds)]


def test_sizes_worked_out_by_hand():
    # Kernels and biases of the convolutions, the dense layer, two heads.
    encoder = (3 * 16 + 1) * 32 + (32 * 16 + 1) * 32 + (32 * 4 + 1) * 64 + (64 * 4 + 1) * 64
    encoder += (64 * 4 * 4 + 1) * 256 + 2 * (256 + 1) * 10
    assert n_parameters(VAEEncoder((3, 64, 64), 10)) == encoder == 310_228
    decoder = (10 + 1) * 256 + (256 + 1) * 64 * 4 * 4
    decoder += (64 * 16 + 1) * 64 + (64 * 16 + 1) * 32 + (32 * 16 + 1) * 32 + (32 * 16 + 1) * 3
    assert n_parameters(VAEDecoder((3, 64, 64), 10)) == decoder == 382_339
    discriminator = (10 + 1) * 1000 + 5 * (1000 + 1) * 1000 + (1000 + 1) * 2
    assert n_parameters(LatentDiscriminator(10)) == discriminator == 5_018_002


def test_layers_of_the_nets():
    def geometry(module):
        return [
            (layer.in_channels, layer.out_channels, layer.kernel_size[0], layer.stride[0])
            for layer in weighted(module)
            if not isinstance(layer, nn.Linear)
        ]

    encoder = [(3, 32, 4, 2), (32, 32, 4, 2), (32, 64, 2, 2), (64, 64, 2, 2)]
    decoder = [(64, 64, 4, 2), (64, 32, 4, 2), (32, 32, 4, 2), (32, 3, 4, 2)]
    assert geometry(VAEEncoder((3, 64, 64), 10)) == encoder
    assert geometry(VAEDecoder((3, 64, 64), 10)) == decoder


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 32, 32), (4, 16, 48), (2, 64, 32)])
@pytest.mark.parametrize("width", [1, 2])
def test_any_multiple_of_16_goes_there_and_back(shape, width):
    images = torch.rand(2, *shape)
    mean, log_variance = VAEEncoder(shape, 5, width)(images)
    assert mean.shape == log_variance.shape == (2, 5)
    assert not torch.equal(mean, log_variance)
    assert VAEDecoder(shape, 5, width)(mean).shape == images.shape


def test_width_multiplies_channels_and_units():
    def widths(module):
        return [len(layer.bias) for layer in weighted(module)]

    assert widths(VAEEncoder((3, 16, 32), 7, width=3)) == [96, 96, 192, 192, 768, 7, 7]
    assert widths(VAEDecoder((3, 16, 32), 7, width=3)) == [768, 2 * 192, 192, 96, 96, 3]


@pytest.mark.parametrize("net", [VAEEncoder, VAEDecoder])
def test_weights_are_glorot_uniform_and_biases_zero(net):
    torch.manual_seed(0)
    for layer in weighted(net((3, 64, 64), 10)):
        assert layer.bias.eq(0).all()
        field = 1 if isinstance(layer, nn.Linear) else math.prod(layer.kernel_size)
        bound = math.sqrt(6 / (sum(layer.weight.shape[:2]) * field))
        assert 0.98 * bound < layer.weight.abs().max() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)


@pytest.mark.parametrize(("net", "shape"), [(VAEEncoder, (4, 3, 16, 16)), (VAEDecoder, (4, 5))])
def test_outputs_are_linear_and_the_hidden_layers_are_relus(net, shape):
    torch.manual_seed(0)
    module, x = net((3, 16, 16), 5).double(), torch.randn(shape).double()

    def outputs(x):
        return torch.cat([part.flatten() for part in module(x)])

    # Without biases, and with a sigmoid nowhere.
    torch.testing.assert_close(outputs(1000 * x), 1000 * outputs(x), rtol=1e-9, atol=1e-9)
    assert not torch.allclose(outputs(-x), -outputs(x), rtol=0.1)
    assert [type(layer) for layer in module.layers].count(nn.ReLU) == 5


@pytest.mark.parametrize("net", [VAEEncoder, VAEDecoder])
@pytest.mark.parametrize(
    ("shape", "latent_dim", "width", "message"),
    [
        ((3, 40, 64), 10, 1, r"image_shape is \(3, 40, 64\): .* multiples of 16"),
        ((3, 64, 0), 10, 1, r"image_shape is \(3, 64, 0\): .* multiples of 16"),
        ((0, 64, 64), 10, 1, "at least one channel"),
        ((3, 16, 16), 0, 1, "dim is 0: give at least 1 latent dimension"),
        ((3, 16, 16), 10, 0, "width is 0: give a factor .* at least 1"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(net, shape, latent_dim, width, message):
    with pytest.raises(ValueError, match=message) as error:
        net(shape, latent_dim, width)
    assert "\n" not in str(error.value)


def test_discriminator_has_six_hidden_layers_with_a_slope_of_a_fifth():
    shapes = [tuple(layer.weight.shape) for layer in weighted(LatentDiscriminator(4))]
    assert shapes == [(1000, 4), *[(1000, 1000)] * 5, (2, 1000)]

    narrow = LatentDiscriminator(1, hidden=1, layers=3)
    for layer in weighted(narrow):
        nn.init.ones_(layer.weight)
        nn.init.zeros_(layer.bias)
    logits = narrow(torch.tensor([[-1.0], [2.0]]))
    torch.testing.assert_close(logits, torch.tensor([[-(0.2**3)] * 2, [2.0] * 2]))
