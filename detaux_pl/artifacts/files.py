"""Files and folders that are either whole or absent."""

from __future__ import annotations

import csv
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml

from detaux_pl.artifacts.errors import ArtifactError
from detaux_pl.artifacts.kinds import misfit
from detaux_pl.artifacts.yaml_text import load_yaml

T = TypeVar("T")

_PARTIAL = re.compile(r"\..+-[a-z0-9_]{8}\.part(\.\w+)?")
"""Names of files that are being written."""


def as_path(path: Path | str | None) -> Path | None:
    """Return a path that may be given as text, or not at all."""
    return None if path is None else Path(path)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` that takes its place when the block ends well.

    A reader sees the old file or the new one, never a part: a process killed in the block, or a
    machine that loses its power, leaves `path` as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = f".part{path.suffix}"  # some writers look at the ending
    name = ""
    try:
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.stem[:200]}-", suffix=suffix
        )
        os.close(handle)
        yield Path(name)
        Path(name).chmod(0o644)
        _flush(Path(name))
        Path(name).replace(path)
    except OSError as error:
        if error.filename in (None, name):  # of a write it says no name, of others a temporary one
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        if name:
            Path(name).unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path` that takes its place when the block ends well.

    What was in `path` goes. A process killed in the block leaves it as it was; one killed at the
    very end may leave no folder of that name, never a part of one.
    """
    path = path.resolve()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        beside = f".{path.name[:200]}-"
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=beside, suffix=".part"))
    except OSError as error:
        error.filename = str(path)  # not the temporary one
        raise
    before = temporary.with_suffix(".before")
    handle = os.open(temporary, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield temporary
        for file in temporary.iterdir():
            file.chmod(0o644)
            _flush(file)
        temporary.chmod(0o755)
        if path.exists():
            path.rename(before)
        try:
            temporary.rename(path)
        except OSError:
            if before.exists():
                before.rename(path)
            raise
    except OSError as error:
        name = str(error.filename or "")
        if name.startswith(str(temporary)):
            error.filename, error.filename2 = name.replace(str(temporary), str(path), 1), None
        raise
    finally:
        os.close(handle)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(before, ignore_errors=True)


def _remove_abandoned(path: Path) -> None:
    """Remove what processes that were killed have left beside a folder: no one holds it."""
    name = re.escape(f".{path.name[:200]}-")
    for left in path.parent.iterdir():
        if not re.fullmatch(name + r"[a-z0-9_]{8}\.(part|before)", left.name):
            continue
        handle = os.open(left, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        finally:
            os.close(handle)
        shutil.rmtree(left, ignore_errors=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have errors of the disk in the block, which say no name, say that of a file."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def _flush(path: Path) -> None:
    """Have a file on the disk: without it the new name may be there before the new content is."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep_up(folder: Path) -> None:
    """Remove what writers that were killed have left, in a folder that no one else writes to.

    Folders inside it that have a lock of their own are left alone.
    """
    for here, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not (Path(here) / name / ".lock").exists()]
        for name in files:
            if _PARTIAL.fullmatch(name):
                (Path(here) / name).unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` at once."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON to `path` at once."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table of the columns given, with a header."""
    with (
        replacing(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as handle,
    ):
        writer = csv.DictWriter(handle, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


@contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Say of which file it is, where text that is read in the block is none.

    Raises:
        ArtifactError: If it is not UTF-8.
    """
    try:
        yield
    except UnicodeDecodeError as error:
        raise ArtifactError(
            f"{path} is no text in UTF-8 (byte 0x{error.object[error.start]:02x} at "
            f"{error.start}): save it as UTF-8."
        ) from None


def read_text(path: Path) -> str:
    """Read a text file.

    Raises:
        ArtifactError: If it is missing or is not UTF-8.
    """
    try:
        with decoding(path):
            return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing: run the stage that writes it.") from None


def read_json(path: Path, remedy: str = "mend it") -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        remedy: What to do where it is not JSON.

    Raises:
        ArtifactError: If the file is missing or is not JSON.
    """
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is not readable JSON ({error}): {remedy}.") from None


def read_kind(path: Path, kind: type[T], remedy: str) -> T:
    """Read a JSON or YAML file that holds a certain kind of things.

    Args:
        path: The file, whose ending says which of the two it is.
        kind: What it holds, see `misfit`.
        remedy: What to do where it does not.

    Raises:
        ArtifactError: If it is missing, cannot be read or holds something else.
    """
    value = read_yaml(path) if path.suffix == ".yaml" else read_json(path, remedy)
    if (wrong := misfit(value, kind)) is not None:
        raise ArtifactError(f"{path} is damaged, {wrong}: {remedy}.")
    return cast(T, value)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file of settings.

    Raises:
        ArtifactError: If the file is missing or is not YAML of named settings.
    """
    try:
        value = load_yaml(read_text(path))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        what = " ".join(str(error).split())
        raise ArtifactError(f"{path} is not readable YAML ({what}): mend it.") from None
    if not isinstance(value, dict):
        raise ArtifactError(f"{path} holds no settings: it should be YAML of `name: value`.")
    return value


def sha256_file(path: Path) -> str:
    """Return the SHA-256 digest of a file, in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Return the SHA-256 digest of a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
