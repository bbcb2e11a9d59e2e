"""The walls of the house: who imports whom, how long a file is, what a stage's file gives."""

from __future__ import annotations

from pathlib import Path
from pydoc import locate

import pytest
import yaml
from importlinter import cli as linter

from detaux_pl.cli.main import COMMANDS
from detaux_pl.data.datasets.digit_scenes import DigitScenes
from detaux_pl.pipeline.chain import parse
from detaux_pl.pipeline.plan import stage_keys
from detaux_pl.pipeline.stage import STAGES, Stage

PACKAGE = Path(__file__).parents[1] / "detaux_pl"
CONF = Path(__file__).parent / "conf"
KEY_OF_BEFORE = "36b1a68b393f1b1cafd97d9a28e936c7"
"""What the key of the disentangler of the miniature began with when data sets lay elsewhere."""


def test_rooms_import_downward_and_no_files_in_a_circle(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(PACKAGE.parent)
    assert linter.lint_imports(no_cache=True) == 0


def test_no_file_is_over_500_lines_and_the_command_line_is_thin():
    lines = {path: len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {path.name: n for path, n in lines.items() if n > 500} == {}
    assert sum(n for path, n in lines.items() if path.parent.name == "cli") < 2500


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_a_stage_is_a_row_and_a_file(stage: Stage):
    assert callable(stage.code.jobs)
    assert callable(stage.code.run)
    assert COMMANDS[stage.name].module == stage.code.__name__
    assert not stage.takes or set(dict(stage.takes)) <= set(_names(stage))
    assert not stage.tries_nets or (stage.code.check and stage.code.net_tasks)


def _names(stage: Stage) -> list[str]:
    """Settings of the chain that a stage may take."""
    parsed = parse(["--config", str(CONF / "chain.yaml")]).config
    return [*parsed, *(f"tracking.{name}" for name in parsed["tracking"])]


@pytest.mark.parametrize(
    "given", ["DigitScenes", "detaux_pl.data.datasets.digit_scenes.DigitScenes"]
)
def test_a_class_path_of_before_is_read_and_makes_the_same_key(given: str, tmp_path: Path):
    config = yaml.safe_load((CONF / "chain.yaml").read_text())
    assert config["dataset"]["class_path"] == "DigitScenes"
    config["dataset"]["class_path"] = given
    path = tmp_path / "chain.yaml"
    path.write_text(yaml.safe_dump(config))
    parsed = parse(["--config", str(path)])
    assert locate(parsed.config["dataset"]["class_path"]) is DigitScenes
    assert stage_keys(parsed)["disentangle"].startswith(KEY_OF_BEFORE)
