"""A trained network from what it was built from and its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from detaux_pl.inference.checkpoint import fitting_weights
from detaux_pl.models.weights import trained_weights_follow
from detaux_pl.settings.build import Spec, build
from detaux_pl.settings.parser import explain

_FILLED = ("image_shape", "n_classes", "task_sizes")
"""Arguments of the models that no config holds: the command line takes them from the data."""


def filled_in(hyper_parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return those arguments of a model that were taken from the data."""
    return {name: value for name, value in hyper_parameters.items() if name in _FILLED}


def rebuild(
    kind: type, spec: Spec, filled: Mapping[str, Any], weights: Mapping[str, Tensor], path: Path
) -> Any:
    """Build a network and give it its weights.

    Args:
        kind: Base class of the network.
        spec: What it is built from.
        filled: Its arguments that were taken from the data.
        weights: Its parameters and buffers by name.
        path: Where the weights were read, for messages.

    Returns:
        The network, in evaluation mode on the CPU.

    Raises:
        ValueError: If the class refuses its arguments.
        ArtifactError: If the weights are those of another network.
    """
    try:
        with trained_weights_follow():
            model: nn.Module = build(kind, spec, **filled)
    except (ValueError, TypeError) as error:
        raise explain(error) from error
    with fitting_weights(path):
        model.load_state_dict(weights)
    return model.eval()
