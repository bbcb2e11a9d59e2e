"""What is refused before anything runs: what a later stage could not use, or was made otherwise."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from detaux_pl.artifacts.errors import ArtifactError, UserError
from detaux_pl.artifacts.stage import StageFolder, stage_key
from detaux_pl.cluster.erasure_choice import rows_to_hold_out
from detaux_pl.data.demands import refusals
from detaux_pl.data.modules import FactorDataModule
from detaux_pl.disentangle.base import Disentangler
from detaux_pl.models.lone_image import try_lone_image
from detaux_pl.multitask.base import MultitaskModel
from detaux_pl.pipeline.evaluation_checks import (
    refuse_impossible_evaluation,
    refuse_impossible_metrics,
)
from detaux_pl.pipeline.job import Chain
from detaux_pl.pipeline.nets import refuse_few
from detaux_pl.pipeline.plan import Plan, following, unwanted
from detaux_pl.pipeline.stage import OF_CHAIN, STAGES
from detaux_pl.settings.build import build
from detaux_pl.settings.names import needs_labels
from detaux_pl.settings.parser import explain
from detaux_pl.training.stage_cli import try_trainer


def build_all(chain: Chain) -> Chain:
    """Build every model and data module once, which refuses what a later stage could not use.

    Returns:
        The chain with the fingerprint of the user's own data files.

    Raises:
        UserError: If the settings do not fit the data or each other.
    """
    numbers: set[int] = set()
    trying = [(row, own) for row in OF_CHAIN if row.tries_nets for own in chain.every.values()]
    for row, own in trying:
        row.code.check(own, chain.config["nets"]["folds"])
        numbers |= row.code.net_tasks(own)
    trainings: list[tuple[str, dict[str, Any]]] = [
        *(("disentangle", config) for config in chain.configs("disentangle")),
        *(("multitask", configs[0]) for configs in chain.arms.values()),
    ]
    files = None
    tried: list[Any] = []
    for stage, config in trainings:
        if reached(chain, stage) and (stage, config["trainer"]) not in tried:
            try_trainer(stage, config["trainer"])
            tried.append((stage, config["trainer"]))
        try:
            data = _build_training(chain, stage, config)
            files = data.dataset.fingerprint() if files is None else files
        except (ValueError, TypeError) as error:
            raise explain(error, chain.config) from error
    if numbers:  # all that train nets train the same
        nets = (own[row.name]["nets"] for row, own in trying)
        _build_nets(next(each for each in nets if each is not None), numbers)
    return replace(chain, files=files)


def _build_training(chain: Chain, stage: str, config: dict[str, Any]) -> FactorDataModule:
    """Build the data module and the model of a training, and refuse what does not fit.

    Args:
        chain: The chain.
        stage: `disentangle` or `multitask`.
        config: The settings of the training.

    Returns:
        The data module.
    """
    data: FactorDataModule = build(FactorDataModule, config["data"])
    if data.n_classes < 2:
        raise UserError(
            f"{type(data.dataset).__name__} has {data.n_classes} class of "
            f"{data.dataset.principal!r}: at least 2 are needed."
        )
    # Some data sets know their splits when they are read.
    known = hasattr(data.dataset, "splits") and reached(chain, stage)
    if known:
        for line in refusals(data):
            raise UserError(f"{line} `detaux data check` names all that is to be mended.")
        refuse_few_for_nets(chain, len(data.dataset.rows("train")))
    multitask = stage == "multitask"
    with torch.device("meta"):
        model = build(
            MultitaskModel if multitask else Disentangler,
            config["model"],
            image_shape=data.image_shape,
            n_classes=data.n_classes,
            task_sizes=_task_sizes(chain, config, data) if multitask else None,
        )
        _try_lone_image(stage, config, model, data)
    if known and not multitask:
        _refuse_labels(chain, model, data.dataset.labels[data.dataset.rows("train")])
    wanted, factors = chain.config["evaluate"], data.dataset.factor_names
    refuse_impossible_evaluation(wanted, factors)
    if config is chain.config["disentangle"] and wanted["metrics"] != []:
        shape = _code_shape(model, config["model"], data)
        if shape is not None:
            refuse_impossible_metrics(wanted, factors, *shape)
    return data


def _refuse_labels(chain: Chain, model: Disentangler, labels: NDArray[np.int64]) -> None:
    """Refuse labels of the training images of which a stage would say so after its work."""
    model.refuse_labels(labels)
    erasing = any(own["cluster"]["erase"] is not None for own in chain.every.values())
    if erasing and reached(chain, "cluster"):
        rows_to_hold_out(labels)


def _try_lone_image(stage: str, config: dict[str, Any], model: Any, data: FactorDataModule) -> None:
    """Refuse batches of one image, where a batch norm would see one place of it."""
    if data.batch_size > 1 or config["trainer"]["sync_batchnorm"]:
        return
    multitask = stage == "multitask"
    # A disentangler takes both images of a pair, or both views, together.
    n_images = 1 if multitask else data.n_views
    try_lone_image(
        stage,
        model,
        model if multitask else model.encode_all,
        (n_images, *data.image_shape),
    )


def refuse_few_for_nets(chain: Chain, n_train: int) -> None:
    """Refuse folds that leave a net of the chain less than one batch to be trained on.

    Args:
        chain: The chain.
        n_train: Number of training images.

    Raises:
        UserError: If they do.
    """
    for row in OF_CHAIN:
        for own in chain.every.values():
            if row.tries_nets and row.code.net_tasks(own) and reached(chain, row.name):
                nets, rounds = own[row.name]["nets"], own[row.name].get("rounds", 1)
                batch_size = nets["data"]["init_args"]["batch_size"]
                refuse_few(n_train, nets["folds"], rounds, batch_size)


def reached(chain: Chain, stage: str) -> bool:
    """Whether a chain comes to a stage, which it does not that is to stop before."""
    until, names = chain.config["until"], [each.name for each in STAGES]
    return until is None or names.index(stage) <= names.index(until)


def _build_nets(nets: dict[str, Any], numbers: Collection[int]) -> None:
    """Build nets of given numbers of tasks once, as `build_all` does the models."""
    data = build(FactorDataModule, nets["data"])  # which was built for the main arm before
    for n_tasks in sorted(numbers):
        sizes = (data.n_classes, *[2] * (n_tasks - 1))
        several = [nets[name] for name in ("model", "balance") if name in nets]
        for config in [nets["single"]] if n_tasks == 1 else several:
            try:
                with torch.device("meta"):
                    build(MultitaskModel, config, image_shape=data.image_shape, task_sizes=sizes)
            except (ValueError, TypeError) as error:
                line = explain(error)
                raise UserError(f"nets.model, of {n_tasks} task(s): {line}") from error


def _code_shape(
    model: Disentangler, config: dict[str, Any], data: FactorDataModule
) -> tuple[int, int] | None:
    """Subspaces and dimensions of the codes, told without training.

    Args:
        model: The disentangler on the meta device.
        config: What it was built from.
        data: Its images.

    Returns:
        The shape; None for a model that must be trained before it encodes.
    """
    size = (1, *data.image_shape)
    with torch.no_grad():
        try:
            codes = model.eval().encode_all(torch.zeros(size, device="meta"))
        except RuntimeError:
            # A model that looks at its own numbers needs some.
            filled = {"image_shape": data.image_shape, "n_classes": data.n_classes}
            model = build(Disentangler, config, **filled)
            try:
                codes = model.eval().encode_all(torch.zeros(size))
            except RuntimeError:
                return None
    _, n_subspaces, dims = next(iter(codes.values())).shape
    return n_subspaces, dims


def _task_sizes(chain: Chain, config: dict[str, Any], data: Any) -> tuple[int, ...]:
    """Number of classes of each task; two stand for one that is yet to be discovered."""
    if not needs_labels(config):
        sizes: tuple[int, ...] = data.task_sizes
        return sizes
    name = config["discovery"]
    cluster = (chain.config if name is None else chain.discoveries[name])["cluster"]
    return (data.n_classes, *[2] * cluster["n_tasks"])


def check_folders(chain: Chain, plan: Plan, redo: str | None) -> None:
    """Refuse what is there and was made with other settings.

    Args:
        chain: The chain.
        plan: Its jobs.
        redo: The stage that is to be made again.

    Raises:
        ArtifactError: If a stage was made with others, or is there and not asked for any more.
    """
    keys: dict[str, str] = {}
    replaced = following(plan, redo)
    for job in (job for jobs in plan.values() for job in jobs):
        if job.name in replaced:
            continue
        upstream = {name: keys[name] for name in job.upstream}
        keys[job.name] = stage_key(job.name, job.settings, upstream)
        folder = StageFolder(chain.run_dir, job.name)
        try:
            folder.check(job.settings, upstream)
            # What follows was made from the key that is there, of settings spelt otherwise too.
            if (manifest := folder.manifest) is not None:
                keys[job.name] = manifest["key"]
            before = [StageFolder(chain.run_dir, name) for name in job.upstream]
            if folder.complete and all(each.complete for each in before):
                folder.check_inputs()
        except ArtifactError:
            if not job.derived:
                raise
            shutil.rmtree(folder.path)
    for folder in unwanted(chain, plan):
        stage = folder.name.split("/")[-1]
        made_from = {} if (manifest := folder.manifest) is None else manifest["upstream"]
        if redo not in (stage, folder.name, "multitask") and replaced.isdisjoint(made_from):
            raise ArtifactError(
                f"{folder.path} holds what `{stage}` made, which is not asked for any more: give "
                "the settings that it was made with, another --run_dir to keep both, or --redo "
                f"{stage} to remove it."
            )
