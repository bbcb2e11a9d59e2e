"""A finished run, from Python: trained modules, codes and labels."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from detaux_pl.artifacts.codes import Codes
from detaux_pl.artifacts.errors import ArtifactError, UserError
from detaux_pl.artifacts.labels import AuxiliaryLabels, labels_folder, load_tasks
from detaux_pl.artifacts.predictions import Predictions
from detaux_pl.artifacts.stage import StageFolder, redo_name
from detaux_pl.cluster.tried import Tried, read_candidates
from detaux_pl.data.modules import FactorDataModule
from detaux_pl.disentangle.base import Disentangler
from detaux_pl.evaluation.results import Probes, read_probes, read_report
from detaux_pl.evaluation.together import Together, fit_temperatures, read_together
from detaux_pl.inference.bundle import Bundle, is_bundle
from detaux_pl.inference.card import Card
from detaux_pl.inference.checkpoint import checkpoint_path, read_checkpoint
from detaux_pl.inference.classifier import Classifier
from detaux_pl.inference.network import filled_in, rebuild
from detaux_pl.multitask.base import MultitaskModel
from detaux_pl.settings.build import Spec, StageConfig, build
from detaux_pl.settings.names import arm_folder, arm_folders
from detaux_pl.settings.parser import explain
from detaux_pl.settings.places import at_places, newest_places


class Run:
    """What a run folder holds, read when it is asked for.

    Args:
        run_dir: Folder of the run.
        places: By name, such as `root`, where the data lie now; none for where they were last.

    Raises:
        ArtifactError: If the folder holds no run; later, if a stage asked for has not run.
    """

    def __init__(
        self, run_dir: str | Path, places: Mapping[str, str | Path | None] | None = None
    ) -> None:
        self.run_dir = Path(run_dir)
        self.places: dict[str, str | None] = {
            name: None if place is None else str(place) for name, place in (places or {}).items()
        }
        stages = ("disentangle", "multitask")  # a training by itself can be asked, too
        if not any((self.run_dir / stage).is_dir() for stage in stages):
            raise ArtifactError(
                f"{self.run_dir} is no run folder: it has no stage `{'` or `'.join(stages)}`: "
                "give the --run_dir of a `detaux fit`."
            )

    @cached_property
    def codes(self) -> Codes:
        """The codes of every sample, shape (N, K, D)."""
        return Codes.load(self._verified("disentangle/codes"))

    @cached_property
    def probes(self) -> Probes:
        """Accuracy of the linear probes, the content of `evaluate/probes.json`."""
        return read_probes(self.run_dir)

    @cached_property
    def tasks(self) -> list[AuxiliaryLabels]:
        """The discovered tasks, refined where the run has done so, the best one first."""
        folder = labels_folder(self.run_dir)
        return load_tasks(self._verified(folder.relative_to(self.run_dir).as_posix()))

    @cached_property
    def candidates(self) -> Tried | None:
        """What is known of every candidate task, and the verdict; None where none was tried."""
        return read_candidates(StageFolder(self.run_dir, "cluster"))

    @property
    def labels(self) -> AuxiliaryLabels:
        """The discovered task, the first one of several."""
        return self.tasks[0]

    @cached_property
    def disentangler(self) -> Disentangler:
        """The trained disentangler, in evaluation mode on the CPU."""
        model: Disentangler = _load(Disentangler, StageFolder(self.run_dir, "disentangle"), "last")
        return model

    @cached_property
    def data_config(self) -> Spec:
        """What the data are built from, where they lie now."""
        config = StageFolder(self.run_dir, "disentangle").read("config.yaml", StageConfig)
        return at_places(config["data"], {**newest_places(self.run_dir), **self.places})

    @cached_property
    def data(self) -> FactorDataModule:
        """The data as the disentangler saw them, noise included, set up."""
        try:
            data: FactorDataModule = build(FactorDataModule, self.data_config)
        except (ValueError, TypeError) as error:
            raise explain(error) from error
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
            for path in folder.glob("seed*"):
                stage = StageFolder(self.run_dir, path.relative_to(self.run_dir).as_posix())
                if re.fullmatch(r"seed\d+", path.name) and stage.complete:
                    found.setdefault(arm, []).append(int(path.name[4:]))
        return {arm: sorted(seeds) for arm, seeds in found.items()}

    def model(self, arm: str, seed: int | None = None) -> MultitaskModel:
        """Return the network of one training, at its best validation epoch, on the CPU.

        Args:
            arm: Name of the arm, such as `hard_parameter_sharing`.
            seed: Its seed; the smallest by default.

        Raises:
            ArtifactError: If there is no such training.
        """
        folder = self._training(arm, seed)
        model: MultitaskModel = _load(MultitaskModel, folder, "best")
        return model

    @property
    def main_arm(self) -> str:
        """The arm that the run is about: the one its report says, or the only one.

        Raises:
            ArtifactError: If no arm has finished, or there are several and no report.
        """
        arms = self.arms
        if (self.run_dir / "report" / "report.json").is_file():
            named = read_report(self.run_dir).get("main")
            if named in arms:
                return named
        if not arms:
            raise ArtifactError(
                f"{self.run_dir} has no arm that finished, so there is no network to ask: run "
                "`detaux fit` to its end first."
            )
        if len(arms) > 1:
            raise ArtifactError(
                f"{self.run_dir} has several arms and no report that says which is the main one: "
                f"give --arm, one of {', '.join(arms)}."
            )
        return next(iter(arms))

    def predictions(self, arm: str, seed: int) -> Predictions:
        """Return what the network of one training says of the validation and test images.

        Args:
            arm: Name of the arm.
            seed: Its seed.

        Raises:
            ArtifactError: If there is no such training, or it kept none.
        """
        folder = self._training(arm, seed)
        path = folder.output("predictions.npz")
        return Predictions.load(path, f"--redo {redo_name(folder.name)} makes it")

    def classifier(self, arm: str | None = None, seeds: Sequence[int] | None = None) -> Classifier:
        """Return the networks of an arm, which answer together about any image.

        Their probabilities are averaged and calibrated: a temperature for each task, at which the
        validation labels are the likeliest.

        Args:
            arm: Name of the arm; None for the main one.
            seeds: Which of its seeds; None for all.

        Raises:
            ArtifactError: If there is no such training, or it was made before trainings kept what
                is needed.
        """
        arm, chosen = self.choose(arm, seeds)
        cards = [self._card(arm, seed) for seed in chosen]
        first = cards[0]
        if any(card.tasks != first.tasks for card in cards):
            raise ArtifactError(
                f"the seeds of {arm!r} learnt different tasks, so they cannot answer together: "
                "give one seed."
            )
        if len(chosen) > 1:
            parts = [self.predictions(arm, seed) for seed in chosen]
            first = replace(first, temperatures=fit_temperatures(parts))
        return Classifier([self.model(arm, seed) for seed in chosen], first)

    def together(
        self, arm: str | None = None, seeds: Sequence[int] | None = None, split: str = "test"
    ) -> Together:
        """Return what the networks of an arm say together of the images of a split.

        Args:
            arm: Name of the arm; None for the main one.
            seeds: Which of its seeds; None for all.
            split: `test` or `val`.

        Raises:
            ArtifactError: If there is no such training, or one kept no predictions.
        """
        arm, chosen = self.choose(arm, seeds)
        for seed in chosen:
            self._training(arm, seed)
        found = read_together(self.run_dir, arm, chosen, split)
        if found is None or len(found.seeds) < len(chosen):
            raise ArtifactError(
                f"{arm!r} kept no predictions of labelled {split} images, as trainings of earlier "
                f"versions: --redo {redo_name(arm_folder(arm))} makes them."
            )
        return found

    def choose(self, arm: str | None, seeds: Sequence[int] | None) -> tuple[str, list[int]]:
        """Return the arm and the seeds that are meant.

        Args:
            arm: Name of the arm; None for the main one.
            seeds: Which of its seeds; None for all.

        Raises:
            ArtifactError: If there is no arm that finished, or a seed is named twice.
        """
        arm = self.main_arm if arm is None else arm
        chosen = self.arms.get(arm, []) if seeds is None else list(seeds)
        if not chosen or len(set(chosen)) < len(chosen):
            self._training(arm, None)  # says what there is
            raise ArtifactError(f"seeds are {chosen}: name each seed of {arm!r} once.")
        return arm, chosen

    def _card(self, arm: str, seed: int) -> Card:
        folder = self._training(arm, seed)
        remedy = f"--redo {redo_name(folder.name)} makes the arm again, with it"
        return Card.load(folder.output("classifier.json"), remedy)

    def _training(self, arm: str, seed: int | None) -> StageFolder:
        """Return the folder of a finished training, of the smallest seed by default."""
        seeds = self.arms.get(arm, [])
        if not seeds or (seed is not None and seed not in seeds):
            have = ", ".join(f"{name} {seeds}" for name, seeds in self.arms.items()) or "none"
            with_seed = "" if seed is None else f" with seed {seed}"
            raise ArtifactError(
                f"{self.run_dir} has no finished arm {arm!r}{with_seed}; it has {have}."
            )
        chosen = seeds[0] if seed is None else seed
        return StageFolder(self.run_dir, f"{arm_folder(arm)}/seed{chosen}")

    def _verified(self, stage: str) -> Path:
        """Return the folder of a stage, whose files are those that it wrote if it is complete."""
        folder = StageFolder(self.run_dir, stage)
        if folder.complete:
            folder.verify()
        return folder.path


def load(folder: str | Path, **places: str | Path | None) -> Run | Bundle:
    """Open a run folder or a bundle.

    Args:
        folder: The folder that `detaux fit` or `detaux export` wrote.
        places: Where the data of a run lie now, if they were moved: `root`, `path` or `cache_dir`,
            as the data set calls it.

    Raises:
        ArtifactError: If it holds neither, or a bundle that was changed.
        UserError: If places are given for a bundle.
    """
    if not is_bundle(Path(folder)):
        return Run(folder, places)
    if places:
        raise UserError(f"{folder} is a bundle, which has no data: leave {', '.join(places)} out.")
    return Bundle(folder)


def check_files(run_dir: Path, files: str | None) -> None:
    """Refuse images that the disentangler of a run folder was not trained on.

    Args:
        run_dir: The run folder; one without a disentangler takes any images.
        files: Fingerprint of the data set.

    Raises:
        ArtifactError: If it is another one.
    """
    before = StageFolder(run_dir, "disentangle")
    manifest = before.manifest
    if manifest is not None and manifest["settings"].get("files") != files:
        raise ArtifactError(
            f"the data files have changed since {before.path} was trained: restore them, give "
            "another --run_dir, or run `detaux disentangle fit` with --redo disentangle."
        )


def _load(kind: type, folder: StageFolder, checkpoint: str) -> Any:
    saved = read_checkpoint(folder, checkpoint)
    # A model without arguments has no such entry.
    filled = filled_in(saved.get("hyper_parameters", {}))
    spec = folder.read("config.yaml", StageConfig)["model"]
    return rebuild(kind, spec, filled, saved["state_dict"], checkpoint_path(folder, checkpoint))
