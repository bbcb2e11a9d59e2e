"""What holds for every disentangler, those of later files included."""

import inspect
import pkgutil
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch
from lightning import Callback, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

import detaux_pl.disentangle
from detaux_pl.data.batch import Batch
from detaux_pl.disentangle.autoencoding import AutoencodingDisentangler
from detaux_pl.disentangle.base import Disentangler
from detaux_pl.disentangle.pretrained_features import PretrainedFeatures
from detaux_pl.disentangle.product_manifold import ProductManifoldAutoencoder
from detaux_pl.disentangle.raw_pixels import RawPixels
from detaux_pl.settings.build import constructor_defaults

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
TRAINED = [kind for kind in KINDS if kind not in (RawPixels, PretrainedFeatures)]
EPOCHS = 6


def build(kind, scenes, **kwargs):
    """Build a small model, given what the command line takes from the data."""
    given = {
        "image_shape": scenes.image_shape,
        "n_classes": scenes.n_classes,
        "encoder": "small_convnet",
        "likelihood": "gaussian",  # the other one has the entropy of the images for its floor
        "optimizer": "adamw",
        "lr": 1e-3,
        # No weights that would be downloaded.
        "model": "timm/test_resnet",
        "size": 32,
        "pretrained": False,
    }
    known = constructor_defaults(kind)
    torch.manual_seed(0)
    return kind(**{name: value for name, value in {**given, **kwargs}.items() if name in known})


class Linear(Disentangler):
    """Two subspaces of two features each, with weights, biases and scales as real models have."""

    principal_subspace = 0
    n_subspaces = 2
    code_name = "z"

    def __init__(self, lr=0.5, weight_decay=0.1, optimizer="sgd", warmup=0.0):
        super().__init__(lr, weight_decay, optimizer, "constant", warmup)
        self.layer = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.stacked_bias = nn.Parameter(torch.ones(2, 1, 2))

    def encode(self, images):
        features = self.norm(self.layer(images.flatten(1)))
        return (features.view(-1, 2, 2) + self.stacked_bias.transpose(0, 1)).double()


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


@pytest.mark.parametrize("kind", TRAINED)
def test_learns_and_gives_codes(kind, scenes, pairs, make_trainer):
    model, record = build(kind, scenes), Record()
    # A reconstruction falls from the first step, agreement of labels from the tenth epoch or so.
    epochs = EPOCHS if issubclass(kind, AutoencodingDisentangler) else 3 * EPOCHS
    trainer = make_trainer(max_epochs=epochs, callbacks=[record])
    trainer.fit(model, datamodule=pairs)
    assert record.losses[-1] < 0.7 * record.losses[0]
    assert torch.isfinite(trainer.callback_metrics["val/loss"])

    predicted = trainer.predict(model, datamodule=pairs)
    assert {next(iter(batch)) for batch in predicted} == {model.code_name}
    codes = torch.cat([batch[model.code_name] for batch in predicted])
    assert codes.shape[:2] == (len(scenes), model.n_subspaces)
    assert codes.dtype == torch.float32
    assert model.principal_subspace in (None, *range(model.n_subspaces))
    images = pairs.images(scenes.rows("test"))
    with torch.no_grad():
        again = model.eval().encode(images)
    torch.testing.assert_close(again, codes[scenes.rows("test")], rtol=1e-4, atol=1e-5)
    if isinstance(model, AutoencodingDisentangler):
        with torch.no_grad():
            assert model.decode(again).shape == images.shape


# Where no schedule is kept, one model stands for all.
@pytest.mark.parametrize(
    ("kind", "lr_schedule", "killed_at"),
    [
        *((kind, "cosine", 3) for kind in KINDS),
        (ProductManifoldAutoencoder, "constant", 2),
        *(
            pytest.param(kind, "constant", 2, marks=pytest.mark.slow)
            for kind in KINDS
            if kind is not ProductManifoldAutoencoder
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* is not empty")
def test_resumed_run_equals_an_undisturbed_one(
    kind, lr_schedule, killed_at, scenes, pairs, make_trainer, tmp_path
):
    def fit(name, ckpt_path=None, callbacks=()):
        seed_everything(3, verbose=False)
        model = build(kind, scenes, lr_schedule=lr_schedule)
        checkpoint = ModelCheckpoint(tmp_path / name, save_last=True)
        trainer = make_trainer(
            max_epochs=4,
            limit_train_batches=3,
            enable_checkpointing=True,
            callbacks=[checkpoint, *callbacks],
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
    if "image_shape" in constructor_defaults(kind):
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


def test_predictions_are_the_codes_by_their_name():
    model = Linear().eval()
    images = torch.rand(5, 3, 1, 1)
    predicted = model.predict_step(Batch(images, torch.zeros(5, 1), torch.arange(5)))
    assert list(predicted) == ["z"]
    assert predicted["z"].dtype == torch.float32
    torch.testing.assert_close(predicted["z"], model.encode(images).float())


def naive_steps(parameter, gradients, lr, weight_decay, adapt):
    """Steps of SGD with momentum 0.9; with the rate of LARS where `adapt`."""
    velocity = torch.zeros_like(parameter)
    for gradient in gradients:
        step = gradient + weight_decay * parameter
        if adapt:
            norm = parameter.norm()
            step = step * 0.001 * norm / (gradient.norm() + weight_decay * norm + 1e-8)
        velocity = 0.9 * velocity + step
        parameter = parameter - lr * velocity
    return parameter


@pytest.mark.parametrize("weight_decay", [0.1, 0.0])
@pytest.mark.parametrize("optimizer", ["sgd", "lars"])
def test_steps_with_momentum_follow_the_formula(optimizer, weight_decay):
    torch.manual_seed(0)
    model = Linear(optimizer=optimizer, weight_decay=weight_decay).double()
    gradients = {n: [torch.randn_like(p) for _ in range(3)] for n, p in model.named_parameters()}
    expected = {}
    for name, parameter in model.named_parameters():
        adapt = optimizer == "lars" and name == "layer.weight"
        decay = weight_decay if optimizer == "sgd" or adapt else 0.0
        expected[name] = naive_steps(
            parameter.detach().clone(), gradients[name], model.lr, decay, adapt
        )
    used = model.configure_optimizers()
    for i in range(3):
        for name, parameter in model.named_parameters():
            parameter.grad = gradients[name][i].clone()
        used.step()
    assert len(expected) == 5
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd", "lars"])
def test_rate_rises_in_the_warm_up(optimizer):
    model = Linear(lr=0.8, optimizer=optimizer, warmup=0.2)
    model.trainer = SimpleNamespace(estimated_stepping_batches=20, gradient_clip_val=None)
    configured = model.configure_optimizers()
    used, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    assert type(used).__name__.lower() == optimizer
    rates = []
    for _ in range(6):
        rates.append([group["lr"] for group in used.param_groups])
        used.step()
        scheduler.step()
    for rate in zip(*rates, strict=True):
        assert rate == pytest.approx((0.2, 0.4, 0.6, 0.8, 0.8, 0.8))


def test_cosine_schedule_without_an_end_is_refused(scenes, pairs, make_trainer):
    model = build(ProductManifoldAutoencoder, scenes, lr_schedule="cosine")
    with pytest.raises(ValueError, match="give the trainer max_epochs or max_steps"):
        make_trainer(max_epochs=-1).fit(model, datamodule=pairs)


@pytest.mark.parametrize(("lr", "weight_decay"), [(0.0, 0.0), (1e-3, -1.0)])
def test_optimizer_settings_out_of_range_are_refused(lr, weight_decay, scenes):
    with pytest.raises(ValueError, match="lr must be positive"):
        build(ProductManifoldAutoencoder, scenes, lr=lr, weight_decay=weight_decay)


@pytest.mark.parametrize("warmup", [-0.1, 1.0])
def test_warm_up_out_of_range_is_refused(warmup):
    with pytest.raises(ValueError, match=rf"^warmup is {warmup}: give a share of the training"):
        Linear(warmup=warmup)
