import pytest
import torch

from detaux_pl.data.modules import LabelledDataModule, PairDataModule
from detaux_pl.disentangle.residual import ResidualAutoencoder

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
    fit_split(scenes, make_trainer, tmp_path, batch_size=8, devices=2, strategy="ddp_spawn")
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    for name in PARTS:
        assert torch.equal(ranks[0][name], ranks[1][name])
        torch.testing.assert_close(ranks[0][name], joined[name], rtol=1e-3, atol=1e-4)


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
