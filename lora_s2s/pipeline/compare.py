"""Adapters side by side: what differs, and which answers the same sources better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lora_s2s.errors import UsageError
from lora_s2s.evaluation.metrics import METRICS, Score, compare, measure, scores_of
from lora_s2s.files import mapping, write_text
from lora_s2s.hub import EVALUATIONS
from lora_s2s.outputs import PREDICTIONS
from lora_s2s.pipeline.adapters import AdapterInfo, differences
from lora_s2s.recipe.fields import ERROR_RATES
from lora_s2s.reports.adapter_page import MOST_EXAMPLES, MOST_LABELS
from lora_s2s.reports.charts import SYSTEMS, Chart, curve_chart
from lora_s2s.reports.compare_page import Compared, render_comparison
from lora_s2s.reports.plots import losses
from lora_s2s.reports.samples import Row, Sampled, sample_of
from lora_s2s.reports.summary import label_lines

_LOG = "metrics.jsonl"


def write_comparison(path: Path, adapters: Sequence[AdapterInfo]) -> None:
    """Writes a page that compares adapters with the first of them.

    Raises:
        UsageError: more adapters than colours.
        DataError: a file that exists cannot be read.
    """
    if len(adapters) > len(SYSTEMS):
        raise UsageError(f"a page compares at most {len(SYSTEMS)} adapters, got {len(adapters)}")
    names = _names(adapters)
    page = render_comparison(
        names,
        differences(*adapters),
        compared=_compared(adapters, names),
        curves=_curves(adapters, names),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)


def _names(adapters: Sequence[AdapterInfo]) -> list[str]:
    """The folders' names; their paths where two have one name."""
    names = [adapter.name for adapter in adapters]
    return names if len(set(names)) == len(names) else [str(adapter.path) for adapter in adapters]


def _curves(adapters: Sequence[AdapterInfo], names: Sequence[str]) -> list[Chart]:
    charts = [
        curve_chart(f"loss-{place}", f"Loss of {name}", *losses(adapter.path / _LOG))
        for place, (adapter, name) in enumerate(zip(adapters, names, strict=True))
        if (adapter.path / _LOG).is_file()
    ]
    return [chart for chart in charts if chart]


def _compared(adapters: Sequence[AdapterInfo], names: Sequence[str]) -> Compared | None:
    """Their answers to the sources of the first evaluation that all of them have."""
    shared = set.intersection(*(_evaluations(adapter) for adapter in adapters))
    for evaluation in sorted(shared):
        files = [one.path / EVALUATIONS / evaluation / PREDICTIONS for one in adapters]
        samples = [sample_of(file, MOST_EXAMPLES) for file in files]
        if rows := _same(samples):
            entries = [mapping(one.manifest.get("scores")).get(evaluation) for one in adapters]
            metrics = _metrics(entries)
            scores = _scores(rows, names, metrics) if metrics else {}
            labels = {line.label for line in label_lines(dict(enumerate(entries)), MOST_LABELS)}
            return Compared(evaluation, samples[0].total, rows, scores, labels)
    return None


def _evaluations(adapter: AdapterInfo) -> set[str]:
    files = (adapter.path / EVALUATIONS).glob(f"*/{PREDICTIONS}")
    return {file.parent.name for file in files}


def _same(samples: Sequence[Sampled]) -> dict[int, Row]:
    """Rows with equal sources and references at one place of every file, with all answers."""
    shared: dict[int, Row] = {}
    for place, row in samples[0].rows.items():
        rows = [sample.rows.get(place, {}) for sample in samples]
        asked = {key: row.get(key) for key in ("source", "references")}
        answers = {str(at): one.get("prediction") for at, one in enumerate(rows)}
        equal = all({key: one.get(key) for key in asked} == asked for one in rows)
        if equal and asked["references"] and {*map(type, answers.values())} == {str}:
            shared[place] = {**asked, **answers}
    return shared


def _metrics(entries: Sequence[object]) -> list[str]:
    """The metrics that each adapter was scored with, in the order of the first."""
    scored = [list(mapping(mapping(entry).get("metrics"))) for entry in entries]
    return [name for name in scored[0] if name in METRICS and all(name in held for held in scored)]


def _scores(
    rows: Mapping[int, Row], names: Sequence[str], metrics: Sequence[str]
) -> dict[str, Mapping[str, object]]:
    """Each adapter against the first on the same sources, the best first."""
    references = [[str(text) for text in _listed(row["references"])] for row in rows.values()]
    measured = [
        measure([str(row[str(place)]) for row in rows.values()], references, metrics)
        for place in range(len(names))
    ]
    first, *others = measured
    entries: dict[str, Mapping[str, object]] = {}
    sign = 1 if metrics[0] in ERROR_RATES else -1
    pairs = zip(names[1:], others, strict=True)
    for name, other in sorted(pairs, key=lambda pair: sign * pair[1][metrics[0]].value()):
        parts: tuple[Mapping[str, Score], ...] = (
            scores_of(other),
            scores_of(first),
            compare(other, first),
        )
        keys = ("metrics", "baseline", "difference")
        entry = {
            key: {metric: score.to_json() for metric, score in part.items()}
            for key, part in zip(keys, parts, strict=True)
        }
        entries[name] = {"n": len(rows), **entry}
    return entries


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]
