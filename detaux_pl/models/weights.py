"""Pretrained weights: where their files are looked for, and how the network is asked once."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import torch

_PATIENCE = 10.0
"""How long a server may take to answer [s]."""
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""What timm's weights are called on the hub of Hugging Face, the preferred one first."""
_TRAINED_ONES_FOLLOW = ContextVar("trained_ones_follow", default=False)


@contextmanager
def trained_weights_follow() -> Iterator[None]:
    """Build pretrained networks in the block without their weights: others are loaded at once."""
    before = _TRAINED_ONES_FOLLOW.set(True)
    try:
        yield
    finally:
        _TRAINED_ONES_FOLLOW.reset(before)


def wants_download(pretrained: bool) -> bool:
    """Whether a network that is built now is to have its pretrained weights."""
    return pretrained and not _TRAINED_ONES_FOLLOW.get()


def checkpoint_folder() -> Path:
    """Return the folder that torchvision keeps its weights in, where others are found too."""
    return Path(torch.hub.get_dir()) / "checkpoints"


@contextmanager
def impatient() -> Iterator[None]:
    """Wait for no server longer than a few seconds, where the caller sets no time itself."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def own_file(repo: str, file: str | None) -> Path:
    """Where a file of the user's is looked for, named as the repository of the hub is."""
    suffix = Path(file or _HUB_FILES[0]).suffix
    return checkpoint_folder() / (repo.rpartition("/")[2] + suffix)


def find_hub_weights(repo: str, revision: str | None, file: str | None) -> Path | None:
    """Find weights of the hub of Hugging Face without the network.

    Args:
        repo: The repository, such as `timm/resnet18.a1_in1k`.
        revision: Its revision; None for the newest that was downloaded.
        file: Name of its file; None for what timm calls it.

    Returns:
        The user's own file or that of the cache of Hugging Face; None for none.
    """
    from huggingface_hub import try_to_load_from_cache

    for name in (file,) if file else _HUB_FILES:
        own = own_file(repo, name)
        if own.is_file():
            return own
        cached = try_to_load_from_cache(repo, name, revision=revision)
        if isinstance(cached, str):
            return Path(cached)
    return None


def ask_hub(repo: str, revision: str | None, file: str | None) -> None:
    """Ask the hub of Hugging Face once whether it is there: its client asks for a minute.

    Raises:
        OSError: If there is no answer; one that refuses is an answer.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise OSError("HF_HUB_OFFLINE is set")
    head = urllib.request.Request(hub_url(repo, revision, file), method="HEAD")
    try:
        with urllib.request.urlopen(head, timeout=_PATIENCE):
            pass
    except urllib.error.HTTPError:
        pass
    except urllib.error.URLError as error:
        raise OSError(str(error.reason)) from None


def hub_url(repo: str, revision: str | None, file: str | None) -> str:
    """Where a file of the hub can be had."""
    from huggingface_hub import hf_hub_url

    url: str = hf_hub_url(repo, file or _HUB_FILES[0], revision=revision)
    return url
