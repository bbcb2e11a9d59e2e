"""What a trainer's settings say of the hardware."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from detaux_pl.artifacts.errors import UserError


def on_cpu(config: Mapping[str, Any]) -> bool:
    """Whether the trainer of a configuration runs on the CPU."""
    accelerator = config["trainer"]["accelerator"]
    if accelerator != "auto":
        return bool(accelerator == "cpu")
    import torch

    return not torch.accelerator.is_available()


def n_devices(trainer: dict[str, Any]) -> int:
    """How many processes a trainer's configuration starts, here and on other machines."""
    devices = trainer["devices"]
    if isinstance(devices, list):
        count = len(devices)
    elif devices in ("auto", -1, "-1"):
        import torch

        on_cpu = trainer["accelerator"] == "cpu" or not torch.cuda.is_available()
        count = 1 if on_cpu else torch.cuda.device_count()
    else:
        text = str(devices)
        if not re.fullmatch(r"\d+(,\d+)*,?", text):
            raise UserError(f"trainer.devices is {text!r}: give a number, a list or auto.")
        count = len(text.strip(",").split(",")) if "," in text else int(text)
    return count * int(trainer["num_nodes"])
