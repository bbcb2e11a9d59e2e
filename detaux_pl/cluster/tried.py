"""What a selection says of the candidates that it tried, as it is read by others."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict, TypeVar

from detaux_pl.artifacts.stage import StageFolder

T = TypeVar("T")
CANDIDATES = "candidates.json"
"""What is known of every candidate, and the verdict: a file of the stage."""


class Verdict(TypedDict):
    """What is said of the candidates, see `judge`."""

    found: bool
    headline: str
    details: list[str]
    sentence: str
    chosen: list[str]


def tell(found: bool, headline: str, details: list[str]) -> dict[str, Any]:
    """Return what a verdict says: `sentence` joins the headline and the details."""
    sentence = " ".join([f"{headline}.", *details])
    return {"found": found, "headline": headline, "details": details, "sentence": sentence}


class Known(TypedDict):
    """What is known of a candidate, as far as others read it."""

    name: str
    n_classes: int
    balance: float
    ami_principal: float
    stability: float
    restarts: float | None
    learnability: float | None
    gain: float | None
    refused: str | None
    scope: NotRequired[str]
    relation: NotRequired[str | None]
    effect: NotRequired[float | None]
    p_value: NotRequired[float | None]


class Worth(TypedDict):
    """What images held out say of a use."""

    accuracy: float
    balanced: float
    worst: float
    gain: float
    p_value: float | None


class UseVerdict(TypedDict):
    """What is said of the uses of a grouping, see `judge_uses`."""

    name: str
    use: str
    p_value: float | None
    sentence: str
    uses: dict[str, Worth]


class Tried(TypedDict):
    """The content of the file."""

    verdict: Verdict
    candidates: list[Known]
    uses: NotRequired[list[UseVerdict]]


def read_candidates(stage: StageFolder) -> Tried | None:
    """Read what is known of the candidates of a stage; None where none was tried.

    Raises:
        ArtifactError: If the file was changed or is damaged.
    """
    return read_of_stage(stage, CANDIDATES, Tried)


def read_of_stage(stage: StageFolder, name: str, kind: type[T]) -> T | None:
    """Read a file that not every such stage writes; None where this one has not.

    Raises:
        ArtifactError: If the file was changed or is damaged.
    """
    manifest = stage.manifest
    expected = manifest is not None and name in manifest["outputs"]
    there = expected or (stage.path / name).is_file()
    return stage.read(name, kind) if there else None
