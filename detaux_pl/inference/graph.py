"""A classifier as one graph that needs no package of ours: from uint8 images to probabilities."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.fit_images import FitImages
from detaux_pl.inference.classifier import Classifier

INPUT = "images"
"""What the graph calls its input: uint8, shape (B, H, W, C)."""
_ONNX = ("onnx", "onnxscript", "onnxruntime")
"""Packages of the extra that writes and checks ONNX files."""
_LARGEST = 2**31 - 2**24
"""Most bytes of weights in one ONNX file, which is a protocol buffer of less than 2 GiB."""
_AXES = ("batch", "height", "width")


class Graph(nn.Module):
    """All that a classifier does with an image that is decoded: resizing, networks, temperatures.

    Args:
        classifier: Its networks are on the CPU.
    """

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.preprocessing = classifier.preprocessing
        _, height, width = self.preprocessing.shape
        self.fit = FitImages((height, width), self.preprocessing.fit)
        self.net = classifier.net

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the probabilities of each task, shape (B, classes).

        Args:
            images: uint8, shape (B, H, W, C), of any height and width.
        """
        answers: tuple[Tensor, ...] = self.net(self.preprocessing.finish(self.fit(images)))
        return answers


def output_names(tasks: Mapping[str, object]) -> list[str]:
    """Return what the outputs of a graph are called.

    Args:
        tasks: By their names, the principal one first.

    Example:
        >>> output_names({"principal": 10, "auxiliary": 4})
        ['probabilities', 'group_probabilities']
    """
    groups = [task.replace("auxiliary", "group") for task in list(tasks)[1:]]
    return ["probabilities", *(f"{group}_probabilities" for group in groups)]


def trace(classifier: Classifier) -> ExportedProgram:
    """Trace a classifier, for any number of images of any size.

    Args:
        classifier: Its networks are on the CPU.

    Raises:
        UserError: If torch cannot trace a network.
    """
    channels, height, width = classifier.preprocessing.shape
    # Sizes that are all different, and none of them 1, which torch would take for ever the same.
    example = torch.zeros(2, height + 3, width + 5, channels, dtype=torch.uint8)
    remedy = (
        "--format safetensors; or, where the class is yours, take x.shape[0] for len(x) in its "
        "forward, and decide nothing by values of tensors"
    )
    with _silent(), torch.no_grad(), _refusing(classifier, "traced", remedy):
        program = torch.export.export(
            Graph(classifier).eval(), (example,), dynamic_shapes=(_sizes(),), strict=False
        )
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)  # paths of this machine
    return program


def write_program(program: ExportedProgram, path: Path) -> None:
    """Write a graph for `torch.export.load`."""
    with _silent():
        torch.export.save(program, path)


def refuse_without_onnx() -> None:
    """Say what to install.

    Raises:
        UserError: If a package is missing that writes or checks ONNX files.
    """
    if missing := [name for name in _ONNX if find_spec(name) is None]:
        raise UserError(
            f'ONNX files need {" and ".join(missing)}: pip install "detaux_pl[onnx]", or choose '
            "--format pt2 or safetensors."
        )


def write_onnx(program: ExportedProgram, classifier: Classifier, path: Path) -> None:
    """Write a graph as one ONNX file, which holds the names of the classes, too.

    Args:
        program: The traced graph.
        classifier: What it was traced from.
        path: The file.

    Raises:
        UserError: If torch cannot write it, or it would be larger than such a file can be.
    """
    n_bytes = sum(value.nbytes for value in program.state_dict.values())
    if n_bytes > _LARGEST:
        raise UserError(
            f"the networks take {n_bytes / 1e9:.1f} GB, and one ONNX file holds 2: give fewer "
            "--seeds, or --format pt2."
        )
    names = output_names(classifier.card.tasks)
    with _silent():
        with _refusing(classifier, "written as ONNX", "--format pt2"):
            made = torch.onnx.export(
                program, input_names=[INPUT], output_names=names, dynamic_shapes=(_sizes(),),
                dynamo=True, external_data=False, verbose=False,
            )  # fmt: skip
        assert made is not None
        model = made.model
        for node in model.graph.all_nodes():
            node.metadata_props.clear()  # the source that it comes from, with paths of this machine
        for output, classes in zip(names, classifier.card.tasks.values(), strict=True):
            known = json.dumps(classes, ensure_ascii=False)
            model.metadata_props[output.removesuffix("probabilities") + "classes"] = known
        made.save(path, external_data=False)


def _sizes() -> dict[int, Dim]:
    """Axes of the input that may have any length."""
    return {axis: Dim(name) for axis, name in enumerate(_AXES)}


@contextmanager
def _refusing(classifier: Classifier, what: str, remedy: str) -> Iterator[None]:
    """Turn the errors of exporters, which are of very many kinds, into one line."""
    try:
        yield
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{type(classifier.net.members[0]).__name__} cannot be {what} by torch "
            f"{torch.__version__} ({type(error).__name__}: {reason}): {remedy}."
        ) from error


@contextmanager
def _silent() -> Iterator[None]:
    """Keep to itself what exporters say of their own ways."""
    loud = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript")]
    before = [logger.level for logger in loud]
    try:
        for logger in loud:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loud, before, strict=True):
            logger.setLevel(level)
