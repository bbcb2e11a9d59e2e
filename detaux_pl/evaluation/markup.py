"""Pieces of HTML that the pages share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def html_text(text: str) -> str:
    """Escape text, and keep numbers and their percent sign on one line."""
    return escape(text).replace(" %", "&nbsp;%")


def html_lead(text: str) -> str:
    """A paragraph that introduces a section."""
    return f'<p class="lead">{html_text(text)}</p>\n'


def html_list(items: Sequence[str]) -> str:
    """A list of texts; nothing where there is none."""
    return f"<ul>{''.join(f'<li>{html_text(item)}</li>' for item in items)}</ul>" if items else ""


def html_cell(text: str, detail: str = "") -> str:
    """A cell of a table, with a detail in small print."""
    small = f"<small>{html_text(detail)}</small>" if detail else ""
    return f"<td>{html_text(text)}{small}</td>"


def html_table(
    head: Sequence[str], rows: Iterable[Sequence[str]], marks: Sequence[bool] = ()
) -> str:
    """Lay out cells that are HTML already; marked rows stand out."""
    body = "\n".join(
        f"<tr{' class=mark' if index < len(marks) and marks[index] else ''}>{''.join(row)}</tr>"
        for index, row in enumerate(rows)
    )
    titles = "".join(f"<th>{html_text(title)}</th>" for title in head)
    return (
        f'<div class="scroll"><table><thead><tr>{titles}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>\n"
    )
