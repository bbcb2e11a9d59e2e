import torch
from torch import nn

from detaux_pl.models.head import ClassificationHead


def test_layers_are_those_of_the_official_code():
    head = ClassificationHead(20, 7)
    kinds = [type(layer) for layer in head]
    assert kinds == [nn.Linear, nn.Dropout, nn.ReLU, nn.Linear]
    assert head[0].out_features == 512
    assert head[1].p == 0.1
    assert head(torch.rand(3, 20)).shape == (3, 7)
    assert ClassificationHead(20, 7, hidden=4, dropout=0.0)[3].in_features == 4
