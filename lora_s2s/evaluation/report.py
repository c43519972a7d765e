"""report.html: one file that opens anywhere, loads nothing, runs nothing, and shows data text as
text.
"""

from __future__ import annotations

import base64
import random
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from lora_s2s.evaluation.evaluate import PREDICTIONS
from lora_s2s.evaluation.plots import loss_curve
from lora_s2s.evaluation.significance import SEED
from lora_s2s.evaluation.summary import (
    NOTHING,
    LabelLine,
    ScoreLine,
    base_name,
    facts,
    label_lines,
    note_lines,
    score_lines,
    shown,
)
from lora_s2s.files import read_jsonl, read_whole, write_text
from lora_s2s.hub import EVALUATIONS
from lora_s2s.page import escaped, fact_list, html_table, page, section
from lora_s2s.records import manifest_content

REPORT = "report.html"
CURVE = "loss_curve.png"
SAMPLES = 20
_MOST_LABELS = 50
# Of a longer file the sample is of its first rows: the page is no reason to read all of anything.
_MOST_ROWS = 100_000


def write_report(adapter_dir: Path, *, name: str | None = None) -> Path:
    """Writes ``report.html`` (and ``loss_curve.png``) from what lies in an adapter's folder.

    Needs ``manifest.json``; ``metrics.jsonl``, ``recipe.yaml`` and
    ``evaluations/*/predictions.jsonl`` are shown where they exist.

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
    text = render_report(
        name or adapter_dir.name,
        manifest_content(adapter_dir),
        curve_png=curve,
        recipe=read_whole(recipe).decode("utf-8", "replace") if recipe.is_file() else None,
        rows=sample_rows(adapter_dir),
    )
    write_text(adapter_dir / REPORT, text)
    return adapter_dir / REPORT


def sample_rows(adapter_dir: Path, count: int = SAMPLES) -> list[Mapping[str, Any]]:
    """Returns a random sample of the newest evaluation's rows, the same one every time, in order;
    none without one.
    """
    files = (adapter_dir / EVALUATIONS).glob(f"*/{PREDICTIONS}")
    newest = max(files, key=lambda path: (path.stat().st_mtime_ns, path), default=None)
    if newest is None:
        return []
    chance, kept = random.Random(SEED), list[tuple[int, Mapping[str, Any]]]()
    for place, row in enumerate(islice(read_jsonl(newest), _MOST_ROWS)):
        # Every row so far is kept with the same chance, and never more than `count` of them
        # (reservoir sampling).
        if len(kept) < count:
            kept.append((place, row))
        elif (slot := chance.randrange(place + 1)) < count:
            kept[slot] = (place, row)
    return [row for _, row in sorted(kept, key=lambda item: item[0])]


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
        f'<h1>{escaped(name)}</h1><p class="lead">adapter on {escaped(base_name(manifest))}</p>',
        section("Scores", _scores(lines) + _notes(note_lines(manifest.get("scores")))),
        section("Labels", _labels(label_lines(manifest.get("scores"), _MOST_LABELS))),
        section("Loss", _picture(curve_png)),
        section("Sample answers", _samples(rows[:SAMPLES])),
        section("Facts", fact_list(facts(manifest))),
        section("Recipe", _recipe(recipe)),
    ]
    return page(name, "\n".join(body))


def _scores(lines: Sequence[ScoreLine]) -> str:
    if not lines:
        return '<p class="note">Not evaluated yet: run <code>lora-s2s eval</code>.</p>'
    heads = ("Data", "Sources", "Metric", "Base", "Adapter", "Difference", "p")
    rows = [
        f"<td>{escaped(line.evaluation)}</td><td>{escaped(line.n)}</td><td>{escaped(line.metric)}</td>"
        f'<td class="score base">{_bar(line.baseline, line.baseline_share)}</td>'
        f'<td class="score">{_bar(line.adapter, line.share)}</td>'
        f'<td class="score">{escaped(line.difference)}</td><td>{escaped(line.p_value)}</td>'
        for line in lines
    ]
    signatures = dict.fromkeys(
        f"{escaped(line.metric)}: <code>{escaped(line.signature)}</code>" for line in lines
    )
    note = (
        "Scores from 0 to 100 with their 95 % interval over sources; difference and p-value are "
        "paired by source."
    )
    return f'{html_table(heads, rows)}<p class="note">{note}<br>{"<br>".join(signatures)}</p>'


def _notes(notes: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escaped(note)}</li>' for note in notes)}</ul>" if notes else ""


def _labels(lines: Sequence[LabelLine]) -> str:
    if not lines:
        return ""
    heads = ("Data", "Label", "Sources", "Answers", "Precision", "Recall", "F1")
    return html_table(
        heads,
        (
            "".join(
                f"<td>{escaped(cell)}</td>" for cell in (line.evaluation, line.label, *line.cells)
            )
            for line in lines
        ),
    )


def _bar(score: str, share: float) -> str:
    bar = (
        f'<div class="bar"><i style="width:{100 * share:.1f}%"></i></div>'
        if score != NOTHING
        else ""
    )
    return f"{escaped(score)}{bar}"


def _picture(png: bytes | None) -> str:
    if png is None:
        return ""
    return (
        '<img alt="training and validation loss" '
        f'src="data:image/png;base64,{base64.b64encode(png).decode()}">'
    )


def _samples(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    with_base = any("baseline" in row for row in rows)
    heads = ("", "Source", "Reference", *(("Base",) if with_base else ()), "Adapter")
    return html_table(
        heads,
        (_sample(number, row, with_base) for number, row in enumerate(rows, start=1)),
        kind="text",
    )


def _sample(number: int, row: Mapping[str, Any], with_base: bool) -> str:
    references = row.get("references")
    texts = [str(text) for text in references] if isinstance(references, list) else []
    more = f" (+{len(texts) - 1} more)" if len(texts) > 1 else ""
    answer = shown(row.get("prediction"))
    kind = ' class="same"' if row.get("prediction") in texts else ""
    base = f"<td>{escaped(shown(row.get('baseline')))}</td>" if with_base else ""
    reference = f"<td>{escaped(texts[0] if texts else NOTHING)}{more}</td>"
    source = escaped(shown(row.get("source")))
    return f"<td>{number}</td><td>{source}</td>{reference}{base}<td{kind}>{escaped(answer)}</td>"


def _recipe(recipe: str | None) -> str:
    return (
        ""
        if recipe is None
        else f"<pre>{chr(10).join(escaped(line) for line in recipe.splitlines())}</pre>"
    )
