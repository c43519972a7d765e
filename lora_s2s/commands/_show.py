"""Tables and lines that several commands show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_s2s.console import plain, say, table, warn
from lora_s2s.data_report import AddedTokens, DataReport, PairSide, Sides, listed
from lora_s2s.errors import quoted
from lora_s2s.examples.template import PromptTemplate
from lora_s2s.pipeline.adapters import AdapterInfo
from lora_s2s.pipeline.notices import (
    short,
    show_data,
    show_preview,
    token_table,
)
from lora_s2s.records import ModelManifest
from lora_s2s.reports.by_task import task_table
from lora_s2s.reports.summary import (
    FEW_HEADS,
    NOTHING,
    comparison_lines,
    label_table,
    other_name,
    probabilities_line,
    score_lines,
    score_table,
    without_interval,
)

if TYPE_CHECKING:
    from lora_s2s.pipeline.scores import Scores
    from lora_s2s.pipeline.several import Several

_MOST_LABELS, _MOST_TASKS = 20, 20


def show_scores(title: str, result: Mapping[str, Any]) -> None:
    """Shows scores, one row per metric, the table of labels, and notes on reliability."""
    table(title, *score_table(result))
    if lines := comparison_lines(result):
        title = f"Against {other_name(result)}, on the same sources"
        table(title, FEW_HEADS, [line.few_cells() for line in lines])
    if result.get("tasks"):
        table(*task_table(result, _MOST_TASKS, intervals=False))
    if labels := result.get("labels"):
        table(*label_table(labels, _MOST_LABELS))
        if scored := labels.get("probabilities"):
            say(probabilities_line(scored))
    if enough := result.get("enough"):
        say(enough)
    for note in result.get("notes", ()):
        warn(note)


def show_written(name: str, scores: Scores) -> None:
    """Shows a model's scores and where its predictions are."""
    show_scores(f"{name}: {scores.n:,} sources", scores.to_dict())
    _show_files(scores)


def _show_files(scores: Scores) -> None:
    for what, path in (("predictions", scores.predictions), ("report", scores.report)):
        if path is not None:
            say(f"{what}: {path}")


def show_several(several: Several) -> None:
    """Shows several models in one table, each with its difference to the first."""
    first = next(iter(several.scores))
    rows = []
    for name, scores in several.scores.items():
        result = scores.to_dict()
        lines = {line.label: line for line in comparison_lines(result)}
        for label, score in score_table({**result, "baseline": None})[1]:
            line = lines.get(label)
            change = [line.difference, line.p_value, line.bootstrap_p_value] if line else []
            rows.append([label, plain(name), score, *(change or [NOTHING] * 3)])
    heads = ["metric", "model", "score [95 %]", f"− {plain(first)} [95 %]", "p", "p (bootstrap)"]
    rows.sort(key=lambda row: row[0])
    count = next(iter(several.scores.values())).n
    table(f"{len(several.scores)} models: {count:,} sources", heads, rows)
    for name, scores in several.scores.items():
        for note in several.notes(name):
            say(f"{name}: {note}")
        _show_files(scores)
    for group in several.seeds:
        say(str(group))


def _show_added(tokens: AddedTokens) -> None:
    """Shows which added tokens of the base occur in the data, and how they are read."""
    for counts, how in (
        (tokens["used"], "one id each (data.special_tokens=text splits them)"),
        (tokens["text"], "read as text (data.special_tokens=use: one id each)"),
    ):
        if counts:
            say(f"added tokens of the base, {how}: {short(listed(counts.items()))}")


def show_prepared(report: DataReport, preview: Sequence[Sides[PairSide]]) -> None:
    """Shows the report of ``prepare`` and sample pairs."""
    show_data(report)
    table("Tokens", *token_table(report))
    if report["lossless_text"]:
        carried = " ".join(repr(text) for text in report["lossless_text"] if text)
        say(f"lossless text: unused embedding rows encode {carried}")
    _show_added(report["special_tokens"])
    show_preview(preview)


def show_demo(result: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> None:
    """Shows the scores before and after training, and sample messages with both answers."""
    say()
    for row in samples:
        say(f"message  {short(row['source'])}")
        say(f"base     {short(row['baseline'])}")
        say(f"adapter  {short(row['prediction'])}")
        say()
    show_scores(f"Before and after training, on {result['n']} held-out messages", result["scores"])
    say(f"The merged model answers all {result['n']} messages exactly as the adapter does.")
    say(
        f"{result['seconds']:.0f} s in total. Adapter: {result['adapter_dir']}   merged model: "
        f"{result['merged_dir']}"
    )
    say(f'Try: lora-s2s predict {result["adapter_dir"]} "hi its Ana, table for two on sat at 8pm"')


def show_adapter(adapter: AdapterInfo) -> None:
    """Shows an adapter's scores and facts as two tables."""
    rows = [
        [
            line.evaluation,
            line.n,
            line.label,
            without_interval(line.baseline),
            without_interval(line.adapter),
            line.difference,
        ]
        for line in score_lines(adapter.manifest.get("scores"))
    ]
    if rows:
        table("Scores", ["data", "sources", "metric", "base", "adapter", "difference"], rows)
    table(str(adapter.path), ["what", "value"], [list(fact) for fact in adapter.facts()])


def next_prediction(folder: str) -> str:
    """The command that answers with a model's folder: a text, or rows of a template's columns."""
    settings = ModelManifest.read(Path(folder)).input
    needed = PromptTemplate.of(settings.first_template).needed
    asked = "--input FILE" if len(needed) > 1 else '"your text"'
    return f"lora-s2s predict {quoted(folder)} {asked}"
