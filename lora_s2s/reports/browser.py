"""The examples as data for the page's script, as many as a page of bounded size holds."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from lora_s2s.files import json_text
from lora_s2s.reports.answers import KINDS, RIGHT, Example
from lora_s2s.reports.marks import MOST_WORDS, WORD_PATTERN
from lora_s2s.reports.render import visible

_SEED = 12345
# A page stays below 5 MB.
_MOST_BYTES = 4_200_000
LONGEST_TEXT = 2000
_MOST_REFERENCES = 5


@dataclass(frozen=True)
class Browser:
    """What the script reads, and how many of the examples it holds."""

    data: dict[str, object]
    held: int


def browser(
    examples: Sequence[Example], systems: Sequence[str], *, labels: bool = False
) -> Browser:
    """The examples with cut texts; a random part of them if they are too many for one page."""
    sizes = {place: len(json_text(_row(one)).encode()) for place, one in enumerate(examples)}
    order = list(sizes)
    if sum(sizes.values()) > _MOST_BYTES:
        random.Random(_SEED).shuffle(order)
    held, left = [], _MOST_BYTES
    for place in order:
        left -= sizes[place]
        if left < 0:
            break
        held.append(place)
    data = {
        "systems": [visible(name) for name in systems],
        "kinds": KINDS,
        "labels": labels,
        "right": KINDS.index(RIGHT),
        "word": WORD_PATTERN,
        "most": MOST_WORDS,
        "rows": [_row(examples[place]) for place in sorted(held)],
    }
    return Browser(data, len(held))


def cut(text: str) -> str:
    """The beginning of a long text."""
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} …"


def _row(example: Example) -> list[object]:
    """Place, source, references, and per system: answer, percent of words in common, kind."""
    answers = [
        [visible(cut(one.text)), round(100 * one.agreement), KINDS.index(one.kind)]
        for one in example.answers
    ]
    references = [visible(cut(text)) for text in example.references[:_MOST_REFERENCES]]
    return [example.place, visible(cut(example.source)), references, answers]
