"""A disk that is full, and paths that cannot be: one line, nothing lost."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch

from detaux_pl.artifacts.errors import disk_error, path_error
from detaux_pl.artifacts.files import naming, replacing
from detaux_pl.cli.main import main
from tests.cli.conftest import CONF

Refused = Callable[[list[str]], str]
CHAIN = str(CONF / "chain.yaml")
LONG = "n" * 300
ARM = "multitask/single_task/seed0"


def _full(*_: Any) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("stage", "words", "file"),
    [
        ("disentangle", ["fit"], "disentangle/checkpoints/last.ckpt"),
        ("disentangle/codes", ["predict"], "disentangle/codes/rank0/codes.npy"),
        ("cluster", [], "cluster/labels.npz"),
        (ARM, ["fit"], f"{ARM}/checkpoints/best.ckpt"),
    ],
)
def test_a_full_disk_is_one_line_and_the_stage_goes_on_later(
    run_copy: Path,
    finished_run: Path,
    stage: str,
    words: list[str],
    file: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    folder = "disentangle" if "codes" in stage else stage
    config = str(shutil.copy(run_copy / folder / "config.yaml", run_copy.parent / "given.yaml"))
    shutil.rmtree(run_copy / stage)
    command = [stage.split("/")[0], *words, "--config", config, "--run_dir", str(run_copy)]
    original = os.fsync
    # Space for small files, and none for what the stage makes.
    monkeypatch.setattr(os, "posix_fallocate", _full)
    monkeypatch.setattr(
        os, "fsync", lambda handle: original(handle) if os.fstat(handle).st_size < 3000 else _full()
    )
    capsys.readouterr()
    assert main(command) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(lines) == 1
    assert lines[0].endswith(
        " cannot be written, the disk is full: mend that, and run the same command again to go on."
    )
    assert lines[0].split()[1].startswith(str(run_copy / stage))
    assert not list(run_copy.rglob(".*.part.*"))
    monkeypatch.undo()
    assert main(command) == 0
    paths = [run / file for run in (run_copy, finished_run)]
    if file.endswith(".ckpt"):  # which holds times, too
        again, first = (torch.load(path, weights_only=True)["state_dict"] for path in paths)
        assert all(torch.equal(again[name], first[name]) for name in {**again, **first})
    else:
        assert paths[0].read_bytes() == paths[1].read_bytes()


def test_what_the_writers_say_of_a_full_disk(tmp_path: Path):
    def failed(write: Callable[[], object]) -> BaseException:
        with pytest.raises(Exception) as caught:  # noqa: PT011  whatever it is
            write()
        return caught.value

    def numpy_does() -> None:
        with naming(tmp_path / "a.npy"):
            raise OSError("1000000 requested and 5616 written")

    def torch_does() -> None:
        try:
            _full()
        except OSError:
            raise RuntimeError("unexpected pos 832 vs 726")  # noqa: B904  torch does so

    told = disk_error(failed(numpy_does))
    assert told is not None
    assert told.startswith(f"{tmp_path / 'a.npy'} cannot be written, the disk is full: ")
    assert str(disk_error(failed(torch_does))).startswith("a file cannot be written, the disk is ")
    assert disk_error(RuntimeError("database or disk is full")) is not None
    assert disk_error(ValueError("5 requested")) is None
    assert path_error(OSError("of the network")) is None
    assert path_error(OSError(errno.ECONNREFUSED, "refused", "x")) is None

    def write() -> None:
        with replacing(tmp_path / "b.json") as temporary:
            _ = temporary
            _full()

    assert str(failed(write).filename) == str(tmp_path / "b.json")  # type: ignore[attr-defined]


def test_an_error_of_the_program_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch):
    def fail(args: list[str]) -> int:
        raise RuntimeError("a mistake")

    monkeypatch.setattr("detaux_pl.cli.compare.run", fail)
    with pytest.raises(RuntimeError, match="a mistake"):
        main(["compare", "x"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compare", LONG], "the name is too long: give a shorter one."),
        (["probes", LONG], "the name is too long: give a shorter one."),
        (["report", "--run_dir", LONG], "the name is too long: give a shorter one."),
        (["evaluate", "--run_dir", LONG], "the name is too long: give a shorter one."),
        (["fit", "--config", CHAIN, "--run_dir", LONG], "(File name too long): give another"),
        (["fit", "--config", CHAIN, "--run_dir", "FILE"], "cannot be used as a run folder"),
        (["fit", "--config", CHAIN, "--run_dir", "FILE/x"], "(Not a directory): give another"),
        (["fit", "--config", "FOLDER"], "give the path of a YAML file that exists"),
        (["compare", "RUN", "--output", "FOLDER"], "(Is a directory): give another --output."),
        (["compare", "RUN", "--output", "FILE/x"], "cannot be written (File exists): give"),
        (["multitask", "fit", "--config", f"RUN/{ARM}/config.yaml", f"--data.labels={LONG}"],
         "the name is too long: give a shorter one."),
        (["fit", "--config", CHAIN, "--run_dir=NEW", "--dataset=ImageFolder",
          f"--dataset.root={LONG}"], "the name is too long: give a shorter one."),
    ],
)  # fmt: skip
def test_paths_that_cannot_be_are_one_line(
    finished_run: Path, tmp_path: Path, words: list[str], message: str, error_line: Refused
):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    places = {
        "FILE": tmp_path / "file", "FOLDER": tmp_path / "folder", "RUN": finished_run,
        "NEW": tmp_path / "run",
    }  # fmt: skip
    for name, place in places.items():
        words = [word.replace(name, str(place)) if LONG not in word else word for word in words]
    words = [word.replace("RUN", str(finished_run)) for word in words]
    assert message in error_line(words)


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("report", ["report", "--run_dir", "RUN"], "there is a file where a folder should be"),
        ("cluster/stage.json", ["cluster", "--config", "RUN/cluster/config.yaml"],
         "it is a folder: give a file"),
        (f"{ARM}/test.json", ["compare", "RUN"], "test.json is gone: restore it"),
        ("disentangle/checkpoints/last.ckpt",
         ["disentangle", "test", "--config", "RUN/disentangle/config.yaml"], "is missing: run"),
        ("disentangle/codes/rank0", ["evaluate", "--config", "RUN/evaluate/config.yaml"],
         "codes.npy is missing: predict the codes again"),
    ],
)  # fmt: skip
def test_files_and_folders_in_each_others_places(
    run_copy: Path, name: str, words: list[str], message: str, error_line: Refused
):
    path = run_copy / name
    if path.is_dir():
        shutil.rmtree(path)
        path.write_text("x")
    else:
        path.unlink()
        path.mkdir()
    assert message in error_line([word.replace("RUN", str(run_copy)) for word in words])


@pytest.mark.parametrize(
    "words",
    [
        ["fit", "--config", "FILE"],
        ["fit", "--config", CHAIN, "--disentangle", "FILE"],
        ["data", "check", "--config", "FILE"],
        ["cluster", "--config=FILE"],
        ["evaluate", "--config", "FILE"],
        ["report", "--config", "FILE"],
        ["multitask", "test", "--config", "FILE"],
        ["multitask", "fit", "--model=FILE"],
        ["disentangle", "fit", "--trainer", "FILE"],
        ["sweep", "--config", "FILE"],
        ["sweep", "--chain", "FILE", "--parameters", '{"seed": [0]}'],
    ],
)
def test_settings_that_are_no_text_are_named(tmp_path: Path, words: list[str], error_line: Refused):
    path = tmp_path / "settings.yaml"
    path.write_bytes("street: straße\n".encode("latin-1"))
    line = error_line([word.replace("FILE", str(path)) for word in words])
    assert line == f"error: {path} is no text in UTF-8 (byte 0xdf at 12): save it as UTF-8."


def test_codes_have_their_place_on_the_disk(run_copy: Path):
    """A file of holes would be written to by mapping, which kills where the disk is full."""
    path = run_copy / "disentangle" / "codes" / "rank0" / "codes.npy"
    assert np.load(path).shape == (384, 4, 6)
    assert path.stat().st_blocks * 512 >= path.stat().st_size
