"""HTML pages that open anywhere, load nothing, run nothing, and show data text as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from lora_s2s.console import plain

_STYLE = """
:root { color-scheme: light; --ink: #1f2933; --quiet: #66727f; --line: #e4e9ee; --blue: #12698a;
  --grey: #b8c4ce; }
body { font: 15px/1.55 system-ui, sans-serif; color: var(--ink); background: #f6f8fa; margin: 0; }
main { max-width: 62rem; margin: 2.5rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.7rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 0 0 .8rem; }
.lead { color: var(--quiet); margin: .2rem 0 1.6rem; overflow-wrap: anywhere; }
section { background: #fff; border: 1px solid var(--line); border-radius: 10px;
  padding: 1.2rem 1.4rem; margin: 0 0 1.2rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; font-size: .82rem; color: var(--quiet); }
th, td { padding: .45rem .9rem .45rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
tr:last-child td { border-bottom: 0; } td { overflow-wrap: anywhere; }
.text td { white-space: pre-wrap; width: 25%; font-size: .9rem; }
.text td:first-child { width: 2rem; color: var(--quiet); }
.scroll { overflow-x: auto; }
.score { white-space: nowrap; }
.bar { height: 5px; border-radius: 3px; background: var(--line); margin-top: .35rem; }
.bar i { display: block; height: 5px; border-radius: 3px; background: var(--blue); }
.base .bar i { background: var(--grey); }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(14rem, 1fr));
  gap: .7rem 1.4rem; margin: 0; }
dt { font-size: .78rem; color: var(--quiet); } dd { margin: 0; overflow-wrap: anywhere; }
img { width: 100%; height: auto; } pre { overflow-x: auto; margin: 0; font-size: .85rem; }
.note { color: var(--quiet); font-size: .85rem; margin: .8rem 0 0; }
.note code { overflow-wrap: anywhere; }
.same { color: #1a7f4b; }
.pieces { margin: .6rem 0 0; font-size: .85rem; line-height: 1.9; overflow-wrap: anywhere; }
.pieces b { font-weight: 400; background: #f0f3f6; border-radius: 3px; padding: .1rem .15rem;
  margin-right: 2px;
  white-space: pre-wrap; }
.loss b { background: #d8ecf3; }
.histogram { display: flex; align-items: flex-end; gap: 2px; height: 90px; margin: 0 0 1rem; }
.axis i { font-style: normal; }
.axis { display: flex; justify-content: space-between; font-size: .78rem; color: var(--quiet);
  margin: 0; }
@media (max-width: 600px) { .score { white-space: normal; } section { padding: 1rem; } }
.histogram i { flex: 1; background: var(--blue); min-height: 1px; }
"""


def page(title: str, body: str) -> str:
    """Returns a whole page; ``body`` is HTML, the title is text."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped(title)}</title><style>{_STYLE}</style></head>\n<body><main>\n{body}\n</main></body></html>\n"
    )


def escaped(text: str) -> str:
    """Returns text as HTML, controls shown."""
    return escape(plain(text), quote=True)


def section(title: str, content: str) -> str:
    """Returns a titled part of a page; nothing where there is no content."""
    return f"<section><h2>{title}</h2>{content}</section>" if content else ""


def fact_list(facts: Iterable[tuple[str, str]]) -> str:
    """Returns names and values, both text, side by side; nothing where there are none."""
    items = "".join(
        f"<div><dt>{escaped(name)}</dt><dd>{escaped(value)}</dd></div>" for name, value in facts
    )
    return f"<dl>{items}</dl>" if items else ""


def html_table(heads: Sequence[str], rows: Iterable[str], *, kind: str = "") -> str:
    """Returns a table; rows are HTML cells."""
    head = "".join(f"<th>{title}</th>" for title in heads)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    table = f'<table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="scroll">{table}</div>'
