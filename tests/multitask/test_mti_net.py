import pytest
import torch
import torch.nn.functional as F

from detaux_pl.artifacts.labels import IGNORED
from detaux_pl.models.hrnet import HRNet
from detaux_pl.multitask.mti_net import MTINet

SHAPE = (3, 16, 16)
SIZES = (5, 4, 3)


def build(n_tasks=2, backbone="small_convnet", image_shape=SHAPE, **options):
    torch.manual_seed(0)
    return MTINet(image_shape, SIZES[:n_tasks], backbone, **options)


def upsample(maps, finer):
    return F.interpolate(maps, size=finer.shape[2:], mode="bilinear", align_corners=False)


def naive_weights(propagation, maps, attention):
    """Attention of each task, by explicit sums."""
    n_tasks, channels = len(maps), maps[0].shape[1]
    scores = propagation.attend(torch.cat(maps, dim=1)).exp()
    weights = torch.empty_like(scores)
    for place in range(n_tasks * channels):
        if attention == "tasks":
            group = [u * channels + place % channels for u in range(n_tasks)]
        else:
            group = [place // n_tasks * n_tasks + k for k in range(n_tasks)]
        weights[:, place] = scores[:, place] / sum(scores[:, other] for other in group)
    return weights


def naive_propagation(propagation, maps, attention):
    weights = naive_weights(propagation, maps, attention)
    reduced = propagation.reduce(weights * torch.cat(maps, dim=1))
    handed = []
    for own, excitation in zip(maps, propagation.excitations, strict=True):
        hidden = F.linear(
            reduced.mean((2, 3)), excitation.fc1.weight[..., 0, 0], excitation.fc1.bias
        ).clamp(min=0)
        gate = F.linear(hidden, excitation.fc2.weight[..., 0, 0], excitation.fc2.bias).sigmoid()
        handed.append(reduced * gate[..., None, None] + own)
    return handed


def naive_distillation(distillation, maps):
    n_tasks, channels = len(maps), maps[0].shape[1]
    distilled = []
    for t, own in enumerate(maps):
        for u in range(n_tasks):
            if u == t:
                continue
            slot = t - (t > u)
            kernels = distillation.convolutions[u].weight.split(channels)
            gate = F.conv2d(maps[u], kernels[slot], padding=1).sigmoid()
            own = own + gate * F.conv2d(maps[u], kernels[n_tasks - 1 + slot], padding=1)
        distilled.append(own)
    return distilled


def naive_logits(model, images, n_tasks, attention="tasks"):
    """Final logits and, per scale from the coarsest, initial ones."""
    branches = model.represent(images)
    handed, outputs, initial = None, [], []
    for scale in (3, 2, 1, 0):
        maps = []
        for t in range(n_tasks):
            own = branches[scale]
            if handed is not None:
                own = torch.cat([own, upsample(handed[t], own)], dim=1)
            maps.append(model.refinements[scale][t](own))
        initial.append(
            [
                F.linear(x.mean((2, 3)), head.weight, head.bias)
                for x, head in zip(maps, model.initial_heads[scale], strict=True)
            ]
        )
        if scale:
            handed = naive_propagation(model.propagations[scale - 1], maps, attention)
        outputs.insert(0, naive_distillation(model.distillations[scale], maps))
    final = []
    for t, head in enumerate(model.heads):
        joined = torch.cat([upsample(maps[t], outputs[0][t]) for maps in outputs], dim=1)
        mean = head[:3](joined).mean((2, 3))
        final.append(F.linear(mean, head[-1].weight, head[-1].bias))
    return final, initial


@pytest.mark.parametrize("attention", ["tasks", "legacy"])
@pytest.mark.parametrize(
    ("n_tasks", "backbone", "shape"),
    [
        (2, "small_convnet", (3, 16, 16)),
        (3, "small_convnet", (1, 18, 22)),
        (3, "hrnet_w18_small", (3, 40, 24)),
    ],
)
def test_logits_and_losses_equal_naive_loops(n_tasks, backbone, shape, attention):
    options = {"attention": attention, "deep_supervision_weight": 0.7}
    model = build(n_tasks, backbone, shape, **options).double()
    images = torch.rand(4, *shape, dtype=torch.float64)
    targets = torch.stack([torch.randint(n, (4,)) for n in SIZES[:n_tasks]], dim=1)
    targets[1, 1] = IGNORED
    final, initial = naive_logits(model, images, n_tasks, attention)
    for ours, naive in zip(model(images), final, strict=True):
        torch.testing.assert_close(ours, naive, rtol=1e-9, atol=1e-12)
    losses = model.task_losses(model.represent(images), targets)
    for t, loss in enumerate(losses):
        weighted = [(1.0, final[t]), *((0.7, scale[t]) for scale in initial)]
        expected = 0.0
        for weight, logits in weighted:
            for i, label in enumerate(targets[:, t]):
                if label != IGNORED:
                    expected -= weight * logits[i].log_softmax(0)[label].item() / 4
        assert loss.item() == pytest.approx(expected, rel=1e-9)


def test_attention_sums_to_one_over_the_tasks():
    joined = torch.rand(2, 3 * 64, 4, 4, dtype=torch.float64)
    shares = build(3).double().propagations[1].weigh(joined).view(2, 3, 64, 4, 4)
    torch.testing.assert_close(shares.sum(1), torch.ones_like(shares[:, 0]))
    assert shares.std() > 1e-4
    legacy = build(3, attention="legacy").double().propagations[1].weigh(joined)
    legacy = legacy.view(2, 64, 3, 4, 4)
    torch.testing.assert_close(legacy.sum(2), torch.ones_like(legacy[:, :, 0]))


def test_without_deep_supervision_the_final_loss_is_left():
    model = build(deep_supervision_weight=0.0)
    images, targets = torch.rand(4, *SHAPE), torch.randint(4, (4, 2))
    losses = model.task_losses(model.represent(images), targets)
    for loss, logits, own in zip(losses, model(images), targets.T, strict=True):
        torch.testing.assert_close(loss, F.cross_entropy(logits, own))
    losses.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("backbone", "shape", "scales"),
    [
        ("hrnet_w18", (3, 64, 64), [(18, 16, 16), (36, 8, 8), (72, 4, 4), (144, 2, 2)]),
        ("timm/hrnet_w18", (3, 16, 16), [(18, 8, 8), (36, 4, 4), (72, 2, 2), (144, 1, 1)]),
        ("hrnet_w18_small", (1, 33, 64), [(16, 16, 16), (32, 8, 8), (64, 4, 4), (128, 2, 2)]),
        ("small_convnet", (3, 20, 36), [(32, 20, 36), (32, 10, 18), (64, 5, 9), (128, 2, 4)]),
        ("resnet18", (3, 16, 16), [(64, 4, 4), (128, 2, 2), (256, 1, 1), (512, 1, 1)]),
        ("resnet50", (3, 33, 33), [(256, 9, 9), (512, 5, 5), (1024, 3, 3), (2048, 2, 2)]),
        ("vgg16", (3, 32, 32), [(128, 8, 8), (256, 4, 4), (512, 2, 2), (512, 1, 1)]),
    ],
)
@torch.no_grad()
def test_four_scales_of_every_backbone(backbone, shape, scales):
    with torch.device("meta"):
        model = build(3, backbone, shape).to("meta")
        features = model.represent(torch.rand(2, *shape))
    assert [tuple(x.shape) for x in features] == [(2, *scale) for scale in scales]
    assert [tuple(z.shape) for z in model.classify(features)] == [(2, n) for n in SIZES]


def test_hrnet_fills_images_up_and_standardises_for_its_weights(monkeypatch):
    monkeypatch.setattr("detaux_pl.models.timm_model.ask_hub", lambda *args: None)
    monkeypatch.setattr("timm.models._builder.load_pretrained", lambda *args, **kwargs: None)
    net = HRNet("hrnet_w18_small", (3, 40, 24), pretrained=True).eval()
    images = torch.rand(2, 3, 40, 24)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    filled = torch.zeros(2, 3, 64, 32)
    filled[:, :, :40, :24] = (images - mean) / std
    assert [x.shape[1] for x in net(images)] == net.net.feature_info.channels()
    for ours, expected in zip(net(images), net.net(filled), strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_tasks": 1}, "^MTINet shares between tasks, and the data have the principal one only"),
        ({"attention": "channels"}, "^attention is 'channels': choose `tasks` or `legacy`"),
        ({"deep_supervision_weight": -1.0}, "^deep_supervision_weight is -1.0: it must not be neg"),
        ({"backbone": "timm/resnet18"}, "^backbone is 'timm/resnet18': choose an HRNet of timm"),
        ({"backbone": "hrnet_w19"}, "'timm/hrnet_w19', .* did you mean timm/hrnet_w18"),
        ({"backbone": "vgg16"}, "images of 16 x 16 pixels are too small for vgg16"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message) as error:
        build(**options)
    assert "\n" not in str(error.value)
