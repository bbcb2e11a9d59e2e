"""Names are the user's: shown as they are, never read as markup, in folders that can hold them."""

from __future__ import annotations

import ast
import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import detaux_pl
from detaux_pl.artifacts.errors import UserError
from detaux_pl.cli.fit import run as run_chain
from detaux_pl.cli.main import main
from detaux_pl.settings.names import arm_folder, safe_name
from tests.cli.conftest import CONF, in_process

PRINCIPAL, CLASSES = "width [mm]", ("[red]x[/]", "[/x]", ":art: a")
COLUMNS = {"hair color": ("[b]fair", "dark/red"), "[/x]": ("left", "right")}
ARMS = ["[bold]main[/]", "left/right (1)", "[red]d[/]", "shuffled", "hair color", "[/x]"]
RUN = "[red]run :art: [b]"
PACKAGE = Path(detaux_pl.__file__).parent


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of a small chain on a table of images whose names are all hostile."""
    folder = tmp_path_factory.mktemp("named")
    rng = np.random.default_rng(0)
    with (folder / "table.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", PRINCIPAL, *COLUMNS])
        for k in range(72):
            pixels = rng.integers(0, 255, (16, 16, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{k}.png")
            values = [
                names[k // 3 % 2 if n else k // 6 % 2] for n, names in enumerate(COLUMNS.values())
            ]
            writer.writerow([f"{k}.png", CLASSES[k % 3], *values])
    trainer = {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False}
    clusterer = {"class_path": "KMeans", "init_args": {"n_clusters": 2}}
    chain: dict[str, Any] = {
        "seeds": 1,
        "dataset": {
            "class_path": "ImageTable",
            "init_args": {
                "path": str(folder / "table.csv"),
                "principal": PRINCIPAL,
                "image_size": 16,
                "cache_dir": str(folder / "cache"),
            },
        },
        "disentangle": {"model": {"class_path": "RawPixels"}, "trainer": trainer},
        "evaluate": {"metrics": ["mig"], "max_codes": 1000},
        "cluster": {"clusterer": clusterer, "noise": "nearest"},
        "multitask": {
            "arm": ARMS[0],
            "model": {
                "class_path": "HardParameterSharing",
                "init_args": {"backbone": "small_convnet", "hidden": 8},
            },
            "trainer": trainer,
        },
        "baselines": [{"class_path": "SingleTask", "name": ARMS[1]}],
        "discoveries": {ARMS[2]: {"cluster": {"seed": 1}}},
        "controls": ["shuffled", "hair color", "[/x]"],
    }
    path = folder / "chain.yaml"
    path.write_text(yaml.safe_dump(chain), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def named_run(config: Path) -> Path:
    run_dir = config.parent / RUN
    assert run_chain(["--config", str(config), "--run_dir", str(run_dir)], in_process) == 0
    return run_dir


@pytest.mark.slow
def test_fit_shows_every_arm_as_it_is_named(
    named_run: Path, config: Path, capsys: pytest.CaptureFixture[str]
):
    assert run_chain(["--config", str(config), "--run_dir", str(named_run)], in_process) == 0
    shown = capsys.readouterr()
    assert f"detaux {named_run}" in shown.err.replace("\n", "")
    assert shown.err.count("complete, skipped") == 5
    assert f"{PRINCIPAL} · test accuracy" in shown.out
    for arm in ARMS:
        assert arm in shown.out
    report = json.loads((named_run / "report" / "report.json").read_text("utf-8"))
    kinds = {name: arm["kind"] for name, arm in report["arms"].items()}
    assert kinds == dict(
        zip(ARMS, ["main", "baseline", "discovery", "control", "ceiling", "ceiling"], strict=True)
    )
    page = (named_run / "report" / "report.html").read_text("utf-8")
    for arm in ARMS:
        assert arm in page


@pytest.mark.slow
def test_names_have_folders_that_can_hold_them(named_run: Path):
    folders = {path.name for path in (named_run / "multitask").iterdir()}
    assert folders == {safe_name(arm) for arm in ARMS}
    assert "hair_color-9d4a5238" in folders
    assert {path.name for path in (named_run / "discoveries").iterdir()} == {safe_name(ARMS[2])}
    run = detaux_pl.load(named_run)
    assert run.arms == {arm: [0] for arm in ARMS}
    assert type(run.model("hair color")).__name__ == "HardParameterSharing"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["data", "check", "--config", "CONFIG"], [PRINCIPAL, *CLASSES, *COLUMNS]),
        (["data", "show", "--config", "CONFIG"], ["contact_sheet.png"]),
        (
            ["evaluate", "--redo=evaluate", "--metrics=[mig]", "--max_codes=1000"],
            [PRINCIPAL, *COLUMNS, RUN],
        ),
        (["compare", "RUN"], ARMS),
        (["compare", "RUN", "--against", "hair color"], ["hair color", "left/right (1)"]),
        (["compare", "RUN", "--format", "markdown"], ["hair color"]),
        (["probes", "RUN"], [PRINCIPAL, *COLUMNS, RUN]),
        (["metrics", "RUN"], [RUN, "MIG"]),
        (["report"], []),
        (["multitask", "test", "--config", "ARM"], ["multitask/hair_color-9d4a5238/seed0 · test"]),
        (["multitask", "fit", "--config", "ARM"], ["nothing to do"]),
        (["cluster", "--discovery", ARMS[2], "--config", "CLUSTER"], []),
    ],
)  # fmt: skip
def test_every_command_shows_names_as_they_are(
    named_run: Path, config: Path, capsys: pytest.CaptureFixture[str], words: list[str],
    shown: list[str],
):  # fmt: skip
    places = {
        "CONFIG": config,
        "RUN": named_run,
        "ARM": named_run / arm_folder("hair color") / "seed0" / "config.yaml",
        "CLUSTER": named_run / "discoveries" / safe_name(ARMS[2]) / "cluster" / "config.yaml",
    }
    words = [str(places.get(word, word)) for word in words]
    own = [] if words[0] in ("compare", "probes", "metrics") else ["--run_dir", str(named_run)]
    assert main([*words, *own]) == 0
    out = capsys.readouterr()
    flat = " ".join((out.out + out.err).split())
    for name in shown:
        assert name in flat


def test_a_terminal_is_told_the_same(
    named_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["compare", str(named_run)]) == 0
    shown = capsys.readouterr().out
    for arm in ARMS:
        assert arm in shown


def test_a_stage_of_a_discovery_is_made_again_by_what_it_is_called(
    config: Path, named_run: Path, error_line: Callable[[list[str]], str]
):
    args = ["--config", str(config), "--run_dir", str(named_run)]
    stage = named_run / "discoveries" / safe_name(ARMS[2]) / "cluster" / "stage.json"
    before = stage.stat().st_mtime_ns
    words = [*args, f"--redo=discoveries/{ARMS[2]}/cluster", "--until=cluster"]
    assert run_chain(words, in_process) == 0
    assert stage.stat().st_mtime_ns > before
    assert "discoveries/" in error_line(["fit", *args, "--redo=discoveries/d/cluster"])


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("hair_color", "hair_color"), ("größe", "größe"), ("a-b", "a-b"),
        ("hair color", "hair_color-9d4a5238"), ("hair/color", "hair_color-062cc706"),
        ("../out", "out-"), (".", "name-"), ("👍", "name-"), ("a" * 300, "a" * 40 + "-"),
    ],
)  # fmt: skip
def test_a_safe_name_stays_and_others_get_one_of_their_own(name: str, folder: str):
    made = safe_name(name)
    assert made.startswith(folder)
    assert made == safe_name(name)
    assert "/" not in made
    assert len(made.encode()) <= 200
    assert safe_name(made) == made


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "\x1b[31m"])
def test_a_name_that_cannot_be_shown_is_refused(name: str):
    with pytest.raises(UserError, match="letters that can be shown"):
        safe_name(name)


def test_two_arms_of_one_folder_are_refused(error_line: Callable[[list[str]], str]):
    twice = "[{class_path: SingleTask, name: hair color}, {class_path: SingleTask, name: %s}]"
    words = ["fit", "--config", str(CONF / "chain.yaml"), "--baselines"]
    assert "two arms are named" in error_line([*words, twice % safe_name("hair color")])


def test_nothing_but_one_file_makes_a_console():
    """Text is not read as markup where the console and the columns of a bar come from there."""
    made = {
        path.name
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("Console", "TextColumn", "SpinnerColumn", "track")
    }
    assert made == {"terminal.py"}
    assert not [p for p in PACKAGE.rglob("*.py") if "rich.markup" in p.read_text("utf-8")]
