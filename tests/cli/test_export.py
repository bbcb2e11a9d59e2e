"""`detaux export`: what a bundle holds, and that it says what its run says."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import venv
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors import safe_open

import detaux_pl
from detaux_pl.artifacts.files import read_json, write_json
from detaux_pl.cli.main import main
from detaux_pl.inference import export, graph, parity
from detaux_pl.inference.bundle import FILES
from tests.children import run_child

Refused = Callable[[list[str]], str]
ARM = "hard_parameter_sharing"


@pytest.fixture(scope="module")
def bundle(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of the main arm of the miniature run, to look at but not to touch."""
    folder = tmp_path_factory.mktemp("bundles") / "all of it"
    assert main(["export", str(finished_run), str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def images(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Test images of the miniature run as files."""
    folder = tmp_path_factory.mktemp("images")
    dataset = detaux_pl.load(finished_run).data.dataset
    rows = torch.from_numpy(dataset.rows("test")[:20])
    for k, image in enumerate(dataset.images(rows).permute(0, 2, 3, 1).numpy()):
        Image.fromarray(image).save(folder / f"{k:02}.png")
    return folder


@pytest.fixture
def copied(bundle: Path, tmp_path: Path) -> Path:
    """A bundle of the test's own."""
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def _script(folder: Path) -> str:
    return (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]


@pytest.mark.slow
def test_a_bundle_is_asked_like_its_run(
    finished_run: Path, bundle: Path, images: Path, capsys: pytest.CaptureFixture[str]
):
    assert sorted(path.name for path in bundle.iterdir()) == sorted(FILES)
    capsys.readouterr()
    told = []
    for folder in (finished_run, bundle):
        assert main(["predict", str(folder), str(images), "--top_k", "3"]) == 0
        told.append(capsys.readouterr().out)
    assert told[0].count("\n") == 21
    assert told[0] == told[1]


def test_from_python(finished_run: Path, bundle: Path, images: Path):
    files = sorted(images.iterdir())
    expected = detaux_pl.load(finished_run).classifier().predict(files)
    opened = detaux_pl.load(bundle)
    assert opened.predict(files).names == opened.classifier().predict(files).names == expected.names
    pixels = np.stack([np.asarray(Image.open(file)) for file in files])
    for task, values in opened.predict(pixels).probabilities.items():
        np.testing.assert_array_equal(values, expected.probabilities[task])
    with pytest.raises(detaux_pl.artifacts.errors.UserError, match="leave root out"):
        detaux_pl.load(bundle, root="/data")


def test_graphs_answer_as_the_networks_do(finished_run: Path, bundle: Path, images: Path):
    classifier = detaux_pl.load(finished_run).classifier()
    session = onnxruntime.InferenceSession(bundle / "model.onnx")
    module = torch.export.load(bundle / "model.pt2").module()
    names = session.get_modelmeta().custom_metadata_map
    assert json.loads(names["classes"]) == [str(k) for k in range(10)]
    assert json.loads(names["group_classes"]) == list(classifier.card.tasks["auxiliary"])
    files = sorted(images.iterdir())
    pixels = np.stack([np.asarray(Image.open(file)) for file in files])
    expected = classifier.predict(files).probabilities.values()
    outputs = ["probabilities", "group_probabilities"]
    for n in (20, 1):
        for told in (
            session.run(outputs, {"images": pixels[:n]}),
            [each.detach().numpy() for each in module(torch.from_numpy(pixels[:n]))],
        ):
            for values, each in zip(told, expected, strict=True):
                np.testing.assert_allclose(values, each[:n], atol=1e-6)


def test_weights_are_those_of_the_checkpoints(finished_run: Path, bundle: Path):
    run = detaux_pl.load(finished_run)
    with safe_open(bundle / "model.safetensors", "pt") as file:
        assert file.metadata() is None
        names = set(file.keys())
        for k in range(2):
            for name, value in run.model(ARM, k).state_dict().items():
                torch.testing.assert_close(file.get_tensor(f"members.{k}.{name}"), value)
                names.remove(f"members.{k}.{name}")
    assert not names
    about = read_json(bundle / "model.json")
    assert (about["arm"], about["seeds"], about["format"]) == (ARM, [0, 1], 1)
    stages = [finished_run / "multitask" / ARM / f"seed{k}" / "stage.json" for k in range(2)]
    assert about["keys"] == [read_json(path)["key"] for path in stages]
    assert about["files"].keys() == set(FILES) - {"model.json"}


def test_parity_is_measured_on_test_images_and_on_other_sizes(bundle: Path):
    found = read_json(bundle / "parity.json")
    assert (found["images"], found["n_images"], found["limit"]) == ("test images", 32, 1e-4)
    assert found["files"].keys() == {"model.safetensors", "model.onnx", "model.pt2"}
    for each in found["files"].values():
        assert each.keys() == {"probabilities", "group_probabilities"}
        assert max(each.values()) < 1e-6
    shapes = [(each["height"], each["width"]) for each in found["other_sizes"].values()]
    for larger in (True, False):
        ours = [size for size in shapes if (max(size) > 16) == larger]
        assert {np.sign(height - width) for height, width in ours} == {-1, 0, 1}
    for each in found["other_sizes"].values():
        assert each["levels"] <= 2
        assert max(each["files"].values()) < 1e-2


def test_the_card_says_what_it_is(finished_run: Path, bundle: Path):
    text = (bundle / "README.md").read_text()
    report = read_json(finished_run / "report" / "report.json")
    assert text.startswith("---\nlicense: unknown")
    assert report["verdict"] in text
    for arm, numbers in report["arms"].items():
        begin = f"| {arm}".replace("_", "\\_")
        row = next(line for line in text.splitlines() if line.startswith(begin))
        assert f"{100 * numbers['accuracy_mean']:.1f}" in row
    kept = [detaux_pl.load(finished_run).predictions(ARM, k).of("test") for k in range(2)]
    mean = np.mean([each.probabilities["principal"] for each in kept], axis=0)
    right = (mean.argmax(1) == kept[0].target("principal")).mean()
    assert f"**{100 * right:.1f} %** of 64 test images" in text
    assert "256 train, 64 val, 64 test" in text
    for heading in ("Classes", "Groups", "Limits", "Use", "Files", "Licence"):
        assert f"\n## {heading}\n" in text


def _use_without_torch(python: str, bundle: Path, images: Path) -> list[list[str]]:
    """Run the script of the card; return what it says of each image."""
    blocked = "import sys; sys.modules['torch'] = sys.modules['detaux_pl'] = None\n"
    words = [python, "-I", "-c", blocked + _script(bundle), *map(str, sorted(images.iterdir()))]
    done = subprocess.run(words, cwd=bundle, capture_output=True, text=True, check=True)
    return [line.split("\t") for line in done.stdout.splitlines()]


def _check_use(rows: list[list[str]], finished_run: Path, images: Path) -> None:
    files = sorted(images.iterdir())
    guesses = [top[0] for top in detaux_pl.load(finished_run).classifier().predict(files).top(1)]
    assert [row[:2] for row in rows] == [
        [str(file), guess.name] for file, guess in zip(files, guesses, strict=True)
    ]
    found = [float(row[2]) for row in rows]
    np.testing.assert_allclose(found, [guess.probability for guess in guesses], atol=1e-5)


def test_twelve_lines_use_it_without_torch(finished_run: Path, bundle: Path, images: Path):
    assert len(_script(bundle).splitlines()) == 12
    _check_use(_use_without_torch(sys.executable, bundle, images), finished_run, images)


@pytest.mark.slow
def test_twelve_lines_in_an_environment_without_torch(
    finished_run: Path, bundle: Path, images: Path, tmp_path: Path
):
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    pip = [python, "-m", "pip", "install", "-q", "onnxruntime", "numpy", "pillow"]
    subprocess.run(pip, check=True)
    assert subprocess.run([python, "-c", "import torch"], capture_output=True).returncode == 1
    _check_use(_use_without_torch(python, bundle, images), finished_run, images)


@pytest.mark.parametrize("name", [name for name in FILES if name != "README.md"])
def test_a_changed_or_missing_file_is_refused(name: str, copied: Path, error_line: Refused):
    path = copied / name
    content = bytearray(path.read_bytes())
    place = content.index(b"0", len(content) // 2)
    content[place] = ord("1")
    path.write_bytes(bytes(content))
    words = ["predict", str(copied), "-"]
    assert f"{path} was changed" in error_line(words)
    path.unlink()
    assert f"{path} is missing" in error_line(words)


def test_the_card_may_be_edited_and_is_not_lost(
    finished_run: Path, copied: Path, images: Path, error_line: Refused
):
    card = copied / "README.md"
    card.write_text(card.read_text().replace("license: unknown", "license: mit"))
    assert (
        main(["predict", str(copied), str(images), "--output", str(copied.parent / "x.csv")]) == 0
    )
    assert "README.md was edited" in error_line(["export", str(finished_run), str(copied)])
    assert "license: mit" in card.read_text()


def test_a_later_format_is_refused(copied: Path, error_line: Refused):
    write_json(copied / "model.json", {"format": 2, "anything": "else"})
    line = error_line(["predict", str(copied), "-"])
    assert "is of format 2" in line
    assert "pip install --upgrade" in line


def test_a_bundle_has_no_arms_and_seeds(finished_run: Path, bundle: Path, error_line: Refused):
    for words in (["--arm", ARM], ["--seeds", "0"]):
        line = error_line(["predict", str(bundle), "-", *words])
        assert "leave --arm and --seeds out" in line
    line = error_line(["export", str(bundle), str(bundle.parent / "again")])
    assert "is a bundle already" in line


@pytest.mark.slow
def test_the_same_run_gives_the_same_bytes_in_place_of_an_older_bundle(
    finished_run: Path, copied: Path, bundle: Path, capfd: pytest.CaptureFixture[str]
):
    weights = copied / "model.safetensors"
    weights.write_bytes(b"of another run")
    assert (
        main(["export", str(finished_run), str(copied), "--format", "pt2", "--format", "onnx"]) == 0
    )
    assert _digests(copied) == _digests(bundle)
    assert [path.name for path in copied.parent.iterdir()] == ["bundle"]
    out, err = capfd.readouterr()
    assert len(err.splitlines()) < 8, "what the exporters say is kept from the terminal"
    assert all(name in out for name in FILES)


def test_weights_alone_of_one_seed_of_another_arm(finished_run: Path, tmp_path: Path, images: Path):
    folder = tmp_path / "one"
    words = ["export", str(finished_run), str(folder), "--format", "safetensors"]
    assert main([*words, "--arm", "single_task", "--seeds", "1"]) == 0
    assert {path.name for path in folder.iterdir()} == set(FILES) - {"model.onnx", "model.pt2"}
    assert "onnx" not in (folder / "README.md").read_text().split("## Use")[1]
    expected = detaux_pl.load(finished_run).classifier("single_task", [1])
    found = detaux_pl.load(folder).predict(sorted(images.iterdir()))
    np.testing.assert_array_equal(
        found.probabilities["principal"],
        expected.predict(sorted(images.iterdir())).probabilities["principal"],
    )


def test_the_card_warns_of_shortcuts_and_of_the_worst_cell(run_copy: Path, tmp_path: Path):
    told = {
        "name": "KMeans 2", "sentence": "Shortcut alarm: the groups of KMeans 2 go with it.",
        "effect": 0.9, "p_value": 0.001, "rare": 0, "cells": [], "known": {}, "alike": [],
    }  # fmt: skip
    write_json(
        run_copy / "discoveries" / "other" / "cluster" / "shortcuts.json",
        {"sentence": "", "alarms": [told], "relations": []},
    )
    folder = tmp_path / "one"
    words = ["export", str(run_copy), str(folder), "--format", "safetensors"]
    assert main(words) == 0
    limits = (folder / "README.md").read_text().split("## Limits")[1].split("## Use")[0]
    assert "- other: Shortcut alarm: the groups of KMeans 2 go with it.\n" in limits
    sheet = read_json(run_copy / "report" / "report.json")["groups"]["arms"][ARM]
    assert f"`{ARM}` does worst, {sheet['worst']['class']} in {sheet['worst']['group']}" in limits
    assert f"{100 * sheet['worst']['test_accuracy']:.1f} % of " in limits


def test_images_that_are_gone_are_replaced_by_noise(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def gone(self: object) -> None:
        raise detaux_pl.artifacts.errors.UserError("the folder data/birds does not exist.")

    monkeypatch.setattr(detaux_pl.inference.run.Run, "data", property(gone))
    words = ["export", str(finished_run), str(tmp_path / "b"), "--format", "safetensors"]
    assert main(words) == 0
    assert read_json(tmp_path / "b" / "parity.json")["images"] == "noise"


def test_a_folder_of_something_else_is_left_alone(
    finished_run: Path, copied: Path, tmp_path: Path, error_line: Refused
):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.jpg").write_bytes(b"a cat")
    (copied / "notes.txt").write_text("mine")
    a_file = tmp_path / "file"
    a_file.write_text("mine")
    for folder, word in ((photos, "cat.jpg"), (copied, "notes.txt"), (a_file, "is a file")):
        before = _digests(folder) if folder.is_dir() else folder.read_text()
        assert word in error_line(["export", str(finished_run), str(folder)])
        assert (_digests(folder) if folder.is_dir() else folder.read_text()) == before


def test_words_that_do_not_fit(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error_line: Refused
):
    words = ["export", str(finished_run), str(tmp_path / "b")]
    assert "give all, or whole numbers" in error_line([*words, "--seeds", "first"])
    assert "no finished arm 'hard_parameter_sharing' with seed 9" in error_line(
        [*words, "--seeds", "9"]
    )
    assert "no finished arm 'MTAN'" in error_line([*words, "--arm", "MTAN"])
    assert "invalid choice: 'tflite'" in error_line([*words, "--format", "tflite"])
    assert "give OWNER/NAME" in error_line([*words, "--hub", "birds"])
    monkeypatch.setattr(graph, "find_spec", lambda name: None)
    assert 'pip install "detaux_pl[onnx]"' in error_line([*words, "--format", "onnx"])
    assert not (tmp_path / "b").exists()


@pytest.mark.slow
def test_without_the_extra_the_rest_is_written(
    finished_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(graph, "find_spec", lambda name: None)
    assert main(["export", str(finished_run), str(tmp_path / "b")]) == 0
    assert "model.onnx is left out" in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "b").iterdir()} == set(FILES) - {"model.onnx"}


def test_a_file_that_answers_otherwise_is_refused(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error_line: Refused
):
    monkeypatch.setattr(parity, "LIMIT", -1.0)
    words = ["export", str(finished_run), str(tmp_path / "b"), "--format", "safetensors"]
    assert "answers otherwise" in error_line(words)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("form", ["safetensors", "pt2", "onnx"])
def test_a_disk_that_is_full_leaves_nothing(
    form: str, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    sizes = {"safetensors": 5_000_000, "pt2": 5_200_000, "onnx": 5_095_000}
    words = ["export", str(finished_run), str(tmp_path / "b"), "--format", form]
    resource.setrlimit(resource.RLIMIT_FSIZE, (sizes[form], limits[1]))
    try:
        assert main(words) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: {tmp_path / 'b' / 'model'}.{form} cannot be written")
    assert not list(tmp_path.iterdir())


def _kill_late(words: list[str]) -> None:
    export.write_about = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    main(words)


def test_killed_in_the_middle_it_leaves_nothing_of_that_name(finished_run: Path, copied: Path):
    before = _digests(copied)
    words = ["export", str(finished_run), "--format", "safetensors"]
    for folder in (copied, copied.parent / "new"):
        assert run_child(_kill_late, [*words, str(folder)]) == -signal.SIGKILL
    assert _digests(copied) == before
    left = {path.name.rpartition("-")[0] for path in copied.parent.iterdir()} - {""}
    assert left == {".bundle", ".new"}
    for folder in (copied, copied.parent / "new"):
        assert main([*words, str(folder)]) == 0
    assert sorted(path.name for path in copied.parent.iterdir()) == ["bundle", "new"]


class Hub(ThreadingHTTPServer):
    """What `upload_folder` asks of the hub, and what it was given."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.created: list[Any] = []
        self.blobs: dict[str, bytes] = {}
        self.files: dict[str, bytes] = {}
        self.deleted: list[str] = []


class _Answers(BaseHTTPRequestHandler):
    server: Hub

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        status, value = self._say(self.path, body)
        raw = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    do_GET = do_POST = do_PUT = _answer

    def _say(self, path: str, body: bytes) -> tuple[int, Any]:
        hub = self.server
        if path == "/api/repos/create":
            if "taken" in body.decode():
                return 403, {"error": "You don't have the rights to create a model there"}
            hub.created.append(json.loads(body))
            return 200, {"url": f"{hub.url}/me/digits"}
        if "/tree/" in path:
            return 200, [
                {"type": "file", "path": name, "size": 1, "oid": "0" * 40}
                for name in ("model.pt2", "logo.svg")
            ]
        if "/preupload/" in path:
            large = (".onnx", ".safetensors")
            return 200, {
                "files": [
                    {
                        "path": each["path"],
                        "uploadMode": "lfs" if each["path"].endswith(large) else "regular",
                        "shouldIgnore": False,
                    }
                    for each in json.loads(body)["files"]
                ]
            }
        if path.endswith("/objects/batch"):
            objects = [
                {**each, "actions": {"upload": {"href": f"{hub.url}/put/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            return 200, {"transfer": "basic", "objects": objects}
        if path.startswith("/put/"):
            hub.blobs[path.removeprefix("/put/")] = body
        if "/commit/" in path:
            for line in body.splitlines():
                each = json.loads(line)
                value = each["value"]
                if each["key"] == "file":
                    hub.files[value["path"]] = base64.b64decode(value["content"])
                elif each["key"] == "lfsFile":
                    hub.files[value["path"]] = hub.blobs[value["oid"]]
                elif each["key"] == "deletedFile":
                    hub.deleted.append(value["path"])
            return 200, {"commitUrl": f"{hub.url}/c/1", "commitOid": "1" * 40, "success": True}
        return 200, {}

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    constants = pytest.importorskip("huggingface_hub.constants")
    with Hub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "hf_of_a_stand_in")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of httpx
def test_uploaded_to_the_hub_in_one_commit(
    finished_run: Path, tmp_path: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "b"
    words = ["export", str(finished_run), str(folder), "--format", "safetensors"]
    assert main([*words, "--hub", "me/digits"]) == 0
    assert "me/digits" in capsys.readouterr().err
    (created,) = hub.created
    assert (created["organization"], created["name"]) == ("me", "digits")
    assert created.get("private") or created.get("visibility") == "private"
    assert hub.files == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert hub.deleted == ["model.pt2"], "of an older bundle, and nothing else"


def test_a_hub_that_refuses_is_one_line(
    finished_run: Path, tmp_path: Path, hub: Hub, error_line: Refused
):
    words = ["export", str(finished_run), str(tmp_path / "b"), "--format", "safetensors"]
    line = error_line([*words, "--hub", "me/taken"])
    assert "is written, but cannot be uploaded to me/taken" in line
    assert (tmp_path / "b" / "model.json").is_file()
