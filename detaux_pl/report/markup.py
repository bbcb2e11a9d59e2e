"""Pieces of HTML that the pages share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

CODE_ROWS = 40
"""Codes or subspaces that a table or a chart shows at most."""


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


def html_bar(share: float, text: str | None = None, detail: str = "") -> str:
    """A cell with a bar behind its number, and a detail in small print."""
    inside = min(max(share, 0.0), 1.0)
    rounded = round(share, 3) + 0.0  # no negative zero
    shown = f"{rounded:.3f}".replace("-", "\N{MINUS SIGN}") if text is None else text
    small = f"<small>{html_text(detail)}</small>" if detail else ""
    return f'<td class="bar" style="--share:{inside:.3f}">{html_text(shown)}{small}</td>'


def html_optional(value: float | None, write: Any) -> str:
    """A cell of a number that may be missing."""
    return html_cell("" if value is None else write(value))


def html_chart(charts: Mapping[str, str], name: str, caption: str, title: str = "") -> str:
    """A chart with its caption, and a title above; nothing where there is no such chart."""
    if name not in charts:
        return ""
    heading = f"<h3>{html_text(title)}</h3>" if title else ""
    return (
        f"{heading}<figure>{charts[name]}<figcaption>{html_text(caption)}</figcaption></figure>\n"
    )


def shown_of(shown: int, total: int, which: str) -> str:
    """Say how many of which are shown; nothing where all are."""
    return "" if shown == total else f" Shown are {shown} of {total:,} {which}."


def html_choice(name: str, options: Mapping[str, str]) -> str:
    """Figures of which one is shown, at most three, each under what it is called; needs no script.

    Args:
        name: What their ids begin with.
        options: Figures as HTML, by what they are called; empty ones are left out.
    """
    kept = {label: figure for label, figure in options.items() if figure}
    if len(kept) < 2:
        return "".join(kept.values())
    buttons = "".join(
        f'<input type="radio" name="{name}" id="{name}-{k}"{" checked" if k == 0 else ""}>'
        f'<label for="{name}-{k}">{html_text(label)}</label>'
        for k, label in enumerate(kept)
    )
    return f'<div class="choice">{buttons}{"".join(kept.values())}</div>\n'
