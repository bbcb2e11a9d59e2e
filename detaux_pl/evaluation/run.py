"""A finished run, from Python: trained modules, codes and labels."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from detaux_pl.artifacts.codes import Codes
from detaux_pl.artifacts.errors import ArtifactError
from detaux_pl.artifacts.files import read_json, read_yaml
from detaux_pl.artifacts.labels import AuxiliaryLabels, labels_folder, load_tasks
from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.data.modules import FactorDataModule
from detaux_pl.disentangle.base import Disentangler
from detaux_pl.multitask.base import MultitaskModel
from detaux_pl.settings.build import build
from detaux_pl.settings.names import arm_folder, arm_folders

_FILLED = ("image_shape", "n_classes", "task_sizes")
"""Arguments of the models that no config holds: the command line takes them from the data."""


class Run:
    """What a run folder holds, read when it is asked for.

    Args:
        run_dir: Folder of the run.

    Raises:
        ArtifactError: If the folder holds no run; later, if a stage asked for has not run.
    """

    def __init__(self, run_dir: str | Path) -> None:
        self.run_dir = Path(run_dir)
        if not (self.run_dir / "disentangle").is_dir():
            raise ArtifactError(f"{self.run_dir} is no run folder: it has no `disentangle` stage.")

    @cached_property
    def codes(self) -> Codes:
        """The codes of every sample, shape (N, K, D)."""
        return Codes.load(self.run_dir / "disentangle" / "codes")

    @cached_property
    def probes(self) -> dict[str, Any]:
        """Accuracy of the linear probes, the content of `evaluate/probes.json`."""
        probes: dict[str, Any] = read_json(self.run_dir / "evaluate" / "probes.json")
        return probes

    @cached_property
    def tasks(self) -> list[AuxiliaryLabels]:
        """The discovered tasks, refined where the run has done so, the best one first."""
        return load_tasks(labels_folder(self.run_dir))

    @cached_property
    def candidates(self) -> dict[str, Any] | None:
        """What is known of every candidate task, and the verdict; None where none was tried."""
        path = self.run_dir / "cluster" / "candidates.json"
        return read_json(path) if path.is_file() else None

    @property
    def labels(self) -> AuxiliaryLabels:
        """The discovered task, the first one of several."""
        return self.tasks[0]

    @cached_property
    def disentangler(self) -> Disentangler:
        """The trained disentangler, in evaluation mode on the CPU."""
        model: Disentangler = _load(Disentangler, self.run_dir / "disentangle", "last")
        return model

    @cached_property
    def data(self) -> FactorDataModule:
        """The data as the disentangler saw them, noise included, set up."""
        config = read_yaml(self.run_dir / "disentangle" / "config.yaml")
        data: FactorDataModule = build(FactorDataModule, config["data"])
        data.describe()
        check_files(self.run_dir, data.dataset.fingerprint())
        data.prepare_data()
        data.setup("fit")
        return data

    @cached_property
    def arms(self) -> dict[str, list[int]]:
        """Seeds of the finished trainings of each arm."""
        found: dict[str, list[int]] = {}
        for arm, folder in arm_folders(self.run_dir).items():
            for path in folder.glob("seed*/stage.json"):
                if read_json(path)["status"] == "complete":
                    found.setdefault(arm, []).append(int(path.parent.name[4:]))
        return {arm: sorted(seeds) for arm, seeds in found.items()}

    def model(self, arm: str, seed: int | None = None) -> MultitaskModel:
        """Return the network of one training, at its best validation epoch, on the CPU.

        Args:
            arm: Name of the arm, such as `hard_parameter_sharing`.
            seed: Its seed; the smallest by default.

        Raises:
            ArtifactError: If there is no such training.
        """
        seeds = self.arms.get(arm, [])
        if not seeds or (seed is not None and seed not in seeds):
            have = ", ".join(f"{name} {seeds}" for name, seeds in self.arms.items()) or "none"
            raise ArtifactError(
                f"{self.run_dir} has no arm {arm!r} with seed {seed}; it has {have}."
            )
        chosen = seeds[0] if seed is None else seed
        folder = self.run_dir / arm_folder(arm) / f"seed{chosen}"
        model: MultitaskModel = _load(MultitaskModel, folder, "best")
        return model


def load(run_dir: str | Path) -> Run:
    """Open a run folder.

    Args:
        run_dir: The folder that `detaux fit` wrote.

    Raises:
        ArtifactError: If it holds no run.
    """
    return Run(run_dir)


def check_files(run_dir: Path, files: str | None) -> None:
    """Refuse images that the disentangler of a run folder was not trained on.

    Args:
        run_dir: The run folder; one without a disentangler takes any images.
        files: Fingerprint of the data set.

    Raises:
        ArtifactError: If it is another one.
    """
    before = StageFolder(run_dir, "disentangle")
    settings = (before.manifest or {}).get("settings", {})
    if settings and settings.get("files") != files:
        raise ArtifactError(
            f"the data files have changed since {before.path} was trained: restore them, give "
            "another --run_dir, or run `detaux disentangle fit` with --redo disentangle."
        )


def _load(kind: type, folder: Path, checkpoint: str) -> Any:
    path = folder / "checkpoints" / f"{checkpoint}.ckpt"
    if not path.is_file():
        raise ArtifactError(f"{path} is missing: run the stage that writes it.")
    saved = torch.load(path, map_location="cpu", weights_only=True)
    # A model without arguments has no such entry.
    filled = {k: v for k, v in saved.get("hyper_parameters", {}).items() if k in _FILLED}
    model = build(kind, read_yaml(folder / "config.yaml")["model"], **filled)
    model.load_state_dict(saved["state_dict"])
    return model.eval()
