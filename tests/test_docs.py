"""What the documents and the code point to can be opened."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from detaux_pl.cli.main import main

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
_PATH = re.compile(r"(?<![\w./-])(?:detaux_pl|configs|docs|tests|notebooks)/[\w./-]*\w")
_LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
_CITATION = re.compile(r"docs/methods\.md(?:, '([^']+)')?")
_UNNAMED = re.compile(r"\b[A-G]\.\d+[a-z]?\b|, row \d|(?<!docs/)methods\.md|\(methods ")


def headings(document: Path) -> list[str]:
    lines = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.findall(r"^#+ (.+)$", lines, flags=re.MULTILINE)


def anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def sources() -> Iterator[tuple[str, str]]:
    """Name and text, each on one line, of all that may cite."""
    for folder in ("detaux_pl", "tests", "configs", "notebooks"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".yaml", ".ipynb") and path != Path(__file__):
                text = re.sub(r"\s+(?:# )?", " ", path.read_text(encoding="utf-8"))
                yield str(path.relative_to(ROOT)), text


def test_every_citation_names_a_section_of_the_methods():
    known = headings(ROOT / "docs" / "methods.md")
    assert len(set(map(anchor, known))) == len(known) > 20
    cited = [(name, found[1]) for name, text in sources() for found in _CITATION.finditer(text)]
    assert len(cited) > 20
    assert [place for place in cited if place[1] not in known] == []


def test_nothing_cites_what_is_not_in_the_repository():
    found = [(name, hit[0]) for name, text in sources() for hit in _UNNAMED.finditer(text)]
    assert found == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_what_a_document_names_exists(document: Path):
    text = document.read_text(encoding="utf-8")
    assert sorted({path for path in _PATH.findall(text) if not (ROOT / path).exists()}) == []
    broken = []
    for path, fragment in _LINK.findall(text):
        target = (document.parent / path) if path else document
        if not target.exists() or (fragment and fragment not in map(anchor, headings(target))):
            broken.append(f"{path}#{fragment}")
    assert broken == []


def fits() -> list[list[str]]:
    """Words of every `detaux fit` in the documents that begins with a config."""
    found = []
    for document in DOCUMENTS:
        for block in re.findall(r"^```\n(.*?)^```", document.read_text("utf-8"), re.DOTALL | re.M):
            for command in re.split(r"^(?=\S)", block.replace("\\\n", " "), flags=re.M):
                words = shlex.split(command, comments=True)
                if words[:2] == ["detaux", "fit"] and "--config" in words:
                    found.append(words[1:])
    return found


def test_the_chain_takes_every_command_of_the_documents(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    commands = fits()
    assert len(commands) > 12
    for words in commands:
        given = [word for word in words if word != "--print_config"]
        with pytest.raises(SystemExit, match=r"^0$"):  # what is refused returns 2
            main([*given, "--print_config"])


_RUN = """
import doctest, json, sys, types

for n, block in enumerate(json.load(sys.stdin)):
    module = sys.modules[f"added{n}"] = types.ModuleType(f"added{n}")
    exec(compile(block, module.__name__, "exec"), module.__dict__)
    failed, tried = doctest.testmod(module)
    assert tried and not failed, block
"""


def test_what_contributing_adds_runs():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == 6
    # In a process of its own: the classes would be offered to the tests that follow.
    ran = subprocess.run(
        [sys.executable, "-c", _RUN],
        input=json.dumps(blocks),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
