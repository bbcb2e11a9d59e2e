"""Whatever a command writes of its settings it reads again, whatever the strings look like."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from detaux_pl.artifacts.yaml_text import dump_yaml
from detaux_pl.cli.sweep import sweep_parser
from detaux_pl.pipeline.chain import parse
from detaux_pl.pipeline.parameters import read_parameters, vary
from detaux_pl.pipeline.stage import STAGES
from detaux_pl.settings.parser import parse as parse_words
from detaux_pl.training.stage_cli import resolve, stage_parser
from tests.artifacts.test_yaml_text import WORDS
from tests.cli.conftest import CONF

SHOWN = [word for word in WORDS if word.strip() and word.isprintable()]
"""Words that can name an arm."""
STRINGS = st.sampled_from(WORDS) | st.text(st.characters(exclude_categories=["Cs"]))
CLUSTER = next(stage for stage in STAGES if stage.name == "cluster").code


def _write(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "given.yaml"
    path.write_text(dump_yaml(content), encoding="utf-8")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("k", range(0, len(SHOWN), 16))
def test_the_config_of_a_chain_is_read_as_it_was_written(tmp_path: Path, k: int):
    words = (SHOWN[k:] + SHOWN)[:5]
    content = yaml.safe_load((CONF / "chain.yaml").read_text())
    content |= {
        "seeds": 1,
        "run_dir": words[0],
        "tracking": {"project": words[1], "entity": words[2]},
        "baselines": [{"class_path": "SingleTask", "name": f"b {words[3]}"}],
        "discoveries": {f"d {words[4]}": {"cluster": {"seed": 1}}},
        "controls": [*(word for word in SHOWN if word != "shuffled"), list(SHOWN)],
        "evaluate": {"tasks": list(WORDS)},
    }
    content["multitask"]["arm"] = f"m{words[0]}"
    first = parse(["--config", str(_write(tmp_path, content))])
    assert first.config["tracking"]["project"] == words[1]
    assert first.config["tracking"]["entity"] == words[2]
    assert first.config["evaluate"]["tasks"] == list(WORDS)
    learned = [arm[0]["data"]["init_args"]["auxiliary"] for arm in first.arms.values()]
    assert learned[3:] == content["controls"]
    (tmp_path / "config.yaml").write_text(first.source, encoding="utf-8")
    assert parse(["--config", str(tmp_path / "config.yaml")]) == first
    # What the planner writes for a stage, the stage reads.
    name = [*first.arms][-1]
    path = _write(tmp_path, first.arms[name][0])
    parser = stage_parser("multitask")
    assert resolve(parser, parser.parse_args(["--config", str(path)])) == first.arms[name][0]


@settings(max_examples=15, deadline=None)
@given(STRINGS, st.lists(STRINGS, min_size=1), st.text("abc 1e3[]{}:-'\"", min_size=1))
def test_the_config_of_a_stage_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, word: str, several: list[str], other: str
):
    folder = tmp_path_factory.mktemp("stage")
    for codes in (word, several):
        content = {"run_dir": word, "codes": codes, "discovery": other, "nets": {"model": word}}
        read = parse_words(CLUSTER.parser(), ["--config", str(_write(folder, content))])
        assert {name: read[name] for name in content} == content
        again = parse_words(CLUSTER.parser(), ["--config", str(_write(folder, read))])
        assert again == read


@pytest.mark.parametrize("word", WORDS)
def test_a_word_of_the_command_line_is_written_and_read(tmp_path: Path, word: str):
    read = parse_words(CLUSTER.parser(), [f"--run_dir={word}", f"--codes={json.dumps([word])}"])
    assert (read["run_dir"], read["codes"]) == (word, [word])
    assert parse_words(CLUSTER.parser(), ["--config", str(_write(tmp_path, read))]) == read


def test_the_choices_of_a_sweep_are_the_words_that_were_given(tmp_path: Path):
    content = {"parameters": {"tracking.project": list(SHOWN)}, "columns": list(SHOWN)}
    config = sweep_parser().parse_args(["--config", str(_write(tmp_path, content))])
    (found,) = read_parameters(config.parameters, tmp_path, "grid")
    assert list(found.choices) == SHOWN
    assert config.columns == SHOWN
    for word in found.choices:
        trial = vary({}, found.settings(word))
        assert yaml.safe_load(dump_yaml(trial)) == {"tracking": {"project": word}}
