"""The model card of a bundle: what it is, how well it does, what it does not, how to use it."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from scipy.stats import binomtest

from detaux_pl.artifacts.codes import SPLITS, Codes
from detaux_pl.artifacts.errors import ArtifactError
from detaux_pl.artifacts.predictions import average
from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.cluster.shortcuts import read_shortcuts
from detaux_pl.evaluation.results import ReportContent
from detaux_pl.inference.bundle import ABOUT, ONNX, PROGRAM, WEIGHTS
from detaux_pl.inference.card import Card
from detaux_pl.inference.export import Chosen
from detaux_pl.inference.graph import output_names
from detaux_pl.inference.parity import Parity
from detaux_pl.metrics.calibration import expected_calibration_error, scale
from detaux_pl.report.task import leading_text
from detaux_pl.report.wording import accuracy_text, p_text, percent, plural, points
from detaux_pl.settings.build import StageConfig
from detaux_pl.settings.names import discovery_folder, discovery_folders

_LISTED = 40
"""Classes that are named in one line; more are behind a click."""
_LICENCES = "https://huggingface.co/docs/hub/repositories-licenses"
_SCRIPT = """\
import json, sys
import numpy as np, onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession("model.onnx")
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
for path in sys.argv[1:]:
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    pixels = np.asarray(image.convert("{mode}")).reshape(1, image.height, image.width, {channels})
    [[probabilities]] = session.run(["probabilities"], {{"images": pixels}})
    print(path, classes[probabilities.argmax()], f"{{probabilities.max():.6f}}", sep="\\t")
"""
"""What needs nothing but onnxruntime and Pillow, which brings no numbers of its own."""


def model_card(chosen: Chosen, parity: Parity) -> str:
    """Return the text of the `README.md` of a bundle.

    Args:
        chosen: What the bundle is made from.
        parity: How its files compare with the networks.
    """
    parts = [
        _head(chosen, parity), _data(chosen), _results(chosen), _classes(chosen),
        _limits(chosen, parity),
        _use(chosen.classifier.card, parity), _files(parity),
        "## Licence\n\nTo be filled in, here and in the first lines of this file, by whoever has "
        "the rights to the images and to this model.\n",
    ]  # fmt: skip
    return "\n".join(parts)


def script(card: Card) -> str:
    """Return the lines of Python that use the ONNX file of a bundle without torch."""
    channels = card.preprocessing.shape[0]
    return _SCRIPT.format(mode="L" if channels == 1 else "RGB", channels=channels)


def _head(chosen: Chosen, parity: Parity) -> str:
    card = chosen.classifier.card
    n = len(chosen.seeds)
    sizes = [len(names) for names in card.tasks.values()]
    together = (
        f"{n} networks that answer together, by the mean of their probabilities" if n > 1
        else "One network"
    )  # fmt: skip
    groups = [f"one of {size} groups that were discovered without labels" for size in sizes[1:]]
    what = ", and ".join([f"one of {sizes[0]} classes of {_text(card.principal)}", *groups])
    tags = ["image-classification", "detaux", *(["onnx"] if ONNX in parity["files"] else [])]
    return (
        f"---\nlicense: unknown  # fill in: {_LICENCES}\n"
        f"pipeline_tag: image-classification\ntags: [{', '.join(tags)}]\n---\n\n"
        f"# {_text(chosen.run.run_dir.resolve().name)}: {_text(card.principal)}\n\n"
        f"{together}, `{chosen.arm}` of {plural(n, 'seed')} "
        f"({', '.join(map(str, chosen.seeds))}): from an image to {what}. Probabilities are "
        "calibrated by a temperature for each task, fitted on validation images. Made by "
        "`detaux_pl`.\n"
    )


def _data(chosen: Chosen) -> str:
    config = chosen.trainings[0].read("config.yaml", StageConfig)["data"].get("init_args", {})
    dataset = config.get("dataset", {}).get("class_path", "").rsplit(".", 1)[-1]
    channels, height, width = chosen.classifier.preprocessing.shape
    kind = {1: "grey", 3: "colour"}.get(channels, f"{channels}-channel")
    lines = [f"`{dataset}`: {kind} images, read as {height} x {width} pixels."]
    with suppress(ArtifactError):
        splits = Codes.load(chosen.run.run_dir / "disentangle" / "codes").splits
        counts = np.bincount(splits, minlength=len(SPLITS)).tolist()
        told = ", ".join(f"{n:,} {name}" for n, name in zip(counts, SPLITS, strict=True) if n)
        lines.append(f"Images: {told}.")
    noise = config.get("noise")
    if noise and noise.get("amount"):
        lines.append(f"They were seen with noise: {_text(_settings(noise))}.")
    return f"## Data\n\n{' '.join(lines)}\n"


def _settings(given: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in given.items())


def _results(chosen: Chosen) -> str:
    lines = ["## How well it does\n"]
    seeds = [chosen.run.predictions(chosen.arm, seed) for seed in chosen.seeds]
    test = average(seeds).of("test")
    task = test.tasks[0]
    targets, raw = test.target(task), test.probabilities[task]
    known = targets >= 0
    if n := int(known.sum()):
        right = int((raw[known].argmax(axis=1) == targets[known]).sum())
        interval = binomtest(right, n).proportion_ci(method="wilson")
        calibrated = scale(raw, chosen.classifier.card.temperatures[task])
        before, after = (expected_calibration_error(p, targets) for p in (raw, calibrated))
        lines.append(
            f"This model: **{percent(right / n)}** of {plural(n, 'test image')} (95 % interval "
            f"{percent(interval.low)} to {percent(interval.high)}, Wilson); expected calibration "
            f"error {before:.3f} before and {after:.3f} after the temperature.\n"
        )
    report = _report(chosen)
    if report is not None:
        lines += ["Each network by itself, and what it was compared with:\n", *_arms(report)]
        lines.append(f"\n{_text(str(report.get('verdict', '')))}\n")
    return "\n".join(lines)


def _report(chosen: Chosen) -> ReportContent | None:
    """Numbers of the report, where the run has one."""
    folder = StageFolder(chosen.run.run_dir, "report")
    if not (folder.path / "report.json").is_file():
        return None
    return folder.read("report.json", ReportContent)


def _arms(report: ReportContent) -> Iterator[str]:
    baseline = report["baseline"]
    names = ["arm", f"test accuracy of {_text(report['principal'])}, mean ± 95 % CI"]
    names += [] if baseline is None else [f"vs {_text(baseline)}", "p"]
    yield _row([*names, "seeds"])
    yield _row(["---"] * (len(names) + 1))
    for name, arm in report["arms"].items():
        cells = [_text(name), accuracy_text(arm)]
        if baseline is not None:
            gap, p = arm["difference"], arm["p_value"]
            cells += ["" if gap is None else points(gap), "" if p is None else p_text(p)]
        yield _row([*cells, str(len(arm["seeds"]))])


def _classes(chosen: Chosen) -> str:
    (_, names), *auxiliary = chosen.classifier.card.tasks.items()
    text = f"## Classes\n\n{_list_of(names)}\n"
    report: Mapping[str, Any] = _report(chosen) or {}
    known = report.get("auxiliary", {}) if report.get("main") == chosen.arm else {}
    for k, (task, groups) in enumerate(auxiliary):
        # What the report says of groups is said of the first discovered task.
        clusters = known.get("clusters", []) if k == 0 else []
        text += f"\n## Groups{'' if len(auxiliary) == 1 else f' of {task}'}\n\n"
        if len(clusters) != len(groups):
            text += f"{_list_of(groups)}\n"
            continue
        text += "They were discovered, so that their names are numbers.\n\n"
        rows = [["group", "share of the training images", "what most of them are"], ["---"] * 3]
        for name, cluster in zip(groups, clusters, strict=True):
            rows.append([_text(name), percent(cluster["share"]), _leading(cluster)])
        # Without a factor beside the principal one nobody knows what they are.
        n_columns = 3 if any("leading" in cluster for cluster in clusters) else 2
        text += "".join(f"{_row(cells[:n_columns])}\n" for cells in rows)
    return text


def _leading(cluster: Mapping[str, Any]) -> str:
    if (leading := cluster.get("leading")) is None:
        return ""
    return f"{_text(leading_text(leading, 40))} ({percent(leading['share'], 0)})"


def _list_of(names: Sequence[str]) -> str:
    listed = ", ".join(map(_text, names))
    if len(names) <= _LISTED:
        return listed
    summary = f"<summary>{len(names):,} names, in their order</summary>"
    return f"<details>{summary}\n\n{listed}\n\n</details>"


def _limits(chosen: Chosen, parity: Parity) -> str:
    card = chosen.classifier.card
    own = card.preprocessing
    fit = {
        "crop": "cut at both ends of the longer side", "stretch": "distorted",
        "pad": "padded with black",
    }[own.fit]  # fmt: skip
    lines = [
        "It always names one of its classes: an image of anything else gets one too, sometimes "
        "with a high probability.",
        "Probabilities are calibrated on validation images like those of the training; on other "
        "images they may be too sure.",
        f"Images are resized to {own.shape[1]} x {own.shape[2]} pixels; another aspect ratio is "
        f"{fit}. What that leaves of small details is all that it sees.",
        "Noise that was added in training is not added here.",
    ]
    if parity["other_sizes"]:
        lines.append(
            "A graph resizes by itself, a level or two of 255 from Pillow; `detaux predict` also "
            "decodes large JPEGs at a fraction of their size, as training did. The table at the "
            "end says how much a level matters."
        )
    if own.levels is not None:
        lines.append(
            f"Pixels of more than 8 bits become bytes by the ranges {list(own.levels.integers)} "
            f"(integers) and {list(own.levels.floats)} (floating point), as `{ABOUT}` says; "
            "`detaux predict` does it, and graphs take bytes."
        )
    if len(card.tasks) > 1:
        lines.append("Groups were found, not chosen: that they mean something is not said.")
    lines += _warnings(chosen)
    return "## Limits\n\n" + "".join(f"- {line}\n" for line in lines)


def _warnings(chosen: Chosen) -> Iterator[str]:
    """What a classifier may go by, of all discoveries, and where this one does worst."""
    run_dir = chosen.run.run_dir
    for name in (None, *discovery_folders(run_dir)):
        found = read_shortcuts(StageFolder(run_dir, discovery_folder("cluster", name)))
        for alarm in found["alarms"] if found is not None else []:
            yield _text(alarm["sentence"] if name is None else f"{name}: {alarm['sentence']}")
    report: Mapping[str, Any] = _report(chosen) or {}
    sheet = (report.get("groups") or {"arms": {}})["arms"].get(chosen.arm)
    if sheet is not None and (worst := sheet["worst"]) is not None:
        ends = f"{percent(worst['test_low'])} to {percent(worst['test_high'])}"
        yield (
            f"Where validation images say that `{chosen.arm}` does worst, {_text(worst['class'])} "
            f"in {_text(worst['group'])} of the discovered groups, all of its seeds together tell "
            f"{percent(worst['test_accuracy'])} of {plural(worst['test_images'], 'test image')} "
            f"(95 % interval {ends}), of all {percent(sheet['accuracy']['test'])}."
        )


def _use(card: Card, parity: Parity) -> str:
    text = "## Use\n\nWith `pip install detaux_pl`, for folders, tables and files:\n\n"
    text += "```\ndetaux predict . photos --output predictions.csv\n```\n\n"
    text += 'From Python, `detaux_pl.load(".").predict(["photo.jpg"]).names`.\n'
    if ONNX in parity["files"] and card.preprocessing.shape[0] in (1, 3):
        text += (
            "\nWithout torch, by `pip install onnxruntime numpy pillow`; save it beside the files:"
            f"\n\n```python\n{script(card)}```\n"
        )
    graphs = [name for name in (ONNX, PROGRAM) if name in parity["files"]]
    if graphs:
        names = " and ".join(f"`{name}`" for name in output_names(card.tasks))
        text += (
            f"\n{' and '.join(f'`{name}`' for name in graphs)}: `images` in, uint8 of shape (B, "
            f"height, width, {card.preprocessing.shape[0]}), any number of any size; {names} out"
            ", in the order above."
        )
        if PROGRAM in graphs:
            text += f' `torch.export.load("{PROGRAM}").module()` gives a tuple of them.'
        text += "\n"
    return text


def _files(parity: Parity) -> str:
    """Say how the files compare with the networks."""
    names = list(parity["files"])
    lines = [
        f"## Files\n\nLargest difference of a probability from PyTorch's, on {parity['n_images']} "
        f"{parity['images']} of the size of the data set (`{WEIGHTS}` through the package) and on "
        "pictures that are resized; there also the largest difference of a pixel from Pillow's, of "
        "255.\n",
        _row(["pictures", *(f"`{name}`" for name in names), "pixel"]),
        _row(["---"] * (len(names) + 2)),
        _row([
            "of the data set's size",
            *(f"{max(parity['files'][name].values()):.1e}" for name in names), "0",
        ]),
    ]  # fmt: skip
    for told, other in parity["other_sizes"].items():
        cells = [f"{other['files'][name]:.1e}" if name in other["files"] else "" for name in names]
        size = f"{told} ({other['height']} x {other['width']})"
        lines.append(_row([size, *cells, str(other["levels"])]))
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _text(given: str) -> str:
    """Return text that Markdown shows as it is: names of classes and factors may be any."""
    one_line = " ".join(given.split())
    return re.sub(r"([\\`*_\[\]#|~])", r"\\\1", html.escape(one_line, quote=False))
