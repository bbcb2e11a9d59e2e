"""What frozen features cannot be made of: one line each, before anything is computed."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

Refused = Callable[[list[str]], str]
N = 40


class Harm:
    """What runs code where it is unpickled without care."""

    def __reduce__(self) -> tuple[object, ...]:
        return print, ("code was run",)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of the same images, and files of weights, of which one fits."""
    folder = tmp_path_factory.mktemp("bad")
    rng = np.random.default_rng(0)
    for k in range(N):
        Image.fromarray(rng.integers(0, 256, (24, 40, 3), np.uint8)).save(folder / f"{k}.png")
    own = [f"class {k % 8}" for k in range(N)]
    parts = ["val"] * 10 + ["test"] * 10 + ["train"] * 20
    for name, labels in (
        ("good", own),
        ("one class", ["same"] * N),
        ("a class each", [f"class {k}" for k in range(N)]),
        ("few", [label if k < 25 else "" for k, label in enumerate(own)]),
        ("single", [label if k < 28 else "" for k, label in enumerate(own)]),
    ):
        rows = [f"{k}.png,{label},{parts[k]}" for k, label in enumerate(labels)]
        (folder / f"{name}.csv").write_text("\n".join(["image,label,split", *rows]))
    net = timm.create_model("test_resnet")
    state = net.state_dict()
    torch.save(state, folder / "net.pth")
    torch.save(timm.create_model("test_vit").state_dict(), folder / "vit.pth")
    torch.save({"state_dict": state, "more": Harm()}, folder / "code.pth")
    (folder / "pickle.pth").write_bytes(pickle.dumps({"state_dict": {}, "more": Harm()}))
    torch.save(net, folder / "module.pth")
    whole = (folder / "net.pth").read_bytes()
    (folder / "cut.pth").write_bytes(whole[: len(whole) // 2])
    (folder / "cut.safetensors").write_bytes(whole[:20])
    (folder / "text.pth").write_text("no weights")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "weights", "model", "said"),
    [
        ("good", None, "resnet18.a4_in1k", "no weights called 'a4_in1k' for resnet18: did you"),
        ("good", None, "resnet19", "timm does not have: did you mean timm/resnet18"),
        ("good", "vit.pth", None, "vit.pth', which is not of timm/test_resnet (it lacks 92 of 92"),
        ("good", "cut.pth", None, "cannot be read (PytorchStreamReader failed reading zip"),
        ("good", "cut.safetensors", None, "cannot be read (Error while deserializing header"),
        ("good", "text.pth", None, "cannot be read (it is no checkpoint of torch): it is damaged"),
        ("good", "code.pth", None, "holds Python objects (builtins.print) that could run code"),
        ("good", "pickle.pth", None, "holds Python objects (builtins.print) that could run code"),
        ("good", "module.pth", None, "holds Python objects (timm.layers."),
        ("good", "away.pth", None, "which is no file: give one, or null."),
        ("good", None, "test_vit", "does not take images of 3 x 8 x 8 (Input height (8) should"),
        ("one class", "net.pth", None, "has 1 class of 'label': at least 2 are needed"),
        ("a class each", "net.pth", None, "20 training images have a label, of 20 of the 40 cla"),
        ("few", "net.pth", None, "5 training images have a label, of 5 of the 8 classes: give"),
        ("single", "net.pth", None, "no class has two labelled training images, so that none can"),
    ],
)
def test_it_is_one_line_and_nothing_has_begun(
    table: str, weights: str | None, model: str | None, said: str,
    files: Path, tmp_path: Path, error_line: Refused,
):  # fmt: skip
    run_dir = tmp_path / "run"
    words = ["fit", "--config", "configs/table.yaml", "--dataset.path", str(files / f"{table}.csv")]
    words += ["--dataset.principal", "label", "--dataset.image_size", "32"]
    words += ["--dataset.unlabelled", "true", "--dataset.cache_dir", str(tmp_path / "cache")]
    words += [
        "--run_dir",
        str(run_dir),
        "--disentangle.model.model",
        f"timm/{model or 'test_resnet'}",
    ]
    if model == "test_vit":
        words += ["--disentangle.model.size", "8", "--disentangle.model.pretrained", "false"]
    if weights is not None:
        words += ["--disentangle.model.weights", str(files / weights)]
    line = error_line(words)
    assert said in line
    assert not (run_dir / "disentangle").exists()
    assert not list(tmp_path.rglob("features*"))
