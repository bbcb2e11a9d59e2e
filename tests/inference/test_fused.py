"""Batch norms that become part of the convolutions before them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from detaux_pl.data.preprocessing import Preprocessing
from detaux_pl.inference.fused import fused
from detaux_pl.multitask.base import MultitaskModel
from tests.found import classes
from tests.inference.test_graph import classifier_of, pictures
from tests.multitask.test_every_architecture import SHAPE, built


def with_statistics(net: nn.Module) -> nn.Module:
    """Give batch norms what a training leaves in them."""
    rng = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.running_mean, module.bias):
                nn.init.normal_(values, generator=rng)
            for values in (module.running_var, module.weight):
                nn.init.uniform_(values, 0.5, 2, generator=rng)
    return net.eval()


@pytest.mark.parametrize("cls", classes(MultitaskModel), ids=lambda cls: cls.__name__)
def test_every_architecture_answers_as_it_was_trained(cls: type[MultitaskModel]):
    net = with_statistics(built(cls))
    images = pictures(4, *SHAPE)
    with torch.inference_mode():
        expected = net(torch.from_numpy(images).float() / 255)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    classifier = classifier_of(net, preprocessing=Preprocessing(SHAPE))
    told = classifier.ask(images)
    for values, logits, heat in zip(told.values(), expected, (0.7, 1.9), strict=False):
        np.testing.assert_allclose(values, torch.softmax(logits / heat, 1).numpy(), atol=1e-6)
    for name, value in classifier.net.members[0].state_dict().items():
        assert torch.equal(value, before[name]), name


def test_no_batch_norm_is_left_behind_a_convolution():
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4)]
    net = with_statistics(nn.Sequential(*layers))
    quick = fused(net)
    assert [type(layer) for layer in quick] == [nn.Conv2d, nn.Identity, nn.ReLU, nn.BatchNorm2d]
    assert [type(layer) for layer in net] == [type(layer) for layer in layers]
    assert quick[3].weight is layers[3].weight
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(quick(images), net(images))


def test_a_layer_in_two_places_stays_one():
    shared = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    quick = fused(with_statistics(nn.Sequential(shared, nn.ReLU(), shared)))
    assert quick[0] is quick[2]


def test_what_a_training_would_still_change_is_left():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    assert type(fused(net.train())[1]) is nn.BatchNorm2d
