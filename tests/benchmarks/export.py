"""The ONNX file of a bundle under onnxruntime, against PyTorch, on one thread; sizes of files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime
import torch

from detaux_pl.data.preprocessing import Preprocessing
from detaux_pl.inference.bundle import write_members
from detaux_pl.inference.card import Card
from detaux_pl.inference.classifier import Classifier
from detaux_pl.inference.graph import Graph, trace, write_onnx
from detaux_pl.multitask.hard_parameter_sharing import HardParameterSharing
from tests.benchmarks.disentangle import ratio, turns

_ROUNDS = 7
_NETS = (("small_convnet", 16, 5), ("resnet18", 96, 1))
"""Backbone, height and width of the images, and number of networks."""


def measure() -> Iterator[tuple[str, float, str]]:
    """Yield what is measured: name, value, unit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for backbone, size, n_members in _NETS:
            yield from _compare(backbone, size, n_members)
    finally:
        torch.set_num_threads(threads)


def _compare(backbone: str, size: int, n_members: int) -> Iterator[tuple[str, float, str]]:
    torch.manual_seed(0)
    members = [
        HardParameterSharing((3, size, size), (10, 5), backbone=backbone).eval()
        for _ in range(n_members)
    ]
    names = {"principal": tuple("0123456789"), "auxiliary": tuple("01234")}
    card = Card("label", names, dict.fromkeys(names, 1.0), Preprocessing((3, size, size)))
    classifier = Classifier(members, card)
    graph = Graph(classifier).eval()
    what = f"{n_members} x {backbone}, {size} pixels"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_onnx(trace(classifier), classifier, path)
        write_members(Path(folder), classifier.net.state_dict())
        checkpoint = Path(folder) / "best.ckpt"
        torch.save({"state_dict": classifier.net.state_dict()}, checkpoint)
        own = checkpoint.stat().st_size
        for name in ("model.safetensors", "model.onnx"):
            share = (path.parent / name).stat().st_size / own
            yield f"{name} to checkpoint, {what}", share, "x"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    for n_images in (1, 32):
        shape = (n_images, size, size, 3)
        images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        tensor = torch.from_numpy(images)
        planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2))

        def eager(tensor: torch.Tensor = tensor) -> None:
            with torch.inference_mode():
                graph(tensor)

        def ask(planes: np.ndarray = planes) -> None:
            classifier.ask(planes)

        def runtime(images: np.ndarray = images) -> None:
            session.run(None, {"images": images})

        seconds = turns(eager, ask, runtime, rounds=_ROUNDS, repeat=8 if n_images == 1 else 2)
        yield f"PyTorch, {what}, batch {n_images}", 1000 * median(seconds[1]), "ms"
        yield "onnxruntime", 1000 * median(seconds[2]), "ms"
        yield "ratio", ratio(seconds[1], seconds[2]), "x faster"
        yield "ratio, resizing in both", ratio(seconds[0], seconds[2]), "x faster"
