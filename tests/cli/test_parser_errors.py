"""What does not fit in settings: every line in full, through the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from detaux_pl.cli.main import main
from detaux_pl.cluster.base import Clusterer
from detaux_pl.disentangle.base import Disentangler
from detaux_pl.disentangle.vae import VAE
from detaux_pl.settings.problems import choices
from tests.cli.conftest import CONF

CHAIN = str(CONF / "chain.yaml")
STAGE = ("fit", "--data.dataset=DigitScenes", "--trainer.accelerator=cpu")
CONTRASTIVE = "--disentangle.model=ContrastiveDisentangler"
CLUSTERERS = "HDBSCAN, KMeans, MeanShift, NrKMeans, Ward"
DISENTANGLERS = (
    "AnnealedVAE, Autoencoder, BetaTCVAE, BetaVAE, BottleneckVAE, ContrastiveDisentangler, DIPVAE, "
    "FactorVAE, PretrainedFeatures, ProductManifoldAutoencoder, RawPixels, ResidualAutoencoder"
)
VAES = "AnnealedVAE, BetaTCVAE, BetaVAE, BottleneckVAE, DIPVAE, FactorVAE"
LEAKS = ("Namespace(", "NestedArg", "typing.", "<class", "ubtypes", "Traceback", "Parser key")


def _fit(*words: str) -> list[str]:
    return ["fit", "--config", CHAIN, *words]


def _refused(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(args) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ")
    assert not [leak for leak in LEAKS if leak in said], said
    return said.removeprefix("error: ")


def _with_those_of_tests(line: str) -> str:
    """Name the classes that other tests have defined meanwhile, which can be chosen too."""
    for base, ours in ((Clusterer, CLUSTERERS), (Disentangler, DISENTANGLERS), (VAE, VAES)):
        line = line.replace(f"one of {ours}.", f"one of {', '.join(sorted(choices(base)))}.")
    return line


CASES: list[tuple[list[str], str]] = [
    # classes
    (_fit("--cluster.clusterer=HDBSCANN"),
     "cluster.clusterer: there is no 'HDBSCANN': did you mean 'HDBSCAN'?"),
    (_fit("--cluster.clusterer=SingleTask"),
     f"cluster.clusterer: SingleTask is no Clusterer: choose one of {CLUSTERERS}."),
    (_fit("--disentangle.model=SingleTask"),
     f"disentangle.model: SingleTask is no Disentangler: choose one of {DISENTANGLERS}."),
    (_fit("--disentangle.model=torch.nn.Linear"),
     f"disentangle.model: torch.nn.Linear is no Disentangler: choose one of {DISENTANGLERS}."),
    (_fit("--disentangle.model=VAE"),
     f"disentangle.model: VAE is there to be derived from: choose one of {VAES}."),
    (_fit("--disentangle.model=Foo"),
     f"disentangle.model: there is no 'Foo': choose one of {DISENTANGLERS}."),
    (_fit("--dataset=DigitScene"),
     "dataset: there is no 'DigitScene': did you mean 'DigitScenes'?"),
    (_fit("--multitask.model.weighting=PCGradWeight"),
     "multitask.model.weighting: there is no 'PCGradWeight': did you mean 'PCGradWeighting'?"),
    (_fit("--disentangle.data.pairing=PrincipalPair"),
     "disentangle.data.pairing: there is no 'PrincipalPair': did you mean 'PrincipalPairs'?"),
    (_fit("--disentangle.trainer.callbacks+=EarlyStoping"),
     "disentangle.trainer.callbacks[0]: there is no 'EarlyStoping': did you mean 'EarlyStopping'?"),
    (_fit(CONTRASTIVE, "--disentangle.model.regularizers+=Orthogonalty"),
     "disentangle.model.regularizers[0]: there is no 'Orthogonalty': did you mean "
     "'Orthogonality'?"),
    (_fit("--cluster.select.clusterers=[KMean]"),
     "cluster.select.clusterers[0]: there is no 'KMean': did you mean 'KMeans'?"),
    (_fit("--discoveries={a: {cluster: {clusterer: {class_path: KMean}}}}"),
     "discoveries.a.cluster.clusterer: there is no 'KMean': did you mean 'KMeans'?"),
    (_fit("--discoveries={a: {disentangle: {model: {class_path: RawPixel}}}}"),
     "discoveries.a.disentangle.model: there is no 'RawPixel': did you mean 'RawPixels'?"),
    (["cluster", "--clusterer=KMean"], "clusterer: there is no 'KMean': did you mean 'KMeans'?"),
    (["data", "check", *_fit("--dataset=DigitScene")[1:]],
     "dataset: there is no 'DigitScene': did you mean 'DigitScenes'?"),
    # unknown settings
    (_fit("--sede=1"), "there is no setting 'sede': did you mean 'seed'?"),
    (_fit("--max_epochs=1"),
     "there is no setting 'max_epochs': did you mean 'disentangle.trainer.max_epochs' or "
     "'multitask.trainer.max_epochs'?"),
    (_fit("--multitask.model.backbon=x"),
     "multitask.model (HardParameterSharing) has no setting 'backbon': did you mean 'backbone'?"),
    (_fit("--multitask.model.init_args.backbon=x"),
     "multitask.model (HardParameterSharing) has no setting 'backbon': did you mean 'backbone'?"),
    (_fit("--multitask.model=SingleTask", "--multitask.model.backbon=x"),
     "multitask.model (SingleTask) has no setting 'backbon': did you mean 'backbone'?"),
    (_fit("--disentangle.trainer.max_epoch=3"),
     "disentangle.trainer (Trainer) has no setting 'max_epoch': did you mean 'max_epochs'?"),
    (_fit("--dataset.n_trian=3"),
     "dataset (DigitScenes) has no setting 'n_trian': did you mean 'n_train'?"),
    (_fit("--noise.amuont=3"),
     "noise (SaltPepper) has no setting 'amuont': did you mean 'amount'?"),
    (_fit("--nets.fold=3"), "nets (NetSettings) has no setting 'fold': did you mean 'folds'?"),
    (_fit("--evaluate.max_sample=3"),
     "evaluate has no setting 'max_sample': did you mean 'max_samples'?"),
    (_fit("--baselines=[{class_path: SingleTask, init_args: {backbon: x}}]"),
     "baselines[0] (SingleTask) has no setting 'backbon': did you mean 'backbone'?"),
    (_fit(CONTRASTIVE, "--disentangle.model.regularizers+=Orthogonality",
          "--disentangle.model.regularizers.wieght=3"),
     "disentangle.model.regularizers[0] (Orthogonality) has no setting 'wieght': did you mean "
     "'weight'?"),
    (["cluster", "--clusterer.foo=3"],
     "clusterer (HDBSCAN) has no setting 'foo': choose one of min_cluster_size, min_samples, "
     "cluster_selection_method."),
    (["report", "--run_di=3"], "there is no setting 'run_di': did you mean 'run_dir'?"),
    # missing ones
    (_fit("--dataset=ImageFolder"),
     "dataset.root is missing, which ImageFolder needs: give a path."),
    (_fit("--disentangle.trainer.callbacks+=EarlyStopping"),
     "disentangle.trainer.callbacks[0].monitor is missing, which EarlyStopping needs: give text."),
    (["disentangle", *STAGE],
     f"model is missing: give one of {DISENTANGLERS}."),
    # values
    (_fit("--seeds=many"), "seeds is 'many': give a whole number."),
    (_fit("--seeds=2.5"), "seeds is 2.5: give a whole number."),
    (_fit("--multitask.refined=maybe"), "multitask.refined is 'maybe': give true or false."),
    (_fit("--multitask.model.lr=fast"), "multitask.model.lr is 'fast': give a number."),
    (_fit("--multitask.model.backbone=[1]"), "multitask.model.backbone is [1]: give text."),
    (_fit("--cluster.noise=keep"),
     "cluster.noise is 'keep': give one of own_class, drop, nearest."),
    (_fit("--evaluate.metrics=mig"), "evaluate.metrics is 'mig': give a list of texts or null."),
    (_fit("--noise=3"), "noise is 3: give settings of SaltPepper by name or null."),
    (_fit("--baselines=3"), "baselines is 3: give a list, each text or settings by name."),
    (_fit("--disentangle=nowhere.yaml"),
     "disentangle is 'nowhere.yaml': give settings by name, or the path of a file of them."),
    (["cluster", "--subspace=x"],
     "subspace is 'x': give a whole number, a list of whole numbers or null."),
    (["multitask", *STAGE, "--model=HardParameterSharing", "--trainer.gradient_clip_val=x"],
     "trainer.gradient_clip_val is 'x': give a number or null."),
    (["sweep", "--sampler=gird"], "sampler is 'gird': give one of grid, random."),
    (["refine", "--rounds=x"], "rounds is 'x': give a whole number."),
    (["sweep", "--config", "nowhere.yaml"],
     "config is 'nowhere.yaml': give the path of a YAML file that exists."),
    # words
    (_fit("--seeds"), "--seeds is given without a value: give a whole number."),
    (_fit("foo"), "'foo' is no setting: give --KEY VALUE, or --config FILE."),
    # what a class refuses itself
    (_fit("--noise.amount=1.5"),
     "noise.amount is 1.5: the share of replaced pixels is in [0, 1]."),
    (_fit("--dataset.image_size=20"), "dataset.image_size is 20: DigitScenes has 16, 32 or 64."),
    (_fit("--cluster.clusterer.min_cluster_size=-1"),
     "cluster.clusterer.min_cluster_size is -1: give a share of the points in (0, 1) or a whole "
     "number from 2."),
]  # fmt: skip


@pytest.mark.parametrize(("args", "line"), CASES, ids=[case[0][-1] for case in CASES])
def test_the_line_says_key_value_and_what_is_allowed(
    args: list[str],
    line: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tmp_path)
    assert _refused(args, capsys) == _with_those_of_tests(line)


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("multitak", {}, "there is no setting 'multitak': did you mean 'multitask'?"),
        ("disentangle.modle", {}, "disentangle has no setting 'modle': did you mean 'model'?"),
        ("disentangle", 3,
         "disentangle is 3: give settings by name, or the path of a file of them."),
        ("evaluate", None,
         "evaluate is null: give settings by name, or the path of a file of them."),
        ("disentangle", "nowhere.yaml",
         "disentangle is 'nowhere.yaml': give settings by name, or the path of a file of them."),
        ("cluster.clusterer", {"class_path": "HDBSCAN", "min_cluster_size": 3},
         "cluster.clusterer: 'min_cluster_size' stands beside class_path: put it under init_args."),
        ("cluster.clusterer", 3, f"cluster.clusterer is 3: give one of {CLUSTERERS}."),
        ("disentangle.trainer.max_epoch", 3,
         "disentangle.trainer (Trainer) has no setting 'max_epoch': did you mean 'max_epochs'?"),
        ("dataset.init_args.n_train", "x", "dataset.n_train is 'x': give a whole number."),
        ("tracking.wandb", True,
         "tracking.wandb is true: give one of disabled, online, offline."),
    ],
)  # fmt: skip
def test_a_file_is_told_like_words(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, key: str, value: Any, line: str
):
    assert _refused(
        ["fit", "--config", str(_changed(tmp_path, {key: value}))], capsys
    ) == _with_those_of_tests(line)


def test_a_stage_file_is_told_like_the_chain(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    (tmp_path / "stage.yaml").write_text("clusterer: {class_path: KMean}\nsubspace: first\n")
    said = _refused(["fit", "--config", CHAIN, "--cluster", str(tmp_path / "stage.yaml")], capsys)
    assert said.splitlines() == [
        "2 settings do not fit:",
        "  cluster.clusterer: there is no 'KMean': did you mean 'KMeans'?",
        "  cluster.subspace is 'first': give a whole number, a list of whole numbers or null.",
    ]


def test_all_errors_of_a_config_are_told_at_once(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    changes = {"seeds": "many", "multitask.model.init_args.backbon": 3}
    path = _changed(tmp_path, changes)
    said = _refused(["fit", "--config", str(path), "--cluster.clusterer=HDBSCANN"], capsys)
    assert said.splitlines() == [
        "3 settings do not fit:",
        "  seeds is 'many': give a whole number.",
        "  cluster.clusterer: there is no 'HDBSCANN': did you mean 'HDBSCAN'?",
        "  multitask.model (HardParameterSharing) has no setting 'backbon': did you mean "
        "'backbone'?",
    ]


def test_settings_of_a_class_that_was_replaced_are_not_told(capsys: pytest.CaptureFixture[str]):
    # min_cluster_size is of the HDBSCAN that the file names.
    words = ["--cluster.clusterer=KMeans", "--cluster.clusterer.n_clusters=x"]
    said = _refused(_fit(*words), capsys)
    assert said == "cluster.clusterer.n_clusters is 'x': give a whole number."


def _changed(folder: Path, changes: dict[str, Any]) -> Path:
    """Write the miniature chain with some dotted settings changed."""
    config = yaml.safe_load(Path(CHAIN).read_text())
    for key, value in changes.items():
        *above, name = key.split(".")
        inside = config
        for part in above:
            inside = inside.setdefault(part, {})
        inside[name] = value
    path = folder / "chain.yaml"
    path.write_text(yaml.safe_dump(config))
    return path
