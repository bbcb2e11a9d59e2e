"""Frozen networks: their weights, and what becomes of images before them."""

import pickle

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from PIL import Image

from detaux_pl.models.backbone import build_backbone
from detaux_pl.models.pretrained import PretrainedNet
from detaux_pl.models.resize import resizing
from detaux_pl.models.weights import trained_weights_follow
from tests.models.weights_here import MODEL, real_weights

VIT, RESNET = "timm/test_vit", "timm/test_resnet"


def random_net(model=RESNET, shape=(3, 48, 48), **kwargs):
    torch.manual_seed(0)
    return PretrainedNet(model, shape, pretrained=False, **kwargs)


def test_real_weights_of_another_port_give_the_features_of_timm():
    path = real_weights()
    net = PretrainedNet(MODEL, (3, 40, 64), weights=path)
    assert (net.n_features, net.size, net.interpolation) == (1280, (224, 224), "bicubic")
    theirs = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
    arrays = list(torch.load(path, weights_only=True).values())[:-2]  # without the classifier
    theirs.load_state_dict(dict(zip(theirs.state_dict(), arrays, strict=True)))
    images = 0.25 + torch.rand(2, 3, 40, 64) / 2
    seen = F.interpolate(images, (224, 224), mode="bicubic", antialias=True)
    with torch.no_grad():
        expected = theirs((seen - 0.5) / 0.5)  # not ImageNet's mean and deviation
    torch.testing.assert_close(net(images), expected, rtol=1e-4, atol=1e-4)


def test_real_weights_tell_photographs_apart():
    # Random ones give nearly the same features for everything.
    ramps = torch.linspace(0, 1, 64).expand(3, 64, 64)
    images = torch.stack([ramps, ramps.transpose(1, 2), (ramps * 16) % 1])
    real = F.normalize(PretrainedNet(MODEL, (3, 64, 64), real_weights())(images))
    drawn = F.normalize(random_net(MODEL, (3, 64, 64))(images))
    assert (real @ real.T).triu(1).max() < 0.9 < (drawn @ drawn.T).min()


@pytest.mark.parametrize(
    ("model", "size", "mean", "interpolation"),
    [
        ("timm/test_vit.r160_in1k", (160, 160), 0.5, "bicubic"),
        ("timm/tf_efficientnet_lite0", (224, 224), 0.5, "bicubic"),
        ("timm/resnet18.tv_in1k", (224, 224), 0.485, "bilinear"),
        ("timm/resnet18.a1_in1k", (224, 224), 0.485, "bicubic"),
        ("timm/vit_small_patch14_dinov2.lvd142m", (518, 518), 0.485, "bicubic"),
        ("timm/convnext_tiny.dinov3_lvd1689m", (224, 224), 0.485, "bicubic"),
    ],
)
def test_a_tag_tells_what_its_weights_were_trained_on(model, size, mean, interpolation):
    with torch.device("meta"), trained_weights_follow():
        net = PretrainedNet(model, (3, 64, 64))
    config = timm.data.resolve_data_config(
        pretrained_cfg=timm.get_pretrained_cfg(model.removeprefix("timm/")).to_dict()
    )
    assert net.size == config["input_size"][1:] == size
    assert net.interpolation == config["interpolation"] == interpolation
    assert net.standardize.mean.shape == (3, 1, 1)
    assert config["mean"][0] == mean


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("n", "wanted"), [(64, 224), (224, 96), (50, 50), (7, 5)])
def test_resizing_is_that_of_pillow(n, wanted, mode):
    pixels = np.random.default_rng(0).integers(0, 256, (n, n), dtype=np.uint8)
    method = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}[mode]
    expected = torch.from_numpy(np.array(Image.fromarray(pixels).resize((wanted,) * 2, method)))
    weights = resizing(n, wanted, mode)
    assert torch.allclose(weights.sum(dim=1), torch.ones(wanted), atol=1e-5)
    across = (torch.from_numpy(pixels).float() @ weights.T).clamp(0, 255)
    found = (weights @ across).clamp(0, 255)
    assert (found - expected).abs().max() < 1.2  # Pillow rounds twice


def test_images_of_the_wanted_size_are_left_alone():
    net = random_net(shape=(3, 48, 48), size=48)
    assert net.resize.rows is None
    assert net.resize.columns is None
    images = torch.rand(2, 3, 48, 48) * 3 - 1  # not even clipped
    torch.testing.assert_close(net(images), net.net(net.standardize(images)))


@pytest.mark.parametrize("model", [VIT, RESNET])
def test_grey_images_are_equal_channels(model):
    colour = random_net(model, (3, 32, 48), size=64)
    grey = random_net(model, (1, 32, 48), size=64)
    images = torch.rand(2, 1, 32, 48)
    torch.testing.assert_close(grey(images), colour(images.expand(-1, 3, -1, -1)))
    assert grey.digest == colour.digest


@pytest.mark.parametrize("model", [VIT, RESNET])
def test_it_is_frozen(model):
    net = random_net(model, size=64).train()
    assert not any(module.training for module in net.modules())
    assert not any(parameter.requires_grad for parameter in net.parameters())
    images = torch.rand(8, 3, 48, 48)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    features = net(images)
    assert features.dtype == torch.float32
    assert not features.requires_grad
    assert torch.equal(features, net(images))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("model", [VIT, RESNET])
def test_it_is_exported_as_it_is(model):
    net = random_net(model, (1, 40, 56), size=64)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(net, (torch.rand(2, 1, 40, 56),), dynamic_shapes=({0: batch},))
    images = torch.rand(5, 1, 40, 56)
    torch.testing.assert_close(program.module()(images), net(images), rtol=1e-5, atol=1e-5)


def test_the_digest_is_of_weights_and_preprocessing():
    torch.manual_seed(0)
    digests = {
        "as it is": random_net().digest,
        "size": random_net(size=64).digest,
        "tag": random_net("timm/resnet18.tv_in1k").digest,
        "mean": random_net("timm/resnet18.fb_swsl_ig1b_ft_in1k").digest,
    }
    assert random_net(shape=(3, 20, 20)).digest == digests["as it is"]
    net = random_net()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    state["net.bn1.bias"][0] += 1
    assert net.digest == digests["as it is"]
    whole = torch.nn.ModuleDict({"part": net})  # as a checkpoint is loaded
    whole.load_state_dict({f"part.{name}": value for name, value in state.items()})
    digests["weights"] = net.digest
    assert len(set(digests.values())) == len(digests)


# Files of weights


@pytest.fixture
def given(tmp_path):
    """A model of timm with a classifier of 7 classes, and a place for its weights."""
    torch.manual_seed(1)
    return timm.create_model("test_resnet", num_classes=7), tmp_path


def same(net, model):
    wanted = model.state_dict()
    assert len(net.net.state_dict()) > 20
    return all(torch.equal(value, wanted[name]) for name, value in net.net.state_dict().items())


def test_weights_are_taken_from_safetensors_with_or_without_a_classifier(given):
    model, folder = given
    safetensors.torch.save_file(model.state_dict(), folder / "whole.safetensors")
    bare = {name: v for name, v in model.state_dict().items() if not name.startswith("fc.")}
    safetensors.torch.save_file(bare, folder / "bare.safetensors")
    for name in ("whole", "bare"):
        assert same(PretrainedNet(RESNET, (3, 48, 48), folder / f"{name}.safetensors"), model)
    net = PretrainedNet(RESNET, (3, 48, 48), folder / "bare.safetensors")
    assert "state_dict" not in net.net.pretrained_cfg


@pytest.mark.parametrize("key", [None, "state_dict", "model_ema"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_are_taken_from_checkpoints(key, prefix, given):
    model, folder = given
    state = {f"{prefix}{name}": value for name, value in model.state_dict().items()}
    torch.save(state if key is None else {key: state, "epoch": 3}, folder / "last.pth")
    assert same(PretrainedNet(RESNET, (3, 48, 48), folder / "last.pth"), model)


def test_positions_of_a_transformer_are_brought_to_the_size(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("test_vit").eval()
    torch.save(model.state_dict(), tmp_path / "vit.pth")
    net = PretrainedNet(VIT, (3, 160, 160), tmp_path / "vit.pth")
    images = torch.rand(2, 3, 160, 160)
    with torch.no_grad():
        pooled = model.forward_head(model.forward_features((images - 0.5) / 0.5), pre_logits=True)
    torch.testing.assert_close(net(images), pooled)
    small = PretrainedNet(VIT, (3, 32, 64), tmp_path / "vit.pth", size=64)
    assert small.net.pos_embed.shape == (1, 17, 64)
    assert small(torch.rand(2, 3, 32, 64)).shape == (2, 64)


def test_other_names_are_taken_in_order_where_all_fits(given):
    model, folder = given
    state = {f"_{name}": value for name, value in model.state_dict().items()}
    torch.save(state, folder / "port.pth")
    with pytest.raises(ValueError, match=r"it lacks \d+ of \d+ arrays, conv1.0.weight first"):
        # Of 7 classes: arrays in order are those of timm's model, whose weights have 1000.
        PretrainedNet(RESNET, (3, 48, 48), folder / "port.pth")
    whole = timm.create_model("test_resnet")
    state = {f"_{name}": value for name, value in whole.state_dict().items()}
    torch.save(state, folder / "port.pth")
    assert same(PretrainedNet(RESNET, (3, 48, 48), folder / "port.pth"), whole)
    # Without order, arrays of equal shapes could be taken for one another.
    safetensors.torch.save_file(state, folder / "port.safetensors")
    with pytest.raises(ValueError, match="is not of timm/test_resnet"):
        PretrainedNet(RESNET, (3, 48, 48), folder / "port.safetensors")
    # As they could where means and variances change places.
    swapped = {name.replace("running_mean", "running"): value for name, value in state.items()}
    torch.save(swapped, folder / "port.pth")
    with pytest.raises(ValueError, match="is not of timm/test_resnet"):
        PretrainedNet(RESNET, (3, 48, 48), folder / "port.pth")


class Harm:
    ran = False

    def __reduce__(self):
        return (setattr, (Harm, "ran", True))


def _write(folder, what):
    state = timm.create_model("test_resnet").state_dict()
    path = folder / f"{what}.{'safetensors' if 'safe' in what else 'pth'}"
    if what == "code":
        torch.save({"state_dict": state, "args": Harm()}, path)
    elif what == "old pickle":
        path.write_bytes(pickle.dumps(Harm()))
    elif what == "truncated":
        torch.save(state, path)
        path.write_bytes(path.read_bytes()[:50_000])
    elif what == "truncated safe":
        safetensors.torch.save_file(state, path)
        path.write_bytes(path.read_bytes()[:50_000])
    elif what == "empty":
        path.touch()
    elif what == "text safe":
        path.write_text("no weights\n" * 100)
    elif what == "other":
        torch.save(timm.create_model("test_convnext").state_dict(), path)
    elif what == "shape":
        torch.save({k: v.repeat(2, *[1] * (v.ndim - 1)) if v.ndim else v for k, v in state.items()},
                   path)  # fmt: skip
    elif what == "numbers":
        torch.save({"loss": 1.0}, path)
    elif what == "folder":
        path.mkdir()
    return path


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("code", r"which holds Python objects \(.*setattr.*\) that could run code: save its state"),
        ("old pickle", "which holds Python objects"),
        ("truncated", "which cannot be read .*: it is damaged, or no file of weights.$"),
        ("truncated safe", "which cannot be read .*: it is damaged, or no file of weights.$"),
        ("empty", "which cannot be read .*: it is damaged, or no file of weights.$"),
        ("text safe", "which cannot be read .*: it is damaged, or no file of weights.$"),
        ("other", r"which is not of timm/test_resnet \(it lacks \d+ of \d+ arrays, .* first\)"),
        ("shape", r"which is not of timm/test_resnet \(its conv1.0.weight has the shape \("),
        ("numbers", "which holds no named arrays: give another file.$"),
        ("folder", "which is no file: give one, or null.$"),
        ("absent", "which is no file: give one, or null.$"),
    ],
)
def test_files_that_are_no_weights_are_one_line(what, message, tmp_path):
    path = _write(tmp_path, what)
    with pytest.raises(ValueError, match=message) as error:
        PretrainedNet(RESNET, (3, 48, 48), weights=path)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"weights is '{path}'")
    assert not Harm.ran


@pytest.mark.parametrize(
    ("model", "shape", "size", "message"),
    [
        ("resnet18", (3, 64, 64), None, "^model is 'resnet18': give timm/<model>, such as"),
        ("timm/resnet81", (3, 64, 64), None, "which timm does not have: did you mean timm/resnet1"),
        (
            "timm/convnext_tiny.dinov3",
            (3, 64, 64),
            None,
            "timm has no weights called 'dinov3' for convnext_tiny: did you mean "
            "timm/convnext_tiny.dinov3_lvd1689m",
        ),
        ("timm/test_vit", (3, 64, 64), 8, "does not take images of 3 x 8 x 8 .* image size.$"),
        ("timm/inception_v3", (3, 64, 64), 32, "^timm/inception_v3 does not take images of 3 x 32"),
        ("timm/test_resnet", (4, 64, 64), None, "have 4 channels, but .* of 3 channels, or of 1.$"),
        ("timm/test_resnet", (3, 64, 64), 0, "^size is 0: give at least 1 pixel, or null.$"),
    ],
)
def test_what_does_not_fit_is_one_line(model, shape, size, message):
    with pytest.raises(ValueError, match=message) as error:
        PretrainedNet(model, shape, size=size, pretrained=False)
    assert "\n" not in str(error.value)


def test_a_tag_names_weights_of_backbones_too():
    with trained_weights_follow():
        net = build_backbone("timm/resnet18.tv_in1k", (3, 32, 32), pretrained=True)
    assert net.maps.net.pretrained_cfg["tag"] == "tv_in1k"
    with pytest.raises(
        ValueError, match=r"^backbone is .*no weights called 'a4_in1k' for resnet18"
    ):
        build_backbone("timm/resnet18.a4_in1k", (3, 32, 32))


def test_without_network_one_line_says_what_to_do(monkeypatch, tmp_path):
    def refuse(*args):
        raise OSError("no network")

    monkeypatch.setattr("detaux_pl.models.timm_model.ask_hub", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    message = (
        r"^the weights of timm/test_vit.r160_in1k cannot be downloaded \(no network\): give "
        r"weights, a file of them, or put https://huggingface.co/timm/test_vit.r160_in1k/resolve/"
    )
    with pytest.raises(ValueError, match=message):
        PretrainedNet("timm/test_vit.r160_in1k", (3, 64, 64))


SMALL = (
    "test_", "atto", "femto", "pico", "nano", "xxt", "xxs", "_xs", "tiny", "small", "_s", "mini",
    "050", "b0", "18", "_t", "_n",
)  # fmt: skip
"""Parts of names of small models, the smallest first."""


def smallest(family):
    """The smallest model of a family with pretrained weights, as far as names tell."""
    names = timm.list_models(module=family, pretrained=True)
    rank = {name: next((i for i, w in enumerate(SMALL) if w in name), 99) for name in names}
    return min(names, key=lambda name: (rank[name], len(name), name), default=None)


FAMILIES = [family for family in timm.list_modules() if smallest(family)]
REFUSED = {  # for sizes other than that of their weights
    "byoanet", "crossvit", "deepseek_vit", "efficientformer", "inception_resnet_v2", "inception_v3",
    "inception_v4",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_of_timm_is_built_or_refused_in_one_line(family):
    refused = []
    for shape, size in (((3, 64, 64), None), ((3, 224, 224), 224), ((1, 48, 64), 64)):
        try:
            with torch.device("meta"):
                net = PretrainedNet(f"timm/{smallest(family)}", shape, None, size, pretrained=False)
                features = net(torch.empty(2, *shape))
        except ValueError as error:
            refused.append((size, str(error)))
        else:
            assert features.shape == (2, net.n_features)
    sizes, lines = zip(*refused, strict=True) if refused else ((), ())
    assert all("does not take images of 3 x" in line and "\n" not in line for line in lines)
    assert None not in sizes, "images of any size are brought to that of the weights"
    assert bool(sizes) == (family in REFUSED)
