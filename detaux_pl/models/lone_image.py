"""What batch norm cannot do: normalise the one value that a single image has of a channel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import nn

from detaux_pl.artifacts.errors import UserError


@contextmanager
def refuse_lone_image(stage: str, batch_size: int) -> Iterator[None]:
    """Within it, the error that torch's batch norm has for it is one line.

    Args:
        stage: The stage, for the message.
        batch_size: Training batch of one rank.

    Raises:
        UserError: If a batch norm sees one place of one image in training.
    """
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel when training" not in str(error):
            raise
        raise UserError(
            f"{stage}.data.batch_size is {batch_size}: a map of the network has one place, and "
            "batch norm cannot normalise one value. Give batches of at least 2 images, or larger "
            "images."
        ) from error


def try_lone_image(
    stage: str,
    model: nn.Module,
    compute: Callable[[torch.Tensor], Any],
    images: tuple[int, int, int, int],
) -> None:
    """Check that a model on the meta device takes a batch of one in training.

    Args:
        stage: The stage, for the message.
        model: The model; it ends in training mode.
        compute: What of it images go through.
        images: Shape of all images of the batch, (B, C, H, W).

    Raises:
        UserError: If a batch norm sees one place of one image.
    """
    model.train()
    # A model that looks at its own numbers says what is wrong when it has some.
    with torch.no_grad(), refuse_lone_image(stage, 1), suppress(RuntimeError):
        compute(torch.zeros(images, device="meta"))
