import pytest
import torch
from lightning import Trainer

from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.batch import Batch
from detaux_pl.data.datasets.digit_scenes import DigitScenes
from detaux_pl.data.modules import LabelledDataModule, ViewDataModule
from detaux_pl.disentangle.product_manifold import ProductManifoldAutoencoder
from detaux_pl.losses import product_manifold as losses
from detaux_pl.losses.schedule import Betas
from tests.benchmarks.official_step import OfficialStep

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
        "autoencoder": "convolutional",
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


LARGE = (3, 64, 64)
KINDS = ["resnet18", "resnet18_1x1"]
DIMS = {"resnet18": 4, "resnet18_1x1": 4 * 2 * 2}


def build_resnet(autoencoder, **kwargs):
    torch.manual_seed(0)
    return ProductManifoldAutoencoder(
        LARGE, dim=4, n_subspaces=3, autoencoder=autoencoder, **kwargs
    )


@pytest.fixture
def large():
    return torch.rand(2, 4, *LARGE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("autoencoder", KINDS)
def test_codes_of_a_resnet_are_vectors_that_decode_to_the_reconstruction(autoencoder, large):
    model = build_resnet(autoencoder).eval()
    images = large[0]
    with torch.no_grad():
        codes = model.encode(images)
        assert codes.shape == (4, 3, DIMS[autoencoder])
        painted = model.decoder(model.projectors(model.encoder(images)).sum(0))
        torch.testing.assert_close(model.decode(codes), painted)
    assert painted.shape == images.shape


def test_losses_of_maps_are_those_of_flat_vectors(large):
    """Against loops over pairs, subspaces and mixtures, with everything written out."""
    model = build_resnet("resnet18_1x1").double()
    images, k, b, d = large.double(), 3, 4, 16
    same = torch.tensor([True, False, True, True])
    torch.manual_seed(2)
    with torch.no_grad():
        _, terms = model.loss_terms(images, same, Betas(1.0, 1.0, 0.0))
        torch.manual_seed(2)
        mixtures = torch.randperm(k * b)[: 2 * b].tolist()

        def project(views):
            maps = model.encoder(views)
            weights = [w.detach() for w in model.projectors.weights]
            codes = torch.empty(k, len(views), d, dtype=torch.float64)
            for i in range(k):
                x = maps
                for layer, weight in enumerate(weights):
                    bias = model.projectors.biases[layer][i, 0]
                    x = torch.einsum("oi,nihw->nohw", weight[i], x) + bias[:, None, None]
                    x = x if layer == 2 else x.clamp_min(0)
                codes[i] = x.reshape(len(views), d)
            return codes

        flat = project(images.flatten(0, 1))
        painted = model.decoder(flat.sum(0))
        s = [[[flat[i, v * b + n] for n in range(b)] for i in range(k)] for v in range(2)]

        distance = sparsity = 0.0
        for n in range(b):
            squared = [(s[0][i][n] - s[1][i][n]).square().sum() for i in range(k)]
            scaled = []
            for i in range(k):
                points = s[0][i] + s[1][i]
                apart = [(p - q).square().sum().sqrt() for p in points for q in points]
                scaled.append(squared[i] / (sum(apart) / len(apart) + 1e-8))
            chosen = max(range(1, k), key=lambda i: scaled[i]) if same[n] else 0
            for i in range(k):
                far = 10 * (0.05 - squared[i]).clamp_min(0)
                distance += (far if i == chosen else squared[i]) / (b * k)
            for v in range(2):
                for i in range(k):
                    others = sum(s[v][j][n] for j in range(k) if j != i)
                    sparsity += (s[v][i][n] * others).abs().sum() / (2 * b * d)

        mixed = torch.empty(k, 2 * b, d, dtype=torch.float64)
        for m, number in enumerate(mixtures):
            for j in range(k):
                mixed[j, m] = s[0 if j == number // b else 1][j][number % b]
        returned = project(model.decoder(mixed.sum(0)))

    expected = {
        "reconstruction": (painted - images.flatten(0, 1)).square().mean(),
        "distance": distance,
        "sparsity": sparsity,
        "consistency": (returned - mixed).square().mean(),
    }
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value.item(), rel=1e-9), name


@pytest.mark.parametrize("autoencoder", KINDS)
def test_a_step_trains_every_part_of_a_resnet(autoencoder, large):
    model = build_resnet(autoencoder)
    same = torch.tensor([True, False, True, True])

    def loss():
        torch.manual_seed(3)
        return model.loss_terms(large, same, Betas(1.0, 1.0, 1.0))[0]

    before = loss()
    before.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    with torch.no_grad():
        slope = sum(parameter.grad.square().sum() for parameter in model.parameters())
        for parameter in model.parameters():
            parameter -= 0.01 * before / slope * parameter.grad
        assert loss() < before


def test_batch_norm_sees_mixtures_as_a_batch_of_their_own(large):
    model = build_resnet("resnet18")
    norm = model.encoder.layers[1]
    same = torch.ones(4, dtype=torch.bool)
    model.loss_terms(large, same, Betas(1.0, 0.0, 0.0))
    assert norm.num_batches_tracked == 1
    model.loss_terms(large, same, Betas(1.0, 1.0, 0.0))
    assert norm.num_batches_tracked == 3


def test_a_resnet_refuses_other_sizes():
    with pytest.raises(ValueError, match="multiples of 32"):
        ProductManifoldAutoencoder((3, 48, 48), autoencoder="resnet18_1x1")


def test_data_without_pairs_are_refused_before_training():
    scenes = DigitScenes(n_train=16, n_val=8, n_test=8)
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    with pytest.raises(UserError, match="trains on pairs, which ViewDataModule does not give"):
        trainer.fit(
            ProductManifoldAutoencoder((3, 16, 16), dim=4, n_subspaces=3),
            datamodule=ViewDataModule(scenes, batch_size=8),
        )
    assert trainer.global_step == 0


@pytest.mark.parametrize("betas", [Betas(0, 0, 0), Betas(0.5, 1, 0.5)], ids=["warm-up", "all"])
def test_the_official_form_is_the_official_step(images, same, betas):
    model = build(form="official").double()
    official, exact = OfficialStep(model), images.double()
    torch.manual_seed(2)  # both draw the same mixtures
    model.loss_terms(exact, same, betas)[0].backward()
    torch.manual_seed(2)
    loss = official.loss(exact.flatten(0, 1).permute(0, 2, 3, 1), same, betas)
    loss.backward()
    torch.manual_seed(2)
    assert loss.item() == pytest.approx(model.loss_terms(exact, same, betas)[0].item(), rel=1e-12)
    for ours, theirs in ((model.encoder, official.encoder), (model.decoder, official.decoder)):
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-9, atol=1e-12)
    for k, (first, _, last) in enumerate(official.projectors):
        for one, other in (
            (model.projectors.hidden_weight, first.weight),
            (model.projectors.output_weight, last.weight),
        ):
            torch.testing.assert_close(one.grad[k], other.grad, rtol=1e-9, atol=1e-12)


def test_a_checkpoint_whose_weights_lay_in_another_order_is_gone_on_with(
    pairs, make_trainer, tmp_path
):
    """A fused optimiser that takes one order for the other trains each weight as another one."""

    def train(path, epochs, **kwargs):
        trainer = make_trainer(max_epochs=epochs, logger=False)
        model = build()
        trainer.fit(model, pairs, **kwargs)
        trainer.save_checkpoint(path)
        return model

    train(tmp_path / "one.ckpt", 1)
    expected = train(tmp_path / "two.ckpt", 2, ckpt_path=tmp_path / "one.ckpt")
    older = torch.load(tmp_path / "one.ckpt", weights_only=False)
    states = older["optimizer_states"][0]["state"]
    for state in states.values():
        for name, values in state.items():
            state[name] = values.contiguous()
    assert any(values.stride()[-1] != 1 for values in expected.state_dict().values())
    torch.save(older, tmp_path / "older.ckpt")
    told = train(tmp_path / "two.ckpt", 2, ckpt_path=tmp_path / "older.ckpt")
    for name, values in expected.state_dict().items():
        assert torch.equal(told.state_dict()[name], values), name
