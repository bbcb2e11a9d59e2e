#!/usr/bin/env bash
# Packages: lightning 2.6.6 (and torch 2.14.1).
#
# Guess: with accumulate_grad_batches=4 an epoch of ten batches ends in a step by the mean gradient of
# the two that are left, as the other steps are by that of four; or they wait, or are left out.
#
# What happens: the step is taken, and its gradient is the sum of two divided by four. By SGD it is half
# as long as the others, in every epoch; gradients are clipped less, and what the optimiser's moments
# hold is not of one scale. With one batch left of k it is 1/k of its gradient.
#
# Output seen (Python 3.11, Linux, x86-64); a loss whose gradient is 1, SGD with a learning rate of 1:
#   batches left  lengths of the steps of an epoch
#              0  1.00  1.00
#              1  1.00  1.00  0.25
#              2  1.00  1.00  0.50
#              3  1.00  1.00  0.75
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    lightning==2.6.6 torch==2.14.1
"$folder/venv/bin/python" -I -W ignore - <<'PYTHON'
import logging

import torch
from lightning import LightningModule, Trainer
from torch.utils.data import DataLoader

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Slope(LightningModule):
    """A loss whose gradient is 1, whatever the batch."""

    def __init__(self):
        super().__init__()
        self.place = torch.nn.Parameter(torch.zeros(()))
        self.steps = []

    def training_step(self, batch, batch_idx):
        return self.place * 1.0

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)

    def optimizer_step(self, *args, **kwargs):
        before = self.place.item()
        super().optimizer_step(*args, **kwargs)
        self.steps.append(round(before - self.place.item(), 4))


print("batches left  lengths of the steps of an epoch")
for left in range(4):
    model = Slope()
    Trainer(
        accelerator="cpu", max_epochs=1, accumulate_grad_batches=4, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    ).fit(model, DataLoader(torch.zeros(8 + left, 1)))
    print(f"{left:12}" + "".join(f"  {step:.2f}" for step in model.steps))
    assert model.steps == [1.0, 1.0] + ([left / 4] if left else [])
PYTHON
