"""report.html: one file that opens anywhere, loads nothing, runs nothing, and shows data text as text."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import islice
from pathlib import Path
from typing import Any

from lora_s2s.console import plain
from lora_s2s.evaluation.evaluate import PREDICTIONS
from lora_s2s.evaluation.plots import loss_curve
from lora_s2s.evaluation.summary import NOTHING, ScoreLine, base_name, facts, score_lines, shown
from lora_s2s.files import read_json, read_jsonl, write_text
from lora_s2s.inference.loading import MANIFEST

REPORT = "report.html"
CURVE = "loss_curve.png"
SAMPLES = 20

_STYLE = """
:root { color-scheme: light; --ink: #1f2933; --quiet: #66727f; --line: #e4e9ee; --blue: #12698a; --grey: #b8c4ce; }
body { font: 15px/1.55 system-ui, sans-serif; color: var(--ink); background: #f6f8fa; margin: 0; }
main { max-width: 62rem; margin: 2.5rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.7rem; margin: 0; overflow-wrap: anywhere; } h2 { font-size: 1.1rem; margin: 0 0 .8rem; }
.lead { color: var(--quiet); margin: .2rem 0 1.6rem; overflow-wrap: anywhere; }
section { background: #fff; border: 1px solid var(--line); border-radius: 10px;
  padding: 1.2rem 1.4rem; margin: 0 0 1.2rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; font-size: .82rem; color: var(--quiet); }
th, td { padding: .45rem .9rem .45rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child td { border-bottom: 0; } td { overflow-wrap: anywhere; }
.text td { white-space: pre-wrap; width: 25%; font-size: .9rem; }
.text td:first-child { width: 2rem; color: var(--quiet); }
.score { white-space: nowrap; } .bar { height: 5px; border-radius: 3px; background: var(--line); margin-top: .35rem; }
.bar i { display: block; height: 5px; border-radius: 3px; background: var(--blue); }
.base .bar i { background: var(--grey); }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(14rem, 1fr)); gap: .7rem 1.4rem; margin: 0; }
dt { font-size: .78rem; color: var(--quiet); } dd { margin: 0; overflow-wrap: anywhere; }
img { width: 100%; height: auto; } pre { overflow-x: auto; margin: 0; font-size: .85rem; }
.note { color: var(--quiet); font-size: .85rem; margin: .8rem 0 0; } .note code { overflow-wrap: anywhere; }
.same { color: #1a7f4b; }
"""


def write_report(adapter_dir: Path, *, name: str | None = None) -> Path:
    """Writes ``report.html`` (and ``loss_curve.png``) from what lies in an adapter's folder.

    Needs ``manifest.json``; ``metrics.jsonl``, ``recipe.yaml`` and ``evaluations/*/predictions.jsonl`` are shown
    where they exist.

    Args:
        adapter_dir: the adapter's folder, finished or still being staged.
        name: the adapter's name where the folder's is not yet it.

    Raises:
        DataError: a file that exists cannot be read.
    """
    curve = None
    if (adapter_dir / "metrics.jsonl").is_file():
        curve = loss_curve(adapter_dir / "metrics.jsonl", adapter_dir / CURVE).read_bytes()
    recipe = adapter_dir / "recipe.yaml"
    page = render_report(
        name or adapter_dir.name,
        read_json(adapter_dir / MANIFEST),
        curve_png=curve,
        recipe=recipe.read_text(encoding="utf-8", errors="replace") if recipe.is_file() else None,
        rows=sample_rows(adapter_dir),
    )
    write_text(adapter_dir / REPORT, page)
    return adapter_dir / REPORT


def sample_rows(adapter_dir: Path, count: int = SAMPLES) -> list[Mapping[str, Any]]:
    """Returns the first rows of the newest evaluation in an adapter's folder; none if it has not been evaluated."""
    files = (adapter_dir / "evaluations").glob(f"*/{PREDICTIONS}")
    newest = max(files, key=lambda path: (path.stat().st_mtime_ns, path), default=None)
    return [] if newest is None else list(islice(read_jsonl(newest), count))


def render_report(
    name: str,
    manifest: Mapping[str, Any],
    *,
    curve_png: bytes | None = None,
    recipe: str | None = None,
    rows: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Returns the page as text; every part but the facts may be missing."""
    lines = score_lines(manifest.get("scores"))
    body = [
        f'<h1>{_text(name)}</h1><p class="lead">adapter on {_text(base_name(manifest))}</p>',
        _section("Scores", _scores(lines)),
        _section("Loss", _picture(curve_png)),
        _section("Sample answers", _samples(rows[:SAMPLES])),
        _section("Facts", _facts(facts(manifest))),
        _section("Recipe", _recipe(recipe)),
    ]
    return _page(name, "\n".join(body))


def _page(title: str, body: str) -> str:
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head>\n<body><main>\n{body}\n</main></body></html>\n"
    )


def _text(text: str) -> str:
    return escape(plain(text), quote=True)


def _section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>{content}</section>" if content else ""


def _scores(lines: Sequence[ScoreLine]) -> str:
    if not lines:
        return '<p class="note">Not evaluated yet: run <code>lora-s2s eval</code>.</p>'
    heads = ("Data", "Sources", "Metric", "Base", "Adapter", "Difference", "p")
    rows = [
        f"<td>{_text(line.evaluation)}</td><td>{_text(line.n)}</td><td>{_text(line.metric)}</td>"
        f'<td class="score base">{_bar(line.baseline, line.baseline_share)}</td>'
        f'<td class="score">{_bar(line.adapter, line.share)}</td>'
        f'<td class="score">{_text(line.difference)}</td><td>{_text(line.p_value)}</td>'
        for line in lines
    ]
    signatures = dict.fromkeys(f"{_text(line.metric)}: <code>{_text(line.signature)}</code>" for line in lines)
    note = "Scores from 0 to 100 with their 95 % interval (bootstrap over sources); difference and p-value are paired."
    return f'{_table(heads, rows)}<p class="note">{note}<br>{"<br>".join(signatures)}</p>'


def _bar(score: str, share: float) -> str:
    bar = f'<div class="bar"><i style="width:{100 * share:.1f}%"></i></div>' if score != NOTHING else ""
    return f"{_text(score)}{bar}"


def _table(heads: Sequence[str], rows: Iterable[str], *, kind: str = "") -> str:
    head = "".join(f"<th>{title}</th>" for title in heads)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _picture(png: bytes | None) -> str:
    if png is None:
        return ""
    return f'<img alt="training and validation loss" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _samples(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    with_base = any("baseline" in row for row in rows)
    heads = ("", "Source", "Reference", *(("Base",) if with_base else ()), "Adapter")
    return _table(heads, (_sample(number, row, with_base) for number, row in enumerate(rows, start=1)), kind="text")


def _sample(number: int, row: Mapping[str, Any], with_base: bool) -> str:
    references = row.get("references")
    texts = [str(text) for text in references] if isinstance(references, list) else []
    more = f" (+{len(texts) - 1} more)" if len(texts) > 1 else ""
    answer = shown(row.get("prediction"))
    kind = ' class="same"' if row.get("prediction") in texts else ""
    base = f"<td>{_text(shown(row.get('baseline')))}</td>" if with_base else ""
    reference = f"<td>{_text(texts[0] if texts else NOTHING)}{more}</td>"
    return f"<td>{number}</td><td>{_text(shown(row.get('source')))}</td>{reference}{base}<td{kind}>{_text(answer)}</td>"


def _facts(pairs: Sequence[tuple[str, str]]) -> str:
    items = "".join(f"<div><dt>{_text(what)}</dt><dd>{_text(value)}</dd></div>" for what, value in pairs)
    return f"<dl>{items}</dl>" if items else ""


def _recipe(recipe: str | None) -> str:
    return "" if recipe is None else f"<pre>{chr(10).join(_text(line) for line in recipe.splitlines())}</pre>"
