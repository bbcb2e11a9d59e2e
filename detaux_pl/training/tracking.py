"""One W&B run per stage, grouped by the run it belongs to; and the runs of W&B's agents."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger

from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.evaluation.results import read_results


def wandb_logger(
    tracking: dict[str, Any], folder: StageFolder, config: dict[str, Any]
) -> WandbLogger:
    """Return the logger of one stage; a resumed stage goes on with its run.

    Only this logger starts W&B runs, on the first rank alone. Everything W&B writes stays inside
    the run folder unless the user chose other places.

    Args:
        tracking: The settings of `Tracking`.
        folder: Folder of the stage; its manifest holds the id of the W&B run.
        config: The stage's resolved configuration, shown with the run.
    """
    run_dir = folder.run_dir
    _keep_inside(run_dir)
    mode = os.environ.get("WANDB_MODE", tracking["wandb"])
    if mode == "online" and not has_key() and not sys.stdin.isatty():
        print("no W&B key and no terminal to ask for one: tracking offline", file=sys.stderr)
        mode = "offline"
    stage, *rest = folder.name.split("/")
    logger = WandbLogger(
        name="/".join([run_dir.name, *folder.name.split("/")]),
        project=tracking["project"],
        entity=tracking["entity"],
        group=run_dir.name,
        job_type=stage,
        tags=rest,
        id=None if (manifest := folder.manifest) is None else manifest["wandb_id"],
        resume="allow",
        save_dir=str(run_dir / "wandb"),
        mode=mode,
    )
    logger.log_hyperparams(config)
    return logger


def log_results(run_dir: Path) -> None:
    """Log what a run has found as the summary of the W&B run of the agent that started it.

    Args:
        run_dir: Folder of the run.
    """
    import wandb

    _keep_inside(run_dir)
    # The environment names the sweep and the run.
    with wandb.init(dir=run_dir / "wandb") as run:
        run.summary.update(read_results(run_dir))


def has_key() -> bool:
    """Whether W&B can log in without asking."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    return netrc.is_file() and "wandb" in netrc.read_text(encoding="utf-8", errors="ignore")


def _keep_inside(run_dir: Path) -> None:
    for name in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        place = Path(os.environ.setdefault(name, str(run_dir / "wandb")))
        place.mkdir(parents=True, exist_ok=True)
