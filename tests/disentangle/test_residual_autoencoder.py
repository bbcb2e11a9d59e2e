import pytest
import torch
from lightning import Callback
from torch.utils.data import DataLoader

from detaux_pl.data.batch import Batch
from detaux_pl.data.modules import LabelledDataModule, PairDataModule
from detaux_pl.disentangle.residual import ResidualAutoencoder
from tests.ranks import Spawned

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    # Lightning's utilities and torch's pytree disagree about a deprecated class.
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
]

SHAPE = (3, 16, 16)
PARTS = ("mean", "analysis", "synthesis")


def build(n_classes=10, **kwargs):
    torch.manual_seed(0)
    return ResidualAutoencoder(SHAPE, n_classes, dim=12, subspace_dim=4, **kwargs)


class SaveSplit(ResidualAutoencoder):
    """Leaves the split of each rank where a test finds it."""

    folder = ""

    def on_train_epoch_end(self):
        super().on_train_epoch_end()
        split = {name: self.get_buffer(name).clone() for name in PARTS}
        torch.save(split, f"{self.folder}/rank{self.global_rank}.pt")


def fit_split(scenes, make_trainer, folder, batch_size, **trainer):
    torch.manual_seed(0)
    # The principal factor is one that untrained features tell apart, and the encoder stands still.
    scenes.principal = "location"
    model = SaveSplit(SHAPE, scenes.n_classes, dim=6, n_subspaces=2, subspace_dim=4, lr=1e-30)
    model.folder = str(folder)
    data = PairDataModule(scenes, batch_size=batch_size)
    make_trainer(max_epochs=1, limit_val_batches=0, **trainer).fit(model, datamodule=data)
    return model, data


def test_the_split_is_that_of_the_training_images(scenes, make_trainer, tmp_path):
    model, data = fit_split(scenes, make_trainer, tmp_path, batch_size=16)
    rows = scenes.rows("train")
    with torch.no_grad():
        codes = model.encode(data.images(rows)).double()
    torch.testing.assert_close(codes.mean(0), torch.zeros(2, 4).double(), rtol=0, atol=1e-5)
    covariance = codes.flatten(1).T.cov(correction=0)
    assert (covariance - torch.diag(covariance.diagonal())).abs().max() < 1e-6

    labels = torch.from_numpy(scenes.labels[rows])
    means = torch.stack([codes[labels == c].mean(0) for c in range(scenes.n_classes)])
    between = (means.square().mean(0) / codes.square().mean(0).clamp_min(1e-12)).sum(1)
    assert between[0] > 10 * between[1]


def test_statistics_are_of_whole_images_in_evaluation_mode(scenes, make_trainer):
    model = build(lr=1e-30, blind_spots=0.5, batch_norm=True)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.0  # in evaluation mode the encoder stands still
    data = PairDataModule(scenes, batch_size=16)
    make_trainer(max_epochs=1, limit_val_batches=0).fit(model, datamodule=data)
    model.eval()
    with torch.no_grad():
        codes = model.encode(data.images(scenes.rows("train"))).double().flatten(1)
    torch.testing.assert_close(codes.mean(0), torch.zeros(16).double(), rtol=0, atol=1e-5)
    covariance = codes.T.cov(correction=0)
    assert (covariance - torch.diag(covariance.diagonal())).abs().max() < 1e-6


@pytest.mark.ddp
def test_ranks_agree_on_the_split_of_the_joined_data(scenes, make_trainer, tmp_path):
    fit_split(scenes, make_trainer, tmp_path, batch_size=16)
    joined = torch.load(tmp_path / "rank0.pt", weights_only=True)
    (tmp_path / "rank0.pt").unlink()
    fit_split(scenes, make_trainer, tmp_path, batch_size=8, devices=2, strategy=Spawned())
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    for name in PARTS:
        assert torch.equal(ranks[0][name], ranks[1][name])
        torch.testing.assert_close(ranks[0][name], joined[name], rtol=1e-3, atol=1e-4)


class SaveWithinEpoch(Callback):
    """Saves a checkpoint after the third step of the second epoch."""

    def __init__(self, path):
        self.path = path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.current_epoch == 1 and batch_idx == 2:
            trainer.save_checkpoint(self.path)


def equal_batches(n_classes):
    """Six batches, all alike: in a resumed epoch it does not matter which are left."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(16) % n_classes
    images = torch.rand(16, *SHAPE, generator=generator) + 0.3 * labels[:, None, None, None]
    batch = Batch(images / 3, labels[:, None], torch.arange(16))
    return DataLoader([batch] * 6, batch_size=None)


def fit_equal_batches(make_trainer, folder, ckpt_path=None, callbacks=(), **trainer):
    torch.manual_seed(0)
    model = SaveSplit(SHAPE, n_classes=4, dim=6, n_subspaces=2, subspace_dim=4)
    model.folder = str(folder)
    trainer |= {"callbacks": list(callbacks), "use_distributed_sampler": False}
    make_trainer(max_epochs=2, **trainer).fit(model, equal_batches(4), ckpt_path=ckpt_path)
    return model.state_dict()


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before")
@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_statistics_survive_a_checkpoint_within_an_epoch(make_trainer, tmp_path):
    path = tmp_path / "within.ckpt"
    undisturbed = fit_equal_batches(make_trainer, tmp_path, callbacks=[SaveWithinEpoch(path)])
    saved = torch.load(path, weights_only=True)
    assert saved["gram"].diagonal()[:4].tolist() == [3 * 4] * 4
    resumed = fit_equal_batches(make_trainer, tmp_path, ckpt_path=path)
    assert undisturbed["analysis"].any()
    for name, value in undisturbed.items():
        assert torch.equal(value, resumed[name]), name


def test_a_checkpoint_after_an_epoch_holds_no_statistics(pairs, make_trainer, tmp_path):
    trainer = make_trainer(max_epochs=1)
    trainer.fit(build(), datamodule=pairs)
    trainer.save_checkpoint(tmp_path / "after.ckpt")
    assert "gram" not in torch.load(tmp_path / "after.ckpt", weights_only=True)


@pytest.mark.ddp
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before")
@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_statistics_of_all_ranks_survive_a_checkpoint_once(make_trainer, tmp_path):
    path = tmp_path / "within.ckpt"
    first = {"callbacks": [SaveWithinEpoch(path)], "devices": 2, "strategy": Spawned()}
    fit_equal_batches(make_trainer, tmp_path, **first)
    undisturbed = torch.load(tmp_path / "rank1.pt", weights_only=True)
    saved = torch.load(path, weights_only=True)
    assert saved["gram"].diagonal()[:4].tolist() == [2 * 3 * 4] * 4
    fit_equal_batches(make_trainer, tmp_path, ckpt_path=path, devices=2, strategy=Spawned())
    for rank in range(2):
        resumed = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        for name in PARTS:
            torch.testing.assert_close(resumed[name], undisturbed[name])


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_a_resnet_gives_codes_and_paints(make_trainer):
    torch.manual_seed(0)
    model = ResidualAutoencoder(
        (3, 32, 32), 2, dim=4, n_subspaces=2, subspace_dim=4, autoencoder="resnet18"
    )
    assert model.encoder.layers[-1].out_features == 4
    images = torch.rand(16, 3, 32, 32)
    batch = Batch(images, (torch.arange(16) % 2)[:, None], torch.arange(16))
    data = DataLoader([batch], batch_size=None)
    make_trainer(max_epochs=1).fit(model, data)
    with torch.no_grad():
        codes = model.eval().encode(images)
        assert codes.shape == (16, 2, 4)
        assert model.decode(codes).shape == images.shape


def test_decoding_all_codes_is_the_reconstruction(scenes, pairs, make_trainer):
    model = build(n_subspaces=6)
    make_trainer(max_epochs=1).fit(model, datamodule=pairs)
    images = pairs.images(scenes.rows("test"))
    with torch.no_grad():
        torch.testing.assert_close(
            model.decode(model.encode(images)),
            model.decoder(model.encoder(images)),
            rtol=1e-3,
            atol=1e-3,
        )


def test_single_images_train_it_too(scenes, make_trainer):
    model = build()
    make_trainer(max_epochs=1).fit(model, datamodule=LabelledDataModule(scenes, batch_size=16))
    assert model.analysis.any()


def test_codes_before_the_training_are_refused():
    with pytest.raises(RuntimeError, match="has no split yet: train it"):
        build().encode(torch.rand(2, *SHAPE))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"n_subspaces": 1}, "at least 2 subspaces"),
        ({"principal_subspace": 4}, "the index of one of them"),
        ({"blind_spots": 1.0}, "a share of the pixels is in"),
        ({"n_classes": 1}, "at least 2 classes"),
        ({"n_classes": 13}, "dim is 12, but the means of 13 classes span up to 12 dimensions"),
    ],
)
def test_settings_out_of_range_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        build(**kwargs)
