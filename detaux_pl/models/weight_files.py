"""Weights of a model of timm from a file of the user's."""

from __future__ import annotations

import pickle
import pickletools
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

_INNER = ("state_dict_ema", "model_ema", "state_dict", "model", "teacher", "net", "module")
"""Under which keys of a checkpoint its weights may be, the preferred one first."""
_PREFIXES = ("_orig_mod.", "module.")
"""What wrappers of torch put before the names of weights."""
_NO_CHECKPOINT = "it is no checkpoint of torch"
_OTHER = (
    AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError,
)  # fmt: skip
"""What timm's translations of older files raise for files that are none of theirs."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the arrays of a file by their names, in the order of the file, on the CPU.

    No code that a file may hold is run.

    Args:
        path: A `.safetensors` file, or a checkpoint of torch, whose weights may lie under a key
            such as `state_dict`.

    Raises:
        ValueError: If there is no such file, it is damaged, holds Python objects or no arrays.
    """
    if not path.is_file():
        raise ValueError(f"weights is '{path}', which is no file: give one, or null.")
    found = _read_safetensors(path) if path.suffix == ".safetensors" else _read_checkpoint(path)
    while isinstance(found, Mapping) and not any(isinstance(v, Tensor) for v in found.values()):
        inner = [key for key in _INNER if isinstance(found.get(key), Mapping)]
        if not inner:
            break
        found = found[inner[0]]
    arrays = {k: v for k, v in found.items() if isinstance(v, Tensor)} if _is_named(found) else {}
    if not arrays:
        raise ValueError(f"weights is '{path}', which holds no named arrays: give another file.")
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in arrays):
            arrays = {name.removeprefix(prefix): value for name, value in arrays.items()}
    return arrays


def load_weights(
    build: Callable[..., nn.Module], whole: nn.Module, given: str, path: Path
) -> nn.Module:
    """Build a model of timm without its classifier, with the weights of a file.

    A file fits whose arrays have the names and shapes of the model's, or of what timm knows to
    translate to it. One of other names fits too, where every array has the shape and the last
    part of the name that the model's has at the same place: names of another port of the network.
    Files of safetensors, which keep no order, must fit by name.

    Args:
        build: `timm.create_model` for this model, without what is said of weights and classes.
        whole: The model with its classifier.
        given: What the model is called, for errors.
        path: The file.

    Raises:
        ValueError: If it cannot be read, or is of another model.
    """
    state = read_weights(path)
    wanted, cfg = whole.state_dict(), _cfg_of(whole)
    tries = [(state, n) for n in _numbers_of_classes(state, cfg)]
    if path.suffix != ".safetensors" and (named := _in_order(state, wanted)) is not None:
        tries.append((named, cfg["num_classes"]))
    for arrays, n_classes in tries:
        overlay = {"state_dict": dict(arrays), "num_classes": n_classes, "label_offset": None}
        try:
            # Of as many classes as the file has, timm minds whether all arrays are there.
            net = build(pretrained=True, pretrained_cfg_overlay=overlay, num_classes=n_classes)
        except _OTHER:
            continue
        return _without_classifier(build, net, n_classes)
    raise ValueError(
        f"weights is '{path}', which is not of {given} ({_difference(state, wanted)}): give the "
        "file of this model, or the model of this file."
    )


def _without_classifier(build: Callable[..., nn.Module], net: nn.Module, n: int) -> nn.Module:
    if n:
        whole, net = net.state_dict(), build(num_classes=0)
        net.load_state_dict({name: whole[name] for name in net.state_dict()})
    _cfg_of(net).pop("state_dict", None)  # twice the memory
    return net


def _cfg_of(net: nn.Module) -> dict[str, Any]:
    """What timm says of the weights that a model was built for."""
    cfg = net.pretrained_cfg
    assert isinstance(cfg, dict)
    return cfg


def _numbers_of_classes(state: Mapping[str, Tensor], cfg: Mapping[str, Any]) -> list[int]:
    """How many classes the file may have: as its classifier says, else none or timm's number."""
    names = cfg.get("classifier") or ()
    first = names if isinstance(names, str) else next(iter(names), "")
    own = state.get(f"{first}.weight")
    return [len(own)] if own is not None and own.ndim else sorted({0, cfg["num_classes"]})


def _in_order(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> dict[str, Tensor] | None:
    """Give arrays the names that the model has at their places; None where they do not fit."""
    if len(state) != len(wanted):
        return None
    pairs = list(zip(state, wanted, strict=True))
    fit = all(
        state[old].shape == wanted[new].shape and old.split(".")[-1] == new.split(".")[-1]
        for old, new in pairs
    )
    return {new: state[old] for old, new in pairs} if fit else None


def _difference(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """Say how a file differs from the model."""
    missing = [name for name in wanted if name not in state]
    if missing:
        return f"it lacks {len(missing)} of {len(wanted)} arrays, {missing[0]} first"
    for name, value in wanted.items():
        if state[name].shape != value.shape:
            is_shape, not_shape = tuple(state[name].shape), tuple(value.shape)
            return f"its {name} has the shape {is_shape}, not {not_shape}"
    return f"it has {len(state) - len(wanted)} arrays more"


def _is_named(found: Any) -> bool:
    return isinstance(found, Mapping) and all(isinstance(name, str) for name in found)


def _read_safetensors(path: Path) -> Any:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, str(error)) from None


def _read_checkpoint(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles of other ages
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        if objects := _python_objects(path):
            raise ValueError(
                f"weights is '{path}', which holds Python objects ({', '.join(objects[:3])}) that "
                "could run code: save its state_dict alone, best as safetensors."
            ) from None
        raise _damaged(path, _NO_CHECKPOINT) from None
    except Exception as error:  # torch.load has no error of its own for a damaged file
        raise _damaged(path, str(error) if " " in str(error) else _NO_CHECKPOINT) from None


def _python_objects(path: Path) -> list[str]:
    """What a file would need beside arrays, by name, of which nothing is run."""
    with suppress(Exception):  # of a damaged file, of many kinds
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    names, words = [], ["", ""]
    with suppress(Exception), path.open("rb") as file:
        for code, value, _ in pickletools.genops(file):
            if code.name == "GLOBAL":
                names.append(str(value).replace(" ", "."))
            elif code.name == "STACK_GLOBAL":
                names.append(".".join(words[-2:]))
            elif isinstance(value, str):
                words.append(value)
    return sorted(set(names))


def _damaged(path: Path, reason: str) -> ValueError:
    return ValueError(
        f"weights is '{path}', which cannot be read ({' '.join(reason.split())[:80]}): it is "
        "damaged, or no file of weights."
    )
