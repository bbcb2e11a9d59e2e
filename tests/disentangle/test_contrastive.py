"""The contrastive disentangler."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning import Trainer, seed_everything
from torch import Tensor

from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.batch import Batch
from detaux_pl.data.datasets.digit_scenes import DigitScenes
from detaux_pl.data.modules import LabelledDataModule, PairDataModule, ViewDataModule
from detaux_pl.data.pairings import SharedFactors
from detaux_pl.disentangle.contrastive import ContrastiveDisentangler
from detaux_pl.losses.info_nce import InfoNCE
from detaux_pl.losses.regularizers.base import Embeddings
from detaux_pl.losses.regularizers.hessian_penalty import HessianPenalty
from detaux_pl.losses.regularizers.orthogonality import Orthogonality

SMALL = {"image_shape": (3, 16, 16), "n_classes": 10, "encoder": "small_convnet"}


@pytest.fixture
def slices() -> Tensor:
    return torch.randn(2, 6, 4, 5, generator=torch.Generator().manual_seed(0)).double()


@pytest.fixture
def targets() -> Tensor:
    first = torch.tensor([[0, 1], [0, 0], [1, 1], [1, 1], [2, 0], [0, 1]])
    return torch.stack([first, first])


def test_the_labels_of_the_positives(slices: Tensor, targets: Tensor):
    def labels(positives: str) -> Embeddings:
        model = ContrastiveDisentangler(**SMALL, n_slices=4, positives=positives)
        return model._embeddings(slices, targets, step=7)

    pairs = [0, 1, 2, 3, 4, 5] * 2
    joint = [1, 0, 3, 3, 4, 1] * 2  # 2 * first + second
    view = labels("view")
    assert view.labels.tolist() == pairs
    assert view.slice_labels.tolist() == [pairs] * 4
    assert view.step == 7
    assert view.slices.tolist() == [*slices[0].tolist(), *slices[1].tolist()]
    assert labels("joint").labels.tolist() == joint
    assert labels("joint").slice_labels.tolist() == [joint] * 4
    disjoint = labels("disjoint")
    assert disjoint.labels.tolist() == joint
    first, second = [0, 0, 1, 1, 2, 0] * 2, [1, 0, 1, 1, 0, 1] * 2
    assert disjoint.slice_labels.tolist() == [first, second, pairs, pairs]


@pytest.mark.parametrize("objective", ["sub_info_max", "info_max"])
def test_the_loss_is_the_objective_and_the_weighted_regularisers(
    objective: str, slices: Tensor, targets: Tensor
):
    regularizers = [Orthogonality(0.25), HessianPenalty(3.0)]
    model = ContrastiveDisentangler(
        **SMALL, n_slices=2, objective=objective, regularizers=regularizers, temperature=0.5
    )
    total, terms = model.loss_terms(slices[:, :, :2], targets)
    info_max, joint = InfoNCE(0.5), torch.tensor([1, 0, 3, 3, 4, 1] * 2)
    z = slices[:, :, :2].flatten(0, 1)
    if objective == "info_max":
        expected = info_max(z.flatten(1), joint)
    else:
        expected = info_max(z[:, 0], joint) + info_max(z[:, 1], joint)
    hessian = "hessian_penalty"
    assert set(terms) == {"info_max", "orthogonality", hessian, f"{hessian}/gradient"}
    gradient = info_max.gradient(z.flatten(1), joint).norm(dim=1).mean()
    torch.testing.assert_close(terms[f"{hessian}/gradient"], gradient)
    torch.testing.assert_close(terms["info_max"], expected)
    weighted = expected + 0.25 * terms["orthogonality"] + 3.0 * terms["hessian_penalty"]
    torch.testing.assert_close(total, weighted)


def test_losses_are_in_float32_whatever_the_precision(slices: Tensor, targets: Tensor):
    model = ContrastiveDisentangler(**SMALL, regularizers=[HessianPenalty(1.0)])
    half = slices[:, :, :2].bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        total, terms = model.loss_terms(half, targets)
    exact, _ = model.loss_terms(half.float(), targets)
    assert {term.dtype for term in [total, *terms.values()]} == {torch.float32}
    torch.testing.assert_close(total, exact)  # half precision would miss it by 1e-3


@pytest.mark.parametrize("codes", ["projection", "representation"])
def test_codes_and_what_else_there_is_to_probe(codes: str):
    model = ContrastiveDisentangler(**SMALL, slice_dim=5, codes=codes).eval()
    images = torch.rand(4, 3, 16, 16)
    both = model.encode_all(images)
    assert {name: tuple(array.shape) for name, array in both.items()} == {
        "z": (4, 2, 5),
        "r": (4, 2, 256),
    }
    assert next(iter(both)) == model.code_name == {"projection": "z", "representation": "r"}[codes]
    assert model.encode(images).equal(both[model.code_name])
    predicted = model.predict_step(Batch(images, torch.zeros(4, 1), torch.arange(4)))
    assert predicted["r"].equal(both["r"])


def _data(batch_size: int = 16, **settings: object) -> PairDataModule:
    return PairDataModule(
        DigitScenes(n_train=64, n_val=64, n_test=8, n_locations=4, n_backgrounds=2),
        SharedFactors(["background"]),
        batch_size=batch_size,
        eval_batch_size=16,
        **settings,
    )


def _train(model: ContrastiveDisentangler, data: object, folder: Path, epochs: int = 2) -> Trainer:
    trainer = Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        use_distributed_sampler=False, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(model, datamodule=data)
    return trainer


def test_what_the_label_explains_of_a_slice(tmp_path: Path):
    seed_everything(1)
    model = ContrastiveDisentangler(**SMALL, positives="joint", optimizer="adam", lr=2e-3)
    data = _data()
    trainer = _train(model, data, tmp_path)
    explained = [trainer.callback_metrics[f"val/explained/slice{k}"].item() for k in range(2)]
    assert model.principal_subspace == explained.index(max(explained))
    # One minus the variance within the classes.
    model.eval()
    rows = np.concatenate([batch.rows.flatten() for batch in data.val_dataloader()])
    with torch.no_grad():
        units = F.normalize(model.encode(data.images(rows)), dim=-1)
    digits = torch.from_numpy(data.dataset.labels[rows])
    means = torch.stack([units[digits == digit].mean(0) for digit in range(10)])[digits]
    within = (units - means).square().sum(-1).mean(0)
    whole = (units - units.mean(0)).square().sum(-1).mean(0)
    assert explained == pytest.approx((1 - within / whole).tolist(), abs=1e-5)


def test_the_slice_is_found_kept_in_the_checkpoint_and_can_be_given(tmp_path: Path):
    seed_everything(0)
    model = ContrastiveDisentangler(
        **SMALL, positives="view", regularizers=[Orthogonality(0.1, permute=True)]
    )
    trainer = _train(model, ViewDataModule(_data().dataset, batch_size=16), tmp_path)
    shares = [trainer.callback_metrics[f"val/explained/slice{k}"].item() for k in range(2)]
    assert model.principal_subspace == shares.index(max(shares))
    path = tmp_path / "model.ckpt"
    model._principal.fill_(1)  # whichever it was
    trainer.save_checkpoint(path, weights_only=True)
    saved = torch.load(path, weights_only=True)
    again = ContrastiveDisentangler.load_from_checkpoint(path, regularizers=[])
    assert again.principal_subspace == 1
    assert "regularizers" not in saved["hyper_parameters"]
    assert ContrastiveDisentangler(**SMALL, principal_slice=1).principal_subspace == 1


TRAIN = """
import json, sys
from pathlib import Path
import torch
from lightning import Trainer, seed_everything
from torch import nn
from detaux_pl.disentangle.contrastive import ContrastiveDisentangler
from detaux_pl.losses.regularizers.hessian_penalty import HessianPenalty
from detaux_pl.losses.regularizers.orthogonality import Orthogonality
from tests.disentangle.test_contrastive import SMALL, _data
from tests.ranks import end_group

devices = int(sys.argv[2])
seed_everything(1)
model = ContrastiveDisentangler(
    **SMALL, positives="joint",
    regularizers=[Orthogonality(0.1, permute=True), HessianPenalty(0.1)], lr=0.002, warmup=0.0,
)
# Batch statistics differ between ranks by design.
model.encoder = nn.Sequential(nn.Flatten(), nn.Linear(768, 512), nn.ReLU())
trainer = Trainer(
    accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", max_epochs=2,
    logger=False, enable_checkpointing=False, enable_progress_bar=False,
    enable_model_summary=False, num_sanity_val_steps=0, use_distributed_sampler=False,
    default_root_dir=sys.argv[1],
)
trainer.fit(model, datamodule=_data(16 // devices, tasks=["digit", "background"]))
result = {
    "weights": [p.double().square().sum().item() for p in model.parameters()],
    "loss": trainer.callback_metrics["train/loss"].item(),
    "explained": trainer.callback_metrics["val/explained/slice1"].item(),
}
Path(sys.argv[1], f"{devices}-{trainer.global_rank}.json").write_text(json.dumps(result))
end_group()
"""


@pytest.mark.slow
@pytest.mark.ddp
def test_two_ranks_train_as_one_on_the_joined_batch(tmp_path: Path):
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    for devices in (1, 2):
        words = [sys.executable, str(script), str(tmp_path), str(devices)]
        assert subprocess.run(words, check=False, timeout=240).returncode == 0
    one, *two = (
        json.loads((tmp_path / f"{name}.json").read_text()) for name in ("1-0", "2-0", "2-1")
    )
    for rank in two:
        assert rank["weights"] == pytest.approx(one["weights"], rel=1e-5)
        assert rank["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert rank["explained"] == pytest.approx(one["explained"], abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_slices": 1}, "at least 2 subspaces"),
        ({"principal_slice": 2}, "principal_subspace is 2"),
        ({"slice_dim": 0}, "slice_dim is 0"),
        ({"n_slices": 3}, "512"),
        ({"positives": "disjoint", "objective": "info_max"}, "take sub_info_max"),
        ({"regularizers": [Orthogonality(1.0), Orthogonality(2.0)]}, "give each once"),
        ({"temperature": 0.0}, "temperature"),
    ],
)
def test_refuses_settings_that_do_not_fit(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        ContrastiveDisentangler(**(SMALL | settings))


def test_refuses_data_without_views_and_more_tasks_than_slices(tmp_path: Path):
    dataset = DigitScenes(n_train=64, n_val=8, n_test=8)
    with pytest.raises(UserError, match="use PairDataModule or ViewDataModule"):
        _train(ContrastiveDisentangler(**SMALL), LabelledDataModule(dataset), tmp_path)
    data = _data(tasks=["digit", "background", "location"])
    with pytest.raises(UserError, match="3 tasks, but n_slices is 2"):
        _train(ContrastiveDisentangler(**SMALL, positives="disjoint"), data, tmp_path)
