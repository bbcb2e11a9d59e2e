"""A bundle: the classifier of a run in files that anyone can read, without its run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

from safetensors.torch import load_file, save_file
from torch import Tensor

from detaux_pl.artifacts.errors import ArtifactError
from detaux_pl.artifacts.files import read_kind, sha256_file, sha256_json, write_json
from detaux_pl.inference.card import Card, CardJson, refuse_format
from detaux_pl.inference.classifier import Answers, Classifier, ImageLike
from detaux_pl.inference.network import rebuild
from detaux_pl.multitask.base import MultitaskModel
from detaux_pl.settings.build import Spec

FORMAT = 1
"""Version of what is in `model.json`."""
ABOUT = "model.json"
WEIGHTS = "model.safetensors"
ONNX = "model.onnx"
PROGRAM = "model.pt2"
PARITY = "parity.json"
README = "README.md"
FILES = (ABOUT, WEIGHTS, ONNX, PROGRAM, PARITY, README)
"""All that a bundle may hold."""
_MEMBERS = "members."
"""What the names of the tensors begin with, before the number of the network."""
_REMEDY = "export the run again"


class MemberJson(Spec):
    """What a network is built from; `filled` was taken from the data."""

    filled: dict[str, Any]


class _Versioned(TypedDict):
    format: int


class BundleJson(_Versioned):
    """The content of `model.json`."""

    run: str
    arm: str
    seeds: list[int]
    keys: list[str]
    members: list[MemberJson]
    card: CardJson
    versions: dict[str, dict[str, str]]
    files: dict[str, str]


class _Sealed(BundleJson):
    digest: str


class Bundle:
    """What `detaux export` wrote, known to be whole.

    Args:
        folder: The folder.

    Raises:
        ArtifactError: If a file is missing, was changed, or is of a later version.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.about = read_about(self.folder)
        for name, digest in self.about["files"].items():
            path = self.folder / name
            if not path.is_file():
                raise ArtifactError(f"{path} is missing: restore it, or {_REMEDY}.")
            # The model card is for people to go on with.
            if name != README and sha256_file(path) != digest:
                raise ArtifactError(
                    f"{path} was changed after it was written: restore it, or {_REMEDY}."
                )

    @cached_property
    def card(self) -> Card:
        """What the classes are called, and what becomes of an image first."""
        return Card.from_json(self.about["card"], self.folder / ABOUT)

    def classifier(self) -> Classifier:
        """Return the networks, which answer together about any image, on the CPU."""
        return Classifier(read_members(self.folder, self.about["members"]), self.card)

    @cached_property
    def _classifier(self) -> Classifier:
        return self.classifier()

    def predict(self, images: Iterable[ImageLike] | ImageLike, batch_size: int = 64) -> Answers:
        """Classify images, see `Classifier.predict`.

        Args:
            images: Files, images that Pillow has opened, or uint8 arrays of shape (H, W) or
                (H, W, C); several or one.
            batch_size: Images that the networks see at a time.

        Raises:
            UserError: If an image cannot be read.
        """
        return self._classifier.predict(images, batch_size)


def is_bundle(folder: Path) -> bool:
    """Whether a folder holds a bundle, whole or not."""
    return any((folder / name).is_file() for name in (ABOUT, WEIGHTS))


def read_about(folder: Path) -> BundleJson:
    """Read the `model.json` of a bundle.

    Raises:
        ArtifactError: If it is missing, damaged, was changed or is of a later version.
    """
    path = folder / ABOUT
    if not path.is_file():
        raise ArtifactError(f"{path} is missing: restore it, or {_REMEDY}.")
    # Another version may hold anything else.
    refuse_format(path, read_kind(path, _Versioned, _REMEDY)["format"], FORMAT)
    about = read_kind(path, _Sealed, _REMEDY)
    if seal(about)["digest"] != about["digest"]:
        raise ArtifactError(f"{path} was changed after it was written: restore it, or {_REMEDY}.")
    return about


def write_about(folder: Path, about: BundleJson) -> None:
    """Write the `model.json` of a bundle, which holds the digests of the other files."""
    write_json(folder / ABOUT, seal(about))


def seal(about: BundleJson) -> _Sealed:
    """Return the content of `model.json` with a digest of itself."""
    known = {name: value for name, value in about.items() if name != "digest"}
    sealed: Any = {**known, "digest": sha256_json(known)}
    whole: _Sealed = sealed
    return whole


def digests(folder: Path) -> dict[str, str]:
    """Return the digests of all files of a bundle but `model.json`, by name."""
    return {path.name: sha256_file(path) for path in sorted(folder.iterdir()) if path.name != ABOUT}


def write_members(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Write the weights of the networks; the same ones are the same bytes.

    Args:
        folder: Folder of the bundle.
        weights: Parameters and buffers by name, `members.0.backbone.0.weight`.
    """
    # safetensors takes tensors whose numbers lie in their order, and each in memory of its own.
    own = {name: value.detach().cpu().contiguous().clone() for name, value in weights.items()}
    save_file(own, folder / WEIGHTS)


def read_members(folder: Path, members: Sequence[MemberJson]) -> list[MultitaskModel]:
    """Build the networks of a bundle, in evaluation mode on the CPU.

    Raises:
        ArtifactError: If the weights are of other networks.
    """
    path = folder / WEIGHTS
    weights: dict[str, dict[str, Tensor]] = {}
    for name, value in load_file(path).items():
        number, _, own = name.removeprefix(_MEMBERS).partition(".")
        weights.setdefault(number, {})[own] = value
    return [
        rebuild(MultitaskModel, member, member["filled"], weights.get(str(k), {}), path)
        for k, member in enumerate(members)
    ]
