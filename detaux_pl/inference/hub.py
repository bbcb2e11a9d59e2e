"""Bundles on the hub of Hugging Face."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

from detaux_pl.artifacts.errors import UserError
from detaux_pl.inference.bundle import FILES


def refuse_hub(repo: str) -> None:
    """Refuse what cannot be uploaded to, before anything is done.

    Args:
        repo: `OWNER/NAME`.

    Raises:
        UserError: If it is no such name, or the package is missing.
    """
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", repo, flags=re.ASCII):
        raise UserError(f"--hub is {repo!r}: give OWNER/NAME, as in someone/birds.")
    if find_spec("huggingface_hub") is None:
        raise UserError(
            '--hub needs huggingface_hub: pip install "detaux_pl[hub]", or upload the folder.'
        )


def upload(folder: Path, repo: str) -> str:
    """Upload a bundle in one commit; a repository that is not there is made, a private one.

    Args:
        folder: The bundle.
        repo: `OWNER/NAME`.

    Returns:
        Where it can be seen.

    Raises:
        UserError: If the hub refuses it or cannot be reached.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        made = api.create_repo(repo, private=True, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            commit_message="detaux export",
            # Of an older bundle nothing stays that this one lacks.
            delete_patterns=list(FILES),
        )
    except Exception as error:  # of its own, of httpx and of the disk
        told = [str(each).strip().partition("\n")[0] for each in (error, error.__cause__) if each]
        reason = ": ".join(filter(None, told)) or type(error).__name__
        raise UserError(
            f"{folder} is written, but cannot be uploaded to {repo} ({reason}): log in by `hf auth "
            "login`, and export again or upload the folder."
        ) from error
    return str(made)
