"""Quality of answers by length, rarity and class, kinds of errors, and examples worth reading."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from lora_s2s.reports.answers import KINDS, RIGHT, Example
from lora_s2s.reports.marks import words_of

_SEED = 12345
# Fewer sources are not described by groups and distributions.
FEWEST, _GROUPS = 20, 6
_MOST_CLASSES, _LONGEST_CLASS, _TIMES = 50, 80, 3
# Upper ends of the groups of rarity: in how many references the rarest word of one occurs.
_RARITIES = {"1 (only here)": 1, "2 to 4": 4, "5 to 19": 19, "20 to 99": 99}
_COMMON = "100 and more"
_CHOSEN, _RANDOM = 3, 5
_LONGEST_RIGHT = "right, with the longest references"


@dataclass(frozen=True)
class Quality:
    """How well a system answers a group of sources, in points; ``low`` and ``high`` are two
    standard errors from the mean agreement.
    """

    agreement: float
    low: float
    high: float
    right: float


@dataclass(frozen=True)
class Group:
    """Sources that have something in common, and the quality of each system on them."""

    name: str
    examples: int
    systems: tuple[Quality, ...]


@dataclass(frozen=True)
class Chosen:
    """Examples that are shown for a reason."""

    title: str
    reason: str
    examples: tuple[Example, ...]


def by_length(examples: Sequence[Example]) -> list[Group]:
    """Groups of about equal size by the words of the source; none for few sources."""
    lengths = {example.place: len(words_of(example.source)) for example in examples}
    ordered = sorted(lengths.values())
    if len(ordered) < FEWEST:
        return []
    cuts = sorted({ordered[len(ordered) * part // _GROUPS - 1] for part in range(1, _GROUPS + 1)})
    starts = [ordered[0], *(cut + 1 for cut in cuts[:-1])]
    spans = {
        end: f"{start:,} to {end:,}" if start < end else f"{end:,}"
        for start, end in zip(starts, cuts, strict=True)
    }

    def span(example: Example) -> str:
        return spans[next(end for end in cuts if lengths[example.place] <= end)]

    return _grouped(examples, span, spans.values())


def by_rarity(examples: Sequence[Example]) -> list[Group]:
    """Groups by how many of the references contain the rarest word of one."""
    if len(examples) < FEWEST:
        return []
    words = {one.place: set(words_of(one.references[0].casefold())) for one in examples}
    counts = Counter(word for held in words.values() for word in held)

    def rarity(example: Example) -> str:
        rarest = min((counts[word] for word in words[example.place]), default=len(examples))
        return next((name for name, most in _RARITIES.items() if rarest <= most), _COMMON)

    return _grouped(examples, rarity, [*_RARITIES, _COMMON])


def by_class(examples: Sequence[Example]) -> list[Group]:
    """A group for each reference, the most frequent first, where they are few and repeat."""
    counts = Counter(example.references[0].strip() for example in examples)
    few = len(counts) <= min(_MOST_CLASSES, len(examples) // _TIMES)
    if not few or max(map(len, counts), default=0) > _LONGEST_CLASS:
        return []
    names = [name for name, _ in counts.most_common()]
    return _grouped(examples, lambda example: example.references[0].strip(), names)


def _grouped(
    examples: Sequence[Example], key: Callable[[Example], str], names: Iterable[str]
) -> list[Group]:
    members: dict[str, list[Example]] = {name: [] for name in names}
    for example in examples:
        members[key(example)].append(example)
    groups = [Group(name, len(held), _qualities(held)) for name, held in members.items() if held]
    return groups if len(groups) > 1 else []


def _qualities(examples: Sequence[Example]) -> tuple[Quality, ...]:
    by_system = zip(*(example.answers for example in examples), strict=True)
    return tuple(
        _quality([one.agreement for one in answers], sum(one.right for one in answers))
        for answers in by_system
    )


def _quality(agreements: Sequence[float], right: int) -> Quality:
    count, mean = len(agreements), fmean(agreements)
    error = 2 * stdev(agreements) / math.sqrt(count) if count > 1 else 0.0
    low, high = max(0.0, mean - error), min(1.0, mean + error)
    return Quality(100 * mean, 100 * low, 100 * high, 100 * right / count)


def kinds_of_answers(examples: Sequence[Example]) -> list[tuple[str, tuple[int, ...]]]:
    """How many answers of each system are of each kind; kinds without any are omitted."""
    systems = zip(*(example.answers for example in examples), strict=True)
    counts = [Counter(answer.kind for answer in answers) for answers in systems]
    rows = [(kind, tuple(count[kind] for count in counts)) for kind in KINDS]
    return [row for row in rows if any(row[1])]


def choose(examples: Sequence[Example]) -> list[Chosen]:
    """Examples worth reading: the largest gains and losses, the worst and best answers, and a few
    at random; each once.
    """
    groups = []
    rest = list(examples)
    if examples and len(examples[0].answers) > 1:
        gained = sorted((one for one in rest if one.gain > 0), key=_by_gain)
        lost = sorted((one for one in rest if one.gain < 0), key=lambda one: one.gain)
        groups.append(Chosen("Most improved", "", tuple(gained[:_CHOSEN])))
        groups.append(Chosen("Most damaged", "", tuple(lost[:_CHOSEN])))
    rest = _without(rest, groups)
    worst = sorted((one for one in rest if not _last(one)), key=_agreement)
    best = sorted((one for one in rest if _last(one)), key=lambda one: -len(one.references[0]))
    groups.append(Chosen("Worst answers", "", tuple(worst[:_CHOSEN])))
    groups.append(Chosen("Best answers", _LONGEST_RIGHT, tuple(best[:_CHOSEN])))
    rest = _without(rest, groups)
    drawn = random.Random(_SEED).sample(rest, min(_RANDOM, len(rest)))
    groups.append(Chosen("At random", "", tuple(sorted(drawn, key=lambda one: one.place))))
    return [group for group in groups if group.examples]


def _without(examples: Iterable[Example], groups: Iterable[Chosen]) -> list[Example]:
    places = {one.place for group in groups for one in group.examples}
    return [one for one in examples if one.place not in places]


def _by_gain(example: Example) -> tuple[float, int]:
    # Of equal gains, that on the longest reference says most.
    return -example.gain, -len(example.references[0])


def _last(example: Example) -> bool:
    return example.answers[-1].kind == RIGHT


def _agreement(example: Example) -> float:
    return example.answers[-1].agreement
