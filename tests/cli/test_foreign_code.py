"""A config from elsewhere runs no code of its own: in no slot that a config has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import ArgumentError, ArgumentParser
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from detaux_pl.artifacts.errors import UserError
from detaux_pl.cli.main import main
from detaux_pl.cluster.base import Clusterer
from detaux_pl.data.factor_dataset import FactorDataset
from detaux_pl.data.modules import FactorDataModule
from detaux_pl.disentangle.base import Disentangler
from detaux_pl.multitask.base import MultitaskModel
from detaux_pl.settings.build import import_room
from detaux_pl.settings.choices import concrete_subclasses
from detaux_pl.settings.foreign import refuse_code
from detaux_pl.training.stage_cli import resolve
from tests.cli import harmless
from tests.cli.conftest import CONF

SPEC = {"class_path": "tests.cli.harmless.Harmless"}
KINDS = (
    Clusterer, FactorDataset, FactorDataModule, Disentangler, MultitaskModel, Callback, Logger,
)  # fmt: skip
STAGE = [
    "disentangle", "fit", "--model=RawPixels", "--data.dataset=DigitScenes",
    "--data.dataset.n_train=64", "--trainer.max_epochs=1", "--trainer.accelerator=cpu",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _nothing_ran() -> Iterator[None]:
    harmless.ran.clear()
    yield
    assert harmless.ran == []


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _arguments(cls: type) -> list[str]:
    names = ArgumentParser().add_class_arguments(cls, "built", fail_untyped=False)
    return [name.removeprefix("built.") for name in names]


def _try(parser: ArgumentParser, given: dict[str, Any]) -> bool:
    """Parse, check and build as the commands do; whether it came to building."""
    try:
        parsed = parser.parse_object(given)
        refuse_code(resolve(parser, parsed), "given")
    except (ArgumentError, UserError, ValueError):
        return False
    try:
        parser.instantiate(parsed)
    except Exception:  # a constructor may dislike what it gets: what counts is what ran
        return True
    return True


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_no_argument_of_a_class_that_a_config_can_name_runs_it(kind: type, tmp_path: Path):
    for room in ("data", "losses", "disentangle", "multitask", "cluster"):
        import_room(room)
    tried = 0
    for cls in concrete_subclasses(kind):
        known = ("detaux_pl.", "lightning.pytorch.callbacks.", "lightning.pytorch.loggers.")
        if not cls.__module__.startswith(known):
            continue
        parser = ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(kind, "built")
        for name in _arguments(cls):
            for value in (SPEC, {"a": SPEC}, "tests.cli.harmless.harmless"):
                _try(parser, {"built": {"class_path": _path(cls), "init_args": {name: value}}})
                assert harmless.ran == [], (cls, name, value)
                tried += 1
    assert tried >= 12


def test_no_argument_of_the_trainer_runs_it():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Trainer, "trainer")
    for name in _arguments(Trainer):
        for value in (SPEC, [SPEC]):
            assert not _try(parser, {"trainer": {name: value}}), name


@pytest.mark.parametrize(
    "words",
    [
        ["cluster", "--nets", "{class_path: tests.cli.harmless.Harmless}"],
        ["refine", "--rounds=1", "--nets", "{class_path: tests.cli.harmless.Harmless}"],
        [
            "cluster",
            "--nets={model: %s, single: %s, data: %s, trainer: {a: %s}, folds: 2}"
            % (("{class_path: tests.cli.harmless.Harmless}",) * 4),
        ],
        [*STAGE, "--trainer.callbacks=[{class_path: tests.cli.harmless.Harmless}]"],
        [
            "fit", "--config", str(CONF / "chain.yaml"),
            "--baselines=[{class_path: tests.cli.harmless.Harmless}]",
        ],
        [
            "fit", "--config", str(CONF / "chain.yaml"),
            "--discoveries={a: {cluster: {clusterer: {class_path: tests.cli.harmless.Harmless}}}}",
        ],
    ],
)  # fmt: skip
def test_no_command_runs_it_before_it_refuses(
    error_line: Callable[[list[str]], str], tmp_path: Path, words: list[str]
):
    error_line([*words, "--run_dir", str(tmp_path / "run")])


@pytest.mark.parametrize(
    "value",
    ["tests.cli.harmless.harmless", "{class_path: tests.cli.harmless.Harmless}"],
)
def test_what_would_be_called_is_refused(
    error_line: Callable[[list[str]], str], tmp_path: Path, value: str
):
    spec = f"[{{class_path: LambdaCallback, init_args: {{on_fit_start: {value}}}}}]"
    line = error_line([*STAGE, "--run_dir", str(tmp_path / "run"), "--trainer.callbacks", spec])
    assert "disentangle.trainer.callbacks.0.on_fit_start is" in line
    assert "code that would be called" in line
    assert not (tmp_path / "run" / "disentangle").exists()


def test_keyword_dictionaries_keep_what_was_written(tmp_path: Path):
    spec = "{class_path: CSVLogger, init_args: {save_dir: %s}, dict_kwargs: {a: {class_path: %s}}}"
    told = spec % (tmp_path, SPEC["class_path"])
    assert main([*STAGE, "--run_dir", str(tmp_path), "--trainer.logger", told]) == 2


def test_denied_modules_are_refused(error_line: Callable[[list[str]], str], tmp_path: Path):
    line = error_line([*STAGE, "--run_dir", str(tmp_path), "--trainer.callbacks=[os.system]"])
    assert "os.system" in line
