"""Codes without disentanglement: a plain autoencoder's, and the pixels."""

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from detaux_pl.data.batch import Batch
from detaux_pl.disentangle.autoencoder import Autoencoder
from detaux_pl.disentangle.raw_pixels import RawPixels
from detaux_pl.disentangle.residual import ResidualAutoencoder
from detaux_pl.disentangle.traversal import traversals

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    # Lightning's utilities and torch's pytree disagree about a deprecated class.
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
]

SHAPE = (3, 16, 16)


def build(kind=Autoencoder, *args, **kwargs):
    torch.manual_seed(0)
    return kind(SHAPE, *args, dim=6, **kwargs)


def test_the_latent_space_is_one_subspace_and_decodes_to_the_reconstruction():
    model, images = build().eval(), torch.rand(5, *SHAPE)
    with torch.no_grad():
        codes = model.encode(images)
        assert codes.shape == (5, 1, 6)
        torch.testing.assert_close(codes[:, 0], model.encoder(images))
        torch.testing.assert_close(model.decode(codes), model.decoder(model.encoder(images)))
        row = traversals(model, images[:2])
    assert row.shape == (1, 7, *SHAPE)
    # With one subspace, the last step is the other image.
    torch.testing.assert_close(row[0, 4], row[0, 5])
    assert (model.n_subspaces, model.principal_subspace) == (1, None)


def test_the_loss_is_the_mean_squared_error():
    model, images = build().double(), torch.rand(2, 4, *SHAPE, dtype=torch.double)
    batch = Batch(images, torch.zeros(2, 4, 1, dtype=torch.long), torch.zeros(2, 4))
    logged = {}
    model.log_losses = lambda stage, total, terms, batch_size: logged.update({stage: batch_size})
    loss = model.training_step(batch)
    pixels = images.flatten(0, 1)
    wrong = (model.decoder(model.encoder(pixels)) - pixels).flatten().tolist()
    assert loss.item() == pytest.approx(sum(x**2 for x in wrong) / len(wrong), rel=1e-9)
    assert logged == {"train": 8}


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
@pytest.mark.parametrize("settings", [{}, {"blind_spots": 0.3, "batch_norm": True}])
def test_weights_are_those_of_the_residual_autoencoder(settings, make_trainer):
    batch = Batch(torch.rand(8, *SHAPE), (torch.arange(8) % 2)[:, None], torch.arange(8))
    states = []
    for model in (build(**settings), build(ResidualAutoencoder, 2, **settings)):
        data = DataLoader([batch] * 3, batch_size=None)
        make_trainer(max_epochs=2).fit(model, data)
        states.append(model.state_dict())
    plain, residual = states
    assert residual.keys() - plain.keys() == {"mean", "analysis", "synthesis"}
    learnt = [name for name in plain if "running" not in name and "num_batches" not in name]
    assert len(learnt) > 10
    for name in learnt:
        assert torch.equal(plain[name], residual[name]), name


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [({"blind_spots": 1.0}, "a share of the pixels is in"), ({"lr": 0.0}, "lr must be positive")],
)
def test_settings_out_of_range_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        build(**kwargs)
    with pytest.raises(ValueError, match="dim is 0: give at least 1 dimension"):
        Autoencoder(SHAPE, dim=0)


def test_raw_pixels_go_through_fit_and_predict(scenes, pairs, make_trainer, tmp_path):
    model = RawPixels()
    trainer = make_trainer(
        max_epochs=1,
        limit_train_batches=1,
        enable_checkpointing=True,
        callbacks=[ModelCheckpoint(tmp_path, filename="last", save_on_train_epoch_end=True)],
    )
    trainer.fit(model, datamodule=pairs)
    last = tmp_path / "last.ckpt"
    assert last.is_file()
    predicted = trainer.predict(model, datamodule=pairs, ckpt_path=last, weights_only=True)
    codes = torch.cat([batch["code"] for batch in predicted])
    images = pairs.images(scenes.rows("train"))
    assert codes.shape == (len(scenes), 1, images[0].numel())
    assert torch.equal(codes[scenes.rows("train"), 0], images.flatten(1))
    assert (model.n_subspaces, model.principal_subspace) == (1, None)
    assert all(not parameter.any() for parameter in model.parameters())
    assert trainer.test(model, datamodule=pairs, verbose=False) == [{}]
