"""How the trainer writes and reads the checkpoints of a stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from detaux_pl.artifacts.files import replacing
from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.inference.checkpoint import checkpoint_path, read_checkpoint

_OF_TRAINING = (
    "optimizer_states", "lr_schedulers", "loops", "callbacks", "MixedPrecision",
    "LightningDataModule", "current_model_state", "averaging_state",
)  # fmt: skip
"""What a checkpoint holds that only a training needs which goes on."""


def is_finished(folder: StageFolder, name: str) -> bool:
    """Whether a checkpoint is that of a training that was done, see `keep_weights`."""
    return _OF_TRAINING[0] not in read_checkpoint(folder, name)


def keep_weights(folder: StageFolder, name: str) -> None:
    """Leave in a checkpoint what a trained model is made of, and no state of its training.

    Args:
        folder: The stage.
        name: `last` or `best`.
    """
    path = checkpoint_path(folder, name)
    if not path.is_file():  # a folder of shards
        return
    saved = read_checkpoint(folder, name)
    kept = {key: value for key, value in saved.items() if key not in _OF_TRAINING}
    WholeCheckpoints(folder).save_checkpoint(kept, path)


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that are whole, whenever a process or its machine ends.

    Lightning writes to a folder for temporary files and moves the file, which is a copy where
    that folder is on another file system: a process killed in the copy would leave half a file in
    place of a good one. Ours are written beside the old one, and renamed.

    Args:
        folder: The stage.
    """

    def __init__(self, folder: StageFolder) -> None:
        self.folder = folder

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Put a checkpoint in the place of the one before; called by the first rank alone."""
        del storage_options
        with replacing(Path(path)) as temporary, temporary.open("wb") as handle:
            try:
                torch.save(checkpoint, handle)  # by its path, the name would be in the content
            except RuntimeError as error:
                if isinstance(cause := error.__context__, OSError):  # what the disk said
                    raise cause from None
                raise

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint of the stage on the CPU, where nothing but weights is ever read."""
        del map_location, weights_only
        name = Path(path).stem
        if Path(path).resolve() != checkpoint_path(self.folder, name).resolve():
            return super().load_checkpoint(path, weights_only=True)
        return read_checkpoint(self.folder, name)
