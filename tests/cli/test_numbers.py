"""1 is one batch and 1.0 all of them, whatever was imported before."""

from __future__ import annotations

import json
import subprocess
import sys
import typing
from pathlib import Path

import pytest
import yaml

from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.cli.main import main
from detaux_pl.pipeline.chain import parse
from detaux_pl.settings.build import build
from detaux_pl.settings.keys import trainable_settings
from detaux_pl.settings.numbers import integers_first
from detaux_pl.training.stage_cli import stage_parser
from tests.cli.conftest import CONF, fit

CHAIN = ["--config", str(CONF / "chain.yaml")]
COUNTS = ("limit_train_batches", "limit_val_batches", "limit_test_batches")


def test_int_comes_before_float_at_any_depth():
    asked_first = typing.Union[float, int]  # noqa: UP007
    assert typing.get_args(asked_first) == (float, int)
    late = typing.Optional[typing.Union[int, float]]  # noqa: UP007, UP045
    assert integers_first(late).__args__ == (int, float, type(None))
    inner = integers_first(dict[str, list[asked_first]])
    assert inner.__args__[1].__args__[0].__args__ == (int, float)
    assert integers_first(str | float | bool | int).__args__ == (str, int, float, bool)
    for same in (int, float | None, list[int | float], tuple[()], typing.Literal[1]):
        assert integers_first(same) is same


@pytest.mark.parametrize("stage", ["disentangle", "multitask"])
@pytest.mark.parametrize("text", ["1", "1.0", "2", "0.5"])
def test_a_chain_and_a_stage_read_the_same_number(stage, text, tmp_path):
    value = json.loads(text)
    words = [f"--{stage}.trainer.{name}={text}" for name in COUNTS]
    said = parse([*CHAIN, *words]).config[stage]["trainer"]
    model = {"disentangle": "Autoencoder", "multitask": "SingleTask"}[stage]
    config = tmp_path / "stage.yaml"
    content = {
        "trainer": dict.fromkeys(COUNTS, value),
        "data": {"init_args": {"dataset": "DigitScenes"}},
    }
    config.write_text(yaml.safe_dump(content))
    own = stage_parser(stage).parse_args([f"--config={config}", f"--model={model}"]).trainer
    for name in COUNTS:
        assert [type(said[name]), said[name]] == [type(value), value]
        assert [type(own[name]), own[name]] == [type(value), value]


def test_whole_numbers_stay_in_models_and_callbacks(monkeypatch):
    weighting = {"class_path": "TorchJDWeighting", "init_args": {"arguments": {"c": 1, "d": 1.0}}}
    words = [*CHAIN, f"--multitask.model.weighting={json.dumps(weighting)}"]
    words.append("--cluster.clusterer.init_args.min_cluster_size=1")
    config = parse(words).config
    read = config["multitask"]["model"]["init_args"]["weighting"]["init_args"]["arguments"]
    assert [type(read[name]) for name in ("c", "d")] == [int, float]
    assert type(config["cluster"]["clusterer"]["init_args"]["min_cluster_size"]) is int
    from detaux_pl.cluster.base import Clusterer

    for size in (7, 0.5):
        built = build(Clusterer, {"class_path": "detaux_pl.cluster.hdbscan.HDBSCAN",
                                  "init_args": {"min_cluster_size": size}})  # fmt: skip
        assert type(built.min_cluster_size) is type(size)


def test_one_batch_is_one_batch_and_all_are_all(tmp_path):
    scenes = [f"--data.dataset.{split}=64" for split in ("n_train", "n_val", "n_test")]
    steps = {}
    for text in ("1", "1.0"):
        words = ["disentangle", "fit", f"--run_dir={tmp_path / text}", "--model=Autoencoder"]
        words += ["--data.dataset=DigitScenes", *scenes, "--trainer.max_epochs=2"]
        words += ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
        assert main([*words, f"--trainer.limit_train_batches={text}"]) == 0
        rows = (tmp_path / text / "disentangle/metrics.csv").read_text().splitlines()
        steps[text] = max(int(row.split(",")[1]) for row in rows[1:])
    assert steps == {"1": 1, "1.0": 3}  # 2 epochs of 1 and of 2 batches, counted from 0


@pytest.mark.slow
def test_a_run_made_with_all_batches_goes_on_and_is_not_taken_for_one(tmp_path, error_line):
    run_dir = tmp_path / "run"
    words = [*CHAIN, "--run_dir", str(run_dir), "--until=disentangle"]
    assert fit(run_dir, "--until=disentangle", "--disentangle.trainer.limit_train_batches=1.0") == 0
    kept = yaml.safe_load((run_dir / "config.yaml").read_text())["disentangle"]["trainer"]
    assert repr(kept["limit_train_batches"]) == "1.0"
    assert main(["fit", "--run_dir", str(run_dir), "--until=disentangle"]) == 0
    line = error_line(["fit", *words, "--disentangle.trainer.limit_train_batches=1"])
    assert "trainer.limit_train_batches was 1.0, is 1 " in line


def test_a_number_of_no_unit_has_one_key():
    keys = []
    for text in ("1", "1.0"):
        config = parse([*CHAIN, f"--multitask.trainer.gradient_clip_val={text}"]).config
        keys.append(json.dumps(trainable_settings(config["multitask"])))
    assert keys[0] == keys[1]
    assert '"gradient_clip_val": 1.0' in keys[0]


@pytest.mark.slow
def test_the_order_of_imports_does_not_count(tmp_path):
    run_dir = tmp_path / "run"
    words = ["fit", *CHAIN, "--run_dir", str(run_dir), "--until=disentangle"]
    words.append("--disentangle.trainer.limit_train_batches=1")
    code = f"import rich.console, detaux_pl.cli.main as m; raise SystemExit(m.main({words!r}))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
    trainer = (StageFolder(run_dir, "disentangle").manifest or {})["settings"]["trainer"]
    assert type(trainer["limit_train_batches"]) is int


@pytest.mark.parametrize("word", ["null", "~"])
def test_null_is_none_at_any_depth(word):
    below = "--data.init_args.dataset.init_args"
    words = ["--model=Autoencoder", "--data.init_args.dataset=ImageFolder"]
    words += [f"{below}.root=null and void", f"{below}.principal=label"]
    words += [f"{below}.{name}={word}" for name in ("cache_dir", "value_range")]
    given = stage_parser("disentangle").parse_args(words).data.init_args.dataset.init_args
    assert str(given.root) == "null and void"
    assert given.cache_dir is None
    assert given.value_range is None
