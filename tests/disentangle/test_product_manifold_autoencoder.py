import pytest
import torch

from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.modules import Batch, LabelledDataModule
from detaux_pl.disentangle.product_manifold import ProductManifoldAutoencoder
from detaux_pl.losses import product_manifold as losses
from detaux_pl.losses.schedule import Betas

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    # Lightning's utilities and torch's pytree disagree about a deprecated class.
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
]

SHAPE = (3, 16, 16)
B = 8


def build(**kwargs):
    torch.manual_seed(0)
    return ProductManifoldAutoencoder(SHAPE, dim=5, n_subspaces=4, **kwargs)


@pytest.fixture
def images():
    return torch.rand(2, B, *SHAPE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def same():
    return torch.arange(B) % 2 == 0


def test_defaults_are_those_of_the_paper_and_its_code():
    hparams = dict(ProductManifoldAutoencoder(SHAPE).hparams)
    assert hparams == {
        "image_shape": SHAPE,
        "dim": 10,
        "n_subspaces": 10,
        "principal_subspace": 0,
        "distance_weight": 0.1,
        "sparsity_weight": 0.1,
        "consistency_weight": 100.0,
        "regularization_weight": 1e-4,
        "form": "code",
        "lr": 5e-4,
        "weight_decay": 1e-6,
        "optimizer": "adamw",
        "lr_schedule": "constant",
    }


def test_warm_up_only_reconstructs(images, same):
    model = build()
    total, terms = model.loss_terms(images, same, Betas(0, 0, 0))
    flat = images.flatten(0, 1)
    painted = model.decode(model.encode(flat))
    assert terms.keys() == {"reconstruction"}
    torch.testing.assert_close(total, (painted - flat).square().mean())


@pytest.mark.parametrize("form", ["code", "official", "paper"])
@pytest.mark.parametrize("principal", [0, 2])
def test_total_is_the_weighted_sum_of_the_terms(images, same, form, principal):
    model = build(
        form=form,
        principal_subspace=principal,
        distance_weight=2.0,
        sparsity_weight=3.0,
        consistency_weight=5.0,
        regularization_weight=7.0,
    )
    torch.manual_seed(2)
    total, terms = model.loss_terms(images, same, Betas(0.5, 0.25, 0.125))
    expected = (
        terms["reconstruction"]
        + 0.5 * (2 * terms["distance"] + 3 * terms["sparsity"])
        + 0.25 * 5 * terms["consistency"]
        + 0.125 * 7 * terms["regularization"]
    )
    torch.testing.assert_close(total, expected)

    paper = form == "paper"
    codes = torch.stack([model.encode(view) for view in images]).transpose(1, 2)
    distances = losses.squared_distances(codes)
    assignment = losses.oracle(
        codes, same, principal, *(("length", 1) if paper else ("pairwise", 2))
    )
    soft = losses.soft_oracle(distances, same, principal)
    torch.manual_seed(2)
    mixed, swapped = losses.mix(codes, torch.randperm(4 * B)[: 2 * B])
    returned = model.encode(model.decode(mixed.transpose(0, 1))).transpose(0, 1)
    for name, value in {
        "distance": losses.distance_loss(
            distances, assignment, "paper" if paper else "code", legacy_constant=form == "official"
        ),
        "sparsity": losses.sparsity_loss(codes),
        "consistency": losses.consistency_loss(mixed, returned, swapped if paper else None),
        "regularization": losses.regularization_loss(assignment if form == "official" else soft),
    }.items():
        torch.testing.assert_close(terms[name], value, msg=name)
    assert terms["regularization"].requires_grad == (form != "official")


@pytest.mark.parametrize(
    ("betas", "weights", "computed"),
    [
        (Betas(0.04, 0.0036, 0.96), {}, {"distance", "sparsity", "regularization"}),
        (
            Betas(0.04, 0.0036, 0.96),
            {"consistency_weight": 0.0},
            {"distance", "sparsity", "regularization"},
        ),
        (Betas(1.0, 0.5, 0.0), {}, {"distance", "sparsity", "consistency"}),
        (Betas(1.0, 1.0, 0.0), {"consistency_weight": 0.0}, {"distance", "sparsity"}),
    ],
)
def test_terms_without_effect_are_not_computed(images, same, betas, weights, computed):
    _, terms = build(**weights).loss_terms(images, same, betas)
    assert terms.keys() == {"reconstruction", *computed}


def test_the_step_takes_the_labels_of_both_views(images, same, monkeypatch):
    model = build()
    seen = {}
    monkeypatch.setattr(
        model, "log_losses", lambda stage, *_, batch_size: seen.update(n=batch_size)
    )
    loss_terms = model.loss_terms

    def spy(images, same, betas):
        seen.update(same=same, betas=betas)
        return loss_terms(images, same, betas)

    monkeypatch.setattr(model, "loss_terms", spy)
    targets = torch.stack([torch.arange(B), torch.where(same, torch.arange(B), -5)])[..., None]
    model.validation_step(Batch(images, targets, torch.zeros(2, B, dtype=torch.long)))
    assert torch.equal(seen["same"], same)
    assert seen["n"] == B
    assert seen["betas"] == (1, 1, 0)


def test_terms_are_logged_by_name(pairs, make_trainer):
    trainer = make_trainer(max_epochs=3)
    trainer.fit(build(), datamodule=pairs)
    terms = {"loss", "reconstruction", "distance", "sparsity", "consistency"}
    logged = trainer.callback_metrics.keys()
    expected = {f"{stage}/{term}" for stage in ("train", "val") for term in terms}
    assert logged == expected | {"train/regularization"}


def test_single_images_are_refused(scenes, make_trainer):
    with pytest.raises(UserError, match="use PairDataModule"):
        make_trainer(max_epochs=1).fit(
            build(), datamodule=LabelledDataModule(scenes, batch_size=16)
        )


def test_a_training_without_a_length_is_refused(pairs, make_trainer):
    with pytest.raises(ValueError, match=r"set trainer\.max_epochs"):
        make_trainer(max_epochs=-1, max_steps=2).fit(build(), datamodule=pairs)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"n_subspaces": 1}, "at least 2 subspaces"),
        ({"n_subspaces": 3, "principal_subspace": 3}, "the index of one of them"),
        ({"principal_subspace": -1}, "the index of one of them"),
        ({"sparsity_weight": -1.0}, r"a loss weight is -1\.0"),
    ],
)
def test_settings_out_of_range_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        ProductManifoldAutoencoder(SHAPE, **kwargs)
