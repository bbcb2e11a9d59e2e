import socket
import urllib.error

import pytest
import safetensors.torch
import timm
import torch
from torch import nn
from torchvision.models import (
    ResNet18_Weights,
    ResNet34_Weights,
    ResNet50_Weights,
    VGG16_Weights,
    resnet18,
    resnet34,
    resnet50,
    vgg16,
)

from detaux_pl.models.backbone import StageMaps, build_backbone, feature_size, split_stages
from detaux_pl.models.weights import trained_weights_follow


@pytest.mark.parametrize(
    ("name", "size", "maps"),
    [
        ("small_convnet", 16, (128, 2, 2)),
        ("small_convnet", 32, (128, 4, 4)),
        ("small_convnet", 64, (128, 8, 8)),
        ("resnet18", 16, (512, 1, 1)),
        ("resnet18", 32, (512, 1, 1)),
        ("resnet18", 64, (512, 2, 2)),
        ("vgg16", 32, (512, 1, 1)),
        ("vgg16", 64, (512, 2, 2)),
        ("resnet34", 64, (512, 2, 2)),
        ("resnet50", 64, (2048, 2, 2)),
    ],
)
def test_maps_are_flattened_not_pooled(name, size, maps):
    shape = (3, size, size)
    backbone = build_backbone(name, shape)
    assert feature_size(backbone, shape) == maps[0] * maps[1] * maps[2]
    with torch.no_grad():
        assert backbone(torch.rand(2, *shape)).shape == (2, *maps)


@pytest.mark.parametrize(("name", "shape"), [("vgg16", (3, 16, 64)), ("small_convnet", (3, 64, 4))])
def test_too_small_images_are_refused(name, shape):
    with pytest.raises(ValueError, match=rf"too small for {name}: give at least"):
        build_backbone(name, shape)


def test_unknown_names_and_missing_weights_are_refused():
    with pytest.raises(ValueError, match="choose one of small_convnet, resnet18, vgg16, resnet34"):
        build_backbone("alexnet", (3, 64, 64))
    with pytest.raises(ValueError, match="or timm/<model> for a model of timm"):
        build_backbone("convnext_atto", (3, 64, 64))
    with pytest.raises(ValueError, match="no pretrained weights"):
        build_backbone("small_convnet", (3, 16, 16), pretrained=True)


@pytest.mark.parametrize("channels", [1, 3, 6])
@pytest.mark.parametrize("name", ["small_convnet", "resnet18", "vgg16", "resnet50"])
def test_first_convolution_takes_any_channel_count(name, channels):
    shape = (channels, 32, 32)
    backbone = build_backbone(name, shape)
    first = next(m for m in backbone.modules() if isinstance(m, nn.Conv2d))
    assert first.in_channels == channels
    assert 0 < first.weight.std() < 1
    assert feature_size(backbone, shape) == backbone(torch.rand(2, *shape)).flatten(1).shape[1]


@pytest.mark.parametrize(
    ("name", "build", "n_parameters"),
    [
        ("resnet18", resnet18, 11_176_512),
        ("resnet34", resnet34, 21_284_672),
        ("resnet50", resnet50, 23_508_032),
    ],
)
def test_resnets_are_those_of_torchvision(name, build, n_parameters):
    resnet, ours = build(), build_backbone(name, (3, 64, 64))
    assert sum(p.numel() for p in ours.parameters()) == n_parameters
    kept = {k: v for k, v in resnet.state_dict().items() if not k.startswith("fc.")}
    ours.load_state_dict(kept)
    images = torch.rand(2, 3, 64, 64)
    resnet.avgpool, resnet.fc = nn.Identity(), nn.Identity()
    torch.testing.assert_close(ours.eval()(images).flatten(1), resnet.eval()(images))


def test_vgg16_is_that_of_torchvision():
    with torch.device("meta"):
        features = vgg16().features
    assert str(build_backbone("vgg16", (3, 64, 64))) == str(features)


def test_small_convnet_is_small():
    backbone = build_backbone("small_convnet", (3, 16, 16))
    assert sum(p.numel() for p in backbone.parameters()) < 500_000


def test_vgg16_starts_with_torchvisions_variance():
    torch.manual_seed(0)
    for module in build_backbone("vgg16", (3, 32, 32)):
        if isinstance(module, nn.Conv2d):
            expected = (2 / (9 * module.out_channels)) ** 0.5
            assert module.weight.std().item() == pytest.approx(expected, rel=0.1)
            assert not module.bias.any()


def test_dry_run_leaves_no_trace():
    backbone = build_backbone("small_convnet", (3, 16, 16))
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    state = torch.get_rng_state()
    feature_size(backbone, (3, 16, 16))
    assert torch.equal(state, torch.get_rng_state())
    assert backbone.training
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(
    ("name", "weights", "prefix"),
    [("resnet18", ResNet18_Weights, ""), ("vgg16", VGG16_Weights, "features.")],
)
def test_pretrained_weights_are_loaded_and_images_standardised(name, weights, prefix, monkeypatch):
    plain = build_backbone(name, (3, 32, 32))
    state = {prefix + k: v for k, v in plain.state_dict().items()}
    if name == "resnet18":
        state |= {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    else:
        state["classifier.0.bias"] = torch.zeros(4096)
    monkeypatch.setattr(weights, "get_state_dict", lambda *args, **kwargs: state)
    ours = build_backbone(name, (3, 32, 32), pretrained=True).eval()

    images = torch.rand(2, 3, 32, 32)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    torch.testing.assert_close(ours(images), plain.eval()((images - mean) / std))
    assert feature_size(ours, (3, 32, 32)) == 512


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("resnet18", ResNet18_Weights.IMAGENET1K_V1),
        ("resnet34", ResNet34_Weights.IMAGENET1K_V1),
        ("resnet50", ResNet50_Weights.IMAGENET1K_V2),
    ],
)
def test_pretrained_weights_are_torchvisions_best(name, weights, monkeypatch):
    asked = []

    def get_state_dict(self, *args, **kwargs):
        asked.append(self)
        raise OSError("offline")

    monkeypatch.setattr(type(weights), "get_state_dict", get_state_dict)
    with pytest.raises(ValueError, match=f"weights of {name} cannot be downloaded"):
        build_backbone(name, (3, 32, 32), pretrained=True)
    assert asked == [weights]
    assert weights is type(weights).DEFAULT


def test_pretrained_filters_keep_their_answer_to_grey_images(monkeypatch):
    state = resnet18().state_dict()
    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", lambda *args, **kwargs: state)
    rgb = resnet18(weights=ResNet18_Weights.IMAGENET1K_V1)
    ours = build_backbone("resnet18", (1, 32, 32), pretrained=True)
    first = next(m for m in ours.modules() if isinstance(m, nn.Conv2d))
    grey = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(
        first(grey), rgb.conv1(grey.expand(-1, 3, -1, -1)), atol=1e-5, rtol=1e-5
    )


# Stages


@pytest.mark.parametrize(
    ("name", "maps"),
    [
        ("small_convnet", [(32, 32, 40), (32, 16, 20), (64, 8, 10), (128, 4, 5)]),
        ("vgg16", [(64, 16, 20), (128, 8, 10), (256, 4, 5), (512, 2, 2), (512, 1, 1)]),
        ("resnet18", [(64, 8, 10), (64, 8, 10), (128, 4, 5), (256, 2, 3), (512, 1, 2)]),
        ("resnet34", [(64, 8, 10), (64, 8, 10), (128, 4, 5), (256, 2, 3), (512, 1, 2)]),
        ("resnet50", [(64, 8, 10), (256, 8, 10), (512, 4, 5), (1024, 2, 3), (2048, 1, 2)]),
    ],
)
@torch.no_grad()
def test_stages_compose_to_the_backbone(name, maps):
    backbone = build_backbone(name, (3, 32, 40)).eval()
    images = torch.rand(2, 3, 32, 40)
    stages = split_stages(backbone)
    found = StageMaps(backbone)(images)
    assert [tuple(x.shape) for x in found] == [(2, *shape) for shape in maps]
    assert all((x >= 0).all() for x in found)
    torch.testing.assert_close(found[-1], backbone(images))
    own = [id(p) for stage in stages for p in stage.parameters()]
    assert own == [id(p) for p in backbone.parameters()]


@pytest.mark.parametrize(("name", "weights"), [("resnet18", ResNet18_Weights)])
def test_the_first_stage_standardises_for_pretrained_weights(name, weights, monkeypatch):
    state = resnet18().state_dict()
    monkeypatch.setattr(weights, "get_state_dict", lambda *args, **kwargs: state)
    stages = split_stages(build_backbone(name, (3, 32, 32), pretrained=True))
    names = [child for child, _ in stages[0].named_children()]
    assert names == ["standardize", "conv1", "bn1", "relu", "maxpool"]
    assert len(stages) == 5


def test_other_networks_have_no_stages():
    choices = "choose one of small_convnet, resnet18, vgg16, resnet34, resnet50"
    with pytest.raises(ValueError, match=f"^backbone is 'timm/test_resnet', .* stages: {choices}"):
        split_stages(build_backbone("timm/test_resnet", (3, 32, 32)))
    with pytest.raises(ValueError, match=r"^backbone is 'Linear', which cannot be cut"):
        split_stages(nn.Linear(2, 2))


# timm


@pytest.mark.parametrize(
    ("model", "shape", "maps"),
    [
        ("test_resnet", (3, 32, 48), (96, 1, 2)),
        ("test_convnext", (1, 64, 64), (64, 2, 2)),
        # Its maps have the channels last.
        ("test_mambaout", (4, 64, 96), (64, 2, 3)),
        # It has layers between the maps and the classifier, as the two above.
        ("mobilenetv3_small_050", (3, 64, 64), (288, 2, 2)),
    ],
)
def test_models_of_timm_end_with_their_maps(model, shape, maps):
    backbone = build_backbone(f"timm/{model}", shape).eval()
    images = torch.rand(2, *shape)
    found = backbone(images)
    assert found.shape == (2, *maps)
    torch.manual_seed(0)
    net = timm.create_model(model, num_classes=0, in_chans=shape[0]).eval()
    net.load_state_dict(backbone.maps.net.state_dict(), strict=False)
    expected = net.forward_features(images)
    if model == "test_mambaout":
        expected = expected.movedim(3, 1)
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())
    assert feature_size(backbone, shape) == maps[0] * maps[1] * maps[2]


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_standardised_as_the_weights_of_timm_want(channels, monkeypatch):
    loaded = []
    monkeypatch.setattr("detaux_pl.models.timm_model.ask_hub", lambda *args: None)
    monkeypatch.setattr(
        "timm.models._builder.load_pretrained", lambda net, **kwargs: loaded.append(net)
    )
    shape = (channels, 32, 32)
    backbone = build_backbone("timm/test_convnext", shape, pretrained=True).eval()
    (net,) = loaded
    images = torch.rand(2, *shape)
    torch.testing.assert_close(backbone(images), net.forward_features((images - 0.5) / 0.5))
    assert len(build_backbone("timm/test_convnext", shape)) == 1


@pytest.mark.parametrize(
    ("name", "shape", "pretrained", "message"),
    [
        ("timm/resnet19", (3, 32, 32), False, "^backbone is .*did you mean .*timm/resnet18"),
        ("timm/inception_v3", (3, 4, 4), False, "^timm/inception_v3 does not take images of 3 x 4"),
        ("timm/cspresnet50d", (3, 32, 32), True, "has no pretrained weights: set pretrained to"),
        ("timm/test_resnet", (3, 32, 32), True, "^the weights of timm/test_resnet cannot .*away"),
    ],
)
def test_models_of_timm_that_do_not_fit_are_refused(name, shape, pretrained, message, monkeypatch):
    def away(*args, **kwargs):
        raise FileNotFoundError("away")

    monkeypatch.setattr("detaux_pl.models.timm_model.ask_hub", lambda *args: None)
    monkeypatch.setattr("timm.models._builder.load_pretrained", away)
    with pytest.raises(ValueError, match=message) as error:
        build_backbone(name, shape, pretrained)
    assert "\n" not in str(error.value)


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """No server answers, and nothing was downloaded; gives what was asked for."""
    asked = []

    def refuse(request, *args, **kwargs):
        asked.append(getattr(request, "full_url", request))
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("torch.hub.urlopen", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return asked


def test_without_network_timms_weights_are_asked_for_once(no_network, tmp_path, capfd):
    with pytest.raises(ValueError, match=r"timm/test_resnet cannot be downloaded") as error:
        build_backbone("timm/test_resnet", (3, 32, 32), pretrained=True)
    url = "https://huggingface.co/timm/test_resnet.r160_in1k/resolve/main/model.safetensors"
    assert no_network == [url]
    place = tmp_path / "hub" / "checkpoints" / "test_resnet.r160_in1k.safetensors"
    assert f"(no network): set pretrained to false, or put {url} " in str(error.value)
    assert str(error.value).endswith(f"found as {place}.")
    assert capfd.readouterr().err == ""


def test_without_network_timms_weights_are_taken_from_the_file(no_network, tmp_path):
    net = timm.create_model("test_resnet")
    place = tmp_path / "hub" / "checkpoints" / "test_resnet.r160_in1k.safetensors"
    place.parent.mkdir(parents=True)
    safetensors.torch.save_file(net.state_dict(), place)
    ours = build_backbone("timm/test_resnet", (3, 32, 32), pretrained=True).maps.net
    torch.testing.assert_close(ours.conv1[0].weight, net.conv1[0].weight)
    assert no_network == []


def test_without_network_torchvisions_weights_are_asked_for_once(no_network, tmp_path):
    with pytest.raises(ValueError, match=r"\(no network\): set pretrained to false") as error:
        build_backbone("resnet18", (3, 32, 32), pretrained=True)
    assert no_network == [ResNet18_Weights.IMAGENET1K_V1.url]
    assert f"put {no_network[0]} into {tmp_path / 'hub' / 'checkpoints'}." in str(error.value)
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize("name", ["resnet18", "vgg16", "timm/resnet18"])
def test_a_pretrained_net_whose_weights_follow_is_built_without_the_network(
    name: str, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a download was begun")

    monkeypatch.setattr("socket.create_connection", refuse)
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("detaux_pl.models.timm_model._local_weights", refuse)
    with trained_weights_follow():
        net = build_backbone(name, (3, 32, 32), pretrained=True)
    images = torch.full((1, 3, 32, 32), 0.5)
    expected = (0.5 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(net.standardize(images)[0, :, 0, 0], expected)
