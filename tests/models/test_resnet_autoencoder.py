import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from detaux_pl.models.resnet_autoencoder import ResNetDecoder, ResNetEncoder


def n_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_sizes_of_the_official_code():
    assert n_parameters(ResNetEncoder((3, 64, 64), 512)) == 12_225_600
    assert n_parameters(ResNetDecoder((3, 64, 64), 512)) == 12_231_360


def test_sizes_without_dense_layers():
    shape, dense = (3, 224, 224), 49 * 512 * 512
    assert n_parameters(ResNetEncoder(shape, 512)) == 11_176_512 + dense + 512
    assert n_parameters(ResNetDecoder(shape, 512)) == 11_180_736 + dense + 49 * 512
    assert n_parameters(ResNetEncoder(shape, 512, dense=False)) == 11_176_512
    assert n_parameters(ResNetDecoder(shape, 512, dense=False)) == 11_180_736


def test_the_encoder_is_torchvisions_resnet18():
    theirs, ours = resnet18().eval(), ResNetEncoder((3, 64, 64), 512, dense=False).eval()
    state = theirs.state_dict()
    assert len(ours.state_dict()) == len(state) - 2  # theirs has a classifier
    ours.load_state_dict(dict(zip(ours.state_dict(), state.values(), strict=False)))
    theirs.avgpool, theirs.fc = nn.Identity(), nn.Identity()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images).flatten(1), theirs(images))


@pytest.mark.parametrize(
    ("shape", "places"),
    [((3, 64, 64), (2, 2)), ((1, 32, 32), (1, 1)), ((4, 32, 96), (1, 3)), ((3, 224, 224), (7, 7))],
)
def test_any_multiple_of_32_goes_there_and_back(shape, places):
    images = torch.rand(2, *shape)
    with torch.no_grad():
        latent = ResNetEncoder(shape, 5)(images)
        assert latent.shape == (2, 5)
        assert ResNetDecoder(shape, 5)(latent).shape == images.shape
        maps = ResNetEncoder(shape, 5, dense=False)(images)
        assert maps.shape == (2, 5, *places)
        assert ResNetDecoder(shape, 5, dense=False)(maps.flatten(1)).shape == images.shape


def test_the_decoder_doubles_the_map_five_times():
    decoder = ResNetDecoder((3, 64, 64), 512)
    sizes = []
    for layer in decoder.layers:
        layer.register_forward_hook(lambda *args: sizes.append(tuple(args[2].shape[1:])))
    with torch.no_grad():
        decoder(torch.rand(2, 512))
    stages = [(512, 2, 2), (256, 4, 4), (256, 4, 4), (128, 8, 8), (128, 8, 8), (64, 16, 16)]
    stages += [(64, 16, 16), (64, 32, 32), (64, 32, 32), (64, 32, 32), (3, 64, 64)]
    assert sizes == [(2048,), (512, 2, 2), *stages]


def test_blocks_of_the_decoder_by_hand():
    torch.manual_seed(0)
    decoder = ResNetDecoder((3, 32, 32), 6).double().eval()
    same, doubling = decoder.layers[2], decoder.layers[3]
    maps = torch.randn(2, 6, 3, 3, dtype=torch.float64)
    for block in (same, doubling):
        for module in block.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean)
                nn.init.normal_(module.weight)

    def activated(x, norm):
        x = (x - norm.running_mean[:, None, None]) / (norm.running_var[:, None, None] + 1e-5) ** 0.5
        return (x * norm.weight[:, None, None] + norm.bias[:, None, None]).clamp_min(0)

    first, _, one, second, _, two = same.residual
    expected = maps + two(activated(one(activated(maps, first)), second))
    torch.testing.assert_close(same(maps), expected)

    first, _, one, second, _, two = doubling.residual
    norm, _, shortcut = doubling.shortcut
    # A 1 x 1 transposed convolution with stride 2 paints every second place, and no other.
    sparse = torch.zeros(2, 256, 6, 6, dtype=torch.float64)
    weight = shortcut.weight[:, :, 0, 0]
    sparse[..., ::2, ::2] = torch.einsum("nihw,io->nohw", activated(maps, norm), weight)
    expected = sparse + two(activated(one(activated(maps, first)), second))
    torch.testing.assert_close(doubling(maps), expected)


def test_the_output_is_linear():
    torch.manual_seed(0)
    painted = ResNetDecoder((3, 32, 32), 5)(torch.randn(20, 5))
    assert painted.min() < 0 < painted.max()


@pytest.mark.parametrize("module", [ResNetEncoder, ResNetDecoder])
@pytest.mark.parametrize("shape", [(3, 48, 64), (3, 64, 0), (0, 64, 64), (3, 16, 16)])
def test_other_image_shapes_are_refused(module, shape):
    with pytest.raises(ValueError, match=r"image_shape is \(.*\): .* multiples of 32"):
        module(shape, 10)


@pytest.mark.parametrize("module", [ResNetEncoder, ResNetDecoder])
def test_an_empty_latent_space_is_refused(module):
    with pytest.raises(ValueError, match="dim is 0"):
        module((3, 32, 32), 0)
