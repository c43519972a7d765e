"""What of a grammar can be written with a set of characters, and how large it is.

>>> rules = read('root ::= (("a" x) | ("~" root))\\nx ::= ("" | ([0-9] x))')
>>> writable(rules, frozenset("a1")).text
'root ::= ("a" x)\\nx ::= ("" | ([0-9] x))'
>>> writable(rules, frozenset("1")).missing
("'a'",)
>>> size(rules), allows_empty(rules)
(6, False)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lora_s2s.errors import UsageError
from lora_s2s.inference.ebnf import (
    ROOT,
    Characters,
    Choice,
    Literal,
    Name,
    Part,
    Repeat,
    character_sets,
    parts_of,
    read,  # noqa: F401  (of the example above)
    written,
)

_MOST_NAMED = 50
CanWrite = Callable[[Characters], bool]


@dataclass(frozen=True)
class Writable:
    """What of a grammar can be written.

    Attributes:
        text: the grammar without what cannot be.
        missing: characters without which nothing can be written; empty if something can.
    """

    text: str
    missing: tuple[str, ...] = ()


def writable(rules: Mapping[str, Choice], characters: frozenset[str] | None) -> Writable:
    """Returns what of a grammar can be written.

    Args:
        characters: those that can be; None for all.

    Raises:
        UsageError: no text fits the grammar, whatever the characters.
    """
    if ROOT not in _productive(rules, _anything):
        raise UsageError(
            "evaluation.constraint allows no answer: no finite text fits it",
            hint="give every rule an alternative that ends",
        )
    can_write = _can_write(characters) if characters is not None else _anything
    productive = _productive(rules, can_write)
    if ROOT not in productive and characters is not None:
        return Writable("", _missing(rules, characters))
    kept: dict[str, Choice] = {}
    names = [ROOT]
    while names:
        name = names.pop()
        if name not in kept:
            kept[name] = _kept(rules[name], can_write, productive)
            names += (part.name for part in parts_of(kept[name]) if isinstance(part, Name))
    if not any(one for choice in kept.values() for one in character_sets(choice)):
        raise UsageError("evaluation.constraint allows the empty answer alone")
    return Writable(written(kept))


def _anything(one: Characters) -> bool:
    return bool(one.spans)


def _can_write(characters: frozenset[str]) -> CanWrite:
    known: dict[Characters, bool] = {}

    def can_write(one: Characters) -> bool:
        if one not in known:
            known[one] = any(map(one.holds, characters))
        return known[one]

    return can_write


def _missing(rules: Mapping[str, Choice], characters: frozenset[str]) -> tuple[str, ...]:
    """Returns as few characters as would do, the first of a set; else the sets."""
    asked: dict[str, None] = {}
    for choice in rules.values():
        for one in character_sets(choice):
            if one.ranges and not one.excluded:
                asked[chr(one.ranges[0][0])] = None
    needed = [one for one in asked if one not in characters][:_MOST_NAMED]
    for extra in list(needed):
        fewer = [one for one in needed if one != extra]
        if ROOT in _productive(rules, _can_write(characters | {*fewer})):
            needed = fewer
    if ROOT in _productive(rules, _can_write(characters | {*needed})):
        return tuple(map(repr, needed))
    sets = (one for choice in rules.values() for one in character_sets(choice))
    return tuple(dict.fromkeys(one.text for one in sets if not any(map(one.holds, characters))))


def _productive(rules: Mapping[str, Choice], can_write: CanWrite) -> set[str]:
    """Returns the rules that some finite text fits."""
    productive: set[str] = set()
    while True:
        more = {
            name
            for name, choice in rules.items()
            if name not in productive and _fits(choice, can_write, productive)
        }
        if not more:
            return productive
        productive |= more


def _fits(part: Part, can_write: CanWrite, productive: set[str]) -> bool:
    if isinstance(part, Characters):
        return can_write(part)
    if isinstance(part, Literal):
        return all(map(can_write, part.parts))
    if isinstance(part, Name):
        return part.name in productive
    if isinstance(part, Repeat):
        return part.least == 0 or _fits(part.part, can_write, productive)
    return any(
        all(_fits(inner, can_write, productive) for inner in sequence)
        for sequence in part.sequences
    )


def _kept(choice: Choice, can_write: CanWrite, productive: set[str]) -> Choice:
    """Returns the alternatives that can be written."""

    def cut(part: Part) -> Part:
        if isinstance(part, Choice):
            return _kept(part, can_write, productive)
        if isinstance(part, Repeat):
            if not _fits(part.part, can_write, productive):
                return Literal('""', ())
            return Repeat(cut(part.part), part.least, part.most)
        return part

    return Choice(
        tuple(
            tuple(map(cut, sequence))
            for sequence in choice.sequences
            if all(_fits(part, can_write, productive) for part in sequence)
        )
    )


def allows_empty(rules: Mapping[str, Choice]) -> bool:
    """Whether the empty text fits a grammar."""
    return ROOT in _productive(rules, lambda _: False)


def size(rules: Mapping[str, Choice]) -> int:
    """Returns the parts of a grammar, each as often as its repetitions say."""
    costs: dict[str, int] = {}

    def cost(part: Part, within: frozenset[str]) -> int:
        if isinstance(part, Repeat):
            inner = part.part
            times = max(part.least, part.most, 1)
            if isinstance(inner, Name) and times > 1:
                return times * rule(inner.name, within)
            return times * cost(inner, within)
        if isinstance(part, Choice):
            return sum(cost(inner, within) for sequence in part.sequences for inner in sequence)
        return len(part.parts) if isinstance(part, Literal) else 1

    def rule(name: str, within: frozenset[str]) -> int:
        if name in within or name not in rules:
            return 1
        if name not in costs:
            costs[name] = cost(rules[name], within | {name})
        return costs[name]

    return sum(rule(name, frozenset()) for name in rules)
