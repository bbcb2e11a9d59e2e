"""Every architecture as one graph: the same answers, for any number of images of any size."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image, ImageDraw

from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.crop_flip import CropFlip
from detaux_pl.data.preprocessing import Preprocessing
from detaux_pl.inference.card import Card
from detaux_pl.inference.classifier import Classifier
from detaux_pl.inference.graph import output_names, trace, write_onnx, write_program
from detaux_pl.multitask.base import MultitaskModel
from detaux_pl.multitask.hard_parameter_sharing import HardParameterSharing
from detaux_pl.multitask.single_task import SingleTask
from detaux_pl.report.model_card import script
from tests.found import check_refusal, classes
from tests.multitask.test_every_architecture import SHAPE, SIZES, built

EVERY = pytest.mark.parametrize("cls", classes(MultitaskModel), ids=lambda cls: cls.__name__)


def classifier_of(*members: MultitaskModel, preprocessing: Preprocessing) -> Classifier:
    names = ("principal", "auxiliary")[: 2 if members[0].uses_auxiliary else 1]
    tasks = {
        name: tuple(f"class {k}/{size}" for k in range(size))
        for name, size in zip(names, SIZES, strict=False)
    }
    temperatures = dict(zip(names, (0.7, 1.9), strict=False))
    return Classifier(members, Card("kind", tasks, temperatures, preprocessing))


def pictures(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def assert_same(told: list[np.ndarray], classifier: Classifier, images: np.ndarray) -> None:
    """Hold a graph against the classifier, which reads each image with Pillow."""
    answers = classifier.predict(list(images))
    for values, expected in zip(told, answers.probabilities.values(), strict=True):
        assert values.shape == expected.shape
        # Pictures of noise, whose pixels differ by a level; in those of the own size none does.
        near = 1e-6 if images.shape[1:3] == classifier.preprocessing.shape[1:] else 2e-2
        np.testing.assert_allclose(values, expected, atol=near)


@EVERY
def test_traced_for_any_number_and_size(cls: type[MultitaskModel]):
    classifier = classifier_of(built(cls), preprocessing=Preprocessing(SHAPE))
    module = trace(classifier).module()
    for images in (pictures(1, 32, 32, 3), pictures(5, 32, 32, 3), pictures(3, 40, 71, 3)):
        told = [each.detach().numpy() for each in module(torch.from_numpy(images))]
        assert_same(told, classifier, images)


def check_onnx(classifier: Classifier, path: Path, *sizes: tuple[int, int]) -> None:
    program = trace(classifier)
    write_onnx(program, classifier, path)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    write_program(program, path.with_suffix(".pt2"))
    for file in path.parent.iterdir():
        assert b".py" not in file.read_bytes(), f"{file.name} holds paths of this machine"
    session = onnxruntime.InferenceSession(path)
    assert [each.name for each in session.get_outputs()] == output_names(classifier.card.tasks)
    (given,) = session.get_inputs()
    channels = classifier.preprocessing.shape[0]
    assert given.shape == ["batch", "height", "width", channels]
    assert (given.name, given.type) == ("images", "tensor(uint8)")
    for n, size in enumerate((classifier.preprocessing.shape[1:], *sizes), 1):
        images = pictures(n, *size, channels)
        assert_same(session.run(None, {"images": images}), classifier, images)


@pytest.mark.slow
@EVERY
def test_onnx(cls: type[MultitaskModel], tmp_path: Path):
    classifier = classifier_of(built(cls), preprocessing=Preprocessing(SHAPE))
    check_onnx(classifier, tmp_path / "model.onnx", (70, 40), (20, 25))


@pytest.mark.slow
def test_onnx_of_an_ensemble_resized_twice_and_cropped(tmp_path: Path):
    shape = (3, 24, 24)
    members = [
        HardParameterSharing(shape, SIZES, backbone="small_convnet", hidden=8) for _ in range(2)
    ]
    preprocessing = Preprocessing((3, 40, 50), "pad", image_size=28, augmentation=CropFlip(size=24))
    classifier = classifier_of(*members, preprocessing=preprocessing)
    check_onnx(classifier, tmp_path / "model.onnx", (90, 40))


def test_the_script_of_the_card_reads_what_predict_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = SingleTask((1, 16, 16), (4,), backbone="small_convnet", hidden=8)
    classifier = classifier_of(model, preprocessing=Preprocessing((1, 16, 16)))
    write_onnx(trace(classifier), classifier, tmp_path / "model.onnx")
    ring = Image.new("RGBA", (90, 70))
    ImageDraw.Draw(ring).ellipse((10, 10, 80, 60), fill=(200, 40, 10, 255), width=5)
    ring.save(tmp_path / "see through.png")
    exif = Image.Exif()
    exif[274] = 6  # lies on its side
    ring.convert("RGB").save(tmp_path / "turned.jpg", exif=exif, quality=95)
    ring.convert("L").save(tmp_path / "grey.png")
    files = sorted(str(path) for path in tmp_path.glob("*.*g"))
    assert len(files) == 3
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["use.py", *files])
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        exec(script(classifier.card), {})
    rows = [line.split("\t") for line in told.getvalue().splitlines()]
    guesses = [each[0] for each in classifier.predict(files).top(1)]
    assert [row[:2] for row in rows] == [
        [file, guess.name] for file, guess in zip(files, guesses, strict=True)
    ]
    found = [float(row[2]) for row in rows]
    np.testing.assert_allclose(found, [guess.probability for guess in guesses], atol=1e-3)


class Moody(SingleTask):
    """A network that looks at its numbers."""

    def represent(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return super().represent(images if images.mean() > 0.5 else 1 - images)


def test_what_cannot_be_traced_is_one_line():
    model = Moody((3, 16, 16), (4,), backbone="small_convnet", hidden=8)
    with pytest.raises(UserError) as caught:
        trace(classifier_of(model, preprocessing=Preprocessing((3, 16, 16))))
    check_refusal(caught.value, "Moody", "--format safetensors")
