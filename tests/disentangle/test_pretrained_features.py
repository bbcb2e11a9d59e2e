"""Features of a frozen network as codes, split by the principal labels."""

import os
import signal

import numpy as np
import pytest
import timm
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

import detaux_pl
from detaux_pl.artifacts.codes import SPLITS, UNLABELLED, Codes
from detaux_pl.artifacts.errors import UserError
from detaux_pl.cli.main import main
from detaux_pl.data.datasets.digit_scenes import DigitScenes
from detaux_pl.data.modules import ImageDataModule
from detaux_pl.data.noise import SaltPepper
from detaux_pl.disentangle.pretrained_features import PretrainedFeatures
from detaux_pl.models.feature_cache import open_features
from detaux_pl.models.feature_split import split_features
from detaux_pl.models.pretrained import PretrainedNet
from tests.children import run_child
from tests.models.weights_here import real_weights
from tests.ranks import Spawned, fork_ranks

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    # Lightning's utilities and torch's pytree disagree about a deprecated class.
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
]

SHAPE, CLASSES = (3, 16, 16), 10


def build(**kwargs):
    torch.manual_seed(0)
    given = {"model": "timm/test_resnet", "size": 32, "pca": 20, "subspace_dim": 12}
    if "weights" not in kwargs:
        given["pretrained"] = False
    return PretrainedFeatures(SHAPE, CLASSES, **given | kwargs)


@pytest.fixture
def data(scenes):
    return ImageDataModule(scenes, noise=SaltPepper(0.05), batch_size=16, eval_batch_size=24)


@pytest.fixture
def fit(make_trainer, data):
    def run(model, **kwargs):
        trainer = make_trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0, **kwargs)
        trainer.fit(model, datamodule=data)
        return trainer

    return run


@pytest.fixture
def calls(monkeypatch):
    """Sizes of the batches that go through networks."""
    sizes = []
    forward = PretrainedNet.forward

    def counted(self, images):
        sizes.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(PretrainedNet, "forward", counted)
    return sizes


def joined(predicted, name):
    return torch.cat([batch[name] for batch in predicted])


def test_codes_are_those_of_the_cached_features(scenes, data, fit, calls):
    model = build()
    trainer = fit(model)
    assert sum(calls) == len(scenes)
    predicted = trainer.predict(model, datamodule=data)
    assert sum(calls) == len(scenes), "features are computed once"
    assert next(list(batch) for batch in predicted) == ["code", "features"]
    codes, features = joined(predicted, "code"), joined(predicted, "features")
    assert codes.shape == (len(scenes), 2, 12)
    assert features.shape == (len(scenes), 1, model.net.n_features)
    images = data.images(np.arange(len(scenes)))
    with torch.no_grad():
        found = model.encode_all(images)
        torch.testing.assert_close(model.encode(images), found["code"])
    torch.testing.assert_close(found["features"], features, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["code"], codes, rtol=1e-3, atol=1e-4)
    train = scenes.rows("train")
    split = split_features(
        features[:, 0].numpy(), train, scenes.labels[train], CLASSES, pca=20, subspace_dim=12
    )
    torch.testing.assert_close(model.analysis, torch.from_numpy(split.analysis).float())
    assert (model.n_subspaces, model.principal_subspace) == (2, 0)
    assert trainer.test(model, datamodule=data, verbose=False) == [{}]


def test_labels_and_images_of_other_splits_do_not_count(scenes, fit):
    before = build()
    fit(before)
    others = np.setdiff1d(np.arange(len(scenes)), scenes.rows("train"))
    scenes.factors[others, 0] = (scenes.factors[others, 0] + 1) % CLASSES
    scenes.pixels[others] = 255 - scenes.pixels[others]
    after = build()
    fit(after)
    torch.testing.assert_close(after.analysis, before.analysis)


def test_images_without_label_count_where_there_are_some(scenes, data, fit):
    hidden = scenes.rows("train")[60:]
    scenes.splits[hidden], scenes.factors[hidden, 0] = SPLITS.index(UNLABELLED), -1
    model = build()
    fit(model)
    rows = np.concatenate([scenes.rows("train"), hidden])
    features = open_features(model.net, scenes, seen=data)
    split = split_features(features, rows, scenes.labels[rows], CLASSES, 20, 12)
    torch.testing.assert_close(model.analysis, torch.from_numpy(split.analysis).float())
    alone = split_features(features, rows[:60], scenes.labels[rows[:60]], CLASSES, 20, 12)
    assert not np.allclose(alone.analysis, split.analysis, rtol=0.1)


class SaveParts(ModelCheckpoint):
    """Keep what each rank ends with."""

    def __init__(self, folder):
        super().__init__(folder)
        self.folder = folder

    def on_train_end(self, trainer, pl_module):
        torch.save(pl_module.state_dict(), self.folder / f"rank{trainer.global_rank}.pt")


@pytest.mark.ddp
@pytest.mark.usefixtures("one_thread")
def test_ranks_agree_with_one_alone(fit, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        more = {"devices": 2, "strategy": Spawned()} if name == "two" else {}
        model = build(cache_dir=str(tmp_path / name / "cache"))
        fit(model, enable_checkpointing=True, callbacks=[SaveParts(tmp_path / name)], **more)
    one = torch.load(tmp_path / "one" / "rank0.pt", weights_only=True)
    for rank in range(2):
        other = torch.load(tmp_path / "two" / f"rank{rank}.pt", weights_only=True)
        assert all(torch.equal(value, one[name]) for name, value in other.items())
    caches = [sorted((tmp_path / name).rglob("features.npy")) for name in ("one", "two")]
    assert caches[0][0].read_bytes() == caches[1][0].read_bytes()


def test_settings_out_of_range_are_refused():
    for kwargs, message in (
        ({"pca": 0}, "^pca is 0: give at least 1.$"),
        ({"batch_size": 0}, "^batch_size is 0: give at least 1.$"),
        ({"subspace_dim": 0}, "^subspace_dim is 0: give at least 1.$"),
        ({"principal_subspace": 2}, "the index of one of them"),
        ({"shrinkage": 2.0}, r"^shrinkage is 2.0: give a share in \[0, 1\], or null.$"),
        ({"model": "resnet18"}, "^model is 'resnet18': give timm/<model>"),
    ):
        with pytest.raises(ValueError, match=message):
            build(**kwargs)
    with pytest.raises(ValueError, match=r"^n_classes is 1: give at least 2 classes.$"):
        PretrainedFeatures(SHAPE, 1)
    with pytest.raises(RuntimeError, match="has no split yet: train it or load a checkpoint"):
        build().encode(torch.rand(2, *SHAPE))


def test_more_classes_than_labelled_images_are_one_line(make_trainer):
    scenes = DigitScenes(n_train=8, n_val=8, n_test=8)
    data = ImageDataModule(scenes, batch_size=4)
    trainer = make_trainer(max_epochs=1, limit_val_batches=0)
    with pytest.raises(UserError, match=r"^8 training images have a label, of \d of the 10 class"):
        trainer.fit(build(), datamodule=data)


# Through the command line

MODEL = {"model": "timm/test_resnet", "size": 32, "pretrained": False, "pca": 20, "subspace_dim": 5}


def words(command, folder, n=60, **model):
    given = {**MODEL, **model}
    return [
        "disentangle", command, "--model=PretrainedFeatures", "--data=ImageDataModule",
        "--data.batch_size=2",
        "--data.dataset=DigitScenes", f"--data.dataset.n_train={n}", "--data.dataset.n_val=10",
        "--data.dataset.n_test=10", "--trainer.max_epochs=1", "--trainer.limit_train_batches=1",
        "--trainer.limit_val_batches=0", "--trainer.accelerator=cpu", "--trainer.devices=1",
        f"--run_dir={folder / 'run'}", f"--model.cache_dir={folder / 'cache'}",
        *[f"--model.{name}={value}" for name, value in given.items()],
    ]  # fmt: skip


def codes_bytes(folder):
    shard = folder / "run" / "disentangle" / "codes" / "rank0"
    return [(shard / name).read_bytes() for name in ("codes.npy", "features.npy", "ids.npy")]


def kill_at_fifth_batch(told):
    forward, done = PretrainedNet.forward, []

    def fatal(self, images):
        done.append(len(images))
        if len(done) == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return forward(self, images)

    PretrainedNet.forward = fatal
    main(told)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_killed_command_goes_on_and_gives_the_same_bytes(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for command in ("fit", "predict"):
        assert main(words(command, whole, batch_size=8)) == 0
    assert run_child(kill_at_fifth_batch, words("fit", killed, batch_size=8)) == -signal.SIGKILL
    (part,) = killed.rglob("done.npy")
    assert np.load(part).sum() == 32
    for command in ("fit", "predict"):
        assert main(words(command, killed, batch_size=8)) == 0
    assert codes_bytes(killed) == codes_bytes(whole)


@pytest.mark.slow
@pytest.mark.ddp
@pytest.mark.usefixtures("one_thread")
def test_two_ranks_write_the_codes_of_one(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for command in ("fit", "predict"):
        assert main(words(command, one)) == 0
        both = ["--trainer.devices=2", "--trainer.strategy=ddp"]
        assert fork_ranks([*words(command, two), *both]) == [0, 0]
    alone, shared = (Codes.load(folder / "run/disentangle/codes") for folder in (one, two))
    assert shared.ids.tolist() == alone.ids.tolist()
    np.testing.assert_array_equal(shared.values, alone.values)
    assert len(list((two / "run/disentangle/codes").glob("rank*"))) == 2


def test_a_run_needs_neither_file_nor_network_to_be_opened(tmp_path):
    torch.manual_seed(3)
    file = tmp_path / "own.pth"
    torch.save(timm.create_model("test_resnet", num_classes=4).state_dict(), file)
    given = words("fit", tmp_path, weights=file, pretrained=True)
    assert main(given) == 0
    file.unlink()
    run = detaux_pl.load(tmp_path / "run")
    images = run.data.images(np.arange(5))
    with torch.no_grad():
        found = run.disentangler.encode_all(images)
    kept = open_features(run.disentangler.net, run.data.dataset, tmp_path / "cache", seen=run.data)
    np.testing.assert_allclose(found["features"][:, 0], kept[:5], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            {"model": "timm/resnet18.a4_in1k"},
            "model is 'timm/resnet18.a4_in1k', but timm has no weights called 'a4_in1k' for "
            "resnet18: did you mean timm/resnet18.a",
        ),
        ({"weights": "away.pth"}, "weights is 'away.pth', which is no file: give one, or null."),
        (
            {"model": "timm/test_vit", "size": 8},
            "timm/test_vit does not take images of 3 x 8 x 8 (Input height (8) should be divisible",
        ),
        ({"pca": 0}, "pca is 0: give at least 1."),
    ],
)
def test_bad_settings_are_one_line(model, message, tmp_path, capsys):
    assert main(words("fit", tmp_path, **model)) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert message in lines[0]


def test_real_weights_leave_the_digit_to_one_subspace(tmp_path):
    file = real_weights()
    given = {"model": "timm/tf_efficientnet_lite0", "weights": file, "size": 64, "pretrained": True}
    for command in ("fit", "predict"):
        assert main(words(command, tmp_path, n=300, **given)) == 0
    codes = Codes.load(tmp_path / "run/disentangle/codes")
    features = Codes.load(tmp_path / "run/disentangle/codes", "features")
    assert features.values.shape[1:] == (1, 1280)
    train = codes.rows("train")
    digits = codes.factor("digit")[train]

    def told(values):
        """Share of the variance that is between the digits."""
        z = values[train].astype(np.float64)
        means = np.stack([z[digits == digit].mean(axis=0) for digit in range(10)])
        return means[digits].var(axis=0).sum() / z.var(axis=0).sum()

    assert told(codes.values[:, 0]) > 2 * told(features.values[:, 0])
    assert told(codes.values[:, 1]) < 1e-8
