"""Remedies for groups on which a classifier fails: against naive loops, closed forms, and peers."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning import Trainer
from sklearn.linear_model import LogisticRegression

from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.labels import IGNORED
from detaux_pl.artifacts.predictions import Predictions
from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.cli.main import main
from detaux_pl.data.balance import draw_balanced
from detaux_pl.data.batch import Batch
from detaux_pl.data.datasets.digit_scenes import DigitScenes
from detaux_pl.data.modules import LabelledDataModule
from detaux_pl.inference.checkpoint import read_checkpoint
from detaux_pl.metrics.worst_cell import worst_accuracy
from detaux_pl.models.linear_probe import STRENGTHS
from detaux_pl.multitask.balanced_sampling import BalancedSampling
from detaux_pl.multitask.cells import WorstCell, cell_of
from detaux_pl.multitask.class_scaling import ClassScaling, choose_scales
from detaux_pl.multitask.group_adversary import GroupAdversary
from detaux_pl.multitask.group_dro import GroupDRO
from detaux_pl.multitask.joint_labels import JointLabels
from detaux_pl.multitask.last_layer_retraining import LastLayerRetraining, fit_balanced
from detaux_pl.multitask.remedy import Remedy
from detaux_pl.multitask.single_task import SingleTask
from tests.found import check_refusal, classes
from tests.ranks import fork_ranks

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")

SHAPE, SIZES = (3, 16, 16), (10, 4)
SMALL: dict[str, Any] = {"backbone": "small_convnet", "hidden": 8, "dropout": 0.0}


def built(cls: type[Remedy], sizes: tuple[int, ...] = SIZES, **given: Any) -> Any:
    torch.manual_seed(0)
    model = cls(SHAPE, sizes, **SMALL, **given)
    model.log_means = lambda *args, **kwargs: None
    return model.double().eval()


def batch(n: int, sizes: tuple[int, ...] = SIZES, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    columns = [torch.randint(size, (n,), generator=generator) for size in sizes]
    images = torch.rand(n, *SHAPE, generator=generator, dtype=torch.float64)
    return Batch(images, torch.stack(columns, dim=1), torch.arange(n))


class Rare(LabelledDataModule):
    """Cell (digit 0, place 0) is not in train; of the digits 1 no place is known."""

    def build_targets(self):
        targets = super().build_targets()
        first = (targets == 0).all(axis=1)
        first[self.dataset.splits != 0] = False
        targets[first, 1] = 1
        targets[targets[:, 0] == 1, 1] = IGNORED
        return targets


def module(cls: type[LabelledDataModule] = LabelledDataModule, n: int = 240) -> LabelledDataModule:
    data = cls(
        DigitScenes(n_train=n, n_val=n, n_test=8, n_locations=4),
        auxiliary="location", batch_size=16, eval_batch_size=100,
    )  # fmt: skip
    data.setup("fit")
    return data


def trainer(**given: Any) -> Trainer:
    return Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, use_distributed_sampler=False, **given,
    )  # fmt: skip


# Cells


def test_cells_of_several_tasks_and_of_none():
    targets = torch.tensor([[1, 2, 3], [0, 0, 0], [1, 2, IGNORED], [IGNORED, 0, 0]])
    assert cell_of(targets, (2, 3, 4)).tolist() == [1 * 12 + 2 * 4 + 3, 0, IGNORED, IGNORED]


def naive_worst(right: list[bool], cells: list[int], n_cells: int) -> float:
    parts = [[r for r, c in zip(right, cells, strict=True) if c == k] for k in range(n_cells)]
    pool = [r for part in parts if len(part) < 10 for r in part]
    judged = [part for part in [*parts, pool] if len(part) >= 10]
    if not judged:
        judged = [pool]
    every = [r for part in parts for r in part]
    return min(sum(part) / len(part) for part in judged) + 1e-4 * sum(every) / len(every)


@pytest.mark.parametrize("n", [5, 40, 300])
def test_the_worst_cell_is_that_of_a_naive_loop(n):
    rng = np.random.default_rng(n)
    cells, right = rng.choice(6, n, p=[0.5, 0.3, 0.1, 0.05, 0.03, 0.02]), rng.random(n) < 0.7
    metric = WorstCell(6)
    for part in np.array_split(np.arange(n), 3):
        metric.update(torch.from_numpy(right[part]), torch.from_numpy(cells[part]))
    metric.update(torch.zeros(4, dtype=bool), torch.full((4,), IGNORED))
    expected = naive_worst(right.tolist(), cells.tolist(), 6)
    assert metric.compute().item() == pytest.approx(expected, rel=1e-6)


def test_without_an_image_the_worst_cell_is_zero():
    assert worst_accuracy(np.zeros(3), np.zeros(3)) == 0


# Balanced sampling


def test_an_epoch_has_each_cell_as_often_and_in_it_each_image():
    rng = np.random.default_rng(0)
    labels = np.stack([rng.integers(3, size=400), rng.choice(4, 400, p=[0.9, 0.06, 0.04, 0])], 1)
    labels[:50, 1] = IGNORED
    rows = 1000 + np.arange(400)
    drawn = draw_balanced(labels, rows, rng)
    times = np.bincount(drawn - 1000, minlength=400)
    assert len(drawn) == 400
    assert (times[:50] == 1).all()
    cells = labels[50:] @ [4, 1]
    shares = [times[50:][cells == cell].sum() for cell in np.unique(cells)]
    assert len(shares) == 9
    assert set(shares) <= {350 // 9, 350 // 9 + 1}
    assert all(np.ptp(times[50:][cells == cell]) <= 1 for cell in np.unique(cells))
    assert not np.array_equal(drawn, draw_balanced(labels, rows, rng))


def test_without_any_group_sampling_is_a_permutation():
    drawn = draw_balanced(np.full((7, 2), IGNORED), np.arange(7), np.random.default_rng(0))
    assert sorted(drawn) == list(range(7))


def test_a_model_says_how_its_training_images_are_drawn():
    data = module()

    for cls, balanced in ((BalancedSampling, True), (SingleTask, False)):
        trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0).fit(
            cls(SHAPE, SIZES, **SMALL), datamodule=data
        )
        drawn = torch.cat([b.rows for b in data.train_dataloader()])
        assert len(drawn) == 240
        cells = torch.bincount(cell_of(data.targets[drawn], SIZES), minlength=40)
        assert (int(cells.max() - cells.min()) <= 1) == balanced
        assert (len(drawn.unique()) < 240) == balanced
    seen = torch.cat([b.rows for b in data.val_dataloader()])
    assert sorted(seen.tolist()) == data.dataset.rows("val").tolist()


# GroupDRO


def naive_dro(
    logits: list[torch.Tensor], targets: list[torch.Tensor], eta: float, adjustments: list[float]
) -> tuple[list[torch.Tensor], list[float]]:
    """Algorithm 1 of the paper by batches, in loops."""
    q = [1 / 40] * 40
    losses = []
    for z, y in zip(logits, targets, strict=True):
        sums: dict[int, list[torch.Tensor]] = {}
        lone = []
        for row, (label, group) in zip(z, y.tolist(), strict=True):
            loss = -(row - row.logsumexp(0))[label]
            if group == IGNORED:
                lone.append(loss)
            else:
                sums.setdefault(4 * label + group, []).append(loss)
        means = {g: sum(part) / len(part) for g, part in sums.items()}
        for g, mean in means.items():
            q[g] *= math.exp(eta * (mean.item() + adjustments[g]))
        q = [value / sum(q) for value in q]
        robust = sum(q[g] * mean for g, mean in means.items())
        share = len(lone) / len(y)
        losses.append((1 - share) * robust + sum(lone, torch.tensor(0.0)) / len(y))
    return losses, q


def test_group_dro_is_that_of_a_naive_loop():
    model = built(GroupDRO, step_size=0.3)
    adjustments = torch.linspace(0, 2, 40).double()
    model._adjustments = adjustments
    generator = torch.Generator().manual_seed(0)
    batches = [batch(n, seed=n) for n in (12, 5, 30)]
    for part in batches:
        part.targets[1::4, 1] = IGNORED
    logits = [
        torch.randn(len(b.rows), 10, generator=generator).double().requires_grad_() for b in batches
    ]
    losses, q = naive_dro(logits, [b.targets for b in batches], 0.3, adjustments.tolist())
    expected = torch.autograd.grad(sum(losses), logits)
    ours = [model.principal_loss(z, b.targets) for z, b in zip(logits, batches, strict=True)]
    torch.testing.assert_close(torch.stack(ours), torch.stack(losses), rtol=1e-9, atol=0)
    q_of = torch.tensor(q, dtype=torch.float64)
    torch.testing.assert_close(model.group_weights, q_of, rtol=1e-9, atol=0)
    gradients = torch.autograd.grad(sum(ours), logits)
    torch.testing.assert_close(gradients, expected, rtol=1e-9, atol=1e-15)


def test_a_batch_without_any_group_has_the_mean_loss():
    model, given = built(GroupDRO), batch(6)
    given.targets[:, 1] = IGNORED
    logits = torch.randn(6, 10).double()
    before = model.group_weights
    expected = F.cross_entropy(logits, given.targets[:, 0])
    torch.testing.assert_close(model.principal_loss(logits, given.targets), expected)
    torch.testing.assert_close(model.group_weights, before)


def test_cells_without_a_training_image_have_no_weight_and_checkpoints_keep_the_weights():
    data = module(Rare)
    model = GroupDRO(SHAPE, SIZES, **SMALL, step_size=0.1, adjustment=2.0)
    trainer(max_epochs=1, limit_val_batches=1).fit(model, datamodule=data)
    cells = cell_of(data.targets[:240], SIZES)
    counts = torch.bincount(cells[cells >= 0], minlength=40)
    assert counts[0] == counts[4:8].sum() == 0
    assert torch.equal(model.group_weights > 0, counts > 0)
    assert model.group_weights.sum() == pytest.approx(1)
    there = counts > 0
    torch.testing.assert_close(model._adjustments[there], 2 / counts[there].sqrt())
    again = GroupDRO(SHAPE, SIZES, **SMALL)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.group_weights, model.group_weights)


# Joint labels


def test_joint_labels_are_a_softmax_over_cells_and_the_class_its_marginal():
    sizes = (3, 2, 4)
    model, given = built(JointLabels, sizes), batch(9, sizes)
    given.targets[2, 1] = given.targets[4, 2] = given.targets[5, 1] = IGNORED
    given.targets[5, 2] = IGNORED
    features = model.represent(given.images)
    joint = model.head(features[0]).softmax(dim=1).view(-1, *sizes)
    for task, logits in enumerate(model.classify(features)):
        for i in range(9):
            marginal = [joint[i].select(task, k).sum().item() for k in range(sizes[task])]
            assert logits[i].softmax(0).tolist() == pytest.approx(marginal, rel=1e-9)
    expected = 0.0
    for i, labels in enumerate(given.targets.tolist()):
        kept = joint[i]
        for label in labels:
            kept = kept.sum(dim=0) if label == IGNORED else kept[label]
        expected -= kept.log() / 9
    losses = model.task_losses(features, given.targets)
    torch.testing.assert_close(losses.sum(), expected, rtol=1e-9, atol=0)
    marginal = F.cross_entropy(model.classify(features)[0], given.targets[:, 0])
    torch.testing.assert_close(losses[0], marginal, rtol=1e-9, atol=0)
    losses.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


# The adversary


def test_gradients_of_the_adversary_are_those_of_two_steps():
    model, given = built(GroupAdversary, strength=0.7), batch(12)
    given.targets[3, 1] = IGNORED
    model.progress = 0.1
    model.training_step(given, 0).backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters()}
    factor = 0.7 * (2 / (1 + math.exp(-1)) - 1)
    backbone, head = list(model.backbone.parameters()), list(model.heads[0].parameters())
    adversary = list(model.heads[1].parameters())
    features = model.backbone(given.images).flatten(1)
    y, a = given.targets.unbind(1)
    told = F.cross_entropy(model.heads[0](features), y)
    groups = F.cross_entropy(model.heads[1](features), a, ignore_index=IGNORED) * 11 / 12
    classes_of = torch.autograd.grad(told, [*backbone, *head], retain_graph=True)
    groups_of = torch.autograd.grad(groups, [*backbone, *adversary])
    n = len(backbone)
    mixed = [c - factor * g for c, g in zip(classes_of[:n], groups_of[:n], strict=True)]
    expected = [*mixed, *classes_of[n:], *groups_of[n:]]
    parameters = [*backbone, *head, *adversary]
    assert len(parameters) == len(ours)
    names = {id(p): name for name, p in model.named_parameters()}
    for parameter, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(ours[names[id(parameter)]], gradient, rtol=1e-9, atol=1e-14)


def test_the_adversary_grows_with_the_training():
    strengths = []

    class Noted(GroupAdversary):
        def on_train_batch_end(self, *_: Any) -> None:
            strengths.append(self.progress)

    model = Noted(SHAPE, SIZES, **SMALL)
    trainer(max_epochs=2, limit_train_batches=5, limit_val_batches=0).fit(model, module())
    assert strengths == pytest.approx(np.arange(10) / 10)
    with pytest.raises(ValueError, match="max_epochs or max_steps"):
        trainer(max_epochs=-1, max_steps=-1).fit(Noted(SHAPE, SIZES, **SMALL), module())


def test_groups_are_told_beside_the_class_and_change_nothing_of_it():
    given = batch(12)
    model = built(BalancedSampling)
    model.training_step(given, 0).backward()
    torch.manual_seed(0)
    plain = SingleTask(SHAPE, SIZES, **SMALL).double().eval()
    plain.log_means = model.log_means
    plain.training_step(given, 0).backward()
    for mine, alone in zip(model.backbone.parameters(), plain.backbone.parameters(), strict=True):
        assert torch.equal(mine, alone)
        assert torch.equal(mine.grad, alone.grad)
    assert all(p.grad.abs().sum() > 0 for p in model.heads[1].parameters())


# Class-specific scaling


def naive_scales(logits: Any, labels: Any, cells: Any, n_cells: int) -> list[float]:
    n, n_classes = logits.shape
    scales = [0.0] * n_classes

    def score(tried: list[float]) -> float:
        right = []
        for i in range(n):
            values = [logits[i][k] + tried[k] for k in range(n_classes)]
            right.append(values.index(max(values)) == labels[i])
        return naive_worst(right, cells.tolist(), n_cells)

    best = score(scales)
    for _ in range(10):
        before = best
        for k in range(n_classes):
            values = [score([*scales[:k], j / 20, *scales[k + 1 :]]) for j in range(-100, 101)]
            if max(values) > best:
                best, scales[k] = max(values), (values.index(max(values)) - 100) / 20
        if best == before:
            break
    mean = sum(scales) / n_classes
    return [scale - mean for scale in scales]


def test_scales_are_those_of_a_naive_loop():
    rng = np.random.default_rng(0)
    labels, groups = rng.integers(3, size=45), rng.integers(2, size=45)
    logits = rng.normal(size=(45, 3)) + 2 * np.eye(3)[labels] + [2.0, 0.0, -1.0]
    cells = 2 * labels + groups
    unknown = np.concatenate([cells, np.full(5, IGNORED)])
    ours = choose_scales(np.vstack([logits, logits[:5]]), np.append(labels, labels[:5]), unknown, 6)
    expected = naive_scales(logits, labels, cells, 6)
    assert ours.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert max(expected) > 0.5


# The last layer anew


def test_the_last_layer_is_the_mean_of_scikit_learns_on_the_same_subsets(monkeypatch):
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=300)
    groups = np.where(rng.random(300) < 0.8, labels % 2, 1 - labels % 2)
    features = rng.normal(size=(300, 5)) + 2 * np.eye(5)[labels] + 3 * np.eye(5)[3 + groups]
    cells = 2 * labels + groups
    drawn = []
    real = fit_balanced.__globals__["fit_linear_probe"]

    def noted(x: Any, y: Any, n_classes: int, strengths: list[float]) -> Any:
        drawn.append((x, y, strengths[0]))
        return real(x, y, n_classes, strengths=strengths)

    monkeypatch.setitem(fit_balanced.__globals__, "fit_linear_probe", noted)
    probe = fit_balanced(features, labels, cells, 3, retrainings=4)
    assert [strength for _, _, strength in drawn[:-4]] == list(STRENGTHS)
    smallest = np.bincount(cells).min()
    fits = []
    for x, y, strength in drawn[-4:]:
        assert len(x) == 6 * smallest
        assert np.bincount(y).tolist() == [2 * smallest] * 3
        scale = np.sqrt(np.square(x - x.mean(axis=0)).sum() / len(x))
        peer = LogisticRegression(C=strength, tol=1e-8, max_iter=10_000)
        peer.fit((x - x.mean(axis=0)) / scale, y)
        weight = peer.coef_ / scale
        fits.append((weight, peer.intercept_ - weight @ x.mean(axis=0)))
    np.testing.assert_allclose(probe.weight, np.mean([w for w, _ in fits], axis=0), atol=2e-4)
    np.testing.assert_allclose(probe.bias, np.mean([b for _, b in fits], axis=0), atol=2e-4)


def test_a_lone_row_of_each_cell_is_enough():
    features, labels = np.array([[0.0], [1.0], [3.0], [4.0]]), np.array([0, 0, 1, 1])
    probe = fit_balanced(features, labels, np.arange(4), 2, retrainings=2)
    assert (probe.logits(features).argmax(axis=1) == labels).all()


# Chosen by the worst group, fitted anew, refused


def fit(run: Path, model: str, *words: str) -> list[str]:
    given = {
        "seed_everything": 0, "run_dir": run, "model": model, "model.backbone": "small_convnet",
        "model.hidden": 32, "model.lr": 0.002, "data.dataset": "DigitScenes",
        "data.dataset.n_train": 320, "data.dataset.n_val": 160, "data.dataset.n_test": 40,
        "data.dataset.n_locations": 4, "data.auxiliary": "location", "trainer.max_epochs": 5,
        "trainer.accelerator": "cpu", "trainer.enable_progress_bar": "false",
    }  # fmt: skip
    return ["multitask", "fit", *(f"--{name}={value}" for name, value in given.items()), *words]


@pytest.mark.slow
def test_the_best_epoch_is_that_of_the_worst_group_and_scales_are_of_its_weights(tmp_path):
    assert main(fit(tmp_path, "ClassScaling")) == 0
    folder = StageFolder(tmp_path, "multitask/class_scaling/seed0")
    with (folder.path / "metrics.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    curve = [float(row["val/worst_group"]) for row in rows if row["val/worst_group"]]
    saved = read_checkpoint(folder, "best")
    assert len(curve) == 5
    scales = saved["state_dict"]["log_scales"]
    assert scales.abs().max() > 0
    assert scales.mean().abs() < 1e-6
    found = Predictions.load(folder.path / "predictions.npz", "").of("val")
    unscaled = np.log(found.probabilities["principal"]) - scales.numpy()

    def worst(logits: Any) -> float:
        right = logits.argmax(axis=1) == found.targets[:, 0]
        cells = cell_of(torch.from_numpy(found.targets), SIZES)
        return naive_worst(right.tolist(), cells.tolist(), 40)

    assert worst(unscaled) == pytest.approx(max(curve), abs=1e-6)
    assert worst(unscaled + scales.numpy()) > max(curve)


@pytest.mark.slow
@pytest.mark.ddp
def test_two_ranks_fit_the_last_layer_anew_alike(tmp_path):
    assert fork_ranks(fit(tmp_path, "LastLayerRetraining", "--trainer.devices=2")) == [0, 0]
    folder = StageFolder(tmp_path, "multitask/last_layer_retraining/seed0")
    weights = read_checkpoint(folder, "best")["state_dict"]
    data = module(n=8)
    data.dataset = DigitScenes(n_train=320, n_val=160, n_test=40, n_locations=4)
    data.setup("fit")
    model = LastLayerRetraining(SHAPE, SIZES, backbone="small_convnet", hidden=32)
    model.load_state_dict(weights)
    model.refit(data)
    torch.testing.assert_close(
        model.heads[0][-1].weight.detach(), weights["heads.0.3.weight"], rtol=1e-3, atol=1e-4
    )


class Unknown(LabelledDataModule):
    """No validation image has a group."""

    def build_targets(self):
        targets = super().build_targets()
        targets[self.dataset.splits == 1, 1] = IGNORED
        return targets


@pytest.mark.parametrize("cls", classes(Remedy), ids=lambda cls: cls.__name__)
def test_groups_that_no_validation_image_has_are_refused(cls):
    model = cls(SHAPE, SIZES, **SMALL)
    with pytest.raises(UserError) as caught:
        trainer(max_epochs=1).fit(model, datamodule=module(Unknown))
    check_refusal(caught.value, "no validation image has a class and a group", cls.__name__)
    with pytest.raises(ValueError, match=f"{cls.__name__} shares between tasks"):
        cls(SHAPE, SIZES[:1], **SMALL)
    with pytest.raises(ValueError, match="at most 1,000,000 in all; give fewer auxiliary tasks"):
        cls(SHAPE, (10, 1000, 1000), **SMALL)


def test_a_class_that_the_last_layer_cannot_be_fitted_to_is_refused():
    model = LastLayerRetraining(SHAPE, SIZES, **SMALL)
    with pytest.raises(UserError) as caught:
        trainer(max_epochs=1).fit(model, datamodule=module(Rare))
    check_refusal(caught.value, "class 1 has no validation image with a group", "1 of 10 classes")


@pytest.mark.parametrize(
    ("cls", "given"),
    [
        (GroupDRO, {"step_size": 0.0}),
        (GroupDRO, {"adjustment": -1.0}),
        (GroupAdversary, {"strength": math.inf}),
        (LastLayerRetraining, {"retrainings": 0}),
    ],
)
def test_what_is_outside_its_range_is_refused(cls, given):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        cls(SHAPE, SIZES, **SMALL, **given)
    check_refusal(caught.value, *given)


def test_scaling_leaves_the_groups_alone():
    model, given = built(ClassScaling), batch(5)
    before = model(given.images)
    model.log_scales += torch.arange(10)
    after = model(given.images)
    torch.testing.assert_close(after[0], before[0] + torch.arange(10))
    assert torch.equal(after[1], before[1])
