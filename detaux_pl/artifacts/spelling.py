"""Settings that are written otherwise and mean the same: keys of stages compare what is meant."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

_SHARES = (
    "limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches",
    "overfit_batches", "val_check_interval",
)  # fmt: skip
"""Settings of the trainer of which 1 is a batch and 1.0 all of them; None is all."""
_PRECISIONS = {
    "None": "32-true", "64": "64-true", "32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed",
}  # fmt: skip


def meant(value: Any, name: str = "") -> Any:
    """Return what a setting means, in one spelling.

    Args:
        value: A setting, or nested ones.
        name: Its name; `trainer` for those of Lightning's trainer.
    """
    if isinstance(value, Mapping):
        if name == "trainer":
            return {key: _of_trainer(key, each) for key, each in value.items()}
        return {key: meant(each, key) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [meant(each) for each in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _of_trainer(name: str, value: Any) -> Any:
    if name in _SHARES and name != "overfit_batches" and value is None:
        return 1.0
    if name in _SHARES and isinstance(value, int | float):
        return value or 0
    if name in ("devices", "num_nodes"):
        return _devices(value)
    if name == "precision":
        return _PRECISIONS.get(str(value), value)
    if name in ("max_time", "val_check_interval"):
        return _seconds(value)
    if name == "callbacks":
        return meant([] if value is None else [value] if isinstance(value, Mapping) else value)
    return meant(value)


def _devices(value: Any) -> Any:
    """Read a number, or a list of them, that is written as text."""
    if isinstance(value, list | tuple):
        return [_devices(each) for each in value]
    text = str(value).replace(" ", "").strip("[]")
    if re.fullmatch(r"-?\d+", text) and "[" not in str(value):
        return int(text)
    if re.fullmatch(r"\d+(,\d+)*,?", text):
        return [int(each) for each in text.strip(",").split(",")]
    return value


def _seconds(value: Any) -> Any:
    """Read a time that is given as days:hours:minutes:seconds or by name [s]."""
    if isinstance(value, str) and re.fullmatch(r"\d+(:\d+){3}", value):
        value = dict(zip(("days", "hours", "minutes", "seconds"), value.split(":"), strict=True))
    if isinstance(value, Mapping):
        try:
            return timedelta(**{name: float(n) for name, n in value.items()}).total_seconds()
        except (TypeError, ValueError):
            return value
    return value
