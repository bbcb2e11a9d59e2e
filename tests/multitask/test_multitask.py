import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.cli import LightningCLI
from sklearn.metrics import f1_score
from torch import nn

from detaux_pl.artifacts.labels import IGNORED
from detaux_pl.data.batch import Batch
from detaux_pl.data.datasets.digit_scenes import DigitScenes
from detaux_pl.data.modules import LabelledDataModule
from detaux_pl.multitask.base import MultitaskModel, mean_cross_entropy
from detaux_pl.multitask.hard_parameter_sharing import HardParameterSharing
from detaux_pl.multitask.single_task import SingleTask
from detaux_pl.multitask.weighting.base import Weighting
from detaux_pl.multitask.weighting.equal import EqualWeighting
from detaux_pl.multitask.weighting.fixed import FixedWeighting
from detaux_pl.multitask.weighting.uncertainty import UncertaintyWeighting
from tests.ranks import Spawned

# Lightning's utilities and torch's pytree disagree about a deprecated class.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")

SHAPE = (3, 16, 16)


class Linear(MultitaskModel):
    """The smallest architecture: no batch statistics, no dropout."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        task_sizes: tuple[int, ...],
        weighting: Weighting | None = None,
        lr: float = 1e-2,
        weight_decay: float = 5e-3,
        lr_schedule: str = "constant",
    ) -> None:
        super().__init__(task_sizes, weighting, lr, weight_decay, lr_schedule=lr_schedule)
        self.heads = nn.ModuleList(nn.Linear(math.prod(image_shape), n) for n in task_sizes)

    def represent(self, images):
        return (images.flatten(1),)

    def classify(self, features):
        return tuple(head(features[0]) for head in self.heads)

    def shared_parameters(self):
        return []


class PartlyLabelled(LabelledDataModule):
    """Two thirds of the auxiliary labels left out, and all of them in the first half batch."""

    def build_targets(self):
        targets = super().build_targets()
        targets[::3, 1] = IGNORED
        targets[1::3, 1] = IGNORED
        return targets


@pytest.fixture(autouse=True)
def seeded(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    seed_everything(0, verbose=False)


def datamodule(cls=LabelledDataModule, n_train=128, batch_size=32, n_eval=40):
    dataset = DigitScenes(n_train=n_train, n_val=n_eval, n_test=n_eval, n_locations=4)
    return cls(dataset, auxiliary="location", batch_size=batch_size)


def trainer(tmp_path, **kwargs):
    settings = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": tmp_path,
    }
    return Trainer(**settings | kwargs)


def batch(n=8, task_sizes=(10, 4)):
    targets = torch.stack([torch.randint(size, (n,)) for size in task_sizes], dim=1)
    return Batch(torch.rand(n, *SHAPE), targets, torch.arange(n))


def quiet(model):
    """A model whose logging outside a Trainer is collected."""
    logged = {}
    model.log_dict = model.log_means = lambda values, *args, **kwargs: logged.update(values)
    return model, logged


# Losses


def test_mean_cross_entropy_of_full_labels_is_torchs():
    logits, targets = torch.randn(6, 5), torch.randint(5, (6,))
    torch.testing.assert_close(
        mean_cross_entropy(logits, targets), F.cross_entropy(logits, targets)
    )


def test_left_out_samples_count_as_zero():
    logits = torch.randn(4, 5, dtype=torch.float64)
    targets = torch.tensor([3, IGNORED, 0, IGNORED])
    naive = -sum(math.log(logits[i].softmax(0)[targets[i]]) for i in (0, 2)) / 4
    assert mean_cross_entropy(logits, targets).item() == pytest.approx(naive, rel=1e-12)


@pytest.mark.parametrize("n", [0, 3])
def test_no_label_at_all_is_a_connected_zero(n):
    logits = torch.randn(n, 5, requires_grad=True)
    loss = mean_cross_entropy(logits, torch.full((n,), IGNORED))
    loss.backward()
    assert loss.item() == 0.0
    assert not logits.grad.any()


def test_unlabelled_task_leaves_every_parameter_in_the_graph():
    model, logged = quiet(HardParameterSharing(SHAPE, (10, 4), "small_convnet"))
    given = batch()
    given.targets[:, 1] = IGNORED
    model.training_step(given, 0).backward()
    assert logged["train/loss/auxiliary"] == 0.0
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("weighting", [EqualWeighting(), FixedWeighting([10.0, 1.0]), None])
def test_training_loss_is_the_weighted_loss_of_the_tasks(weighting):
    model, logged = quiet(Linear(SHAPE, (10, 4), weighting))
    given = batch()
    loss = model.training_step(given, 0)
    first, second = (
        F.cross_entropy(logits, given.targets[:, t]) for t, logits in enumerate(model(given.images))
    )
    torch.testing.assert_close(logged["train/loss/principal"], first)
    torch.testing.assert_close(logged["train/loss/auxiliary"], second)
    w = logged["train/weight/principal"]
    torch.testing.assert_close(loss, w * first + logged["train/weight/auxiliary"] * second)
    assert w == (10.0 if isinstance(weighting, FixedWeighting) else 1.0)


def test_single_task_logs_no_weight_and_ignores_other_labels():
    model, logged = quiet(SingleTask(SHAPE, (10, 4), "small_convnet"))
    model.training_step(batch(), 0)
    assert logged.keys() == {"train/loss", "train/loss/principal"}
    assert len(model(torch.rand(2, *SHAPE))) == 1


def test_any_number_of_tasks():
    model, logged = quiet(HardParameterSharing(SHAPE, (10, 4, 3), "small_convnet"))
    given = batch(task_sizes=(10, 4, 3))
    model.training_step(given, 0)
    assert [z.shape[1] for z in model(given.images)] == [10, 4, 3]
    assert {"train/loss/auxiliary1", "train/weight/auxiliary2"} <= logged.keys()


# Construction


@pytest.mark.parametrize(
    ("backbone", "size"), [("small_convnet", 16), ("resnet18", 32), ("vgg16", 64)]
)
def test_heads_fit_every_backbone(backbone, size):
    model = HardParameterSharing((1, size, size), (10, 4), backbone, hidden=8).eval()
    with torch.no_grad():
        logits = model(torch.rand(2, 1, size, size))
    assert [tuple(z.shape) for z in logits] == [(2, 10), (2, 4)]


def test_bad_tasks_are_refused():
    with pytest.raises(ValueError, match="take SingleTask"):
        HardParameterSharing(SHAPE, (10,), "small_convnet")
    with pytest.raises(ValueError, match="at least 2 classes"):
        HardParameterSharing(SHAPE, (10, 1), "small_convnet")
    with pytest.raises(ValueError, match="3 weights for 2 tasks"):
        HardParameterSharing(SHAPE, (10, 4), "small_convnet", weighting=FixedWeighting([1, 1, 1]))


def test_arms_of_one_seed_start_alike():
    seed_everything(3, verbose=False)
    alone = SingleTask(SHAPE, (10, 4), "small_convnet")
    seed_everything(3, verbose=False)
    shared = HardParameterSharing(SHAPE, (10, 4), "small_convnet")
    for one, other in ((alone.backbone, shared.backbone), (alone.head, shared.heads[0])):
        state = other.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in one.state_dict().items())


def test_learnt_weights_do_not_decay():
    model = HardParameterSharing(SHAPE, (10, 4), "small_convnet", weight_decay=0.3)
    model.trainer = SimpleNamespace(gradient_clip_val=None)
    networks, weighting = model.configure_optimizers().param_groups
    assert networks["weight_decay"] == 0.3
    assert weighting["weight_decay"] == 0.0
    assert [id(p) for p in weighting["params"]] == [id(model.weighting.log_variances)]
    assert len(networks["params"]) + 1 == len(list(model.parameters()))
    alone = SingleTask(SHAPE, (10, 4), "small_convnet")
    alone.trainer = SimpleNamespace(gradient_clip_val=None)
    assert len(alone.configure_optimizers().param_groups) == 1


# Training


def test_training_beats_chance_and_the_metrics_are_right(tmp_path):
    data = datamodule(n_train=512, n_eval=200)
    model = HardParameterSharing(data.image_shape, data.task_sizes, "small_convnet", hidden=64)
    fitting = trainer(tmp_path, max_epochs=5)
    fitting.fit(model, data)
    metrics = {name: value.item() for name, value in fitting.callback_metrics.items()}
    assert metrics["val/accuracy/auxiliary"] > 0.9
    assert metrics["train/loss/principal"] < math.log(10)
    # The principal task has the larger loss, so that its weight falls faster.
    assert metrics["train/weight/principal"] < metrics["train/weight/auxiliary"]

    model.eval()
    rows = data.dataset.rows("train")
    with torch.no_grad():
        guess = model(data.images(rows))[0].argmax(1)
    assert (guess == data.targets[rows, 0]).float().mean() > 0.3

    (tested,) = fitting.test(model, data, verbose=False)
    rows = data.dataset.rows("test")
    with torch.no_grad():
        logits = model(data.images(rows))
    for task, z, y in zip(model.task_names, logits, data.targets[rows].T, strict=True):
        accuracy = (z.argmax(1) == y).double().mean().item()
        macro = f1_score(y, z.argmax(1), average="macro")
        assert tested[f"test/accuracy/{task}"] == pytest.approx(accuracy, abs=1e-6)
        assert tested[f"test/f1/{task}"] == pytest.approx(macro, abs=1e-6)
    loss = F.cross_entropy(logits[0], data.targets[rows, 0]).item()
    assert tested["test/loss/principal"] == pytest.approx(loss, rel=1e-5)
    predicted = fitting.predict(model, data)
    assert [len(task) for task in zip(*predicted, strict=True)] == [len(predicted)] * 2


def test_metrics_leave_out_what_has_no_label(tmp_path):
    data = datamodule(PartlyLabelled, n_eval=60)
    model = Linear(data.image_shape, data.task_sizes)
    (tested,) = trainer(tmp_path).test(model, data, verbose=False)
    rows = data.dataset.rows("test")
    with torch.no_grad():
        guess = model(data.images(rows))[1].argmax(1)
    y = data.targets[rows, 1]
    assert (y == IGNORED).any()
    accuracy = (guess == y)[y != IGNORED].double().mean().item()
    assert tested["test/accuracy/auxiliary"] == pytest.approx(accuracy, abs=1e-6)


def test_an_empty_evaluation_batch_changes_nothing():
    model, logged = quiet(Linear(SHAPE, (10, 4)))
    given = batch()
    model.validation_step(given, 0)
    before = {key: metric.compute().item() for key, metric in logged.items()}
    model.validation_step(Batch(*(part[:0] for part in given)), 0)
    assert len(logged) == 6
    assert before == {key: metric.compute().item() for key, metric in logged.items()}


@pytest.mark.parametrize("lr_schedule", ["constant", "cosine"])
def test_resumed_run_equals_an_undisturbed_one(tmp_path, lr_schedule):
    def fit(folder, ckpt_path=None):
        torch.manual_seed(ckpt_path is not None)
        data = datamodule()
        model = HardParameterSharing(
            data.image_shape, data.task_sizes, "small_convnet", hidden=16, lr_schedule=lr_schedule
        )
        keep = LambdaCallback(
            on_train_epoch_end=lambda t, _: t.save_checkpoint(folder / f"{t.current_epoch}.ckpt")
        )
        fitting = trainer(tmp_path, max_epochs=3, callbacks=[keep])
        fitting.fit(model, data, ckpt_path=ckpt_path, weights_only=True)
        return model.state_dict(), fitting.optimizers[0].param_groups[0]["lr"]

    whole, lr = fit(tmp_path / "whole")
    assert lr == pytest.approx(5e-4 if lr_schedule == "constant" else 0.0, abs=1e-9)
    for epoch in (0, 1):
        resumed, _ = fit(tmp_path / str(epoch), tmp_path / "whole" / f"{epoch}.ckpt")
        for key, value in whole.items():
            assert torch.equal(value, resumed[key]), key


def test_cosine_needs_an_end(tmp_path):
    data = datamodule()
    model = Linear(data.image_shape, data.task_sizes, lr_schedule="cosine")
    with pytest.raises(ValueError, match="give the trainer max_epochs or max_steps"):
        trainer(tmp_path, max_epochs=-1).fit(model, data)


@pytest.mark.parametrize("weighting", [UncertaintyWeighting, lambda: FixedWeighting([10.0, 1.0])])
def test_checkpoints_are_plain_and_load(tmp_path, weighting):
    data = datamodule()
    model = HardParameterSharing(
        data.image_shape, data.task_sizes, "small_convnet", weighting=weighting()
    )
    fitting = trainer(tmp_path, max_epochs=1)
    fitting.fit(model, data)
    fitting.save_checkpoint(tmp_path / "last.ckpt")
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"]["task_sizes"] == (10, 4)
    assert "weighting" not in checkpoint["hyper_parameters"]
    loaded = HardParameterSharing.load_from_checkpoint(
        tmp_path / "last.ckpt", weights_only=True, weighting=weighting()
    )
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name
    assert torch.equal(model.weighting.weights, loaded.weighting.weights)


def test_command_line_composes_architecture_and_weighting(monkeypatch):
    monkeypatch.setattr("sys.argv", ["detaux"])
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")

    class LinkedCLI(LightningCLI):
        def add_arguments_to_parser(self, parser):
            for name in ("image_shape", "task_sizes"):
                parser.link_arguments(
                    f"data.{name}", f"model.init_args.{name}", apply_on="instantiate"
                )

    cli = LinkedCLI(
        MultitaskModel,
        LabelledDataModule,
        subclass_mode_model=True,
        run=False,
        save_config_callback=None,
        seed_everything_default=0,
        trainer_defaults={"logger": False, "accelerator": "cpu"},
        args=[
            "--data.dataset=detaux_pl.data.datasets.digit_scenes.DigitScenes",
            "--data.auxiliary=location",
            "--model=detaux_pl.multitask.hard_parameter_sharing.HardParameterSharing",
            "--model.backbone=small_convnet",
            "--model.weighting=detaux_pl.multitask.weighting.fixed.FixedWeighting",
            "--model.weighting.weights=[10, 1]",
        ],
    )
    assert cli.model.weighting.weights.tolist() == [10.0, 1.0]
    assert cli.model.task_names == ("principal", "auxiliary")
    assert [head[-1].out_features for head in cli.model.heads] == [10, 8]


@pytest.mark.ddp
def test_two_ranks_equal_one_on_the_joined_batch(tmp_path):
    def fit(devices, batch_size):
        seed_everything(0, verbose=False)
        data = datamodule(PartlyLabelled, n_train=48, batch_size=batch_size, n_eval=5)
        model = Linear(data.image_shape, data.task_sizes, UncertaintyWeighting())
        fitting = trainer(
            tmp_path,
            max_epochs=2,
            devices=devices,
            strategy=Spawned() if devices > 1 else "auto",
        )
        fitting.fit(model, data)
        return model.state_dict(), fitting.callback_metrics

    one, metrics_of_one = fit(devices=1, batch_size=16)
    two, metrics_of_two = fit(devices=2, batch_size=8)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-6, rtol=1e-5)
    for name, value in metrics_of_one.items():
        torch.testing.assert_close(metrics_of_two[name], value, atol=1e-6, rtol=1e-5)
