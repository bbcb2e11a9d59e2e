from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from scipy import stats

from detaux_pl.artifacts.codes import Codes, FactorInfo
from detaux_pl.artifacts.errors import ArtifactError
from detaux_pl.artifacts.files import write_json
from detaux_pl.artifacts.labels import AuxiliaryLabels, save_tasks
from detaux_pl.cluster.subspace import score_subspaces
from detaux_pl.disentangle.autoencoding import AutoencodingDisentangler
from detaux_pl.disentangle.base import Disentangler
from detaux_pl.disentangle.raw_pixels import RawPixels
from detaux_pl.disentangle.vae import VAE, Posterior
from detaux_pl.evaluation.requirements import requirements
from detaux_pl.inference.run import load
from detaux_pl.metrics.agreement import agreement
from detaux_pl.report.page import render_page
from detaux_pl.report.report import arms_table, write_report
from detaux_pl.report.sections import find_sections
from detaux_pl.report.wording import verdict
from tests.report.fake_run import (
    ACCURACIES,
    ARMS,
    SEEDS,
    images_of,
    metrics_of,
    probes_of,
    stage,
    write_evaluation,
    write_run,
)

OURS, ALONE, SHUFFLED, LOCATION = ARMS
FIGURES = {
    "arms", "clusters", "contingency", "codes", "traversals", "reconstructions", "losses",
    "accuracy",
}  # fmt: skip
VOID = {"meta", "link", "br", "img", "hr", "input", "path", "use", "image"}


class Painter(AutoencodingDisentangler):
    """Three subspaces: the brightness of the upper, the middle and the lower third."""

    principal_subspace = 0
    n_subspaces = 3
    sizes = (6, 5, 5)

    def __init__(self):
        super().__init__(1e-3, 0.0, "adamw", "constant")

    def encode(self, images):
        thirds = images.split(self.sizes, dim=2)
        return torch.stack([third.mean((1, 2, 3)) for third in thirds], 1)[..., None]

    def decode(self, codes):
        thirds = codes[:, :, 0].repeat_interleave(torch.tensor(self.sizes), dim=1)
        return thirds[:, None, :, None].expand(-1, 3, -1, 16)


class Dying(Painter, VAE):
    """Latents whose means vary, hardly vary, and do not."""

    principal_subspace = None
    scale = (10.0, 1.0, 0.0)

    def __init__(self):
        AutoencodingDisentangler.__init__(self, 1e-3, 0.0, "adamw", "constant")

    def posterior(self, images):
        mean = (self.encode(images)[..., 0] - 0.5) * torch.tensor(self.scale)
        return Posterior(mean, torch.tensor([-2.0, -0.1, 0.0]).expand_as(mean))

    def regularize(self, posterior, latents):
        raise NotImplementedError


class Coder(Disentangler):
    """A disentangler that paints nothing."""

    principal_subspace = 0
    n_subspaces = 2

    def __init__(self):
        super().__init__(1e-3, 0.0, "adamw", "constant")

    def encode(self, images):
        raise NotImplementedError


class Page(HTMLParser):
    """Tags that are open, everything a page refers to, and its text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links, self.ids, self.text = [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "href", "xlink:href", "data")]
        self.ids += [v for k, v in attrs if k == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def data():
    return images_of()


@pytest.fixture(scope="module")
def bare(tmp_path_factory, data):
    """A run that has everything but its report; to be copied, not changed."""
    folder = tmp_path_factory.mktemp("runs") / "bare & <plain>"
    write_run(folder, data)
    return folder


@pytest.fixture(scope="module")
def made(bare, data):
    report = write_report(bare, ARMS, ALONE, SEEDS, data.images, Painter().eval())
    return bare, report


@pytest.fixture
def run(tmp_path, bare, small_pictures):
    """A run of one's own, without report."""
    shutil.copytree(bare, tmp_path / "run", ignore=shutil.ignore_patterns("report"))
    return tmp_path / "run"


def read(folder):
    return (folder / "report" / "report.html").read_text(encoding="utf-8")


def cut(text, name):
    return text.partition(f'<section id="{name}">')[2].partition("</section>")[0]


def section_of(text, name):
    """One section of a page, and its words."""
    section = Page(cut(text, name))
    return section, " ".join(section.text).replace("\N{NO-BREAK SPACE}", " ")


def rows_of(text, name):
    """The cells of the tables of a section, row by row, without their small print."""
    text = re.sub(r"<small>.*?</small>", "", cut(text, name))
    rows = (re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr.*?</tr>", text))
    return [row for row in rows if row]


def keep_latents(run, columns):
    """Make the codes of a run latents: the first dimension of some of its subspaces."""
    whole = Codes.load(run / "disentangle" / "codes")
    values = np.array(whole.values[:, columns, :1])
    shutil.rmtree(run / "disentangle" / "codes")
    codes = replace(whole, values=values, info=replace(whole.info, principal_subspace=None))
    codes.save(run / "disentangle" / "codes")
    return codes


def test_json_is_what_is_returned(made):
    folder, report = made
    text = (folder / "report" / "report.json").read_text(encoding="utf-8")
    assert json.loads(text) == report
    assert not re.search(r"\b(NaN|Infinity)\b", text)


def test_arms_are_scipys(made):
    arms = made[1]["arms"]
    ours, alone, shuffled = (list(ACCURACIES[k].values()) for k in (OURS, ALONE, SHUFFLED))
    test = stats.ttest_rel(ours, alone)
    arm = arms[OURS]
    assert arm["accuracies"] == ours
    assert arm["accuracy_mean"] == pytest.approx(np.mean(ours))
    assert arm["accuracy_std"] == pytest.approx(np.std(ours, ddof=1))
    assert arm["ci95"] == pytest.approx(
        stats.t.interval(0.95, 4, loc=np.mean(ours), scale=stats.sem(ours))
    )
    assert arm["p_value"] == pytest.approx(test.pvalue)
    assert arm["difference"] == pytest.approx(np.mean(ours) - np.mean(alone))
    assert arm["difference_ci95"] == pytest.approx(tuple(test.confidence_interval()))
    assert arm["p_value_shuffled"] == pytest.approx(stats.ttest_rel(ours, shuffled).pvalue)
    assert arm["p_value_holm"] == pytest.approx(2 * test.pvalue)  # location has the smallest
    assert arm["f1_mean"] == pytest.approx(np.mean(ours) - 0.01)
    assert arms[ALONE]["p_value"] is None
    assert [arm["kind"] for arm in arms.values()] == ["main", "baseline", "control", "ceiling"]
    assert list(arms) == ARMS


def test_task_is_described_on_the_train_split(made, data):
    folder, report = made
    labels = AuxiliaryLabels.load(folder / "cluster")
    train = data.dataset.rows("train")
    task = report["auxiliary"]
    assert report["principal"] == "digit"
    assert (task["n_clusters"], task["n_classes"], task["best_factor"]) == (4, 5, "location")
    assert task["noise_fraction"] == pytest.approx(labels.is_noise[train].mean())
    assert task["nmi_principal"] == task["factors"]["digit"]["nmi"] < 0.1
    for name in ("digit", "background", "location"):
        expected = agreement(data.dataset.factor(name)[train], labels.labels[train])
        assert task["factors"][name] == expected
    assert [cluster["name"] for cluster in task["clusters"]] == [
        "noise", *(f"cluster {k}" for k in range(1, 5)),
    ]  # fmt: skip
    assert sum(cluster["size"] for cluster in task["clusters"]) == len(train)
    assert task["clusters"][2]["leading"]["value"] == 1
    assert task["clusters"][2]["leading"]["name"] == "1"
    assert task["subspace"] == 1


def test_seconds_of_the_stages(made):
    assert made[1]["seconds"] == {
        "disentangle": 40.0, "disentangle/codes": 1.5, "cluster": 0.75, "multitask": 40.0,
    }  # fmt: skip
    assert made[1]["arms"][OURS]["seconds"] == 10.0
    assert "torch" in made[1]["versions"]


def test_page_is_whole_and_needs_nothing(made):
    folder, report = made
    text = read(folder)
    page = Page(text)
    assert page.open == []
    assert page.tags.count("svg") == len(FIGURES)
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in page.links)
    assert not re.search(r"https?://|@import|<script|<link|<iframe|url\((?!#)", text)
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links if link[0] == "#"} <= set(page.ids)
    assert len(text) < 1_000_000
    words = " ".join(page.text).replace("\N{NO-BREAK SPACE}", " ")
    assert report["verdict"] in words
    assert words.index(report["verdict"]) < words.index("hard_parameter_sharing")
    for phrase in (
        "null hypothesis",
        "location 0: ",
        "Resolved configuration",
        "disentangle/codes",
    ):
        assert phrase in words


def test_names_are_escaped(made):
    folder, _ = made
    text = read(folder)
    assert "bare &amp; &lt;plain&gt;" in text
    assert "run_dir: runs/&lt;fake&gt; &amp; co" in text
    assert "<plain>" not in text
    assert "<fake>" not in text


def test_figures_are_pictures(made):
    folder, _ = made
    paths = sorted((folder / "report" / "figures").iterdir())
    assert {path.stem for path in paths} == FIGURES
    for path in paths:
        with Image.open(path) as picture:
            assert picture.format == "PNG"
            assert min(picture.size) > 90
        assert path.stat().st_size < 150_000


def test_same_run_same_page(made, data):
    folder, _ = made
    before = read(folder)
    write_report(folder, ARMS, ALONE, SEEDS, data.images, Painter().eval())
    assert read(folder) == before


def test_table_for_the_terminal(made):
    console = Console(width=100, file=io.StringIO())
    console.print(arms_table(made[1]))
    text = console.file.getvalue()
    rows = {line.split("│")[1].strip(): line for line in text.splitlines() if "│" in line}
    assert list(rows) == ARMS
    assert re.search(r"26\.8 ± 1\.1 % .* \+5\.5 .* < 0\.0001 .* 5 of 5", rows[OURS])


def test_run_of_one_seed_has_no_p(run, data):
    report = write_report(run, ARMS, ALONE, [0], data.images, Coder())
    arm = report["arms"][OURS]
    assert (arm["p_value"], arm["ci95"], arm["accuracy_std"]) == (None, None, None)
    assert arm["difference"] == pytest.approx(0.262 - 0.213)
    assert report["verdict"].startswith("One seed only: digit accuracy is 26.2 %")
    page = Page(read(run))
    assert page.open == []
    assert page.tags.count("svg") == len(FIGURES) - 2  # nothing is decoded
    assert arms_table(report).row_count == 4


def test_what_did_not_finish_is_listed(run, data):
    shutil.rmtree(run / "multitask" / LOCATION)
    manifest = run / "multitask" / OURS / "seed3" / "stage.json"
    write_json(manifest, json.loads(manifest.read_text()) | {"status": "running"})
    report = write_report(run, ARMS, ALONE, SEEDS, data.images)
    assert report["arms"][OURS]["missing_seeds"] == [3]
    assert report["arms"][OURS]["seeds"] == [0, 1, 2, 4]
    ours, alone = (
        [runs[s] for s in (0, 1, 2, 4)] for runs in (ACCURACIES[OURS], ACCURACIES[ALONE])
    )
    assert report["arms"][OURS]["p_value"] == pytest.approx(stats.ttest_rel(ours, alone).pvalue)
    lost = report["arms"][LOCATION]
    assert (lost["accuracies"], lost["accuracy_mean"], lost["p_value"]) == ([], None, None)
    text = read(run)
    assert "Did not finish: hard_parameter_sharing (seed 3); location (seed 0, 1, 2, 3, 4)." in text
    assert "over 4 seeds" in report["verdict"]
    table = arms_table(report)
    assert list(table.columns[-1].cells) == ["4 of 5", "5 of 5", "5 of 5", "0 of 5"]


def test_run_with_the_least_there_can_be(run, data):
    """One factor, no noise, no scores, no control, no baseline, no curves, no config."""
    whole = Codes.load(run / "disentangle" / "codes")
    shutil.rmtree(run / "disentangle" / "codes")
    info = FactorInfo(("a<b & $c$",), (10,), "a<b & $c$")
    Codes(whole.values[:, :, :1], whole.ids, whole.splits, whole.factors[:, :1], info).save(
        run / "disentangle" / "codes"
    )
    n = len(whole.ids)
    AuxiliaryLabels(
        whole.ids, whole.splits, np.arange(n) % 3 - 1, np.zeros(n, bool), np.ones(n, np.float32), 2
    ).save(run / "cluster")
    for path in run.rglob("metrics.csv"):
        path.unlink()
    (run / "config.yaml").unlink()
    report = write_report(run, [OURS], OURS, SEEDS, data.images)
    task = report["auxiliary"]
    assert (task["n_clusters"], task["best_factor"], list(task["factors"])) == (
        2, None, ["a<b & $c$"],
    )  # fmt: skip
    assert sum(cluster["size"] for cluster in task["clusters"]) == 200  # 300 less those left out
    assert report["baseline"] is None
    assert "no baseline" in report["verdict"]
    page = Page(read(run))
    assert page.open == []
    assert page.tags.count("svg") == 3
    assert "a<b & $c$ accuracy" not in report["verdict"]
    assert "NMI with a<b & $c$" in page.text
    assert len(arms_table(report).columns) == 3


@pytest.mark.parametrize(
    ("slices", "says"),
    [
        (
            [[0.8, 0.2, 0.1], [0.3, 0.7, 0.1], [0.2, 0.2, 0.5]],
            "z<1>: the factors are told best as digit in slice 0, a<b> in slice 1, c in slice 2, "
            "each better at its factor than every other slice (the diagonal trend). On average "
            # (.3 + .2 + .2 + .2 + .1 + .1) / 6 - .1 and (.9 + .8 + .7 - .8 - .7 - .5) / 3
            "over the factors, the other slices are +8.3 points from chance (R1, ideally 0), and "
            "all slices together +13.3 points from the factor's own (R2, ideally 0 or less).",
        ),
        (
            [[0.8, 0.7, 0.1], [0.3, 0.6, 0.1], [0.2, 0.2, 0.5]],
            "not each better at its factor than every other slice (no diagonal trend).",
        ),
        ([[0.8, 0.2, 0.1], [0.3, 0.7, 0.1]], "z<1>: there are more factors than slices"),
    ],
)
def test_probes_are_told(run, data, slices, says):
    tasks = ["digit", "a<b>", "c"]
    full, *parts = [dict(zip(tasks, row, strict=True)) for row in ([0.9, 0.8, 0.7], *slices)]
    probes = {
        "tasks": tasks, "chance": dict.fromkeys(tasks, 0.1), "n_train": 1234, "n_test": 56,
        "inputs": {"z<1>": {"full": full, "slices": parts}},
    }  # fmt: skip
    stage(run, "evaluate", 1.25, lambda path: write_json(path / "probes.json", probes))
    report = write_report(run, ARMS, ALONE, SEEDS, data.images)
    assert report["probes"] == probes
    assert list(report["requirements"]) == ["z<1>"]
    assert list(report["seconds"])[:4] == [
        "disentangle", "disentangle/codes", "evaluate", "cluster",
    ]  # fmt: skip
    page = Page(read(run))
    assert page.open == []
    assert "#probes" in page.links
    words = " ".join(page.text).replace("\N{NO-BREAK SPACE}", " ")
    assert says in words
    assert "1,234 train and 56 test images" in words
    first, *rows = rows_of(read(run), "probes")
    assert first == ["z&lt;1&gt;", "90.0", "80.0", "70.0"]
    gaps = [
        f"{100 * abs(best - second):.1f}"
        for *_, second, best in map(sorted, zip(*slices, strict=True))
    ]
    assert rows == [
        *([f"z&lt;1&gt; · slice {k}", *(f"{100 * x:.1f}" for x in row)]
          for k, row in enumerate(slices)),
        ["z&lt;1&gt; · gap", *gaps],
        ["chance", "10.0", "10.0", "10.0"],
    ]  # fmt: skip


def test_several_tasks_are_shown_each(run, data):
    first = AuxiliaryLabels.load(run / "cluster")
    codes = Codes.load(run / "disentangle" / "codes")
    second = replace(
        first,
        labels=codes.factor("background") // 2,
        is_noise=np.zeros(len(codes.ids), bool),
        n_classes=5,
        meta=first.meta | {"subspace": 2, "noise_class": None, "clusterer": {"class": "KMeans"}},
    )
    alone = write_report(run, ARMS, ALONE, SEEDS, data.images, Painter().eval())
    save_tasks([first, second], run / "cluster")
    report = write_report(run, ARMS, ALONE, SEEDS, data.images, Painter().eval())
    assert alone["further_tasks"] == []
    (further,) = report["further_tasks"]
    assert {**report, "further_tasks": []} == alone
    assert (further["best_factor"], further["n_clusters"]) == ("background", 5)
    train = codes.rows("train")
    assert further["factors"]["background"] == agreement(
        codes.factor("background")[train], second.labels[train]
    )
    page = Page(read(run))
    assert page.open == []
    assert page.tags.count("svg") == len(FIGURES) + 3
    assert "#task2" in page.links
    sections = {
        name: Page(read(run).partition(f'<section id="{name}">')[2].partition("</section>")[0])
        for name in ("task", "task2")
    }
    words = {name: " ".join(section.text) for name, section in sections.items()}
    assert "5 clusters in subspace 2, found by KMeans()" in words["task2"]
    assert "4 clusters in subspace 1, found by HDBSCAN(" in words["task"]
    assert sections["task2"].tags.count("svg") == 3
    assert read(run).count("<small>chosen</small>") == 2
    names = {path.stem for path in (run / "report" / "figures").iterdir()}
    assert names == FIGURES | {"clusters2", "contingency2", "codes2"}
    assert [task.meta["subspace"] for task in load(run).tasks] == [1, 2]
    assert load(run).labels.meta["subspace"] == 1


class Whole(Painter):
    """One subspace, none of it the principal factor's."""

    principal_subspace = None
    n_subspaces = 1

    def encode(self, images):
        return super().encode(images).transpose(1, 2)

    def decode(self, codes):
        return super().decode(codes.transpose(1, 2))


@pytest.mark.parametrize("disentangler", [Whole(), RawPixels()])
def test_codes_without_a_principal_subspace(run, data, disentangler):
    whole = Codes.load(run / "disentangle" / "codes")
    values = np.random.default_rng(0).normal(size=(len(whole.ids), 1, 1500)).astype(np.float32)
    values[:, 0, :8] *= 40
    info = replace(whole.info, principal_subspace=None)
    shutil.rmtree(run / "disentangle" / "codes")
    codes = replace(whole, values=values, info=info)
    codes.save(run / "disentangle" / "codes")
    assert Codes.load(run / "disentangle" / "codes").info == info
    labels = AuxiliaryLabels.load(run / "cluster")
    scores = score_subspaces(codes, np.random.default_rng(0))
    meta = {"subspace": 0, "principal_subspace": None, "scores": [asdict(s) for s in scores]}
    replace(labels, meta=labels.meta | meta).save(run / "cluster")
    report = write_report(run, ARMS, ALONE, SEEDS, data.images, disentangler.eval())
    assert report["auxiliary"]["scores"][0]["dot"] is None
    page = Page(read(run))
    assert page.open == []
    decodes = isinstance(disentangler, AutoencodingDisentangler)
    assert page.tags.count("svg") == len(FIGURES) - (0 if decodes else 2)
    section = Page(read(run).partition('<section id="subspaces">')[2].partition("</section>")[0])
    assert "chosen" in section.text
    assert "principal" not in section.text


@pytest.mark.parametrize("dims", [1, 2])
def test_scores_are_told_and_drawn(run, data, dims):
    # Of latents, the last one; of subspaces, the last dimension of the last one is never used.
    importances = np.array([[0.1, 0.0], [0.2, 0.9], [0.7, 0.1], [0.0, 0.0]])
    information = np.array([[0.1, 0.0], [0.2, 1.0], [1.2, 0.1], [0.0, 0.0]])
    shape = (4, 1) if dims == 1 else (2, 2)
    metrics = metrics_of(*shape, information, importances)
    write_evaluation(run, probes_of(4), metrics)
    report = write_report(run, ARMS, ALONE, SEEDS, data.images)
    assert report["metrics"] == {k: v for k, v in metrics.items() if k != "matrices"}
    assert report["posterior"] is None
    page = Page(read(run))
    assert page.open == []
    assert "#disentanglement" in page.links
    assert rows_of(read(run), "disentanglement") == [
        ["MIG", "higher, 0 to 1", "0.125", *[""] * (dims - 1)],
        ["FactorVAE score", "higher, 0 to 1", "0.875", *["0.750"] * (dims - 1)],
        ["Gaussian total correlation [nats]", "lower, from 0", "3.14", *[""] * (dims - 1)],
    ]
    section, words = section_of(read(run), "disentanglement")
    kind = "4 latents" if dims == 1 else "2 subspaces of 2 dimensions"
    assert f"{kind} against digit, location, on 1,060 held-out images (test split)." in words
    assert "IRS: it is <slow>" in section.text
    names = [text for text in section.text if re.fullmatch(r"latent \d|subspace \d · dim \d", text)]
    expected = ["latent 2", "latent 0", "latent 1", "latent 3"]
    if dims == 2:
        expected = [f"subspace {k} · dim {d}" for k, d in ((1, 0), (0, 0), (0, 1), (1, 1))]
    assert names == expected
    codes = Codes.load(run / "disentangle" / "codes")
    rows, numbers = codes.rows("test"), []
    for name, column in zip(("digit", "location"), information.T, strict=True):
        p = np.bincount(codes.factor(name)[rows]) / len(rows)
        entropy = -(p[p > 0] * np.log(p[p > 0])).sum()
        numbers += [f"{100 * value / entropy:.0f}" for value in column if value > 0]
    numbers += ["10", "20", "70", "90", "10"]
    assert sorted(text for text in section.text if re.fullmatch(r"\d+", text)) == sorted(numbers)
    assert (run / "report" / "figures" / "metrics.png").is_file()


def test_few_of_many_codes_are_drawn(run, data):
    """The 40 with most importance, though others have more mutual information."""
    importances = np.zeros((60, 2))
    importances[10:50, 1] = 1 / 40
    write_evaluation(run, probes_of(3), metrics_of(60, 1, 1 - importances, importances))
    write_report(run, ARMS, ALONE, SEEDS, data.images)
    section, words = section_of(read(run), "disentanglement")
    names = [text for text in section.text if text.startswith("latent ")]
    assert names == [f"latent {k}" for k in range(10, 50)]
    assert "Shown are 40 of 60 codes, those that count most." in words


@pytest.mark.parametrize("matrix", ["mutual_information", "importances"])
def test_what_was_not_computed_is_not_drawn(run, data, matrix):
    metrics = metrics_of(3, 2, np.eye(6)[:, :2], np.eye(6)[:, :2])
    metrics["matrices"] = {k: v for k, v in metrics["matrices"].items() if k == matrix}
    write_evaluation(run, probes_of(3), metrics)
    write_report(run, ARMS, ALONE, SEEDS, data.images)
    section, words = section_of(read(run), "disentanglement")
    assert section.tags.count("svg") == 1
    assert ("[% of entropy]" in words) == (matrix == "mutual_information")
    assert ("boosted trees [%]" in words) == (matrix == "importances")


def test_without_scores_there_is_no_section(run, data):
    metrics = metrics_of(3, 2, None, None)
    metrics |= {"left_out": {}, "scores": {"dim": {}, "subspace": {}}}
    for content in (None, metrics):
        shutil.rmtree(run / "evaluate", ignore_errors=True)
        write_evaluation(run, probes_of(3), content)
        report = write_report(run, ARMS, ALONE, SEEDS, data.images)
        assert report["metrics"] is None
        assert 'id="disentanglement"' not in read(run)
        assert "#disentanglement" not in read(run)


def test_dead_latents_are_told(run, data):
    codes = keep_latents(run, [0, 1, 2])
    report = write_report(run, ARMS, ALONE, SEEDS, data.images, Dying().eval())
    rows = codes.rows("test")
    images = data.images(rows).double().numpy()
    kl, variances = np.zeros(3), []
    edges = np.cumsum([0, *Painter.sizes])
    for k, log_variance in enumerate((-2.0, -0.1, 0.0)):
        means = [
            Dying.scale[k] * (image[:, edges[k] : edges[k + 1]].mean() - 0.5) for image in images
        ]
        for mean in means:
            kl[k] += (mean**2 + np.exp(log_variance) - log_variance - 1) / 2 / len(rows)
        variances.append(np.var(means))
    np.testing.assert_allclose(report["posterior"].pop("kl"), kl, rtol=1e-5, atol=1e-7)
    assert variances[0] > 0.01 > variances[1] > variances[2] == 0
    assert report["posterior"] == {"active": [0], "active_units": 1, "n_latents": 3}
    warning = "Posterior collapse: 1 of 3 latents is active, so the codes say little of an image."
    assert warning in read(run).partition("</header>")[0]
    section, words = section_of(read(run), "disentanglement")
    assert warning in words
    assert [text for text in section.text if re.fullmatch("active|inactive|[012]", text)][:3] == [
        *"012"
    ]
    assert Page(read(run)).open == []


def test_latents_are_traversed_by_their_variance(run, data):
    keep_latents(run, [1, 0, 2])
    codes = Codes.load(run / "disentangle" / "codes")
    write_report(run, ARMS, ALONE, SEEDS, data.images, Painter().eval())
    section, words = section_of(read(run), "subspaces")
    names = [text for text in section.text if text.startswith("latent ")]
    deviations = codes.values[codes.rows("test"), :, 0].std(axis=0)
    assert names == [f"latent {k}" for k in np.argsort(-deviations)]
    assert f"SD {deviations[0]:.2f}" in words
    assert "\N{MINUS SIGN}2" in section.text
    assert not (run / "report" / "figures" / "traversals.png").exists()
    assert section.tags.count("svg") == 2


def test_many_subspaces_are_cut_to_the_best(made):
    k, report = 3000, made[1]
    scores = [
        {"subspace": i, "share": 1 / k, "ratio": (i * 7 % k) / k if i % 5 else None,
         "candidate": i % 2 == 0}
        for i in range(k)
    ]  # fmt: skip
    probes = probes_of(k)
    task = report["auxiliary"] | {"scores": scores, "subspace": 4, "principal_subspace": 7}
    text = render_page(
        report
        | {
            "auxiliary": task,
            "probes": probes,
            "requirements": {"z": requirements(probes["inputs"]["z"], probes["chance"])},
            "posterior": {"kl": [0.0] * k, "active": [1], "active_units": 1, "n_latents": k},
            "config": "",
        },
        {"kl": "<svg></svg>"},
        verdict(report),
        find_sections(),
    )
    candidates = [i for i in range(0, k, 2) if i % 5 and i not in (4, 7)]
    best = sorted(candidates, key=lambda i: i * 7 % k)[:38]
    assert [row[0] for row in rows_of(text, "subspaces")] == [
        f"subspace {i}" for i in (4, 7, *best)
    ]
    rows = [row[0] for row in rows_of(text, "probes")]
    assert len(rows) == 1 + 40 + 2
    assert rows[1:4] == [f"z · slice {i}" for i in (1, 2999, 2998)]  # the best at each, the next
    for name, which in (
        ("subspaces", "40 of 3,000 subspaces, the best."),
        ("probes", "40 of 3,000 slices, the best at some factor."),
        ("disentanglement", "100 of 3,000 latents, the largest."),
    ):
        assert f"Shown are {which}" in section_of(text, name)[1]


def test_arms_that_do_not_fit_are_refused(bare, data):
    with pytest.raises(ValueError, match="the baseline is 'other'"):
        write_report(bare, ARMS, "other", SEEDS, data.images)
    with pytest.raises(ValueError, match="the arms are none"):
        write_report(bare, [], None, SEEDS, data.images)


def test_labels_of_other_samples_are_refused(run, data):
    labels = AuxiliaryLabels.load(run / "cluster")
    AuxiliaryLabels(
        labels.ids + 1, labels.splits, labels.labels, labels.is_noise, labels.strength, 5
    ).save(run / "cluster")
    with pytest.raises(ArtifactError, match="labels other samples"):
        write_report(run, ARMS, ALONE, SEEDS, data.images)


def test_table_needs_no_torch():
    """The planner prints it and shall start at once."""
    code = "import sys, detaux_pl.report.report; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
