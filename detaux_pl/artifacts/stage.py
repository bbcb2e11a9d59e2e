"""Stage folders: what ran, on what, and whether its outputs are still the ones it wrote."""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict, TypeVar

from detaux_pl.artifacts.errors import ArtifactError
from detaux_pl.artifacts.files import read_kind, sha256_file, sha256_json, write_json
from detaux_pl.artifacts.spelling import meant

_VERSIONS = ("detaux_pl", "torch", "torchvision", "lightning", "hdbscan", "scikit-learn", "numpy")
DIVERGED = "diverged"
"""Status of a stage whose training did."""
T = TypeVar("T")
_ABSENT = "absent"
"""Stands in messages for a setting that is not there; null would be taken for its value."""


class Manifest(TypedDict):
    """The content of `stage.json`."""

    stage: str
    key: str
    status: Literal["running", "complete", "diverged"]
    upstream: dict[str, str]
    inputs: dict[str, str]
    settings: dict[str, Any]
    seconds: float
    wandb_id: str
    versions: dict[str, str]
    outputs: dict[str, str]
    finished: NotRequired[str]
    diverged: NotRequired[dict[str, Any]]


class StageFolder:
    """A folder that one stage owns, with its manifest `stage.json`.

    `key` says what the outputs were made from: a digest of the settings that change the result
    and of the keys upstream. The digests of the outputs say that they are unchanged since, and
    `inputs` pins the outputs of the stages upstream that were read.

    Args:
        run_dir: Folder of the run.
        name: Path of the stage inside it, such as `cluster` or `multitask/main/seed0`.
    """

    def __init__(self, run_dir: Path | str, name: str) -> None:
        self.run_dir = Path(run_dir)
        self.name = name
        self.path = self.run_dir / name

    @property
    def manifest(self) -> Manifest | None:
        """The content of `stage.json`; None where the stage never began."""
        path = self.path / "stage.json"
        if not path.is_file():
            return None
        return read_kind(path, Manifest, f"--redo {redo_name(self.name)} makes the stage again")

    @property
    def complete(self) -> bool:
        """Whether the stage has run to its end."""
        manifest = self.manifest
        return manifest is not None and manifest["status"] == "complete"

    @property
    def diverged(self) -> dict[str, Any] | None:
        """Where its training diverged, `message`, `epoch` and `step`; None where it has not."""
        manifest = self.manifest
        return None if manifest is None else manifest.get("diverged")

    @property
    def digest(self) -> str:
        """A digest of all outputs of a complete stage; what a stage downstream pins."""
        manifest = self.manifest
        if manifest is None or manifest["status"] != "complete":
            raise ArtifactError(f"{self.path} is not complete: run `{self.name}` first.")
        return sha256_json(manifest["outputs"])

    def check(self, settings: Mapping[str, Any], upstream: Mapping[str, str]) -> None:
        """Refuse to go on in a folder that was begun with other settings.

        Args:
            settings: The settings that change the result.
            upstream: Key of each stage upstream.

        Raises:
            ArtifactError: If the key differs; names the first setting that does.
        """
        manifest = self.manifest
        if manifest is None or _is_of(manifest, self.name, settings, upstream):
            return
        # A training that diverged left nothing that other settings could be mixed with.
        if manifest["status"] == DIVERGED:
            return
        key = stage_key(self.name, settings, upstream)
        change = first_difference(manifest["settings"], settings)
        what = f": {change}" if change else ": a stage upstream changed"
        raise ArtifactError(
            f"{self.path} was made with other settings{what} "
            f"(key {manifest['key'][:12]}, now {key[:12]}). Give another --run_dir to keep both, "
            f"or --redo {redo_name(self.name)} to replace it and what follows from it."
        )

    def begin(
        self, settings: Mapping[str, Any], upstream: Mapping[str, str], inputs: Mapping[str, str]
    ) -> None:
        """Record that the stage runs; keeps the key and the W&B id of an interrupted run."""
        previous = self.manifest
        if previous is not None and _is_of(previous, self.name, settings, upstream):
            settings = previous["settings"]  # which may be spelt otherwise
        self.path.mkdir(parents=True, exist_ok=True)
        manifest: Manifest = {
            "stage": self.name,
            "key": stage_key(self.name, settings, upstream),
            "status": "running",
            "upstream": dict(upstream),
            "inputs": dict(inputs),
            "settings": dict(settings),
            "seconds": 0.0 if previous is None else previous["seconds"],
            "wandb_id": os.urandom(4).hex() if previous is None else previous["wandb_id"],
            "versions": versions(),
            "outputs": {},
        }
        write_json(self.path / "stage.json", manifest)

    def finish(self, outputs: Iterable[Path], seconds: float) -> None:
        """Record the digests of the outputs and turn the stage complete, last of all.

        `seconds` adds to what interrupted runs of the stage took.
        """
        manifest = self.manifest
        if manifest is None:
            raise ArtifactError(f"{self.path} was removed while its stage ran.")
        here = self.path.resolve()
        manifest["outputs"] = {
            path.resolve().relative_to(here).as_posix(): sha256_file(path)
            for path in sorted(outputs)
        }
        manifest["seconds"] = round(manifest["seconds"] + seconds, 2)
        manifest["finished"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        manifest["status"] = "complete"
        write_json(self.path / "stage.json", manifest)

    def give_up(self, message: str, since: Mapping[str, Any]) -> None:
        """Record that the training diverged, so that the same is not begun again unasked.

        Args:
            message: The line that says so.
            since: Where it did, `epoch` and `step`.
        """
        manifest = self.manifest
        if manifest is not None:
            diverged = {"message": message, **since}
            write_json(
                self.path / "stage.json", {**manifest, "status": DIVERGED, "diverged": diverged}
            )

    def begin_anew_if_diverged(
        self, settings: Mapping[str, Any], upstream: Mapping[str, str]
    ) -> None:
        """Remove what a training of other settings left that diverged; refuse one of the same.

        Args:
            settings: The settings that change the result.
            upstream: Key of each stage upstream.

        Raises:
            ArtifactError: If the settings are those that it diverged with.
        """
        manifest, diverged = self.manifest, self.diverged
        if manifest is None or diverged is None:
            return
        if manifest["key"] == stage_key(self.name, settings, upstream):
            raise ArtifactError(
                f"{diverged['message']} So it ended before: --redo {redo_name(self.name)} tries "
                "the same once more."
            )
        shutil.rmtree(self.path)

    def verify(self) -> None:
        """Check that the outputs are the files that the stage wrote.

        Raises:
            ArtifactError: If the stage is not complete, or an output is gone or was changed.
        """
        manifest = self.manifest
        if manifest is None or manifest["status"] != "complete":
            raise ArtifactError(f"{self.path} is not complete: run `{self.name}` first.")
        for name in manifest["outputs"]:
            self.output(name)

    def output(self, name: str) -> Path:
        """Return a file of the stage; that of a complete one is the file that the stage wrote.

        Raises:
            ArtifactError: If it is gone or was changed.
        """
        manifest = self.manifest
        digest = None if manifest is None else manifest["outputs"].get(name)
        path = self.path / name
        if not path.is_file():
            what = "is gone" if digest is not None else "is missing"
        elif digest is not None and sha256_file(path) != digest:
            what = "was changed after the stage wrote it"
        else:
            return path
        if digest is None:
            raise ArtifactError(f"{path} {what}: run the stage that writes it.")
        raise ArtifactError(
            f"{path} {what}: restore it, or --redo {redo_name(self.name)} to make it and what "
            "follows from it again."
        )

    def read(self, name: str, kind: type[T]) -> T:
        """Read a JSON or YAML file of the stage, see `output` and `read_kind`."""
        remedy = f"--redo {redo_name(self.name)} makes the stage again"
        return read_kind(self.output(name), kind, remedy)

    def check_inputs(self) -> None:
        """Check that the stages upstream still have the outputs that this one was made from.

        Raises:
            ArtifactError: If a stage upstream was made again with another result.
        """
        manifest = self.manifest
        inputs = {} if manifest is None else manifest["inputs"]
        for name in inputs if manifest is None else {*inputs, *manifest["upstream"]}:
            if StageFolder(self.run_dir, name).digest != inputs.get(name):
                raise ArtifactError(
                    f"{self.path} was made from another result of `{name}`. Give another "
                    f"--run_dir to keep both, or --redo {redo_name(self.name)} to replace it."
                )


def redo_name(name: str) -> str:
    """What to begin anew for a folder: `multitask` for `multitask/main/seed0`.

    A stage of a further discovery, such as `discoveries/kmeans/cluster`, stands for itself.
    """
    parts = name.split("/")
    return "/".join(parts[:3] if parts[0] == "discoveries" else parts[:1])


def stage_key(name: str, settings: Mapping[str, Any], upstream: Mapping[str, str]) -> str:
    """Digest what a stage is made from."""
    return sha256_json({"stage": name, "settings": settings, "upstream": upstream})


def first_difference(old: Any, new: Any, path: str = "") -> str | None:
    """Say in words the first setting in which two nested settings differ; None if they do not.

    Spellings of one value do not differ; they are told as they were given.
    """
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        room = path.rpartition(".")[2]
        for name in sorted({*old, *new}):
            inner = f"{path}.{name}" if path else name
            before, now = old.get(name, _ABSENT), new.get(name, _ABSENT)
            # What a setting means may hang on whose it is.
            if _same(meant({name: before}, room), meant({name: now}, room)):
                continue
            return first_difference(before, now, inner) or f"{inner} was {before!r}, is {now!r}"
        return None
    return None if _same(meant(old), meant(new)) else f"{path} was {old!r}, is {new!r}"


def _is_of(
    manifest: Mapping[str, Any], name: str, settings: Mapping[str, Any], upstream: Mapping[str, str]
) -> bool:
    """Whether a manifest is of a stage of these settings, however they are spelt."""
    if manifest["key"] == stage_key(name, settings, upstream):
        return True
    same = manifest.get("upstream") == dict(upstream)
    return same and _same(meant(manifest.get("settings")), meant(settings))


def _same(old: Any, new: Any) -> bool:
    """Whether two values are the same as JSON tells them apart: 1 and 1.0 are not."""
    return sha256_json(old) == sha256_json(new)


def versions(packages: Iterable[str] = _VERSIONS) -> dict[str, str]:
    """Return the versions of Python and of packages, by name, of those that are installed."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
