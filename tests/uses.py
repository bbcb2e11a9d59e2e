"""`make uses`: what the verdict on uses costs: learn groups, balance them or leave them.

Four settings by several draws of data, disentangler and folds. Groups are found and judged as
`cluster.select.uses` does; then every use is trained on all training images and told of test
images, in which place and label are unrelated. Regret: what the best use in hindsight has more of
accuracy. Everything lies below `runs/uses`; a second call goes on where the first ended.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from lightning import Trainer, seed_everything
from numpy.typing import NDArray

from detaux_pl.artifacts.codes import Codes
from detaux_pl.artifacts.files import read_json, write_json
from detaux_pl.cluster.candidates import Candidate, Selection, propose
from detaux_pl.cluster.discover import Discovery
from detaux_pl.cluster.hdbscan import HDBSCAN
from detaux_pl.cluster.kmeans import KMeans
from detaux_pl.cluster.related import look_beside, relate_candidates
from detaux_pl.cluster.uses import LEAVE, pick_for_uses
from detaux_pl.data.batch import Fold
from detaux_pl.data.datasets.digit_scenes import DigitScenes
from detaux_pl.data.factor_dataset import FactorDataset
from detaux_pl.data.modules import LabelledDataModule, PairDataModule
from detaux_pl.data.noise import SaltPepper
from detaux_pl.disentangle.residual import ResidualAutoencoder
from detaux_pl.multitask.balanced_sampling import BalancedSampling
from detaux_pl.multitask.base import MultitaskModel
from detaux_pl.multitask.cross_fit import CrossFit, fit_net
from detaux_pl.multitask.hard_parameter_sharing import HardParameterSharing
from detaux_pl.multitask.single_task import SingleTask
from detaux_pl.pipeline.selection import try_uses
from detaux_pl.training.quiet import quiet

SETTINGS: dict[str, dict[str, Any]] = {
    "unrelated": {"principal": "digit", "n_train": 600, "n_locations": 4, "noise": 0.15},
    "correlated": {
        "principal": "digit",
        "n_train": 300,
        "n_locations": 2,
        "correlation": 0.9,
        "noise": 0.0,
    },
    "subclass": {"principal": "side", "n_train": 200, "noise": 0.45},
    "nothing": {"principal": "location", "n_train": 200, "noise": 0.45},
}
"""The label is the digit, whose place is unrelated or goes with it; the side that one of 8 places
is on, of which the places are subclasses; or the place, for which nothing hidden is of use."""
USES: dict[str, type[MultitaskModel]] = {
    LEAVE: SingleTask, "learn": HardParameterSharing, "balance": BalancedSampling,
}  # fmt: skip
EPOCHS, FOLDS, CONFIRMATIONS, SEEDS = 12, 4, 2, 3
HARM = 0.01
"""Accuracy below leaving from which a choice is called harmful."""


class Scenes(FactorDataset):
    """Digit scenes with a further factor, the side that the digit is on."""

    factor_names = ("side", *DigitScenes.factor_names)

    def __init__(self, principal: str, **given: Any) -> None:
        super().__init__(principal)
        self.scenes = DigitScenes(n_val=10, n_test=1000, **given)
        self.factor_sizes = (2, *self.scenes.factor_sizes)
        self.image_shape = self.scenes.image_shape

    def setup(self) -> None:
        """Draw all images."""
        self.scenes.setup()
        self.ids, self.splits = self.scenes.ids, self.scenes.splits
        places = self.scenes.factors[:, 2]
        self.factors = np.column_stack([places % 2, self.scenes.factors])
        self.pixels = self.scenes.pixels


def main() -> None:
    """Make what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run_dir", type=Path, default=Path("runs/uses"))
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS), choices=list(SETTINGS))
    args = parser.parse_args()
    quiet()
    torch.set_num_threads(1)
    found: dict[str, list[dict[str, Any]]] = {}
    for setting in args.settings:
        for draw in range(args.draws):
            path = args.run_dir / f"{setting}-{draw}.json"
            if not path.exists():
                write_json(path, measure(setting, draw))
            for row in read_json(path):
                found.setdefault(setting, []).append(row)
                print(_line(setting, draw, row), flush=True)
    _print_policies(found)


def measure(setting: str, draw: int) -> list[dict[str, Any]]:
    """What each grouping asked about is said to be good for, and what it is good for."""
    given = dict(SETTINGS[setting])
    noise = SaltPepper(given.pop("noise"))
    data = Scenes(seed=draw, **given)
    data.setup()
    codes = _codes(data, noise, draw)
    discovery = Discovery(HDBSCAN(0.05, 5), noise="nearest", seed=draw)
    selection = Selection([KMeans(k, n_init=2) for k in (2, 4, 8)], halves=2)
    sources = {"codes": codes}
    candidates = propose(sources, discovery, selection)
    everything = [*candidates, *look_beside(sources, discovery, selection)]
    _, alarms = relate_candidates(everything, sources, draw)
    # Of tasks the most stable one is taken, which one try would take.
    best = [candidate for candidate in candidates if candidate.refused is None][:1]
    asked = pick_for_uses(everything, best, alarms, selection)
    module = LabelledDataModule(data, noise=noise, batch_size=32)
    module.setup("fit")
    train, test = data.rows("train"), data.rows("test")
    trainer = {"max_epochs": EPOCHS, "accelerator": "cpu", "devices": 1}

    def build(use: str, sizes: tuple[int, ...]) -> MultitaskModel:
        return USES[use](data.image_shape, sizes, backbone="small_convnet", lr=2e-3)  # type: ignore[call-arg]

    def targets(tasks: Sequence[Candidate]) -> tuple[NDArray[np.int64], tuple[int, ...]]:
        known = [candidate.task for candidate in tasks if candidate.task is not None]
        columns = [data.factor(data.principal), *(task.of(data.ids) for task in known)]
        return np.stack(columns, axis=1), (data.n_classes, *(task.n_classes for task in known))

    with TemporaryDirectory() as room:

        def cross_fit(
            name: str,
            tasks: Mapping[str, Sequence[Candidate]],
            models: Mapping[str, str] = MappingProxyType({}),
        ) -> dict[str, list[CrossFit]]:
            fits: dict[str, list[CrossFit]] = {}
            for task, own in tasks.items():
                use = models.get(task, "learn" if own else LEAVE)
                for seed in range(1, 1 + CONFIRMATIONS):
                    folder = Path(room) / name / f"{task}-{seed}"
                    labels, sizes = targets(own)
                    fit = CrossFit(folder, labels, sizes, train, test[:0], FOLDS, seed=seed)
                    for net in fit.nets:
                        fit.fit(net, module, lambda sizes, use=use: build(use, sizes), trainer)
                    fits.setdefault(task, []).append(fit)
            return fits

        said = try_uses(asked, cross_fit) if asked else []

    def accuracies(use: str, tasks: Sequence[Candidate]) -> list[float]:
        labels, sizes = targets(tasks)
        fold, found = Fold(train, test, labels), []
        for seed in range(SEEDS):
            answers = fit_net(
                module, lambda sizes: build(use, sizes), fold, sizes, [draw, 100, seed], trainer
            )
            right = answers[0].argmax(axis=1) == labels[test, 0]
            found.append(float(right.mean()))
        return found

    alone = accuracies(LEAVE, [])
    rows = []
    for candidate, verdict in zip(asked, said, strict=True):
        told = {use: accuracies(use, [candidate]) for use in USES if use != LEAVE}
        rows.append(
            {"relation": candidate.relation, "verdict": verdict, "test": {LEAVE: alone, **told}}
        )
    return rows


def _codes(data: Scenes, noise: SaltPepper, seed: int) -> Codes:
    """What the quickstart's disentangler makes of the images."""
    seed_everything(seed, verbose=False)
    pairs = PairDataModule(data, noise=noise, batch_size=32)
    model = ResidualAutoencoder(
        data.image_shape, n_classes=data.n_classes, blind_spots=0.2, batch_norm=True
    )
    runner = Trainer(
        max_epochs=40, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
    )  # fmt: skip
    runner.fit(model, datamodule=pairs)
    with torch.no_grad():
        values = model.eval().encode(pairs.images(np.arange(len(data)))).numpy()
    info = data.info
    return Codes(
        values, data.ids, data.splits, data.factors,
        type(info)(info.names, info.sizes, info.principal, model.principal_subspace),
    )  # fmt: skip


def _line(setting: str, draw: int, row: Mapping[str, Any]) -> str:
    mean = {use: np.mean(values) for use, values in row["test"].items()}
    chosen = row["verdict"]["use"]
    gains = " | ".join(f"{100 * (mean[use] - mean[LEAVE]):+.1f}" for use in USES if use != LEAVE)
    p = row["verdict"]["p_value"]
    return (
        f"| {setting} | {draw} | {row['verdict']['name']}: {row['relation']} | "
        f"{100 * mean[LEAVE]:.1f} | {gains} | {chosen}{'' if p is None else f' ({p:.2g})'} | "
        f"{100 * (max(mean.values()) - mean[chosen]):.1f} |"
    )


def _print_policies(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Print regret and harm of each way to choose, by setting and of all."""
    every = {**found, "all": [row for rows in found.values() for row in rows]}
    print("\n| setting | groupings | policy | regret, mean (most) | harmful |\n" + "|---" * 5 + "|")
    for setting, rows in every.items():
        for policy in ("verdict", *USES):
            regrets, harms = [], []
            for row in rows:
                mean = {use: float(np.mean(values)) for use, values in row["test"].items()}
                use = row["verdict"]["use"] if policy == "verdict" else policy
                regrets.append(100 * (max(mean.values()) - mean[use]))
                harms.append(mean[use] < mean[LEAVE] - HARM)
            name = policy if policy == "verdict" else f"always {policy}"
            print(
                f"| {setting} | {len(rows)} | {name} | {np.mean(regrets):.1f} "
                f"({max(regrets):.1f}) | {sum(harms)} of {len(rows)} |"
            )


if __name__ == "__main__":
    main()
