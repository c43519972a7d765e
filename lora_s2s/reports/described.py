"""The part of a report that shows answers: examples, kinds of errors, groups, lengths."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from lora_s2s.console import counted
from lora_s2s.reports.answers import Answer, Example, read_examples
from lora_s2s.reports.breakdown import (
    FEWEST,
    Chosen,
    Group,
    by_class,
    by_length,
    by_rarity,
    choose,
    kinds_of_answers,
)
from lora_s2s.reports.browser import LONGEST_TEXT, browser, cut
from lora_s2s.reports.charts import Chart, group_chart, length_chart
from lora_s2s.reports.marks import Piece, marked, words_of
from lora_s2s.reports.samples import Row
from lora_s2s.reports.summary import Table


@dataclass(frozen=True, kw_only=True)
class Described:
    """What a page shows of the answers of one or more systems.

    Attributes:
        systems: their names, what the last is compared with first.
        summary: sentences for the beginning of the page.
        note: where the other examples are.
        data: what the page's script reads.
        labels: the references are labels: answers are right or wrong, whatever their words.
    """

    systems: list[str] = field(default_factory=list)
    summary: list[str] = field(default_factory=list)
    chosen: list[Chosen] = field(default_factory=list)
    note: str = ""
    data: dict[str, object] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    group_tables: list[Table] = field(default_factory=list)
    lengths: list[Chart] = field(default_factory=list)
    labels: bool = False

    def cut(self, text: str) -> str:
        """A text as the page shows it: the beginning of a long one."""
        return cut(text)

    def pieces(self, answer: Answer) -> list[Piece]:
        """An answer in runs of equal, added and missing words."""
        if self.labels:
            return [Piece("same", "", cut(answer.text))]
        return marked(cut(answer.text), cut(answer.nearest))


def describe(
    rows: Mapping[int, Row],
    systems: Mapping[str, str],
    *,
    total: int,
    file: str,
    known: Collection[str] = (),
) -> Described:
    """Describes answers, of which only those with a reference are judged.

    Args:
        rows: of a ``predictions.jsonl``, by place.
        systems: the name of each system by the rows' key of its answer.
        total: how many rows the file has; ``rows`` are all of them or a random part.
        file: its path in the adapter's folder.
        known: the labels that the references are, if they are labels.
    """
    names, labels = list(systems.values()), bool(known)
    examples = read_examples(rows, list(systems), known)
    judged = [one for one in examples if one.references]
    if not judged:
        return Described()
    held = browser(judged, names, labels=labels)
    lengths, rarities = by_length(judged), [] if labels else by_rarity(judged)
    groups = [("by-length", "Quality by length of the source", "words of the source", lengths)]
    rare = "references that contain the rarest word of one"
    groups.append(("by-rarity", "Quality by rarity of the reference's words", rare, rarities))
    used = [entry for entry in groups if entry[-1]]
    classes = by_class(judged)
    return Described(
        systems=names,
        summary=list(_summary(judged, names, labels=labels)),
        chosen=choose(judged),
        note=_note(held.held, total, file),
        data=held.data,
        tables=[_kinds(judged, names), *([_class_table(classes, names)] if classes else [])],
        charts=[group_chart(*entry, names) for entry in used],
        group_tables=[_group_table(title, members, names) for _, title, _, members in used],
        lengths=list(_length_charts(judged)) if len(judged) >= FEWEST else [],
        labels=labels,
    )


def _summary(examples: Sequence[Example], systems: Sequence[str], *, labels: bool) -> Iterator[str]:
    total, last = len(examples), systems[-1]
    counts = [sum(one.answers[place].right for one in examples) for place in range(len(systems))]
    parts = [f"{name} {count:,}" for name, count in zip(systems, counts, strict=True)]
    yield f"Answers equal to a reference, of {total:,}: {', '.join(reversed(parts))}."
    if len(systems) > 1:
        nearer = sum(one.gain > 0 for one in examples)
        further = sum(one.gain < 0 for one in examples)
        if labels:
            yield (
                f"{last} alone is right on {counted(nearer, 'source')}, {systems[0]} alone on "
                f"{further:,}."
            )
            return
        yield (
            f"{last} is nearer to the reference than {systems[0]} on {counted(nearer, 'source')}, "
            f"further from it on {further:,}, as near on {total - nearer - further:,}."
        )


def _note(held: int, total: int, file: str) -> str:
    which = (
        f"All {counted(held, 'scored source')} can be searched below"
        if held == total
        else f"{held:,} of {total:,} scored sources, drawn at random, can be searched below"
    )
    whole = f"{file} has every text in full, this page the first {LONGEST_TEXT:,} characters"
    return f"{which} if scripts may run; {whole}."


def _kinds(examples: Sequence[Example], systems: list[str]) -> Table:
    rows = [
        [kind, *(f"{count:,} ({100 * count / len(examples):.1f}\u00a0%)" for count in counts)]
        for kind, counts in kinds_of_answers(examples)
    ]
    return "Answers by what is wrong with them, the first that fits", ["Answer", *systems], rows


def _group_table(title: str, groups: Sequence[Group], systems: list[str]) -> Table:
    heads = ["Group", "Sources"]
    for name in systems:
        heads += [f"{name}: agreement", f"{name}: right"]
    return title, heads, [_group_row(group) for group in groups]


def _class_table(groups: Sequence[Group], systems: list[str]) -> Table:
    heads = ["Class", "Sources", *(f"{name}: right" for name in systems)]
    rows = [
        [group.name, f"{group.examples:,}", *(f"{one.right:.1f} %" for one in group.systems)]
        for group in groups
    ]
    return "Quality by class", heads, rows


def _group_row(group: Group) -> list[str]:
    row = [group.name, f"{group.examples:,}"]
    for quality in group.systems:
        row += [f"{quality.agreement:.1f}", f"{quality.right:.1f} %"]
    return row


def _length_charts(examples: Sequence[Example]) -> Iterator[Chart]:
    texts = {
        "sources": [one.source for one in examples],
        "references": [text for one in examples for text in one.references],
        "answers": [one.answers[-1].text for one in examples],
    }
    for name, held in texts.items():
        lengths = [len(words_of(text)) for text in held]
        if chart := length_chart(f"{name}-words", f"Lengths of the scored {name}", lengths):
            yield chart
