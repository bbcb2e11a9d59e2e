"""Rotation as joint label, masked reconstruction and contrast against naive loops."""

from __future__ import annotations

import math

import pytest
import torch

from detaux_pl.artifacts.labels import IGNORED
from detaux_pl.data.batch import Batch
from detaux_pl.data.simclr_augmentation import SimCLRAugmentation
from detaux_pl.multitask.auxiliary_simclr import AuxiliarySimCLR
from detaux_pl.multitask.masked_reconstruction import MaskedReconstruction
from detaux_pl.multitask.recipe import Recipe
from detaux_pl.multitask.rotation_labels import RotationLabels
from detaux_pl.multitask.supervised_contrastive import SupervisedContrastive
from tests.losses.plain_contrastive import info_nce, unit

SHAPE, SIZES = (3, 16, 16), (3,)
SMALL = {"backbone": "small_convnet", "hidden": 8}
TARGETS = torch.tensor([[0], [1], [0], [IGNORED], [2], [1]])


def images() -> torch.Tensor:
    return torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(0))


def test_rotation_is_marginalised_as_by_hand_and_its_loss_is_that_of_the_joint_label():
    torch.manual_seed(0)
    model = RotationLabels(SHAPE, SIZES, **SMALL).eval()
    given = images()
    features = model.represent(given)
    losses, logits = [], torch.zeros(6, 3)
    for r in range(4):
        turned = torch.stack([torch.rot90(image, r, (1, 2)) for image in given])
        joint = model.head(model.backbone(turned).flatten(1))  # label (y, r) is 4 y + r
        for y in range(3):
            logits[:, y] += joint[:, 4 * y + r] / 4
        for row, (label,) in enumerate(TARGETS.tolist()):
            if label != IGNORED:
                losses.append(-joint[row].log_softmax(0)[4 * label + r])
    torch.testing.assert_close(model(given)[0], logits)
    # Images without a label count in the batch, as everywhere.
    expected = torch.stack(losses).sum() / (4 * len(TARGETS))
    torch.testing.assert_close(model.task_losses(features, TARGETS)[0], expected)
    with pytest.raises(ValueError, match="takes square images"):
        RotationLabels((3, 16, 20), SIZES, **SMALL)


def test_reconstruction_is_judged_by_hidden_pixels_alone():
    torch.manual_seed(0)
    model = MaskedReconstruction(SHAPE, SIZES, **SMALL).eval()
    given = images()
    mask = model.draw_mask(given)
    assert mask.shape == (6, 1, 16, 16)
    assert torch.equal(mask.flatten(1).sum(1), torch.full((6,), 0.75 * 256))
    blocks = mask.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4).sum(-1)
    assert set(blocks.unique().tolist()) == {0.0, 4.0}  # patches of 2 x 2, whole
    decoded = model.reconstruct(given * (1 - mask))
    naive = [
        (decoded[n, c, y, x] - given[n, c, y, x]) ** 2
        for n in range(6) for c in range(3) for y in range(16) for x in range(16)
        if mask[n, 0, y, x] == 1
    ]  # fmt: skip
    torch.testing.assert_close(model.reconstruction_loss(given, mask), torch.stack(naive).mean())
    for wrong, said in (({"weight": -1.0}, "weight is -1.0"), ({"hidden_share": 1.0}, "is 1.0")):
        with pytest.raises(ValueError, match=said):
            MaskedReconstruction(SHAPE, SIZES, **SMALL, **wrong)


def test_supervised_contrast_is_that_of_a_loop():
    torch.manual_seed(0)
    model = SupervisedContrastive(SHAPE, SIZES, **SMALL, weight=0.7, temperature=0.2).eval()
    features = model.represent(images())
    known = [0, 1, 2, 4, 5]
    units = [unit(model.projection(features[0])[row, 0]) for row in known]
    contrast = info_nce(units, [0, 1, 0, 2, 1], 0.2, "all")
    logits = model.classify(features)[0]
    entropy = sum(-logits[row].log_softmax(0)[TARGETS[row, 0]] for row in known) / 6
    loss = model.task_losses(features, TARGETS)[0]
    torch.testing.assert_close(loss, entropy + 0.7 * contrast, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="weight is nan"):
        SupervisedContrastive(SHAPE, SIZES, **SMALL, weight=math.nan)
    with pytest.raises(ValueError, match="compares images"):
        SupervisedContrastive(SHAPE, SIZES, **SMALL, recipe=Recipe(mixup=1.0))


def test_supervised_contrast_is_that_of_pytorch_metric_learning():
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    torch.manual_seed(0)
    embeddings, labels = torch.randn(12, 5), torch.arange(12) % 4
    model = SupervisedContrastive(SHAPE, SIZES, **SMALL)
    expected = losses.SupConLoss(temperature=0.1)(embeddings, labels)
    torch.testing.assert_close(model.contrast(embeddings, labels), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_views_are_drawn_together_as_in_a_loop(channels: int):
    torch.manual_seed(0)
    shape = (channels, 16, 16)
    model = AuxiliarySimCLR(shape, SIZES, **SMALL, weight=0.7, temperature=0.2).eval()
    model.log_means = lambda *args: None  # type: ignore[method-assign]
    given = images()[:, :channels]
    torch.manual_seed(5)
    views = model.draw_views(given)
    torch.manual_seed(5)
    again = SimCLRAugmentation("unmirrored", 0.5)
    seed = int(torch.randint(2**31, ()))
    both = given.expand(-1, 3, -1, -1).repeat(2, 1, 1, 1)
    assert torch.equal(views, again(both, seed)[:, :channels])
    assert not any(torch.equal(views[k], views[k + 6]) for k in range(6))
    units = [unit(model.projection(model.backbone(view[None]).flatten(1))[0, 0]) for view in views]
    losses = []
    for anchor in range(12):
        partner = (anchor + 6) % 12
        others = [units[anchor] @ units[k] / 0.2 for k in range(12) if k != anchor]
        losses.append(torch.stack(others).logsumexp(0) - units[anchor] @ units[partner] / 0.2)
    contrast = torch.stack(losses).mean()
    torch.testing.assert_close(model.contrastive_loss(views), contrast)
    alone = model.task_losses(model.represent(given), TARGETS)[0]
    torch.manual_seed(5)
    loss = model.training_step(Batch(given, TARGETS, torch.arange(6)), 0)
    torch.testing.assert_close(loss, alone + 0.7 * contrast)


@pytest.mark.parametrize(
    ("shape", "given", "said"),
    [
        (SHAPE, {"weight": -1.0}, "weight is -1.0"),
        (SHAPE, {"temperature": 0.0}, "temperature is 0.0"),
        (SHAPE, {"strength": 2.0}, "strength is 2.0"),
        ((2, 16, 16), {}, "takes images of 1 or 3 channels"),
    ],
)
def test_views_that_cannot_be_drawn(shape: tuple[int, int, int], given: dict, said: str):
    with pytest.raises(ValueError, match=said):
        AuxiliarySimCLR(shape, SIZES, **SMALL, **given)
