"""From a chain to its jobs, and what of them is to be made again."""

from __future__ import annotations

import shutil
from collections.abc import Mapping

from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.stage import StageFolder, redo_name, stage_key
from detaux_pl.pipeline.job import Chain, Job
from detaux_pl.pipeline.stage import STAGES
from detaux_pl.settings.choices import closest
from detaux_pl.settings.names import discovery_folder

Plan = Mapping[str, list[Job]]
"""The jobs of every stage, in the order of running."""


def plan_jobs(chain: Chain) -> Plan:
    """Make the jobs of every stage."""
    jobs: dict[str, list[Job]] = {}
    for stage in STAGES:
        before = [job for made in jobs.values() for job in made]
        left_out = stage.name in chain.without
        jobs[stage.name] = [] if left_out else stage.code.jobs(chain, before)
    return jobs


def stage_keys(chain: Chain) -> dict[str, str]:
    """Key of every stage that holds results, in the order of running, up to the last to run.

    Args:
        chain: A chain that knows the fingerprint of the data files.
    """
    keys: dict[str, str] = {}
    for name, jobs in plan_jobs(chain).items():
        for job in jobs:
            if not job.derived:
                upstream = {name: keys[name] for name in job.upstream}
                keys[job.name] = stage_key(job.name, job.settings, upstream)
        if name == chain.config["until"]:
            break
    return keys


def following(plan: Plan, redo: str | None) -> set[str]:
    """Name the jobs of the stage that is to be made again, and all that read what they write."""
    names: set[str] = set()
    for stage, jobs in plan.items():
        for job in jobs:
            if redo in (stage, redo_name(job.name)) or not names.isdisjoint(job.upstream):
                names.add(job.name)
    return names


def unwanted(chain: Chain, plan: Plan) -> list[StageFolder]:
    """Stages that can be left out, are there, and are not asked for any more."""
    found = []
    for stage in STAGES:
        if stage.optional and stage.name not in chain.without:
            asked = {job.name for job in plan[stage.name]}
            names = [discovery_folder(stage.name, name) for name in (None, *chain.discoveries)]
            found += [StageFolder(chain.run_dir, name) for name in names if name not in asked]
    return [folder for folder in found if folder.manifest is not None]


def stage_to_redo(chain: Chain, plan: Plan) -> str | None:
    """Return what `--redo` names: a stage, or that of one discovery.

    Raises:
        UserError: If there is no such stage.
    """
    redo: str | None = chain.config["redo"]
    names = list(plan)
    for job in (job for jobs in plan.values() for job in jobs):
        name = redo_name(job.name)
        names += [] if name in names else [name]
        # What the discovery is called is as good as its folder.
        if redo == f"discoveries/{job.config.get('discovery')}/{name.rpartition('/')[2]}":
            redo = name
    if redo is not None and redo not in names:
        raise UserError(f"--redo is {redo!r}: {closest(redo, names)}")
    return redo


def forget(chain: Chain, plan: Plan, redo: str | None) -> None:
    """Remove a stage that is to be made again, with what follows, and what is not wanted.

    What a training of other settings left that diverged is not wanted either.
    """
    for name, key in stage_keys(chain).items():
        folder = StageFolder(chain.run_dir, name)
        manifest = folder.manifest
        if manifest is not None and "diverged" in manifest and manifest["key"] != key:
            shutil.rmtree(folder.path)
    for folder in unwanted(chain, plan):
        shutil.rmtree(folder.path)
    if redo is not None:
        shutil.rmtree(chain.run_dir / redo, ignore_errors=True)
    for name in following(plan, redo):
        shutil.rmtree(chain.run_dir / name, ignore_errors=True)
