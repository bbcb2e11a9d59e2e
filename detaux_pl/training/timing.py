"""How long a step of a training takes: a few of them, timed, before anything is trained."""

from __future__ import annotations

import os
import signal
import time
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.seed import isolate_rng

from detaux_pl.data.batch import Fold
from detaux_pl.data.modules import FactorDataModule
from detaux_pl.models.feature_cache import n_missing_features
from detaux_pl.models.pretrained import PretrainedNet
from detaux_pl.multitask.base import MultitaskModel

WARM_UP, TIMED = 1, 3
"""Steps that are not timed, as memory is set up in them, and those that are."""
clock = time.perf_counter
STEPPING = (
    "accelerator", "precision", "max_epochs", "max_steps", "gradient_clip_val",
    "gradient_clip_algorithm", "accumulate_grad_batches", "limit_train_batches",
)  # fmt: skip
"""What of a trainer's settings its steps depend on."""


class Pace(NamedTuple):
    """How fast a network is.

    Args:
        step: A training step [s].
        image: An image in evaluation [s].
        features: What is to be computed once, before the first step [s].
    """

    step: float
    image: float
    features: float = 0.0


def time_net(
    model: LightningModule,
    data: FactorDataModule,
    trainer: Mapping[str, Any],
    threads: int,
    task_sizes: tuple[int, ...] | None = None,
) -> Pace:
    """Time three steps of a network that is thrown away afterwards, or a batch of a frozen one.

    The random state of the process is as before.

    Args:
        model: The network.
        data: Its images, set up.
        trainer: Settings of its trainer.
        threads: How many threads it is to have on a CPU.
        task_sizes: Classes of the tasks, the principal one first; labels of the others are made up,
            as they may be yet to be discovered. None for the labels of the data.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with isolate_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            net = getattr(model, "net", None)
            if isinstance(net, PretrainedNet):
                return _time_frozen(net, cast(Any, model).cache_dir, data, trainer["accelerator"])
            if task_sizes is not None:
                rows, rng = data.dataset.rows("train"), np.random.default_rng(0)
                shape = len(data.dataset), len(task_sizes)
                targets = rng.integers(0, task_sizes, shape)
                targets[:, 0] = data.dataset.labels
                data.fold = Fold(rows, rows[:1], targets)
            return _time_steps(model, data, trainer)
    finally:
        data.fold = None
        torch.set_num_threads(before)


def _time_frozen(
    net: PretrainedNet, cache_dir: Any, data: FactorDataModule, accelerator: str
) -> Pace:
    there = torch.accelerator.current_accelerator(check_available=True)
    place = torch.device("cpu") if there is None or accelerator == "cpu" else there
    missing = n_missing_features(net, data.dataset, cache_dir, place, data)
    if not missing:
        return Pace(0.0, 0.0)
    rows = np.arange(min(16, len(data.dataset)))
    net.to(place)
    with torch.inference_mode():
        for _ in range(WARM_UP + 1):
            since = clock()
            net(data.images(rows).to(place)).cpu()
    image = (clock() - since) / len(rows)
    return Pace(0.0, 0.0, missing * image)


class _EnoughError(Exception):
    """All steps are timed."""


class _StopWatch(Callback):
    """Time some steps, with the reading of their images, and end the training."""

    def __init__(self) -> None:
        self.n = 0
        self.since = self.seconds = 0.0

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Read the clock."""
        self.n += 1
        if self.n not in (WARM_UP, WARM_UP + TIMED):
            return
        if trainer.strategy.root_device.type != "cpu":
            torch.accelerator.synchronize()
        if self.n == WARM_UP:
            self.since = clock()
        else:
            self.seconds = (clock() - self.since) / TIMED
            raise _EnoughError


def _time_steps(model: LightningModule, data: FactorDataModule, trainer: Mapping[str, Any]) -> Pace:
    watch = _StopWatch()
    averaging = model.averaging() if isinstance(model, MultitaskModel) else []
    own = {name: trainer[name] for name in STEPPING if name in trainer}
    runner = Trainer(
        **own, devices=1, callbacks=[*averaging, watch], plugins=[LightningEnvironment()],
        use_distributed_sampler=False, limit_val_batches=0, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    terminated = False
    try:
        runner.fit(model, datamodule=data)
    except _EnoughError:
        pass
    except SIGTERMException:
        terminated = True
    except SystemExit:  # Lightning's way out of an interrupt
        raise KeyboardInterrupt from None
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        data.trainer = None
    if terminated:
        os.kill(os.getpid(), signal.SIGTERM)
    # Backward takes twice what forward does.
    return Pace(watch.seconds, watch.seconds / (3 * data.n_views * data.batch_size))
