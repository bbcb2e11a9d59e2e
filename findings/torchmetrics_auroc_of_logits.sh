#!/usr/bin/env bash
# Package: torchmetrics 1.9.0, with torch 2.14.1.
#
# Guess: AUROC depends on nothing but the order of the scores, so that logits may be given as they
# are, at any scale and in any batches, as to scikit-learn.
#
# What happens: scores are taken for probabilities if all of them are in [0, 1], and otherwise go
# through a sigmoid of 32 bits, in which those above 17 are all 1: their order is lost without a
# word. And each batch is asked by itself: one whose logits happen to be in [0, 1] stays as it is
# among others that do not, so that the result depends on the size of the batches. Of the same 1,000
# logits, 0.864 by scikit-learn, torchmetrics makes 0.836 in batches of one, and 0.755 if they are a
# hundred times as large.
#
# Output seen (Python 3.11, Linux, x86-64):
#   scikit-learn                          0.8643
#   torchmetrics, logits times 1          0.8643
#   torchmetrics, logits times 10         0.8601
#   torchmetrics, logits times 100        0.7548
#   torchmetrics, batches of 8            0.8643
#   torchmetrics, batches of 2            0.8621
#   torchmetrics, batches of 1            0.8364
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    torchmetrics==1.9.0 torch==2.14.1 scikit-learn==1.9.1 numpy==2.4.6
"$folder/venv/bin/python" -I -W ignore - <<'PYTHON'
import torch
from sklearn.metrics import roc_auc_score
from torchmetrics.classification import BinaryAUROC

draw = torch.Generator().manual_seed(0)
labels = (torch.rand(1000, generator=draw) < 0.5).long()
logits = torch.randn(1000, generator=draw) + 1.5 * labels


def told(scale, batch):
    metric = BinaryAUROC()
    for start in range(0, len(logits), batch):
        part = slice(start, start + batch)
        metric.update(scale * logits[part], labels[part])
    return metric.compute().item()


right = roc_auc_score(labels, logits)
print(f"{'scikit-learn':36}  {right:.4f}")
by_scale = {scale: told(scale, 1000) for scale in (1, 10, 100)}
by_batch = {batch: told(1, batch) for batch in (8, 2, 1)}
for scale, value in by_scale.items():
    print(f"{f'torchmetrics, logits times {scale}':36}  {value:.4f}")
for batch, value in by_batch.items():
    print(f"{f'torchmetrics, batches of {batch}':36}  {value:.4f}")

assert abs(by_scale[1] - right) < 1e-6
assert abs(by_batch[8] - right) < 1e-6
assert by_scale[100] < right - 0.1
assert by_batch[1] < right - 0.02
PYTHON
