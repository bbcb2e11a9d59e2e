"""What holds for every architecture, those of later files included."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from detaux_pl.multitask.base import MultitaskModel
from detaux_pl.multitask.nearest_neighbors import NearestNeighbors
from detaux_pl.settings.build import constructor_defaults
from tests.found import classes

SHAPE, SIZES = (3, 32, 32), (4, 3)
SMALL = {"backbone": "small_convnet", "hidden": 8}
FROZEN = {"model": "timm/test_vit.r160_in1k", "pretrained": False}


def built(cls: type[MultitaskModel]) -> MultitaskModel:
    taken = constructor_defaults(cls)
    given = {"image_shape": SHAPE, "task_sizes": SIZES, **(SMALL if cls.trained else FROZEN)}
    torch.manual_seed(0)
    model = cls(**{name: value for name, value in given.items() if name in taken}).eval()
    if isinstance(model, NearestNeighbors):  # those that it has are part of the network
        rng = np.random.default_rng(0)
        features = rng.normal(size=(60, model.net.n_features))
        model.fit_heads(features.astype(np.float32), rng.integers(0, 4, (60, 1)), None)  # type: ignore[arg-type]
    return model


@pytest.mark.parametrize("cls", classes(MultitaskModel), ids=lambda cls: cls.__name__)
def test_logits_features_and_what_lies_behind_them(cls: type[MultitaskModel]):
    model = built(cls)
    images = torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(0))
    features = model.represent(images)
    assert all(len(part) == 5 for part in features), "represent gives tensors of B rows"
    logits = model.classify(features)
    n_tasks = len(SIZES) if cls.uses_auxiliary else 1
    told = [tuple(each.shape) for each in logits]
    assert told == [(5, size) for size in SIZES[:n_tasks]], "classify gives (B, task size) a task"
    torch.testing.assert_close(model(images)[0], logits[0])
    # The images of a batch do not depend on each other in evaluation.
    torch.testing.assert_close(model(images[:2])[0], logits[0][:2], rtol=1e-4, atol=1e-5)
    shared = model.shared_parameters()
    if not cls.trained:
        assert not shared, "shared_parameters gives none of what no step trains"
        assert not any(part.requires_grad for part in features)
        return
    assert shared, "shared_parameters gives those behind the features, and there are none"
    for task, each in enumerate(logits):
        grads = torch.autograd.grad(each.sum(), shared, retain_graph=True, allow_unused=True)
        assert any(grad is not None and grad.abs().sum() > 0 for grad in grads), f"task {task}"
