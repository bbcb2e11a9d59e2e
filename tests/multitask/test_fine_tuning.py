"""Backbones that start from weights: what they see, what stays, how fast the rest learns."""

from __future__ import annotations

from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from lightning import Trainer
from timm.optim import param_groups_layer_decay
from torch import Tensor

from detaux_pl.data.batch import Batch
from detaux_pl.data.datasets.digit_scenes import DigitScenes
from detaux_pl.data.modules import LabelledDataModule
from detaux_pl.models.backbone import build_backbone, feature_size
from detaux_pl.multitask.hard_parameter_sharing import HardParameterSharing
from detaux_pl.multitask.single_task import SingleTask
from detaux_pl.pipeline.chain import parse
from detaux_pl.settings.keys import trainable_settings
from tests.cli.conftest import CONF

SHAPE, SIZES = (3, 32, 32), (10, 4)
CHAIN = ["--config", str(CONF / "chain.yaml")]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files with weights of models of timm."""
    folder, found = tmp_path_factory.mktemp("weights"), {}
    torch.manual_seed(5)
    for name in ("test_vit", "test_resnet", "test_convnext"):
        path = folder / f"{name}.safetensors"
        safetensors.torch.save_file(timm.create_model(name).state_dict(), path)
        found[name] = str(path)
    return found


def _model(files: dict[str, str], name: str, **settings: Any) -> HardParameterSharing:
    torch.manual_seed(0)
    return HardParameterSharing(
        SHAPE, SIZES, f"timm/{name}", weights=files[name], hidden=8, **settings
    )


@pytest.mark.parametrize("shape", [(3, 64, 96), (1, 160, 160)])
@pytest.mark.parametrize(
    ("name", "pooled", "n"), [("test_vit", False, 64), ("test_convnext", True, 64)]
)
def test_a_file_of_weights_their_size_mean_and_deviation(files, name, pooled, n, shape):
    backbone = build_backbone(
        f"timm/{name}", shape, weights=files[name], size="weights", pooled=pooled
    ).eval()
    images = 0.4 + torch.rand(2, *shape) / 5  # never below 0 or above 1 when resized
    net = timm.create_model(name, num_classes=0, in_chans=shape[0]).eval()
    net.load_state_dict(backbone.maps.net.state_dict())
    cfg = net.pretrained_cfg
    size = cfg["input_size"][1:]
    seen = F.interpolate(images, size, mode=cfg["interpolation"], antialias=True).clamp(0, 1)
    mean, std = (torch.tensor(cfg[key])[:, None, None] for key in ("mean", "std"))
    seen = (seen - mean.mean()) / std.mean() if shape[0] == 1 else (seen - mean) / std
    with torch.no_grad():
        found, expected = backbone(images), net(seen)
    assert found.shape == (2, n, 1, 1)
    assert feature_size(backbone, shape) == n
    torch.testing.assert_close(found.flatten(1), expected, rtol=1e-4, atol=1e-4)


def test_what_is_asked_goes_through_in_pieces_that_fit(files):
    model = _model(files, "test_resnet", size=512, pooled=True).eval()
    pieces: list[torch.Size] = []
    model.backbone.register_forward_pre_hook(lambda _, args: pieces.append(args[0].shape))
    images = torch.rand(10, *SHAPE)
    batch = Batch(images, torch.zeros(10, 2, dtype=torch.int64), torch.arange(10))
    with torch.no_grad():
        whole, answers = model(images), model.answer(batch)
        none = model.answer(batch._replace(images=images[:0]))
    assert [shape[0] for shape in pieces] == [10, 8, 2, 0]
    torch.testing.assert_close(answers, whole)
    assert [len(logits) for logits in none] == [0, 0]
    # Of small images a batch of evaluation stays whole.
    plain = _model(files, "test_resnet").eval()
    plain.backbone.register_forward_pre_hook(lambda _, args: pieces.append(args[0].shape))
    with torch.no_grad():
        plain.answer(batch._replace(images=torch.rand(256, *SHAPE)))
    assert pieces[-1][0] == 256


def _trained(model: HardParameterSharing) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What the model is before and after a training with validations."""
    scenes = DigitScenes(n_train=24, n_val=8, n_test=8, n_locations=4)
    data = LabelledDataModule(scenes, auxiliary="location", batch_size=8, image_size=32)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(model, datamodule=data)
    return before, model.state_dict()


@pytest.mark.parametrize(
    ("freeze", "kept"), [(2, ("conv1", "bn1", "layer1")), ("all", ("",)), (0, ())]
)
def test_frozen_parts_stay_to_the_last_batch_statistic(files, freeze, kept):
    model = _model(files, "test_resnet", freeze=freeze)
    before, after = _trained(model)
    start = "backbone.maps.net."
    frozen = [k for k in before if k.startswith(tuple(start + part for part in kept))]
    assert len(frozen) > 5 or not kept
    for name, value in before.items():
        same = torch.equal(value, after[name])
        assert same == (name in frozen), name
    own = {id(p) for name, p in model.named_parameters() if name in frozen}
    assert not own & {id(p) for p in model.shared_parameters()}


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext"])
def test_the_learning_rate_decays_as_in_timm(files, name):
    model = _model(files, name, lr_decay=0.7, pooled=True, lr=0.01)
    whole = timm.create_model(name, num_classes=10)
    theirs = param_groups_layer_decay(whole, layer_decay=0.7)
    names = {id(p): key for key, p in whole.named_parameters()}
    wanted = {names[id(p)]: 0.01 * g["lr_scale"] for g in theirs for p in g["params"]}
    names = {id(p): key for key, p in model.named_parameters()}
    found: dict[str, float] = {}
    for group in model.parameter_groups():
        for parameter in group["params"]:
            key = names.pop(id(parameter))
            found[key.removeprefix("backbone.maps.net.")] = group.get("lr", 0.01)
    assert not names  # each is in one group
    for key, value in found.items():
        is_own = key.startswith(("heads", "weighting"))
        assert value == pytest.approx(0.01 if is_own else wanted[key]), key


def test_other_networks_decay_by_stage():
    model = SingleTask(SHAPE, SIZES, "resnet18", lr_decay=0.5, lr=1.0, hidden=8)
    rates = [group["lr"] for group in model.parameter_groups()[1:]]
    assert rates == [0.5**5, 0.5**4, 0.5**3, 0.5**2, 0.5]


@pytest.mark.parametrize("name", ["test_vit", "test_convnext"])
def test_gradients_computed_anew_are_the_same(files, name):
    grads = []
    ran = []
    images = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    for checkpointing in (False, True):
        model = _model(files, name, checkpointing=checkpointing, dropout=0.0)
        block = next(m for m in model.backbone.modules() if type(m).__name__.endswith("Block"))
        count = []
        block.register_forward_pre_hook(lambda *args, count=count: count.append(1))
        sum(z.square().sum() for z in model(images)).backward()
        grads.append([p.grad for p in model.parameters() if p.grad is not None])
        model.eval()(images)
        ran.append(len(count))
    assert ran == [2, 3]  # twice in a training, once in an evaluation
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("backbone", "given", "said"),
    [
        ("resnet18", {"freeze": 2}, "freeze is 2, but resnet18 starts from random weights: set pr"),
        ("timm/test_vit", {"freeze": "all"}, "freeze is all, but timm/test_vit starts from random"),
        ("timm/test_vit", {"size": "weights"}, "size is weights, but the network starts from rand"),
        ("resnet18", {"size": 0}, "size is 0: give at least 1 pixel, weights, or null"),
        ("resnet18", {"weights": "w.pt"}, "weights is 'w.pt', but backbone is 'resnet18': files "),
        ("timm/test_vit", {"weights": "w.pt"}, "weights is 'w.pt', which is no file"),
        ("resnet18", {"lr_decay": 0.0}, r"lr_decay is 0.0: give a factor in \(0, 1\]"),
        ("resnet18", {"checkpointing": True}, "checkpointing is set, which resnet18 does not do"),
        ("timm/vgg11", {"checkpointing": True}, "checkpointing is set, which timm/vgg11 does not"),
    ],
)
def test_what_a_backbone_cannot_do(backbone, given, said):
    with pytest.raises(ValueError, match=said) as error, torch.device("meta"):
        SingleTask(SHAPE, SIZES, backbone, hidden=8, **given)
    assert "\n" not in str(error.value)


def test_as_many_parts_as_there_are(files):
    with pytest.raises(ValueError, match="freeze is 8: give 0 to 7 parts, the stem first, or all"):
        _model(files, "test_vit", freeze=8)
    with pytest.raises(ValueError, match="freeze is -1: give 0 to 7 parts"):
        _model(files, "test_vit", freeze=-1)


def test_a_key_is_without_what_is_younger_and_changes_nothing():
    config = parse(CHAIN).config["multitask"]
    assert config["model"]["init_args"]["freeze"] == 0
    key = trainable_settings(config)["model"]["init_args"]
    assert not key.keys() & {"recipe", "weights", "size", "freeze", "lr_decay", "checkpointing"}
    other = parse([*CHAIN, "--multitask.model.lr_decay=0.5"]).config["multitask"]
    assert trainable_settings(other)["model"]["init_args"]["lr_decay"] == 0.5


def test_a_frozen_network_does_not_inherit_the_weights_of_a_backbone(files):
    words = [f"--multitask.model.weights={files['test_vit']}", "--multitask.model.size=32"]
    words += ["--multitask.model.backbone=timm/test_vit", "--multitask.model.recipe.ema=0.5"]
    chain = parse([*CHAIN, *words, "--baselines=[SingleTask, FrozenClassifier]"])
    arms = {name: configs[0]["model"]["init_args"] for name, configs in chain.arms.items()}
    assert arms["single_task"]["weights"] == files["test_vit"]
    assert arms["single_task"]["recipe"]["ema"] == 0.5
    frozen = arms["frozen_classifier"]
    assert (frozen["weights"], frozen["size"]) == (None, None)
