"""What holds for every disentangler, those of later files included."""

import inspect
import pkgutil
from importlib import import_module

import pytest
import torch
from lightning import Callback, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

import detaux_pl.disentangle
from detaux_pl.disentangle.autoencoding import AutoencodingDisentangler
from detaux_pl.disentangle.base import Disentangler
from detaux_pl.disentangle.product_manifold import ProductManifoldAutoencoder

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    # Lightning's utilities and torch's pytree disagree about a deprecated class.
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
]

for module in pkgutil.iter_modules(detaux_pl.disentangle.__path__, "detaux_pl.disentangle."):
    import_module(module.name)


def subclasses(base):
    for child in base.__subclasses__():
        yield from subclasses(child)
        if not inspect.isabstract(child) and child.__module__.startswith("detaux_pl."):
            yield child


KINDS = sorted(subclasses(Disentangler), key=lambda kind: kind.__name__)
EPOCHS = 6


def build(kind, scenes, **kwargs):
    """Build a small model, given what the command line takes from the data."""
    given = {"image_shape": scenes.image_shape, "n_classes": scenes.n_classes, "lr": 1e-3}
    known = inspect.signature(kind).parameters
    torch.manual_seed(0)
    return kind(**{name: value for name, value in {**given, **kwargs}.items() if name in known})


class Killed(Exception):
    pass


class KillAt(Callback):
    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == self.epoch:
            raise Killed


class Record(Callback):
    """Keeps the error of the reconstruction, where there is one: constraints come in later."""

    def __init__(self):
        self.losses = []

    def on_train_epoch_end(self, trainer, pl_module):
        logged = trainer.callback_metrics
        self.losses.append(logged.get("train/reconstruction", logged["train/loss"]).item())


@pytest.mark.parametrize("kind", KINDS)
def test_learns_and_gives_codes(kind, scenes, pairs, make_trainer):
    model, record = build(kind, scenes), Record()
    trainer = make_trainer(max_epochs=EPOCHS, callbacks=[record])
    trainer.fit(model, datamodule=pairs)
    assert record.losses[-1] < 0.7 * record.losses[0]
    assert torch.isfinite(trainer.callback_metrics["val/loss"])

    codes = torch.cat(trainer.predict(model, datamodule=pairs))
    assert codes.shape[:2] == (len(scenes), model.n_subspaces)
    assert codes.dtype == torch.float32
    assert 0 <= model.principal_subspace < model.n_subspaces
    images = pairs.images(scenes.rows("test"))
    with torch.no_grad():
        again = model.eval().encode(images)
    torch.testing.assert_close(again, codes[scenes.rows("test")], rtol=1e-4, atol=1e-5)
    if isinstance(model, AutoencodingDisentangler):
        with torch.no_grad():
            assert model.decode(again).shape == images.shape


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("lr_schedule", "killed_at"), [("constant", 2), ("cosine", 5)])
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* is not empty")
def test_resumed_run_equals_an_undisturbed_one(
    kind, lr_schedule, killed_at, scenes, pairs, make_trainer, tmp_path
):
    def fit(name, ckpt_path=None, callbacks=()):
        seed_everything(3, verbose=False)
        model = build(kind, scenes, lr_schedule=lr_schedule)
        checkpoint = ModelCheckpoint(tmp_path / name, save_last=True)
        trainer = make_trainer(
            max_epochs=EPOCHS, enable_checkpointing=True, callbacks=[checkpoint, *callbacks]
        )
        trainer.fit(model, datamodule=pairs, ckpt_path=ckpt_path)
        return model.state_dict()

    undisturbed = fit("undisturbed")
    with pytest.raises(Killed):
        fit("resumed", callbacks=[KillAt(killed_at)])
    resumed = fit("resumed", ckpt_path=tmp_path / "resumed" / "last.ckpt")
    assert undisturbed.keys() == resumed.keys()
    for name, value in undisturbed.items():
        assert torch.equal(value, resumed[name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoint_holds_only_plain_values(kind, scenes, pairs, make_trainer, tmp_path):
    model, path = build(kind, scenes, lr_schedule="cosine"), tmp_path / "model.ckpt"
    trainer = make_trainer(max_epochs=1)
    trainer.fit(model, datamodule=pairs)
    trainer.save_checkpoint(path)
    checkpoint = torch.load(path, weights_only=True)
    assert tuple(checkpoint["hyper_parameters"]["image_shape"]) == scenes.image_shape
    loaded = kind.load_from_checkpoint(path, weights_only=True)
    images = pairs.images(scenes.rows("val"))
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval().encode(images), model.eval().encode(images))


def test_epochs_are_seeded_at_their_first_batch(scenes, monkeypatch):
    model = build(ProductManifoldAutoencoder, scenes)

    def draw(batch_idx):
        torch.manual_seed(5)
        model.on_train_batch_start(None, batch_idx)
        return torch.rand(1).item()

    assert draw(0) != draw(1)
    monkeypatch.delenv("PL_GLOBAL_SEED")
    assert draw(0) == draw(1)


@pytest.mark.parametrize("optimizer", ["adamw", "adam"])
def test_optimizer(optimizer, scenes, pairs, make_trainer):
    model = build(
        ProductManifoldAutoencoder, scenes, optimizer=optimizer, lr=1e-3, lr_schedule="cosine"
    )
    trainer = make_trainer(max_epochs=1, gradient_clip_val=1.0)
    trainer.fit(model, datamodule=pairs)
    (used,) = trainer.optimizers
    assert type(used).__name__.lower() == optimizer
    assert used.param_groups[0]["initial_lr"] == 1e-3
    assert used.param_groups[0]["lr"] == pytest.approx(0)
    assert not used.param_groups[0]["fused"]  # gradients are clipped


def test_cosine_schedule_without_an_end_is_refused(scenes, pairs, make_trainer):
    model = build(ProductManifoldAutoencoder, scenes, lr_schedule="cosine")
    with pytest.raises(ValueError, match="give the trainer max_epochs or max_steps"):
        make_trainer(max_epochs=-1).fit(model, datamodule=pairs)


@pytest.mark.parametrize(("lr", "weight_decay"), [(0.0, 0.0), (1e-3, -1.0)])
def test_optimizer_settings_out_of_range_are_refused(lr, weight_decay, scenes):
    with pytest.raises(ValueError, match="lr must be positive"):
        build(ProductManifoldAutoencoder, scenes, lr=lr, weight_decay=weight_decay)
