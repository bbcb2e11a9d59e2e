"""From a run to a bundle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning.pytorch import LightningModule

from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.files import sha256_file, write_json, write_text
from detaux_pl.artifacts.space import require_space
from detaux_pl.artifacts.stage import StageFolder, versions
from detaux_pl.inference.bundle import (
    ABOUT,
    FILES,
    FORMAT,
    ONNX,
    PARITY,
    PROGRAM,
    README,
    BundleJson,
    MemberJson,
    digests,
    read_about,
    write_about,
    write_members,
)
from detaux_pl.inference.classifier import Classifier
from detaux_pl.inference.graph import trace, write_onnx, write_program
from detaux_pl.inference.network import filled_in
from detaux_pl.inference.parity import Parity, measure, some_images
from detaux_pl.inference.run import Run
from detaux_pl.settings.build import StageConfig
from detaux_pl.settings.names import arm_folder

GRAPHS = {"onnx": ONNX, "pt2": PROGRAM}
"""Forms of the whole classifier as one graph, and their files."""
_PACKAGES = ("detaux_pl", "torch", "torchvision", "timm", "onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Chosen:
    """What of a run becomes a bundle.

    Args:
        run: The run.
        arm: The arm.
        seeds: Its seeds.
        classifier: Their networks, on the CPU.
    """

    run: Run
    arm: str
    seeds: tuple[int, ...]
    classifier: Classifier

    @classmethod
    def of(cls, run: Run, arm: str | None, seeds: Sequence[int] | None) -> Chosen:
        """Open the networks.

        Args:
            run: The run.
            arm: The arm; None for the main one.
            seeds: Its seeds; None for all.

        Raises:
            ArtifactError: If there is no such training.
        """
        arm, own = run.choose(arm, seeds)
        return cls(run, arm, tuple(own), run.classifier(arm, own))

    @property
    def trainings(self) -> list[StageFolder]:
        """The folders of the trainings."""
        names = (f"{arm_folder(self.arm)}/seed{seed}" for seed in self.seeds)
        return [StageFolder(self.run.run_dir, name) for name in names]


def write_bundle(
    chosen: Chosen,
    graphs: Sequence[str],
    model_card: Callable[[Chosen, Parity], str],
    folder: Path,
    tell: Callable[[str], None],
) -> Parity:
    """Write all files of a bundle.

    Args:
        chosen: What to write.
        graphs: Forms of it as one graph, see `GRAPHS`, beside the weights.
        model_card: Gives the text of `README.md`.
        folder: An empty folder.
        tell: Is told what is done.

    Raises:
        UserError: If a file cannot be written, or answers otherwise than the networks.
    """
    classifier = chosen.classifier
    members = [
        _member(*each) for each in zip(chosen.trainings, classifier.net.members, strict=True)
    ]
    weights = classifier.net.state_dict()
    n_bytes = sum(value.nbytes for value in weights.values())
    needed = n_bytes * (1 + len(graphs))
    require_space(folder.parent, needed, "the bundle", "give fewer --seeds or one --format")
    write_members(folder, weights)
    if graphs:
        tell("tracing the networks")
        program = trace(classifier)
        for name in graphs:
            tell(f"writing {GRAPHS[name]}")
            if name == "onnx":
                write_onnx(program, classifier, folder / ONNX)
            else:
                write_program(program, folder / PROGRAM)
    tell("comparing the files with the networks")
    try:
        dataset = chosen.run.data.dataset
    except (UserError, OSError) as error:
        tell(f"no test images at hand, noise is taken instead ({error})")
        dataset = None
    images, what = some_images(dataset, classifier.preprocessing.shape)
    parity = measure(classifier, members, folder, images, what)
    write_json(folder / PARITY, parity)
    write_text(folder / README, model_card(chosen, parity))
    write_about(folder, _about(chosen, members, digests(folder)))
    return parity


def refuse_folder(folder: Path) -> None:
    """Refuse a place for a bundle where something else is.

    Raises:
        UserError: If it holds anything but an older bundle, whose model card nobody edited.
    """
    if folder.is_file():
        raise UserError(f"{folder} is a file: give the name of a folder.")
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if not names:
        return
    others = [name for name in names if name not in FILES]
    if others or ABOUT not in names:
        raise UserError(
            f"{folder} holds something else ({[*others, *names][0]}), which would be lost: give a "
            "new folder, an empty one or that of an older bundle."
        )
    written = read_about(folder)["files"].get(README)
    if README in names and sha256_file(folder / README) != written:
        raise UserError(
            f"{folder / README} was edited, which would be lost: move it away, or give another "
            "folder."
        )


def _member(training: StageFolder, network: object) -> MemberJson:
    spec = training.read("config.yaml", StageConfig)["model"]
    hyper_parameters = dict(network.hparams) if isinstance(network, LightningModule) else {}
    return {
        "class_path": spec["class_path"],
        "init_args": spec.get("init_args", {}),
        "filled": filled_in(hyper_parameters),
    }


def _about(chosen: Chosen, members: list[MemberJson], files: dict[str, str]) -> BundleJson:
    manifests = [each.manifest for each in chosen.trainings]
    known = [manifest for manifest in manifests if manifest is not None]
    return {
        "format": FORMAT,
        "run": chosen.run.run_dir.resolve().name,
        "arm": chosen.arm,
        "seeds": list(chosen.seeds),
        "keys": [manifest["key"] for manifest in known],
        "members": members,
        "card": chosen.classifier.card.as_json(),
        "versions": {"trained": known[0]["versions"], "exported": versions(_PACKAGES)},
        "files": files,
    }
