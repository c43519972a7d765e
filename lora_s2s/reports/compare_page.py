"""The page that compares adapters: which answers better, where, and how they were made."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from lora_s2s.reports.charts import SYSTEMS, Chart
from lora_s2s.reports.described import Described, describe
from lora_s2s.reports.render import render
from lora_s2s.reports.samples import Row
from lora_s2s.reports.summary import score_lines, signatures
from lora_s2s.reports.verdict import Verdict, verdict


@dataclass(frozen=True)
class Compared:
    """Answers of several adapters to the same sources of one evaluation.

    Attributes:
        rows: by place; an adapter's answer is under its name's place as text, ``"0"`` the first's.
        scores: for each adapter after the first, an object as of ``eval --json`` in which the first
            is the baseline; the best first.
        labels: those that the references are, if they are labels.
    """

    evaluation: str
    total: int
    rows: Mapping[int, Row]
    scores: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    labels: Collection[str] = ()


def render_comparison(
    names: Sequence[str],
    differences: Sequence[Sequence[str]],
    *,
    compared: Compared | None = None,
    curves: Sequence[Chart] = (),
) -> str:
    """The page's HTML.

    Args:
        names: the adapters; the others are compared with the first.
        differences: what differs, and its value in each adapter.
        compared: None where they share no scored sources.
    """
    first = names[0]
    entries = compared.scores if compared else {}
    lines = {name: score_lines({name: entry}) for name, entry in entries.items()}
    return render(
        "compare.html",
        title=f"Adapters compared: {', '.join(names)}",
        names=list(names),
        verdict=_verdict(first, compared),
        scores=[
            (_caption(first, name, compared), (first, name), _styles(names, name), held)
            for name, held in lines.items()
        ],
        signatures=signatures(line for held in lines.values() for line in held),
        part=_described(names, compared),
        curves=curves,
        differences=differences,
    )


def _verdict(first: str, compared: Compared | None) -> Verdict:
    """That of the best adapter, with those of the others."""
    if compared is None or not compared.scores:
        return Verdict(None, "Not scored on the same sources")
    verdicts = {
        name: verdict(compared.evaluation, entry, other=first)
        for name, entry in compared.scores.items()
    }
    (best, judged), *others = verdicts.items()
    rest = tuple(f"{_about(name, one)}." for name, one in others)
    return Verdict(judged.judgement, _about(best, judged), (*judged.details, *rest))


def _about(name: str, judged: Verdict) -> str:
    return f"{name}: {judged.line[:1].lower()}{judged.line[1:]}"


def _caption(first: str, name: str, compared: Compared | None) -> str:
    about = f": {compared.evaluation}, {compared.total:,} sources" if compared else ""
    return f"{name} against {first}{about}"


def _styles(names: Sequence[str], name: str) -> tuple[str, str]:
    return SYSTEMS[0], SYSTEMS[min(list(names).index(name), len(SYSTEMS) - 1)]


def _described(names: Sequence[str], compared: Compared | None) -> Described:
    if compared is None:
        return Described()
    systems = {str(place): name for place, name in enumerate(names)}
    file = f"the predictions.jsonl of {compared.evaluation}"
    return describe(compared.rows, systems, total=compared.total, file=file, known=compared.labels)
