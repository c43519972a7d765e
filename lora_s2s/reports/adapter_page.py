"""``report.html`` of an adapter: a verdict, scores, examples, errors, curves, data and recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lora_s2s.console import plain
from lora_s2s.files import mapping, read_whole, write_text
from lora_s2s.hub import EVALUATIONS
from lora_s2s.outputs import PREDICTIONS
from lora_s2s.records import manifest_content
from lora_s2s.reports.by_task import task_tables
from lora_s2s.reports.charts import Chart, curve_chart
from lora_s2s.reports.described import Described, describe
from lora_s2s.reports.plots import Points, loss_curve, losses
from lora_s2s.reports.render import render
from lora_s2s.reports.samples import Sampled, newest_predictions, sample_of
from lora_s2s.reports.summary import (
    ScoreLine,
    base_name,
    confusion_lines,
    facts,
    label_lines,
    note_lines,
    probability_facts,
    score_lines,
    shown,
    signatures,
    without_folders,
)
from lora_s2s.reports.verdict import verdict

REPORT = "report.html"
CURVE = "loss_curve.png"
# Of more scored sources, a random part is described.
MOST_EXAMPLES = 20_000
MOST_LABELS = 1000
# The others can be unfolded.
_FIRST_ROWS = 20
# Caption, the name of what the adapter is compared with, lines.
ScoreTable = tuple[str, str, list[ScoreLine]]
# Anchor, heading, sections of the manifest.
_FACTS = (
    ("training", "Training", ("averaged", "counts", "training")),
    ("data", "Data", ("data", "input")),
    ("environment", "Environment", ("base", "device", "created", "versions")),
)


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
    log, recipe = adapter_dir / "metrics.jsonl", adapter_dir / "recipe.yaml"
    newest = newest_predictions(adapter_dir)
    if log.is_file():
        loss_curve(log, adapter_dir / CURVE)
    page = render_report(
        name or adapter_dir.name,
        manifest_content(adapter_dir),
        curves=losses(log) if log.is_file() else (),
        recipe=read_whole(recipe).decode("utf-8", "replace") if recipe.is_file() else None,
        answers=sample_of(newest, MOST_EXAMPLES) if newest else None,
    )
    write_text(adapter_dir / REPORT, page)
    return adapter_dir / REPORT


def render_report(
    name: str,
    manifest: Mapping[str, object],
    *,
    curves: Sequence[Points] = (),
    recipe: str | None = None,
    answers: Sampled | None = None,
) -> str:
    """The page's HTML; every part but the manifest is optional.

    Args:
        curves: training and validation loss.
        answers: rows of the newest evaluation.
    """
    scores = mapping(manifest.get("scores"))
    evaluation = _main_evaluation(scores, answers)
    lines = score_lines(scores)
    labels = label_lines(scores, MOST_LABELS)
    labels.sort(key=lambda line: line.evaluation != plain(evaluation))
    curve = curve_chart("loss", "Loss", *curves) if curves else None
    entry = mapping(scores.get(evaluation))
    known = [line.label for line in labels] if entry.get("labels") else []
    part = _described(answers, _other_name(entry), known)
    return render(
        "adapter.html",
        title=name,
        base=base_name(manifest),
        verdict=verdict(evaluation, entry),
        scores=_tables(scores, evaluation),
        signatures=signatures(lines),
        notes=note_lines(scores),
        tasks=task_tables(scores, evaluation),
        first_rows=_FIRST_ROWS,
        labels=[(line.evaluation, line.label, *line.cells) for line in labels],
        confusions=confusion_lines(entry, MOST_LABELS),
        probabilities=probability_facts(entry),
        part=part,
        facts=_facts(manifest, {"training": [curve] if curve else [], "data": part.lengths}),
        recipe_lines=(recipe or "").splitlines(),
    )


def _main_evaluation(scores: Mapping[str, object], answers: Sampled | None) -> str:
    """The evaluation whose answers are shown; the last one if there are none."""
    if answers and answers.evaluation in scores:
        return answers.evaluation
    return next(reversed(list(scores)), "")


def _described(answers: Sampled | None, other: str, labels: Sequence[str]) -> Described:
    if answers is None:
        return Described()
    named = {"baseline": "Base", "against": other or "Other", "prediction": "Adapter"}
    present = {key for row in answers.rows.values() for key in row} | {"prediction"}
    systems = {key: name for key, name in named.items() if key in present}
    file = f"{EVALUATIONS}/{answers.evaluation}/{PREDICTIONS}"
    return describe(answers.rows, systems, total=answers.total, file=file, known=labels)


def _other_name(entry: Mapping[str, object]) -> str:
    """The name of what an evaluation compared the adapter with beside its base; else empty."""
    name = mapping(entry.get("against")).get("name")
    return without_folders(shown(name)) if name else ""


def _tables(scores: Mapping[str, object], first: str) -> list[ScoreTable]:
    """A table per evaluation, the one of the verdict first, and one per further comparison."""
    tables = []
    for name in sorted(scores, key=lambda name: name != first):
        entry = mapping(scores[name])
        lines = score_lines({name: entry})
        if lines:
            tables.append((f"{plain(name)}, {lines[0].n} sources", "Base", lines))
        if other := _other_name(entry):
            against = mapping(entry.get("against"))
            changed = {"baseline": against.get("metrics"), "difference": against.get("difference")}
            lines = score_lines({name: {**entry, **changed}})
            tables.append((f"{plain(name)}, against {other}", other, lines))
    return tables


def _facts(
    manifest: Mapping[str, object], charts: Mapping[str, Sequence[Chart]]
) -> list[tuple[str, str, Sequence[Chart], list[tuple[str, str]]]]:
    """Anchor, heading, charts and facts of each section of facts."""
    return [
        (
            anchor,
            heading,
            charts.get(anchor, ()),
            facts(manifest, keys),
        )
        for anchor, heading, keys in _FACTS
    ]
