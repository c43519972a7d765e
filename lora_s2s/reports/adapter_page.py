"""``report.html`` of an adapter: scores, labels, loss curve, sample answers, facts and recipe."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_s2s.files import read_whole, write_text
from lora_s2s.records import manifest_content
from lora_s2s.reports.plots import loss_curve
from lora_s2s.reports.render import render
from lora_s2s.reports.samples import sample_rows
from lora_s2s.reports.summary import (
    NOTHING,
    base_name,
    facts,
    label_lines,
    note_lines,
    score_lines,
    shown,
    signatures,
)

REPORT = "report.html"
CURVE = "loss_curve.png"
SAMPLES = 20
_MOST_LABELS = 50


@dataclass(frozen=True)
class Sample:
    """One source with its answers; ``more`` counts further references."""

    source: str
    reference: str
    more: int
    base: str
    answer: str
    same: bool


def write_report(adapter_dir: Path, *, name: str | None = None) -> Path:
    """Writes an adapter's ``report.html`` and ``loss_curve.png``.

    Requires ``manifest.json``; shows ``metrics.jsonl``, ``recipe.yaml`` and
    ``evaluations/*/predictions.jsonl`` if present.

    Args:
        adapter_dir: the adapter's folder, perhaps a temporary one.
        name: the adapter's name if it differs from the folder's.

    Raises:
        DataError: a file that exists cannot be read.
    """
    curve = None
    if (adapter_dir / "metrics.jsonl").is_file():
        curve = loss_curve(adapter_dir / "metrics.jsonl", adapter_dir / CURVE).read_bytes()
    recipe = adapter_dir / "recipe.yaml"
    page = render_report(
        name or adapter_dir.name,
        manifest_content(adapter_dir),
        curve_png=curve,
        recipe=read_whole(recipe).decode("utf-8", "replace") if recipe.is_file() else None,
        rows=sample_rows(adapter_dir, SAMPLES),
    )
    write_text(adapter_dir / REPORT, page)
    return adapter_dir / REPORT


def render_report(
    name: str,
    manifest: Mapping[str, object],
    *,
    curve_png: bytes | None = None,
    recipe: str | None = None,
    rows: Sequence[Mapping[str, object]] = (),
) -> str:
    """The page's HTML; every part but the manifest is optional."""
    scores = manifest.get("scores")
    lines = score_lines(scores)
    labels = label_lines(scores, _MOST_LABELS)
    return render(
        "adapter.html",
        title=name,
        base=base_name(manifest),
        scores=lines,
        signatures=signatures(lines),
        notes=note_lines(scores),
        labels=[(line.evaluation, line.label, *line.cells) for line in labels],
        curve=base64.b64encode(curve_png or b"").decode(),
        samples=[_sample(row) for row in rows[:SAMPLES]],
        with_base=any("baseline" in row for row in rows),
        run_facts=facts(manifest),
        recipe_lines=(recipe or "").splitlines(),
    )


def _sample(row: Mapping[str, object]) -> Sample:
    references = row.get("references")
    texts = [str(text) for text in references] if isinstance(references, list) else []
    return Sample(
        source=shown(row.get("source")),
        reference=texts[0] if texts else NOTHING,
        more=max(0, len(texts) - 1),
        base=shown(row.get("baseline")),
        answer=shown(row.get("prediction")),
        same=row.get("prediction") in texts,
    )
