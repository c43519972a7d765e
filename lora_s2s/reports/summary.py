"""A manifest's contents as short texts for tables, reports and model cards.

Manifests can be untrusted, so values of any type are accepted: numbers are formatted, other values
shown with visible control characters, missing ones as a dash. Callers escape for HTML or Markdown.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from lora_s2s.console import plain
from lora_s2s.files import mapping

NOTHING = "–"
_DEEPEST, _LARGEST = 8, 1e300
# Caption, heads, rows.
Table = tuple[str, list[str], list[list[str]]]
_SECTIONS = "base data input averaged counts training device created versions".split()


@dataclass(frozen=True)
class ScoreMark:
    """A score and the ends of its interval as shares of 100; ``style`` is a system's class."""

    style: str
    at: float
    low: float
    high: float


@dataclass(frozen=True)
class ScoreLine:
    """One metric of one evaluation; scores are texts such as ``86.10 [84.02, 88.17]``.

    Attributes:
        label: the metric's name, with its direction if lower is better.
        marks: the scores on a line from 0 to 100, the base's first; none if lower is better.
    """

    evaluation: str
    n: str
    metric: str
    label: str
    baseline: str
    adapter: str
    difference: str
    p_value: str
    signature: str
    marks: tuple[ScoreMark, ...]


def score_lines(scores: object) -> list[ScoreLine]:
    """A manifest's ``scores`` (objects of ``eval --json`` by evaluation name) as table lines."""
    return [
        line
        for name, entry in mapping(scores).items()
        for line in _lines(plain(str(name)), mapping(entry))
    ]


def _lines(evaluation: str, entry: Mapping[str, object]) -> Iterator[ScoreLine]:
    baselines, differences = mapping(entry.get("baseline")), mapping(entry.get("difference"))
    for name, value in mapping(entry.get("metrics")).items():
        score, baseline = mapping(value), mapping(baselines.get(name))
        difference = mapping(differences.get(name))
        yield ScoreLine(
            evaluation=evaluation,
            n=number(entry.get("n")),
            metric=plain(str(name)),
            label=metric_label(plain(str(name)), score),
            baseline=with_interval(baseline),
            adapter=with_interval(score),
            difference=with_interval(difference, signed=True),
            p_value=p_text(difference.get("p_value")),
            signature=shown(score.get("signature")),
            marks=tuple(_marks(baseline, score)),
        )


def signatures(lines: Iterable[ScoreLine]) -> list[tuple[str, str]]:
    """The distinct (metric, signature) pairs of the lines."""
    return list(dict.fromkeys((line.metric, line.signature) for line in lines))


def facts(
    manifest: Mapping[str, object], sections: Sequence[str] = _SECTIONS
) -> list[tuple[str, str]]:
    """(name, value) pairs of a manifest's sections, in their order."""
    return [pair for section in sections for pair in flat(section, manifest.get(section))]


def recorded(manifest: Mapping[str, object], section: str, key: str) -> object:
    """A value in a section of a manifest; None if there is none."""
    return mapping(manifest.get(section)).get(key)


def flat(name: str, value: object, depth: int = 0) -> Iterator[tuple[str, str]]:
    """Yields (name, value) pairs of a value's non-empty leaves, nested names joined by spaces."""
    if isinstance(value, Mapping):
        if depth == _DEEPEST:
            yield plain(name.strip()), "…"
            return
        for key, inner in value.items():
            yield from flat(f"{name} {key}".strip(), inner, depth + 1)
    elif name == "input carried" and isinstance(value, list | tuple):
        # Mostly spaces, breaks and marks, so quotes separate them; the escape's entry is empty.
        if any(value):
            yield name, " ".join(plain(repr(item)) for item in value if item)
    elif isinstance(value, list | tuple):
        if value:
            yield plain(name.replace("_", " ")), ", ".join(map(_fact, value))
    elif value is not None:
        yield plain(name.replace("_", " ")), _fact(value)


def base_name(manifest: Mapping[str, object]) -> str:
    """The name of the base in a manifest; a dash if there is none."""
    return without_folders(shown(mapping(manifest.get("base")).get("name")))


def _fact(value: object) -> str:
    return number(value) if is_number(value) else without_folders(shown(value))


def without_folders(text: str) -> str:
    """A name; of an absolute or relative path its last part."""
    # Local paths are meaningless elsewhere, and private.
    if not re.match(r"/|\\\\|(~|\.{1,2}|[A-Za-z]:)[\\/]", text):
        return text
    return re.split(r"[\\/]", text.rstrip("\\/"))[-1]


def number(value: object) -> str:
    """A whole number with thousands separators or a float with four digits; a dash otherwise."""
    if not is_number(value):
        return NOTHING
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def shown(value: object) -> str:
    """Any value as one line of plain text; a dash for None."""
    # Of deep lists and objects, reprlib shows the beginning.
    return (
        NOTHING
        if value is None
        else plain(reprlib.repr(value) if isinstance(value, list | dict) else str(value))
    )


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a number that can be formatted."""
    # Larger whole numbers cannot be formatted as floats.
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and -_LARGEST < value < _LARGEST
    )


def score_table(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of a table of scores, a row per metric, with the base if it was scored."""
    baseline, difference = result["baseline"], result["difference"]
    if not (baseline and difference):
        scores = result["metrics"].items()
        rows = [[metric_label(name, score), with_interval(score)] for name, score in scores]
        return ["metric", "score [95 %]"], rows
    rows = []
    for name, score in result["metrics"].items():
        change = difference[name]
        values = [f"{entry['value']:.2f}" for entry in (baseline[name], score)]
        p_value = p_text(change["p_value"])
        label = metric_label(name, score)
        rows.append([label, *values, with_interval(change, signed=True), p_value])
    return ["metric", "base", "adapter", "difference [95 %]", "p"], rows


@dataclass(frozen=True)
class ComparisonLine:
    """One metric of a model and of another one it was compared with, as texts.

    Attributes:
        label: the metric's name, with its direction if lower is better.
        detectable: the smallest true difference that as many sources can show.
    """

    label: str
    other: str
    model: str
    difference: str
    p_value: str
    bootstrap_p_value: str
    detectable: str

    def cells(self) -> list[str]:
        """The line as cells of :data:`COMPARISON_HEADS`."""
        return list(vars(self).values())

    def few_cells(self) -> list[str]:
        """The line as cells of :data:`FEW_HEADS`, which 80 columns hold: both scores without their
        intervals.
        """
        scores = map(without_interval, (self.other, self.model))
        return [self.label, *scores, self.difference, self.p_value, self.bootstrap_p_value]


COMPARISON_HEADS = (
    "metric",
    "other",
    "model",
    "difference [95 %]",
    "p",
    "p (bootstrap)",
    "detectable",
)
FEW_HEADS = ("metric", "other", "model", "difference [95 %]", "p", "p (boot.)")


def comparison_lines(entry: Mapping[str, object]) -> list[ComparisonLine]:
    """The comparison ``against`` of one evaluation (an object of ``eval --json``), by metric."""
    against, scores = mapping(entry.get("against")), mapping(entry.get("metrics"))
    others, differences = mapping(against.get("metrics")), mapping(against.get("difference"))
    lines = []
    for name, value in differences.items():
        difference, least = mapping(value), mapping(value).get("detectable")
        lines.append(
            ComparisonLine(
                label=metric_label(plain(str(name)), difference),
                other=with_interval(mapping(others.get(name))),
                model=with_interval(mapping(scores.get(name))),
                difference=with_interval(difference, signed=True),
                p_value=p_text(difference.get("p_value")),
                bootstrap_p_value=p_text(difference.get("bootstrap_p_value")),
                detectable=f"{least:.2f}" if isinstance(least, float) else NOTHING,
            )
        )
    return lines


def other_name(entry: Mapping[str, object]) -> str:
    """The name of what one evaluation was compared with; a dash if there is none."""
    return shown(mapping(entry.get("against")).get("name"))


def metric_label(name: str, score: Mapping[str, object]) -> str:
    """A metric's name, with what its direction is if higher is not better."""
    if score.get("descriptive") is True:
        return f"{name} (descriptive)"
    return f"{name} (lower is better)" if score.get("lower_is_better") is True else name


def with_interval(entry: Mapping[str, object], *, signed: bool = False, digits: int = 2) -> str:
    """A score as ``86.10 [84.02, 88.17]``; a dash without a number."""
    value, ends = entry.get("value"), interval_of(entry)
    if not is_number(value):
        return NOTHING
    shape = f"{'+' if signed else ''}.{digits}f"
    text = f"{value:{shape}}"
    return f"{text} [{ends[0]:{shape}}, {ends[1]:{shape}}]" if ends else text


def without_interval(score: str) -> str:
    """A score as text, without its interval."""
    return score.split(" ")[0]


def p_text(value: object) -> str:
    """A p-value with three digits, or ``<0.001``."""
    if not is_number(value):
        return NOTHING
    return f"{value:.3f}" if value >= 0.001 else "<0.001"


def _marks(*scores: Mapping[str, object]) -> Iterator[ScoreMark]:
    if any(score.get("lower_is_better") or score.get("descriptive") for score in scores):
        return  # what lies further right would look better
    for place, score in enumerate(scores, start=1):
        value, ends = score.get("value"), interval_of(score)
        if is_number(value):
            at, low, high = (_share(end) for end in (value, *(ends or (value, value))))
            yield ScoreMark(f"system-{place}", at, low, high)


def interval_of(entry: Mapping[str, object]) -> tuple[float, float] | None:
    """The ends of a score's interval where both are numbers."""
    interval = entry.get("interval")
    if not isinstance(interval, list | tuple) or len(interval) != 2:
        return None
    low, high = interval
    return (float(low), float(high)) if is_number(low) and is_number(high) else None


def _share(value: float) -> float:
    return min(1.0, max(0.0, value / 100.0))


@dataclass(frozen=True)
class LabelLine:
    """One label of one evaluation; cells are texts for a table."""

    evaluation: str
    label: str
    cells: tuple[str, ...]


def label_lines(scores: object, most: int) -> list[LabelLine]:
    """The ``most`` frequent labels of each evaluation in a manifest's ``scores``, as lines."""
    lines = []
    for name, entry in mapping(scores).items():
        rows = mapping(mapping(entry).get("labels")).get("table")
        for row in rows[:most] if isinstance(rows, list) else []:
            lines.append(
                LabelLine(
                    plain(str(name)), shown(mapping(row).get("label")), tuple(label_cells(row))
                )
            )
    return lines


def label_cells(row: object) -> list[str]:
    """A label's counts, precision, recall and F1 as texts; dashes for missing values."""
    values = mapping(row)
    shares = (values.get(key) for key in ("precision", "recall", "f1"))
    counts = [number(values.get(key)) for key in ("references", "answers")]
    return [*counts, *(f"{value:.1f}" if is_number(value) else NOTHING for value in shares)]


def label_table(labels: Mapping[str, Any], most: int) -> Table:
    """The most frequent labels of one evaluation."""
    rows = labels["table"]
    caption = f"Labels ({most:,} of {len(rows):,})" if most < len(rows) else "Labels"
    heads = ["label", "sources", "answers", "precision", "recall", "F1"]
    return caption, heads, [[shown(row["label"]), *label_cells(row)] for row in rows[:most]]


def probabilities_line(scored: Mapping[str, Any]) -> str:
    """How good the probabilities of labels are, in a line."""
    ece, plain_ece = scored["ece"], scored["uncalibrated"]["ece"]
    auroc = "" if scored["auroc"] is None else f", AUROC {scored['auroc']:.2f}"
    line = (
        f"probabilities of {len(scored['labels']):,} labels on {scored['n']:,} sources: the most "
        f"likely is right for {scored['accuracy']:.2f} %{auroc}. On average, a "
        f"probability is {ece:.2f} points off how often it comes true (calibration error"
    )
    chance = f"perfect ones are about {scored['ece_by_chance']:.2f} off on so many sources)"
    if scored["temperature"] is None:
        return f"{line}, not calibrated; {chance}"
    return f"{line}; {plain_ece:.2f} before temperature {scored['temperature']:.3g}; {chance}"


def confusion_lines(entry: Mapping[str, object], most: int) -> list[tuple[str, str, str]]:
    """The most frequent wrong answers of an evaluation of labels: label, answer, sources."""
    entries = mapping(entry.get("labels")).get("confusion")
    pairs = [mapping(one) for one in entries] if isinstance(entries, list) else []
    wrong = [one for one in pairs if one.get("label") != one.get("answer")]
    return [
        (shown(one.get("label")), shown(one.get("answer")), number(one.get("count")))
        for one in wrong[:most]
    ]


def probability_facts(entry: Mapping[str, object]) -> list[tuple[str, str]]:
    """How good the probabilities of an evaluation's labels are, as names and values."""
    scored = mapping(mapping(entry.get("labels")).get("probabilities"))
    return list(flat("", {key: value for key, value in scored.items() if key != "labels"}))


def note_lines(scores: object) -> list[str]:
    """The notes in a manifest's ``scores``, each with the name of its evaluation."""
    lines = []
    for name, entry in mapping(scores).items():
        notes = mapping(entry).get("notes")
        if isinstance(notes, list):
            lines += [f"{plain(str(name))}: {shown(note)}" for note in notes]
    return lines
