"""Files of the right syntax and wrong content: what reads them says so in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from detaux_pl import load
from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.files import read_json, sha256_file, write_json
from detaux_pl.cli.main import main
from tests.cli.conftest import CONF, fit

CONTENTS = ("[]", "{}", "null", "1", '"x"')
ARM = "multitask/single_task/seed0"


def _parts(path: Path) -> Iterator[tuple[str, str]]:
    """Give the content of a JSON or YAML file with a key left out or changed, and say which."""
    is_yaml = path.suffix == ".yaml"
    content = yaml.safe_load(path.read_text()) if is_yaml else read_json(path)
    dump: Callable[[Any], str] = yaml.safe_dump if is_yaml else json.dumps
    for name in content:
        yield f"without {name}", dump({k: v for k, v in content.items() if k != name})
        for value in ([], 1):
            yield f"{name}={value!r}", dump({**content, name: value})


def _wrong(path: Path) -> Iterator[tuple[str, str]]:
    yield from ((f"holds {content}", content) for content in CONTENTS)
    if path.suffix in (".json", ".yaml") and path.name != "nothing":
        yield from _parts(path)


class Tried:
    """Runs commands on files with wrong content, and keeps what they should not have done."""

    def __init__(self, run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.run_dir, self.capsys = run_dir, capsys
        self.wrong: list[str] = []
        self.n_refused = 0

    def command(self, what: str, *words: str) -> None:
        """A command ends well, or with one line and exit code 2."""
        self.capsys.readouterr()
        try:
            code = fit(self.run_dir, *words[1:]) if words[0] == "fit" else main(list(words))
        except UserError as error:  # `fit` is called below the command line
            code = 0 if "\n" not in str(error) else 1
            self.n_refused += 1
        except Exception as error:
            self.wrong.append(f"{what}: {words[0]}: {type(error).__name__}: {error}")
            return
        lines = [each for each in self.capsys.readouterr().err.splitlines() if each]
        told = [each for each in lines if each.startswith("error: ")]
        if code not in (0, 2) or (code == 2 and len(told) != 1):
            self.wrong.append(f"{what}: {words[0]}: exit code {code}: {lines[-3:]}")
        self.n_refused += code == 2

    def python(self, what: str) -> None:
        """So do the attributes of `load`, by their exceptions."""
        for name in ("codes", "probes", "tasks", "candidates", "disentangler", "data", "arms"):
            try:
                getattr(load(self.run_dir), name)
            except UserError:
                self.n_refused += 1
            except Exception as error:
                self.wrong.append(f"{what}: load(...).{name}: {type(error).__name__}: {error}")


def test_manifests_of_wrong_content(run_copy: Path, capsys: pytest.CaptureFixture[str]):
    tried = Tried(run_copy, capsys)
    for stage, command in (("evaluate", "metrics"), (ARM, "compare")):
        path = run_copy / stage / "stage.json"
        before = path.read_text()
        for what, content in list(_wrong(path)):
            path.write_text(content)
            what = f"{stage}/stage.json {what}"
            tried.command(what, command, str(run_copy))
        path.write_text(before)
    assert tried.wrong == []
    assert tried.n_refused > 40


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("evaluate/stage.json", "[]", "the whole is [], not names with values: --redo evaluate"),
        ("evaluate/stage.json", {"outputs": 1}, "outputs is 1, not names with values: --redo"),
        ("evaluate/stage.json", {"seconds": True}, "seconds is True, not a number: --redo evalua"),
        ("evaluate/stage.json", {"status": "x"}, "status is 'x', not 'running' or 'complete'"),
        ("evaluate/probes.json", {"chance": []}, "chance is [], not names with values: --redo "),
        ("evaluate/probes.json", {"tasks": ["x"]}, "an accuracy of a task is missing: --redo eva"),
        ("evaluate/metrics.json", {"scores": None}, "scores is None, not names with values"),
        (f"{ARM}/test.json", {"test/accuracy/principal": "x"}, "principal is 'x', not a number"),
        (f"{ARM}/test.json", "{}", "test/accuracy/principal is missing: --redo multitask"),
        (f"{ARM}/cost.json", {"device": None}, "device is None, not text: --redo multitask"),
        (f"{ARM}/config.yaml", {"data": 1}, "data is 1, not names with values: --redo multitask"),
        ("disentangle/codes/codes.json", {"factor_sizes": [1]}, "it gives 1 sizes of the factors"),
    ],
)
def test_the_line_says_what_and_what_to_do(
    run_copy: Path,
    name: str,
    content: Any,
    message: str,
    error_line: Callable[[list[str]], str],
):
    """Where the digests are right: what the manifest vouches for was always wrong, or is forged."""
    path = run_copy / name
    if isinstance(content, dict):
        old = yaml.safe_load(path.read_text())
        path.write_text(json.dumps({**old, **content}))
    else:
        path.write_text(content)
    folder = next(each for each in path.parents if (each / "stage.json").is_file())
    if path.name != "stage.json":
        manifest = read_json(folder / "stage.json")
        manifest["outputs"][path.relative_to(folder).as_posix()] = sha256_file(path)
        write_json(folder / "stage.json", manifest)
    command = {"probes.json": "probes", "metrics.json": "metrics", "stage.json": "metrics"}
    line = error_line([command.get(path.name, "compare"), str(run_copy)])
    assert f"{path} is damaged, " in line
    assert message in line


def test_arrays_of_wrong_content(run_copy: Path):
    folder = run_copy / "disentangle" / "codes"
    manifest = read_json(folder / "stage.json")
    write_json(folder / "stage.json", {**manifest, "status": "running", "outputs": {}})
    for name in ("codes", "ids", "splits", "factors"):
        path = folder / "rank0" / f"{name}.npy"
        before = path.read_bytes()
        for wrong in (np.array(1.0), np.zeros(0), np.zeros((3, 2)), np.full(384, "x")):
            np.save(path, wrong)
            with pytest.raises(UserError, match=r"predict the codes again|holds no"):
                _ = load(run_copy).codes
        path.write_bytes(before)
    assert load(run_copy).codes.values.shape == (384, 4, 6)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_file_of_a_run_with_wrong_content(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """All commands on all files: another content, and each key left out or changed."""
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    tried = Tried(run, capsys)
    names = [
        path.relative_to(run)
        for path in sorted(run.rglob("*"))
        if path.suffix in (".json", ".yaml", ".csv", ".npy", ".npz")
        and ("multitask" not in path.parts or ARM in path.as_posix())
    ]
    assert len(names) > 20
    for name in names:
        path = run / name
        before = path.read_bytes()
        for what, content in list(_wrong(path)):
            path.write_text(content)
            whole = what.startswith("holds")
            for words in _readers(run, name, whole):
                tried.command(f"{name} {what}", *words)
                if not path.is_file() or path.read_text(errors="ignore") != content:
                    # It was made again, as a report is: the next one begins from the same run.
                    shutil.rmtree(run)
                    shutil.copytree(finished_run, run)
                    path.write_text(content)
            if whole:
                tried.python(f"{name} {what}")
        if path.is_file():
            path.write_bytes(before)
    assert tried.wrong == []


def _readers(run: Path, name: Path, all_of_them: bool) -> Iterator[tuple[str, ...]]:
    """The commands that read a file of a run, or the quick ones of them."""
    folder, stage = str(run), name.parts[0]
    yield ("compare", folder)
    yield ("metrics", folder)
    if name == Path("config.yaml"):
        yield ("fit", "--config", str(run / name), "--until", "disentangle")
        return
    if all_of_them:
        yield ("probes", folder)
        yield ("report", "--run_dir", folder)
        yield ("fit", "--config", str(CONF / "chain.yaml"), "--run_dir", folder)
    config = str(run / name) if name.name == "config.yaml" else str(run / stage / "config.yaml")
    if stage in ("evaluate", "cluster"):
        yield (stage, "--config", config, "--run_dir", folder)
    if stage == "disentangle":
        config = str(run / stage / "config.yaml") if "codes" in name.parts else config
        yield ("disentangle", "predict", "--config", config, "--run_dir", folder)
    if stage == "multitask":
        config = str(run / Path(*name.parts[:3]) / "config.yaml")
        yield ("multitask", "test", "--config", config, "--run_dir", folder)
