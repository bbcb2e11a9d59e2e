"""What a training costs: parameters, operations, time and memory."""

from __future__ import annotations

import logging
import statistics
import time
import weakref
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from detaux_pl.artifacts.files import write_json
from detaux_pl.data.batch import Batch

TRACKED_BATCHES = 32
"""Batches whose allocations are counted off CUDA: enough for a step of two levels of training
that comes every 30 batches."""


class CostRecord(Callback):
    """Measure what a training costs, and write `cost.json` when it has ended.

    - `parameters`: trainable parameters in total.
    - `inference_parameters`: parameters that `forward` reads, trainable or not.
    - `flops`: operations of the forward pass of one image in evaluation; a multiplication and
      the addition of its product are two. Convolutions, matrix products and attention count.
    - `seconds_per_epoch`: median over the training epochs, without validation and, where there
      are more, without the first [s].
    - `peak_memory`: most memory of tensors at a time in training, on this rank [bytes]. On CUDA
      what the allocator says. Elsewhere the storages that operators return in the first
      `TRACKED_BATCHES` batches, with all that was held before: parameters, buffers, gradients,
      the optimizer's state and the batch. Scratch space within an operator is not seen.
    - `device`: `cpu`, or the name of the GPU.
    - `samples_per_second`: images of all ranks, median over the same epochs [1/s].

    Time and memory are those of this training as it ran, beside whatever ran at the same time.
    What cannot be measured is null. The measurement changes no result and draws no random
    numbers; a resumed training goes on from what was measured before.

    Args:
        folder: Where to write the file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._epochs: list[list[float]] = []  # seconds and samples of each
        self._seconds, self._samples = 0.0, 0
        self._memory: int | None = None
        self._n_tracked = 0
        self._shape: list[int] | None = None
        self._since: float | None = None
        self._device = torch.device("cpu")
        self._tracker: _Tracker | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return what was measured so far, in the present epoch too."""
        runs = self._since is not None
        self._pause()
        state = {
            "epochs": [list(epoch) for epoch in self._epochs],
            "seconds": self._seconds,
            "samples": self._samples,
            "memory": self._memory,
            "n_tracked": self._n_tracked,
            "shape": self._shape,
        }
        if runs:
            self._go_on()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what was measured before."""
        self._epochs = [list(epoch) for epoch in state_dict["epochs"]]
        self._seconds, self._samples = state_dict["seconds"], state_dict["samples"]
        self._memory, self._n_tracked = state_dict["memory"], state_dict["n_tracked"]
        self._shape = state_dict["shape"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, in mid-epoch too."""
        self._device = pl_module.device
        self._go_on()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock anew."""
        self._seconds, self._samples = 0.0, 0
        self._go_on()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Watch the allocations of the first batches."""
        self._shape = list(batch.images.shape[1:])
        if self._device.type == "cuda" or self._n_tracked >= TRACKED_BATCHES:
            return
        if self._tracker is None:
            self._tracker = _Tracker(self._device.type)
        self._tracker.hold(pl_module.parameters())
        self._tracker.hold(pl_module.buffers())
        self._tracker.hold(parameter.grad for parameter in pl_module.parameters())
        self._tracker.hold(tree_leaves([dict(each.state) for each in trainer.optimizers]))
        self._tracker.hold(batch)
        self._tracker.__enter__()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Count the batch and, if it is the last one, the epoch."""
        self._samples += len(batch.images) * trainer.world_size
        self._end_tracking()
        if trainer.is_last_batch:
            self._pause()
            self._epochs.append([self._seconds, self._samples])
            self._seconds, self._samples = 0.0, 0

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._pause()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on within an epoch."""
        if self._samples:
            self._go_on()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leave no mode of torch behind."""
        self._end_tracking()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file."""
        if not trainer.is_global_zero:
            return
        used, flops = _measure_forward(pl_module, self._shape)
        epochs = self._epochs[1:] or self._epochs
        cuda = pl_module.device.type == "cuda"
        write_json(
            self.folder / "cost.json",
            {
                "parameters": sum(p.numel() for p in pl_module.parameters() if p.requires_grad),
                "inference_parameters": used,
                "flops": flops,
                "seconds_per_epoch": _median(seconds for seconds, _ in epochs),
                "peak_memory": self._memory,
                "device": (
                    torch.cuda.get_device_name(pl_module.device)
                    if cuda
                    else str(pl_module.device.type)
                ),
                "samples_per_second": _median(n / seconds for seconds, n in epochs),
            },
        )

    def _go_on(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        self._since = time.perf_counter()

    def _pause(self) -> None:
        if self._since is None:
            return
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            self._see(torch.cuda.max_memory_allocated(self._device))
        self._seconds += time.perf_counter() - self._since
        self._since = None

    def _end_tracking(self) -> None:
        if self._tracker is None:
            return
        if self._tracker.active:
            self._tracker.__exit__(None, None, None)
            self._n_tracked += 1
            self._see(self._tracker.peak)
        if self._n_tracked >= TRACKED_BATCHES:
            self._tracker = None

    def _see(self, memory: int) -> None:
        self._memory = max(self._memory or 0, memory)


class _Tracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count the bytes of all storages that operators return, for as long as these live."""

    def __init__(self, device: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device
        self.active = False
        self.peak = 0
        self._now = 0
        self._living: dict[int, tuple[int, Any]] = {}

    def __enter__(self) -> _Tracker:
        self.active = True
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *exception: Any) -> None:
        self.active = False
        super().__exit__(*exception)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.hold(tree_leaves(result))
        return result

    def hold(self, values: Iterable[Any]) -> None:
        """Count the tensors among some values that are not counted yet."""
        for value in values:
            if not isinstance(value, Tensor) or value.device.type != self.device:
                continue
            try:
                storage = value.untyped_storage()
            except (NotImplementedError, RuntimeError):  # sparse tensors and wrappers have none
                continue
            # Python's object of a storage lives as long as the storage itself.
            key, size = id(storage), storage.nbytes()
            if key not in self._living:
                self._living[key] = size, weakref.ref(storage, partial(self._release, key))
                self._now += size
                self.peak = max(self.peak, self._now)

    def _release(self, key: int, _: Any) -> None:
        self._now -= self._living.pop(key)[0]


class _Parameters(TorchFunctionMode):
    """Collect the parameters that functions of torch are given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[int, nn.Parameter] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, nn.Parameter):
                self.seen[id(value)] = value
        return func(*args, **(kwargs or {}))


def _measure_forward(
    module: LightningModule, shape: list[int] | None
) -> tuple[int | None, int | None]:
    """Count the parameters and operations of one image's forward pass; None for unknown.

    Args:
        module: A model of images; left as it is.
        shape: Channels, height and width; None where no image was seen.
    """
    if shape is None:
        return None, None
    training = {each: each.training for each in module.modules()}
    cuda = [module.device] if module.device.type == "cuda" else []
    image = torch.zeros(1, *shape, dtype=module.dtype, device=module.device)  # type: ignore[arg-type]
    flops, parameters = FlopCounterMode(display=False), _Parameters()
    try:
        module.eval()
        with torch.random.fork_rng(cuda), torch.no_grad(), flops, parameters:
            module(image)
    except Exception as error:  # a trained network is worth more than its operations' count
        logging.getLogger(__name__).warning("the operations cannot be counted: %s", error)
        return None, None
    finally:
        for each, before in training.items():
            each.training = before
    return sum(each.numel() for each in parameters.seen.values()), flops.get_total_flops()


def _median(values: Iterable[float]) -> float | None:
    given = list(values)
    return round(statistics.median(given), 6) if given else None
