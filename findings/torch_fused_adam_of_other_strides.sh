#!/usr/bin/env bash
# Package: torch 2.14.1, on a CPU.
#
# Guess: AdamW gives the same weights with `fused=True` as without, whatever the order in memory of a
# gradient or of a restored average; or refuses an order that it cannot take.
#
# What happens: the fused kernel goes through weights, gradients and averages as they lie in memory.
# Where a gradient, or an average from a checkpoint of the time before the model was put into
# `channels_last`, has other strides than its weight, each weight is moved by the gradient, or the
# average, of another one. No error, no warning; without `fused` all is right.
#
# Autograd itself gives a gradient the strides of its weight, so that this meets those who assign
# `.grad`, and those who resume: `load_state_dict` of the optimiser keeps the strides of the file.
#
# Output seen (Python 3.11, Linux, x86-64; largest difference from the right weights):
#   gradient in another order:   plain 0.0000, fused 0.3939
#   averages in another order:   plain 0.0000, fused 0.1435
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6
OMP_NUM_THREADS=1 "$folder/env/bin/python" -I - <<'PYTHON'
import torch

torch.manual_seed(0)
WEIGHT, GRADIENT = torch.randn(4, 3, 2, 2), torch.randn(4, 3, 2, 2)
LAST = {"memory_format": torch.channels_last}


def trained(fused, of_weight, of_gradient, of_averages):
    weight = torch.nn.Parameter(WEIGHT.clone().contiguous(**of_weight))
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=fused)
    weight.grad = GRADIENT.clone().contiguous(**of_gradient)
    optimizer.step()
    for name in ("exp_avg", "exp_avg_sq"):
        optimizer.state[weight][name] = optimizer.state[weight][name].contiguous(**of_averages)
    weight.grad = (2 * GRADIENT + 1).contiguous(**of_gradient)
    optimizer.step()
    return weight.detach().contiguous()


right = trained(False, {}, {}, {})
for what, layouts in {
    "gradient": ({}, LAST, {}),
    "averages": (LAST, LAST, {}),
}.items():
    plain, fused = ((trained(kind, *layouts) - right).abs().max().item() for kind in (False, True))
    print(f"{what} in another order:   plain {plain:.4f}, fused {fused:.4f}")
    assert plain < 1e-6 and fused > 0.1
PYTHON
