"""What the tests of the models share that differentiate their own training."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import LambdaCallback
from torch import nn

from detaux_pl.data.datasets.digit_scenes import DigitScenes
from detaux_pl.data.modules import LabelledDataModule
from detaux_pl.multitask.bilevel import pure

SHAPE = (1, 8, 8)
CLASSES = 3


def smooth(model, image_shape=SHAPE, features=4):
    """Give a model, and its generator, small networks without batch statistics and kinks."""
    torch.manual_seed(0)
    n_pixels = image_shape[0] * image_shape[1] * image_shape[2]
    for network in (model.network, getattr(model, "generator", None)):
        if network is not None:
            network.backbone = nn.Sequential(nn.Flatten(), nn.Linear(n_pixels, features), nn.Tanh())
            sizes = [head[-1].out_features for head in network.heads]
            network.heads = nn.ModuleList(nn.Linear(features, size) for size in sizes)
    return model


def exact_batch(n=6, n_tasks=1, seed=1):
    """Images and labels of small classes, the images in double precision."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(n, *SHAPE, generator=generator, dtype=torch.float64)
    return images, torch.randint(CLASSES, (n, n_tasks), generator=generator)


def datamodule(cls=LabelledDataModule, n_train=128, batch_size=32, n_eval=40, **kwargs):
    dataset = DigitScenes(n_train=n_train, n_val=n_eval, n_test=n_eval, n_locations=4)
    dataset.setup()
    return cls(dataset, batch_size=batch_size, **kwargs)


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


def fit(tmp_path, make, data, folder=None, ckpt_path=None, **kwargs):
    """Train a model made under seed 0; save a checkpoint at the end of every epoch."""
    seed_everything(0, verbose=False)
    model = make(data)
    torch.manual_seed(ckpt_path is not None)  # what a resumed process begins with is its own
    keep = LambdaCallback(
        on_train_epoch_end=lambda t, _: t.save_checkpoint(folder / f"{t.current_epoch}.ckpt")
    )
    fitting = trainer(tmp_path, callbacks=[] if folder is None else [keep], **kwargs)
    fitting.fit(model, data, ckpt_path=ckpt_path, weights_only=True)
    return model, fitting


@torch.no_grad()
def training_loss(model, data):
    """Cross entropy of the training images, with the statistics of their batch."""
    rows = data.dataset.rows("train")
    with pure(model.network.train()):
        (logits, *_) = model.network(data.images(rows))
    return F.cross_entropy(logits, data.targets[rows, 0]).item()


def check_resumed(tmp_path, make, data, **kwargs):
    """Check that one epoch and a resumed second one are two epochs, statistics and rates too."""
    whole, _ = fit(tmp_path, make, data(), tmp_path / "whole", max_epochs=2, **kwargs)
    resumed, fitting = fit(
        tmp_path,
        make,
        data(),
        tmp_path / "resumed",
        tmp_path / "whole" / "0.ckpt",
        max_epochs=2,
        **kwargs,
    )
    start = torch.load(tmp_path / "whole" / "0.ckpt", weights_only=True)
    assert len(start["optimizer_states"]) == 2
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    moved = [
        key
        for key, value in whole.state_dict().items()
        if value.is_floating_point() and not torch.equal(value, start["state_dict"][key])
    ]
    assert any(key.startswith("generator") for key in moved)
    assert any(key.startswith("network") for key in moved)
    return fitting
