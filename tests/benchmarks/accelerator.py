"""What a GPU makes of each training: all of it in one call, each figure beside its rival.

    python -m tests.benchmarks.accelerator

measures on the GPU, or tries the same on a CPU at small sizes (`--device cpu`), whose figures say
nothing. `make bench` has it where there is a GPU.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from detaux_pl.disentangle.product_manifold import ProductManifoldAutoencoder
from detaux_pl.losses.info_nce import InfoNCE, unit_vectors
from detaux_pl.losses.schedule import Betas
from detaux_pl.multitask.hard_parameter_sharing import HardParameterSharing
from tests.benchmarks.official_step import OfficialStep

Row = tuple[str, float, str]
_ALL = Betas(0.5, 1.0, 0.5)
_EPOCHS, _IMAGES = 40, 480_000
"""Of the paper's experiment on 3D Shapes."""


class Sizes(NamedTuple):
    """How much is computed.

    Args:
        pairs: Pairs of a step of the product manifold.
        nets: Networks that are trained side by side.
        embeddings: Rows that the contrastive loss sees.
        images: Images that pass a network.
        rounds: Times that each is measured.
    """

    pairs: int = 32
    nets: int = 20
    embeddings: int = 32_768
    images: int = 256
    rounds: int = 20


SMALL = Sizes(pairs=2, nets=2, embeddings=64, images=4, rounds=1)


def measure() -> Iterator[Row]:
    """Yield what is measured: name, value, unit; nothing without a GPU."""
    if torch.cuda.is_available():
        yield from measured(torch.device("cuda"), Sizes())


def measured(device: torch.device, sizes: Sizes) -> Iterator[Row]:
    """Yield every figure of a device."""
    for autoencoder in ("convolutional", "resnet18"):
        yield from _steps(autoencoder, device, sizes)
    yield from _together(device, sizes)
    yield from _contrastive(device, sizes)
    yield from _networks(device, sizes)


def _milliseconds(work: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Return the median time of a work that has been done before [ms]."""
    for _ in range(3):
        work()
    taken = []
    for _ in range(rounds):
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        taken.append(1e3 * (time.perf_counter() - start))
    return median(taken)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _steps(autoencoder: Any, device: torch.device, sizes: Sizes) -> Iterator[Row]:
    """The step of the product manifold: official, ours, compiled, as a graph, in bfloat16."""
    images = torch.rand(2, sizes.pairs, 3, 64, 64, device=device)
    same = torch.arange(sizes.pairs, device=device) % 2 == 0
    build = {"image_shape": (3, 64, 64), "autoencoder": autoencoder}
    name = f"step of {sizes.pairs} pairs, {autoencoder}, all losses"
    with device:
        official = OfficialStep(ProductManifoldAutoencoder(**build))
    last = images.flatten(0, 1).permute(0, 2, 3, 1).contiguous()
    rival = _milliseconds(lambda: official(last, same, _ALL), device, sizes.rounds)
    yield f"official {name}", rival, "ms"
    ways: dict[str, dict[str, Any]] = {"eager": {}, "eager, bfloat16": {"half": True}}
    if device.type == "cuda":
        ways |= {"compiled": {"mode": "default"}, "compiled, graphs": {"mode": "reduce-overhead"}}
    for way, how in ways.items():
        with device:
            model = ProductManifoldAutoencoder(**build)
        ours = _milliseconds(_step(model, images, same, **how), device, sizes.rounds)
        yield f"ours, {way}", rival / ours, "x faster"
        if way == "eager":
            steps = _EPOCHS * _IMAGES / (2 * sizes.pairs)
            yield f"{_IMAGES:,} images, {_EPOCHS} epochs at that", ours * steps / 3.6e6, "hours"


def _step(
    model: ProductManifoldAutoencoder,
    images: Tensor,
    same: Tensor,
    half: bool = False,
    mode: str | None = None,
) -> Callable[[], object]:
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    losses = model.loss_terms if mode is None else torch.compile(model.loss_terms, mode=mode)
    narrow = torch.autocast(images.device.type, torch.bfloat16) if half else nullcontext()

    def run() -> None:
        optimizer.zero_grad()
        with narrow:
            loss = losses(images, same, _ALL)[0]
        loss.backward()
        optimizer.step()

    return run


def _together(device: torch.device, sizes: Sizes) -> Iterator[Row]:
    """Small networks of several seeds: one batched step against one after the other."""
    with device:
        nets = [_small_net() for _ in range(sizes.nets)]
    images = torch.rand(32, 3, 16, 16, device=device)
    targets = torch.arange(32, device=device) % 10
    apart = [torch.optim.SGD(net.parameters(), lr=1e-3) for net in nets]

    def alone() -> None:
        for net, optimizer in zip(nets, apart, strict=True):
            optimizer.zero_grad()
            F.cross_entropy(net(images), targets).backward()
            optimizer.step()

    base = copy.deepcopy(nets[0]).to("meta")
    weights, buffers = stack_module_state(nets)

    def loss(own: dict[str, Tensor], kept: dict[str, Tensor]) -> Tensor:
        logits: Tensor = functional_call(base, (own, kept), (images,))
        return F.cross_entropy(logits, targets)

    gradients = vmap(grad(loss))

    @torch.no_grad()
    def batched() -> None:
        for name, value in gradients(weights, buffers).items():
            weights[name].sub_(value, alpha=1e-3)

    slow = _milliseconds(alone, device, sizes.rounds)
    fast = _milliseconds(batched, device, sizes.rounds)
    yield f"step of {sizes.nets} small nets, one after the other", slow, "ms"
    yield "all as one batched step", slow / fast, "x faster (aim: at least 5)"


def _small_net() -> nn.Module:
    """Convolutions as those of `small_convnet`, without the batch norms that vmap cannot update."""
    widths = (3, 32, 32, 64, 128)
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 10))


def _contrastive(device: torch.device, sizes: Sizes) -> Iterator[Row]:
    """The contrastive loss of a batch whose similarities would not fit, forwards and backwards."""
    codes = torch.randn(sizes.embeddings, 128, device=device, requires_grad=True)
    labels = torch.arange(sizes.embeddings, device=device) % (sizes.embeddings // 2)
    loss = InfoNCE(temperature=0.1)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    taken = _milliseconds(
        lambda: loss(unit_vectors(codes), labels).backward(), device, min(3, sizes.rounds)
    )
    yield f"InfoNCE of {sizes.embeddings:,} embeddings, both ways", taken, "ms"
    if device.type == "cuda":
        yield "its memory", torch.cuda.max_memory_allocated(device) / 1e9, "GB"


def _networks(device: torch.device, sizes: Sizes) -> Iterator[Row]:
    """Images per second: frozen features, and training steps of hard parameter sharing."""
    from timm import create_model

    with device:
        frozen = create_model("vit_small_patch16_224", num_classes=0).eval()
    images = torch.rand(sizes.images, 3, 224, 224, device=device)

    def features(half: bool) -> Callable[[], object]:
        narrow = torch.autocast(device.type, torch.bfloat16) if half else nullcontext()

        @torch.inference_mode()
        def run() -> None:
            with narrow:
                frozen(images)

        return run

    for how, half in (("", False), (", bfloat16", True)):
        taken = _milliseconds(features(half), device, sizes.rounds)
        yield f"features of ViT-S/16 at 224 px{how}", 1e3 * sizes.images / taken, "images/s"
    with device:
        model = HardParameterSharing((3, 64, 64), (10, 4), backbone="vgg16")
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    small = torch.rand(sizes.images, 3, 64, 64, device=device)
    targets = torch.arange(sizes.images, device=device) % 4

    def step() -> None:
        optimizer.zero_grad()
        sum(F.cross_entropy(logits, targets) for logits in model(small)).backward()
        optimizer.step()

    taken = _milliseconds(step, device, sizes.rounds)
    yield "training of HPS on VGG16 at 64 px", 1e3 * sizes.images / taken, "images/s"


def main() -> None:
    """Print every figure of the device as it comes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", help="cpu tries the script at small sizes")
    device = torch.device(parser.parse_args().device)
    print(f"torch {torch.__version__}, {device}", flush=True)
    for name, value, unit in measured(device, Sizes() if device.type == "cuda" else SMALL):
        print(f"{name:60} {value:12,.2f} {unit}", flush=True)


if __name__ == "__main__":
    main()
