"""The one page shell: a title and sections, each of words, a table and figures, in a single file.

The page needs no network: plotly's JavaScript is inlined once, for all figures.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_SHELL = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1040px; margin: 2em auto;
  padding: 0 1.2em; }}
h1 {{ font-size: 1.6em; margin-bottom: .2em; }}
h2 {{ font-size: 1.2em; margin: 2.2em 0 .3em; border-top: 1px solid #ddd; padding-top: 1.2em; }}
h3 {{ font-size: 1em; margin: 1.4em 0 0; }}
p {{ margin: .3em 0 1em; color: #555; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .6em 0 1em; }}
th, td {{ padding: .25em .9em; text-align: right; border-bottom: 1px solid #eee;
  white-space: nowrap; }}
th {{ font-weight: 600; border-color: #bbb; }}
th:first-child, td:first-child {{ text-align: left; padding-left: 0; }}
td.hash {{ font: 12px ui-monospace, monospace; color: #666; }}
.wide {{ overflow-x: auto; }}
summary {{ cursor: pointer; }}
</style>
<script>{script}</script>
</head>
<body>
<h1>{title}</h1>
<p>{lead}</p>
{sections}
</body>
</html>
"""


@dataclass(frozen=True)
class Sheet:
    """A table: its first column is of words, the others of numbers, all written out."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """A part of a page. `figures` have a caption each; `folded` hides the table until asked for."""

    title: str
    words: str = ""
    sheet: Sheet | None = None
    figures: Sequence[tuple[str, Figure]] = ()
    folded: bool = False


def page(title: str, lead: str, sections: Iterable[Section]) -> str:
    """The whole page as HTML."""
    from plotly.offline import get_plotlyjs

    body = "\n".join(_section(section) for section in sections)
    return _SHELL.format(
        title=escape(title), lead=escape(lead), script=get_plotlyjs(), sections=body
    )


def write_page(path: Path, title: str, lead: str, sections: Iterable[Section]) -> None:
    """The page as a file."""
    path.write_text(page(title, lead, sections), encoding="utf-8")


def _section(section: Section) -> str:
    parts = [f"<h2>{escape(section.title)}</h2>"]
    if section.words:
        parts.append(f"<p>{escape(section.words)}</p>")
    if section.sheet is not None:
        parts.append(_folded(_table(section.sheet)) if section.folded else _table(section.sheet))
    for caption, figure in section.figures:
        config = {"displaylogo": False, "responsive": True}
        drawn = figure.to_html(full_html=False, include_plotlyjs=False, config=config)
        parts.append(f"<h3>{escape(caption)}</h3>\n{drawn}")
    return "\n".join(parts)


def _folded(table: str) -> str:
    return f"<details><summary>show the table</summary>\n{table}\n</details>"


def _table(sheet: Sheet) -> str:
    heads = "".join(f"<th>{escape(head)}</th>" for head in sheet.heads)
    rows = "\n".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in sheet.rows)
    return f'<div class="wide"><table>\n<tr>{heads}</tr>\n{rows}\n</table></div>'


def _cell(text: str) -> str:
    is_hash = len(text) == 64 and text.isalnum()
    return f"<td{' class=hash' if is_hash else ''}>{escape(text)}</td>"
