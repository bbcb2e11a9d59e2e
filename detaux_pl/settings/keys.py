"""What of the settings of a stage changes its result: what its key is made from."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from detaux_pl.artifacts.files import sha256_file
from detaux_pl.settings.moved import first_path

TRAINER_SETTINGS = (
    "max_epochs", "min_epochs", "max_steps", "min_steps", "max_time", "callbacks", "precision",
    "gradient_clip_val",
    "gradient_clip_algorithm", "accumulate_grad_batches", "limit_train_batches",
    "limit_val_batches", "limit_test_batches", "limit_predict_batches", "overfit_batches",
    "check_val_every_n_epoch", "val_check_interval", "devices", "num_nodes", "sync_batchnorm",
)  # fmt: skip
"""What of the trainer changes the result. An allow-list: with a deny-list, every finished run
would be stale at the next release of Lightning that adds an option."""

_PLACES = {
    "root", "path", "cache_dir", "cached", "in_memory", "num_workers", "device_resident",
    "eval_batch_size", "labels", "download", "max_pixels",
}  # fmt: skip
"""Where the data lie and how they are read: nothing that changes the result."""

_LATER = (
    "value_range", "leave_out", "unlabelled", "split_by", "correlate", "correlation", "uses",
    "few_labels",
)  # fmt: skip
"""Settings that are younger than some runs: null, false or 0, they change nothing, and keys are
without."""


_LATER_OF_MODELS = {
    "recipe": None, "weights": None, "size": None, "pooled": False, "freeze": 0, "lr_decay": 1.0,
    "checkpointing": False,
}  # fmt: skip
"""The same of settings of models of a backbone: with these values, they change nothing."""


def trainable_settings(config: Mapping[str, Any], files: str | None = None) -> dict[str, Any]:
    """Pick from a resolved stage config what changes the result of its training.

    Args:
        config: The config.
        files: Fingerprint of the user's own files, where no stage upstream has it in its key.
    """
    return {
        **({} if files is None else {"files": files}),
        "seed": config["seed_everything"],
        "model": _by_content(config["model"]),
        "data": without_places(config["data"]),
        "trainer": _measures({name: config["trainer"][name] for name in TRAINER_SETTINGS}),
    }


def codes_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Pick what changes the codes beside the trained disentangler: nothing but the images."""
    return {"data": without_places(config["data"])}


def nets_settings(config: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Pick what changes what nets say: not where they are trained."""
    if config is None:
        return None
    trainer = _measures({k: v for k, v in config["trainer"].items() if k != "accelerator"})
    return {**_by_content(without_places(config)), "trainer": trainer}


def _by_content(value: Any) -> Any:
    """Put what is in files of weights for where they lie, in settings of a model, at any depth."""
    if isinstance(value, Mapping):
        later = _LATER_OF_MODELS if "recipe" in value or "backbone" in value else {}
        kept = {
            k: _by_content(v)
            for k, v in value.items()
            if k != "cache_dir" and not (k in later and v == later[k])
        }
        if isinstance(file := kept.get("weights"), str):
            with suppress(OSError):  # it is refused when the model is built
                stat = Path(file).stat()
                kept["weights"] = _digest(file, stat.st_size, stat.st_mtime_ns)
        return kept
    return value


@lru_cache
def _digest(file: str, size: int, changed: int) -> str:
    """Digest a file once, as long as it stays as it is."""
    return f"sha256 {sha256_file(Path(file))}"


def _measures(trainer: dict[str, Any]) -> dict[str, Any]:
    """Write as floats what is a number of no unit: 1 and 1.0 are the same there, and one key.

    In `limit_train_batches` and the like they are not: 1 is one batch, 1.0 all of them.
    """
    clip = trainer.get("gradient_clip_val")
    return trainer if clip is None else {**trainer, "gradient_clip_val": float(clip)}


def without_places(value: Any) -> Any:
    """Leave out of settings where data lie and how they are read, at any depth."""
    if isinstance(value, Mapping):
        kept = {
            k: without_places(v)
            for k, v in value.items()
            if k not in _PLACES and (k not in _LATER or v not in (None, False))
        }
        if isinstance(kept.get("unlabelled"), str):  # where they lie; their content is in the files
            kept["unlabelled"] = True
        if isinstance(path := kept.get("class_path"), str):
            kept["class_path"] = first_path(path)
        if kept.get("mode") == "elementwise_16":  # it wrote 0 and 1 once
            kept["levels"] = [0.98, 0.02]
        return kept
    return value
