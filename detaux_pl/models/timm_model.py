"""Models of timm, by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from detaux_pl.models.weight_files import load_weights
from detaux_pl.models.weights import ask_hub, find_hub_weights, hub_url, own_file, wants_download


def build_timm_model(
    given: str,
    model: str,
    image_shape: tuple[int, int, int],
    pretrained: bool = False,
    weights: Path | None = None,
    instead: str = "set pretrained to false",
    **options: Any,
) -> nn.Module:
    """Build a model of timm for such images, on the default device.

    Args:
        given: What the user set and to what, such as `backbone is 'timm/resnet18'`, for errors.
        model: One of `timm.list_models()`, with the tag of its weights or without, see
            `check_timm_name`.
        image_shape: Channels, height and width of the images.
        pretrained: Start from the weights of the tag, or from those that timm recommends, which
            are downloaded once.
        weights: A file with other weights, see `load_weights`, for a net without classifier.
        instead: What to do where there are no weights to be had, for errors.
        **options: Further arguments of `timm.create_model`.

    Raises:
        ValueError: If there is no such model, no weights for it, the file is not of it, or it does
            not take such images.
    """
    # Other networks do without it, and its import takes seconds.
    from timm import create_model, is_model_pretrained
    from timm.models import get_pretrained_cfg_value

    check_timm_name(given, model)
    if pretrained and weights is None and not is_model_pretrained(model):
        raise ValueError(
            f"{given}, for which timm has no pretrained weights: {instead}, or see "
            "timm.list_models(pretrained=True)."
        )
    channels, height, width = image_shape
    # A model whose input size timm calls fixed takes it as an argument.
    if get_pretrained_cfg_value(model, "fixed_input_size"):
        options["img_size"] = (height, width)
    device = torch.get_default_device()
    from_file = weights is not None and wants_download(True)
    from_hub = weights is None and wants_download(pretrained)
    if from_hub:
        options |= _local_weights(model, instead)
    create = partial(create_model, model, in_chans=channels)
    if from_file:
        del options["num_classes"]
    try:
        # Models of earlier timm read values while they are built, which "meta" has none of.
        with refuse_images(model, image_shape), torch.device("cpu"):
            net = create(pretrained=from_hub, **options)
    except OSError as error:  # of the network, or of the disk
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"the weights of timm/{model} cannot be downloaded ({reason}): {instead}."
        ) from None
    if from_file:
        assert weights is not None
        with torch.device("cpu"):
            net = load_weights(partial(create, **options), net, f"timm/{model}", weights)
    return net.to(device)


def check_timm_name(given: str, model: str) -> None:
    """Check that timm has a model, and weights of the tag that is named with it.

    Args:
        given: What the user set and to what, for errors.
        model: Such as `resnet18`, or `resnet18.a1_in1k` for certain weights of it.

    Raises:
        ValueError: If it has not; the closest are named.
    """
    from timm import list_models, list_pretrained
    from timm.models import get_pretrained_cfg

    known = list_models()
    architecture, _, tag = model.partition(".")
    if architecture not in known:
        close = [f"timm/{match}" for match in get_close_matches(architecture, known)]
        hint = f"did you mean {' or '.join(close)}?" if close else "see timm.list_models()."
        raise ValueError(f"{given}, which timm does not have: {hint}")
    if not tag:
        return
    try:
        get_pretrained_cfg(model, allow_unregistered=False)
    except RuntimeError:
        named = [name.partition(".") for name in list_pretrained()]
        tags = [other for name, _, other in named if name == architecture]
        close = [f"timm/{architecture}.{near}" for near in get_close_matches(tag, tags, cutoff=0)]
        hint = f"did you mean {' or '.join(close)}?" if close else "it has none for this model."
        raise ValueError(
            f"{given}, but timm has no weights called {tag!r} for {architecture}: {hint}"
        ) from None


def _local_weights(model: str, instead: str) -> dict[str, Any]:
    """Find the weights of a model where they need no network; else ask once for what has them.

    Returns:
        What `timm.create_model` is to be told.

    Raises:
        ValueError: If they are not there and cannot be had.
    """
    from timm.models import get_pretrained_cfg

    said = get_pretrained_cfg(model)
    if said is None or not said.hf_hub_id:
        return {}
    repo, _, version = said.hf_hub_id.partition("@")
    of_hub = (repo, version or None, said.hf_hub_filename)
    file = find_hub_weights(*of_hub)
    if file is not None:
        # Some read a format of their own from a file.
        return {} if said.custom_load else {"pretrained_cfg_overlay": {"file": str(file)}}
    try:
        ask_hub(*of_hub)
    except OSError as error:
        raise ValueError(
            f"the weights of timm/{model} cannot be downloaded ({error}): {instead}, "
            f"or put {hub_url(*of_hub)} where it is found as {own_file(repo, of_hub[2])}."
        ) from None
    return {}


@contextmanager
def refuse_images(model: str, image_shape: tuple[int, int, int]) -> Iterator[None]:
    """Turn the errors of a model of timm into one line about the images.

    Raises:
        ValueError: If the model raises an error that speaks of its input.
    """
    try:
        yield
    except OSError:  # which errors of a download are besides being ValueErrors
        raise
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        channels, height, width = image_shape
        raise ValueError(
            f"timm/{model} does not take images of {channels} x {height} x {width} ({reason}): "
            "choose another model, or another image size."
        ) from error
