"""Linear classifiers on the features of a frozen network, plain and with groups erased."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Trainer

from detaux_pl.artifacts.labels import AuxiliaryLabels
from detaux_pl.data.datasets.digit_scenes import DigitScenes
from detaux_pl.data.modules import LabelledDataModule
from detaux_pl.models.erased_probe import fit_erased_probe
from detaux_pl.models.neighbor_vote import NeighborVote
from detaux_pl.models.pretrained import PretrainedNet
from detaux_pl.multitask.erasing_classifier import ErasingClassifier
from detaux_pl.multitask.frozen_classifier import FrozenClassifier
from detaux_pl.multitask.nearest_neighbors import NearestNeighbors

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
]

SHAPE, PLACES = (3, 16, 16), 4


def module(
    tmp_path: Path, use: str | None = None, principal: str = "digit", **given: Any
) -> LabelledDataModule:
    scenes = DigitScenes(n_train=240, n_val=40, n_test=60, n_locations=PLACES, principal=principal)
    if use is not None:
        scenes.setup()
        labels = scenes.factor("location")
        AuxiliaryLabels(
            scenes.ids, scenes.splits, labels, np.zeros(len(labels), bool),
            np.ones(len(labels), np.float32), PLACES, {"use": use},
        ).save(tmp_path)  # fmt: skip
        given["labels"] = tmp_path
    return LabelledDataModule(scenes, batch_size=32, eval_batch_size=50, **given)


def fitted(
    cls: type[FrozenClassifier], data: LabelledDataModule, cache: Path
) -> tuple[FrozenClassifier, dict[str, float]]:
    torch.manual_seed(0)
    model = cls(
        SHAPE, data.task_sizes, model="timm/test_resnet", size=32, pretrained=False, pca=30,
        cache_dir=str(cache),
    )  # fmt: skip
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(model, datamodule=data)
    return model, {k: float(v) for k, v in trainer.test(model, data, verbose=False)[0].items()}


def features_of(model: FrozenClassifier, data: LabelledDataModule, split: str) -> Any:
    with torch.inference_mode():
        return model.net(data.images(data.dataset.rows(split))).numpy()


def test_the_layer_is_the_probe_of_the_features_and_its_accuracy_that_of_the_test_images(tmp_path):
    data = module(tmp_path, principal="location", auxiliary="digit")
    model, told = fitted(FrozenClassifier, data, tmp_path)
    train, test = (data.dataset.rows(split) for split in ("train", "test"))
    labels = data.dataset.labels
    nothing = np.zeros((len(train), 0), np.int64)
    probe = fit_erased_probe(
        features_of(model, data, "train"), labels[train], PLACES, nothing, pca=30
    )
    (head,) = model.heads
    np.testing.assert_allclose(head.weight.numpy(), probe.weight, rtol=1e-3, atol=1e-4)
    expected = probe.logits(features_of(model, data, "test"))
    with torch.inference_mode():
        (logits,) = model(data.images(test))
    np.testing.assert_allclose(logits.numpy(), expected, rtol=1e-3, atol=1e-3)
    right = float((expected.argmax(axis=1) == labels[test]).mean())
    assert told["test/accuracy/principal"] == pytest.approx(right, abs=1e-6)
    assert right > 2 / PLACES  # though the weights are random
    assert "test/accuracy/auxiliary" not in told


def test_groups_are_erased_from_what_tells_the_principal_task_and_told_beside_it(tmp_path):
    data = module(tmp_path, auxiliary="location")
    model, told = fitted(ErasingClassifier, data, tmp_path)
    plain, _ = fitted(FrozenClassifier, data, tmp_path)
    rows = data.dataset.rows("train")
    features = features_of(model, data, "train")
    groups = data.dataset.factor("location")[rows]
    probe = fit_erased_probe(
        features, data.dataset.labels[rows], 10, groups[:, None], pca=30, shrinkage=0.1
    )
    np.testing.assert_allclose(model.heads[0].weight.numpy(), probe.weight, rtol=1e-3, atol=1e-4)

    def told_by_places(head: torch.nn.Module) -> float:
        """Share of the variance of the logits that lies between the places."""
        with torch.inference_mode():
            logits = head(torch.from_numpy(features)).numpy()
        means = np.stack([logits[groups == place].mean(axis=0) for place in range(PLACES)])
        return float((means[groups] - logits.mean(axis=0)).var() / logits.var())

    assert told_by_places(model.heads[0]) < 0.3 * told_by_places(plain.heads[0])
    assert told["test/accuracy/auxiliary"] > 2 / PLACES


def test_neighbours_are_those_of_the_features_of_labelled_images(tmp_path):
    data = module(tmp_path, principal="location", auxiliary="digit")
    model, told = fitted(NearestNeighbors, data, tmp_path)
    train, test = (data.dataset.rows(split) for split in ("train", "test"))
    labels = data.dataset.labels
    vote = NeighborVote(model.net.n_features, PLACES)
    vote.fit(features_of(model, data, "train"), labels[train], pca=30)
    expected = vote(torch.from_numpy(features_of(model, data, "test")))
    with torch.inference_mode():
        (logits,) = model(data.images(test))
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)
    right = (expected.argmax(dim=1).numpy() == labels[test]).mean()
    assert told["test/accuracy/principal"] == pytest.approx(right, abs=1e-6)


@pytest.mark.parametrize("use", ["erase", "leave"])
def test_the_verdict_on_discovered_groups_is_followed(tmp_path, use):
    data = module(tmp_path, use)
    model, told = fitted(ErasingClassifier, data, tmp_path)
    plain, _ = fitted(FrozenClassifier, data, tmp_path)
    same = np.allclose(model.heads[0].weight, plain.heads[0].weight, rtol=1e-6)
    assert same == (use == "leave")
    assert told["test/accuracy/auxiliary"] > 2 / PLACES, "the groups are told all the same"


def test_features_are_computed_once_for_all_arms(tmp_path, monkeypatch):
    data = module(tmp_path, auxiliary="location")
    first, told = fitted(FrozenClassifier, data, tmp_path)

    def refuse(*_: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(PretrainedNet, "forward", refuse)
    second, again = fitted(FrozenClassifier, data, tmp_path)
    assert again == told
    torch.testing.assert_close(second.heads[0].weight, first.heads[0].weight)


def test_what_is_outside_its_range_is_refused():
    for given, said in (({"pca": 0}, "pca is 0"), ({"batch_size": 0}, "batch_size is 0")):
        with pytest.raises(ValueError, match=said):
            FrozenClassifier(SHAPE, (10,), model="timm/test_resnet", pretrained=False, **given)
    with pytest.raises(ValueError, match=r"shrinkage is 2\.0: give a share"):
        ErasingClassifier(SHAPE, (10, 4), model="timm/test_resnet", pretrained=False, shrinkage=2.0)
