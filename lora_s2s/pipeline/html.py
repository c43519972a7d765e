"""Results in a notebook: HTML from a template that escapes every text."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lora_s2s.pipeline.notices import short, token_table
from lora_s2s.reports.by_task import MOST_TASKS, task_table
from lora_s2s.reports.render import render
from lora_s2s.reports.summary import (
    COMPARISON_HEADS,
    comparison_lines,
    label_table,
    other_name,
    probabilities_line,
    score_table,
)

if TYPE_CHECKING:
    from pathlib import Path

    from lora_s2s.data_report import PairSide, Sides
    from lora_s2s.lora.merge import MergeReport
    from lora_s2s.pipeline.export import ExportReport
    from lora_s2s.pipeline.ranking import Ranking
    from lora_s2s.pipeline.trained import TrainedAdapter
    from lora_s2s.recipe.written import Decision

# Title, column heads, rows.
Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]

_CURVE = "loss_curve.png"


def starter(path: Path, decisions: Sequence[Decision]) -> str:
    """The keys of a starter recipe with their values and reasons."""
    rows = [[one.key, one.in_yaml, one.reason] for one in decisions]
    return _shown([(f"Recipe: {path}", ["key", "value", "reason"], rows)], [])


def prepared(report: Mapping[str, Any], preview: Sequence[Sides[PairSide]]) -> str:
    """The data report: rows per split, lengths, sample pairs, warnings."""
    splits = [[name, f"{count:,}"] for name, count in report["splits"].items()]
    pairs = [[short(pair["source"]["text"]), short(pair["target"]["text"])] for pair in preview]
    tables = [
        (f"Prepared data: {report['out']}", ["split", "rows"], splits),
        ("Tokens per row", *token_table(report)),
        ("Pairs as the model sees them", ["source", "target"], pairs),
    ]
    return _shown(tables, [*report["warnings"], *report["advice"]])


def trained(run: TrainedAdapter) -> str:
    """The run's figures and its loss curve."""
    losses = {"train loss": run.train_loss, "validation loss": run.validation_loss}
    figures = {
        "steps": f"{run.steps:,}",
        **{name: f"{loss:.4f}" for name, loss in losses.items() if loss is not None},
        "trainable parameters": f"{run.trainable_parameters:,} of {run.total_parameters:,}",
        "tokens per second": f"{run.tokens_per_second:,.0f}",
    }
    title = f"Adapter: {run.adapter}" if run.adapter else "Stopped before the end"
    table = (title, ["what", "value"], [list(item) for item in figures.items()])
    return _shown([table], [advice["message"] for advice in run.advice], _curve(run))


def _curve(run: TrainedAdapter) -> str:
    path = run.adapter and run.adapter / _CURVE
    if not path or not path.is_file():
        return ""
    return base64.b64encode(path.read_bytes()).decode()


def scored(scores: Mapping[str, Any]) -> str:
    """The score table, with the base if it was scored, labels, and notes."""
    tables: list[Table] = [(f"Scores on {scores['n']:,} sources", *score_table(scores))]
    if lines := comparison_lines(scores):
        rows = [line.cells() for line in lines]
        tables.append((f"Against {other_name(scores)}", COMPARISON_HEADS, rows))
    if scores.get("tasks"):
        tables.append(task_table(scores, MOST_TASKS))
    labels, notes = scores.get("labels") or {}, [scores.get("enough"), *scores["notes"]]
    if labels:
        tables.append(label_table(labels, MOST_TASKS))
    if probabilities := labels.get("probabilities"):
        notes.insert(0, probabilities_line(probabilities))
    return _shown(tables, list(filter(None, notes)))


def exported(report: ExportReport) -> str:
    """Size, agreement and speed of an export, compared with the model in transformers."""
    parity = report.parity
    agreement = {
        "size": f"{report.bytes / 2**20:,.1f} MiB",
        "log-probability difference, mean": f"{parity.mean_log_prob_difference:.2g}",
        "log-probability difference, largest": f"{parity.max_log_prob_difference:.2g}",
        "equal answers, greedy": f"{parity.greedy_equal:.0%}",
        "equal answers, 4 beams": f"{parity.beam_equal:.0%}",
    }
    speeds = [
        [name, f"{speed.tokens_per_second:,.0f}", f"{speed.latency_p50:.0f}"]
        for name, speed in (("transformers", parity.reference), (report.format, parity.export))
    ]
    title = f"{report.format} in {report.precision}: {report.out}"
    tables = [
        (title, ["what", "value"], [list(item) for item in agreement.items()]),
        ("Greedy answers", ["runtime", "tokens/s", "one source, ms (p50)"], speeds),
    ]
    return _shown(tables, [])


def merged(report: MergeReport) -> str:
    """How the merged model differs from base and adapter."""
    rows = [
        ["merged onto", report.onto],
        ["dtype", report.dtype],
        ["largest logit difference", f"{report.max_logit_difference:.2g}"],
        ["most likely token changed", f"{report.top1_changed:.2%} of {report.positions:,}"],
        ["answers changed", f"{report.answers_changed:.0%} of {report.answers:,}"],
    ]
    notes = [note for note in (report.not_used, report.note) if note]
    return _shown([(f"Merged model: {report.out}", ["what", "value"], rows)], notes)


def ranked(ranking: Ranking) -> str:
    """Candidates with their probabilities, most likely first."""
    rows = [[candidate, f"{share:.1%}"] for candidate, share in ranking.ranked]
    return _shown([("Candidates", ["candidate", "probability"], rows)], [])


def swept(recipe: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The trials of a sweep."""
    return _shown([(f"Best recipe: {recipe}", heads, rows)], [])


def _shown(tables: Sequence[Table], notes: Sequence[str], curve: str = "") -> str:
    return render("notebook.html", tables=tables, notes=notes, curve=curve)
