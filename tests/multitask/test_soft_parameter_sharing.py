import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from detaux_pl.multitask.cross_stitch import CrossStitch
from detaux_pl.multitask.hard_parameter_sharing import HardParameterSharing
from detaux_pl.multitask.mti_net import MTINet
from detaux_pl.multitask.nddr import NDDR
from detaux_pl.multitask.single_task import SingleTask
from detaux_pl.settings.build import constructor_defaults

SHAPE = (3, 16, 16)
SIZES = (5, 4, 3)


def build(cls, n_tasks=2, backbone="small_convnet", seed=0, image_shape=SHAPE, **options):
    torch.manual_seed(seed)
    if cls is not MTINet:
        options = {"hidden": 16, "dropout": 0.0} | options
    return cls(image_shape, SIZES[:n_tasks], backbone, **options)


def mix(maps, own_share):
    rest = (1 - own_share) / (len(maps) - 1)
    return [
        own_share * own + sum(rest * other for u, other in enumerate(maps) if u != t)
        for t, own in enumerate(maps)
    ]


def norm_relu(maps):
    mean = maps.mean((0, 2, 3), keepdim=True)
    variance = ((maps - mean) ** 2).mean((0, 2, 3), keepdim=True)
    return ((maps - mean) / (variance + 1e-5).sqrt()).clamp(min=0)


def naive_maps(model, images, fuse):
    """Maps of each task after the exchange of each stage, from separate columns."""
    maps, stages = [images] * len(model.columns), []
    for number in range(len(model.columns[0])):
        maps = fuse([column[number](own) for column, own in zip(model.columns, maps, strict=True)])
        stages.append(maps)
    return stages


# Exchanges


@pytest.mark.parametrize("n_tasks", [2, 3])
@pytest.mark.parametrize("own_share", [0.9, 0.5])
@pytest.mark.parametrize("cls", [NDDR, CrossStitch])
def test_columns_start_by_reading_a_little_from_the_others(cls, own_share, n_tasks):
    model = build(cls, n_tasks, own_share=own_share).double()
    images = torch.rand(4, *SHAPE, dtype=torch.float64)
    after = norm_relu if cls is NDDR else torch.nn.Identity()
    stages = naive_maps(model, images, lambda maps: [after(x) for x in mix(maps, own_share)])
    expected = [head(x.flatten(1)) for head, x in zip(model.heads, stages[-1], strict=True)]
    # Initial weights are rounded to float32.
    for ours, naive in zip(model(images), expected, strict=True):
        torch.testing.assert_close(ours, naive, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("cls", [NDDR, CrossStitch])
def test_any_weights_equal_naive_loops(cls):
    model = build(cls, 3).double()
    for exchange in model.exchanges:
        weight = exchange.convolution.weight if cls is NDDR else exchange.weight
        nn.init.normal_(weight, std=0.3)
    images = torch.rand(4, *SHAPE, dtype=torch.float64)
    number = iter(range(4))

    def fuse(maps):
        exchange = model.exchanges[next(number)]
        c = maps[0].shape[1]
        if cls is NDDR:
            weight = exchange.convolution.weight.view(3, c, 3 * c)
            joined = torch.cat(maps, dim=1)
            return [norm_relu(torch.einsum("oi,bihw->bohw", own, joined)) for own in weight]
        return [
            torch.stack(
                [sum(exchange.weight[t, u, k] * maps[u][:, k] for u in range(3)) for k in range(c)],
                dim=1,
            )
            for t in range(3)
        ]

    last = naive_maps(model, images, fuse)[-1]
    expected = [head(x.flatten(1)) for head, x in zip(model.heads, last, strict=True)]
    for ours, naive in zip(model(images), expected, strict=True):
        torch.testing.assert_close(ours, naive, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("cls", [NDDR, CrossStitch])
def test_columns_that_keep_to_themselves_are_separate_networks(cls):
    model = build(cls, own_share=1.0, seed=3).eval()
    images = torch.rand(4, *SHAPE)
    torch.manual_seed(3)
    alone = SingleTask(SHAPE, SIZES[:2], "small_convnet", hidden=16, dropout=0.0).eval()
    auxiliary = model.columns[1](images)[-1].flatten(1)
    principal, other = model(images)
    # Batch norm divides by sqrt(1 + 1e-5) after each of four stages.
    tolerance = {"rtol": 1e-3, "atol": 1e-4} if cls is NDDR else {"rtol": 1e-6, "atol": 1e-6}
    torch.testing.assert_close(principal, alone(images)[0], **tolerance)
    torch.testing.assert_close(other, model.heads[1](auxiliary), **tolerance)
    assert not torch.allclose(alone.backbone(images).flatten(1), auxiliary, atol=1e-2)


def test_shortcut_joins_the_maps_of_all_stages():
    model = build(NDDR, 3, shortcut=True).double()
    images = torch.rand(4, *SHAPE, dtype=torch.float64)
    stages = naive_maps(model, images, lambda maps: [norm_relu(x) for x in mix(maps, 0.9)])
    for t, logits in enumerate(model(images)):
        resized = [
            F.interpolate(maps[t], size=(2, 2), mode="bilinear", align_corners=False)
            for maps in stages
        ]
        reduced = torch.einsum(
            "oi,bihw->bohw", model.shortcuts[t].weight[..., 0, 0], torch.cat(resized, dim=1)
        )
        naive = model.heads[t](reduced.flatten(1))
        torch.testing.assert_close(logits, naive, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("cls", [NDDR, CrossStitch])
@pytest.mark.parametrize(
    ("backbone", "shape", "channels", "last"),
    [
        ("small_convnet", (1, 18, 22), (32, 32, 64, 128), (2, 2)),
        ("resnet18", (3, 16, 40), (64, 64, 128, 256, 512), (1, 2)),
        ("resnet34", (3, 32, 32), (64, 64, 128, 256, 512), (1, 1)),
        ("resnet50", (3, 64, 64), (64, 256, 512, 1024, 2048), (2, 2)),
        ("vgg16", (3, 32, 64), (64, 128, 256, 512, 512), (1, 2)),
    ],
)
@torch.no_grad()
def test_every_backbone_is_coupled_after_its_stages(cls, backbone, shape, channels, last):
    with torch.device("meta"):
        model = build(cls, 3, backbone, image_shape=shape).to("meta")
        images = torch.rand(2, *shape)
        features = model.represent(images)
    assert model.stage_channels == channels
    assert [tuple(x.shape) for x in features] == [(2, channels[-1], *last)] * 3
    assert [tuple(z.shape) for z in model.classify(features)] == [(2, n) for n in SIZES]


# What all architectures promise

ARCHITECTURES = [
    (HardParameterSharing, "small_convnet", {}),
    (NDDR, "small_convnet", {}),
    (NDDR, "small_convnet", {"shortcut": True}),
    (CrossStitch, "small_convnet", {}),
    (MTINet, "small_convnet", {}),
    (MTINet, "small_convnet", {"attention": "legacy"}),
    (MTINet, "hrnet_w18_small", {}),
    (HardParameterSharing, "timm/test_convnext", {}),
]


@pytest.mark.parametrize("n_tasks", [2, 3])
@pytest.mark.parametrize(("cls", "backbone", "options"), ARCHITECTURES)
def test_all_tasks_depend_on_the_features_and_through_them_on_what_is_shared(
    cls, backbone, options, n_tasks
):
    shape = (3, 32, 32) if backbone.startswith("timm/") else SHAPE
    model = build(cls, n_tasks, backbone, image_shape=shape, **options)
    images = torch.rand(6, *shape)
    targets = torch.stack([torch.randint(n, (6,)) for n in SIZES[:n_tasks]], dim=1)
    features, shared = model.represent(images), model.shared_parameters()
    assert all(len(x) == 6 for x in features)
    losses = model.task_losses(features, targets)
    assert losses.shape == (n_tasks,)
    for loss in losses:
        for gradient in torch.autograd.grad(loss, [*features, *shared], retain_graph=True):
            assert gradient.isfinite().all()
    model.weighting(losses).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())

    model.zero_grad()
    cut = tuple(x.detach().requires_grad_() for x in features)
    model.task_losses(cut, targets).sum().backward()
    assert all(x.grad is not None for x in cut)
    assert all(parameter.grad is None for parameter in shared)
    behind = {id(parameter) for parameter in shared}
    weighting = {id(parameter) for parameter in model.weighting.parameters()}
    for parameter in model.parameters():
        has = parameter.grad is not None
        assert has is (id(parameter) not in behind | weighting)


@pytest.mark.parametrize(
    ("cls", "backbone", "options"), [a for a in ARCHITECTURES if a[1] != "hrnet_w18_small"]
)
def test_architectures_of_one_seed_start_with_the_same_principal_network(cls, backbone, options):
    shape = (3, 32, 32)
    model = build(cls, 2, backbone, image_shape=shape, **options)
    alone = build(SingleTask, 2, backbone, image_shape=shape)
    own = model.columns[0] if hasattr(model, "columns") else model.backbone
    for one, other in zip(own.parameters(), alone.backbone.parameters(), strict=True):
        assert torch.equal(one, other)
    if cls is not MTINet:
        assert torch.equal(model.heads[0][0].weight, alone.head[0].weight)


@pytest.mark.parametrize(("cls", "backbone", "options"), ARCHITECTURES)
def test_hyper_parameters_rebuild_the_model(cls, backbone, options):
    model = build(cls, 2, backbone, image_shape=(3, 32, 32), **options)
    arguments = set(constructor_defaults(cls)) - {"weighting", "recipe"}
    assert set(model.hparams) == arguments
    again = cls(**model.hparams)
    again.load_state_dict(model.state_dict())
    if cls is NDDR:
        assert model.hparams["lr_multiplier"] is None


# Optimizer


@pytest.mark.parametrize(
    ("cls", "options", "factor", "decay"),
    [
        (NDDR, {}, 1.0, 0.3),
        (NDDR, {"optimizer": "sgd"}, 100.0, 0.3),
        (NDDR, {"optimizer": "sgd", "lr_multiplier": 7.0}, 7.0, 0.3),
        (CrossStitch, {}, 1.0, 0.0),
        (CrossStitch, {"optimizer": "sgd", "lr_multiplier": 50.0}, 50.0, 0.0),
    ],
)
def test_exchanges_have_their_own_learning_rate(cls, options, factor, decay):
    model = build(cls, lr=1e-3, weight_decay=0.3, **options)
    model.trainer = SimpleNamespace(gradient_clip_val=None)
    networks, exchanges = model.configure_optimizers().param_groups
    assert (networks["lr"], networks["weight_decay"]) == (1e-3, 0.3)
    assert math.isclose(exchanges["lr"], 1e-3 * factor)
    assert exchanges["weight_decay"] == decay
    assert [id(p) for p in exchanges["params"]] == [id(p) for p in model.exchanges.parameters()]
    apart = {id(p) for p in exchanges["params"]}
    assert [id(p) for p in networks["params"]] == [
        id(p) for p in model.parameters() if id(p) not in apart
    ]


# Bad input


@pytest.mark.parametrize("cls", [NDDR, CrossStitch])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_tasks": 1}, "shares between tasks, and the data have the principal one only: give"),
        ({"own_share": 0.0}, r"^own_share is 0.0: give a share in \(0, 1\]"),
        ({"own_share": 1.1}, r"^own_share is 1.1"),
        ({"lr_multiplier": 0.0}, "^lr_multiplier is 0.0: it must be positive"),
        ({"backbone": "timm/test_resnet"}, "^backbone is 'timm/test_resnet', .* in stages: choose"),
        ({"backbone": "vgg16"}, "images of 16 x 16 pixels are too small for vgg16"),
    ],
)
def test_bad_arguments_are_refused(cls, options, message):
    with pytest.raises(ValueError, match=message) as error:
        build(cls, **options)
    assert "\n" not in str(error.value)
