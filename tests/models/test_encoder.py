import pytest
import torch
from torch import nn
from torchvision.models import resnet18, resnet50

from detaux_pl.models.encoder import build_encoder


@pytest.mark.parametrize(
    ("name", "shape", "n_features"),
    [
        ("small_convnet", (3, 16, 16), 512),
        ("small_convnet", (1, 24, 32), 1536),
        ("resnet18", (3, 64, 64), 512),
        ("resnet34", (3, 40, 64), 512),
        ("resnet50", (6, 32, 32), 2048),
        # Its num_features are those of the maps, before a last layer of 1024.
        ("timm/mobilenetv3_small_050", (3, 64, 64), 1024),
        # Built for images of 160 pixels, unless it is told their size.
        ("timm/test_vit", (4, 48, 64), 64),
    ],
)
def test_features_have_the_width_that_is_stated(name, shape, n_features):
    encoder, stated = build_encoder(name, shape)
    assert stated == n_features
    with torch.no_grad():
        assert encoder.eval()(torch.rand(2, *shape)).shape == (2, n_features)
    assert encoder(torch.rand(2, *shape)).requires_grad


@pytest.mark.parametrize(("name", "build"), [("resnet18", resnet18), ("resnet50", resnet50)])
def test_resnets_are_those_of_torchvision_without_their_classifier(name, build):
    encoder, _ = build_encoder(name, (3, 64, 64))
    reference = build()
    reference.fc = nn.Identity()
    reference.load_state_dict(encoder.state_dict())
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(encoder.eval()(images), reference.eval()(images))


def test_small_convnet_keeps_its_places():
    encoder, _ = build_encoder("small_convnet", (3, 16, 16))
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        maps = encoder.eval()[:-1](images)
        assert maps.shape == (2, 128, 2, 2)
        torch.testing.assert_close(encoder(images), maps.flatten(1))


@pytest.mark.parametrize("name", ["resnet18", "resnet34"])
@pytest.mark.parametrize("channels", [1, 3])
def test_small_stem_keeps_four_times_the_places(name, channels):
    torch.manual_seed(0)
    shape = (channels, 32, 32)
    plain, _ = build_encoder(name, shape)
    small, n_features = build_encoder(name, shape, small_stem=True)
    assert n_features == 512
    images = torch.rand(2, *shape)
    sizes = []
    for encoder in (plain, small):
        encoder.layer1.register_forward_hook(lambda *args: sizes.append(args[2].shape[2:]))
        encoder(images)
    assert sizes == [(8, 8), (32, 32)]
    weight = small.conv1.weight
    assert weight.shape == (64, channels, 3, 3)
    assert small.conv1.bias is None
    assert weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.1)
    counts = [sum(p.numel() for p in encoder.parameters()) for encoder in (plain, small)]
    assert counts[0] - counts[1] == 64 * channels * (7 * 7 - 3 * 3)


@pytest.mark.parametrize(
    ("name", "small_stem"),
    [("small_convnet", False), ("resnet50", True), ("timm/test_vit", False)],
)
def test_builds_on_the_meta_device(name, small_stem):
    shape = (3, 32, 32)
    _, n_features = build_encoder(name, shape, small_stem)
    with torch.device("meta"):
        encoder, stated = build_encoder(name, shape, small_stem)
    assert stated == n_features
    assert all(tensor.is_meta for tensor in encoder.state_dict().values())
    assert encoder(torch.empty(2, *shape, device="meta")).shape == (2, n_features)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("alexnet", "^encoder is 'alexnet': choose one of small_convnet, resnet18, .*timm/<model>"),
        ("vgg16", "^encoder is 'vgg16': choose one of"),
        ("timm/resnet19", "^encoder is 'timm/resnet19', .*did you mean .*timm/resnet18"),
        ("timm/", "^encoder is 'timm/', which timm does not have: see timm.list_models"),
        ("timm/hf-hub:a/b", "^encoder is 'timm/hf-hub:a/b', which timm does not have"),
    ],
)
def test_unknown_names_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        build_encoder(name, (3, 32, 32))


@pytest.mark.parametrize("name", ["small_convnet", "timm/test_vit", "alexnet"])
def test_small_stem_of_other_encoders_is_refused(name):
    with pytest.raises(ValueError, match=f"^small_stem belongs to resnet18, .* false for {name}"):
        build_encoder(name, (3, 32, 32), small_stem=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("small_convnet", "images of 4 x 4 pixels are too small for small_convnet"),
        ("timm/inception_v3", "^timm/inception_v3 does not take images of 3 x 4 x 4 .*choose"),
    ],
)
def test_too_small_images_are_refused(name, message):
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        build_encoder(name, (3, 4, 4))
