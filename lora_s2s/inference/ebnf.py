"""A grammar as text: what xgrammar prints of one, rules of alternatives of sequences.

>>> rules = read('root ::= (("a" x) | ([b-d]{2, -1}))\\nx ::= ("" | ([0-9é] x))')
>>> written(rules)
'root ::= (("a" x) | [b-d]{2, -1})\\nx ::= ("" | ([0-9\\\\U000000e9] x))'
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from lora_s2s.errors import UsageError

ROOT = "root"
_LAST, _HALVES = 0x10FFFF, (0xD800, 0xDFFF)
_TOKEN = re.compile(
    r"""\s*(?:
        (?P<string>"(?:[^"\\]|\\.)*") | (?P<set>\[(?:[^\]\\]|\\.)*\])
        | (?P<times>\{\s*\d+\s*(?:,\s*-?\d*\s*)?\}|[*+?]) | (?P<name>[A-Za-z_][\w.-]*)
        | (?P<ahead>\(=) | (?P<mark>[()|])
    )""",
    flags=re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_NAMED = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v", "b": "\b", "0": "\0", "a": "\a"}
_PATTERN = re.compile(r'Regex\("((?:[^"\\]|\\.)*)", json_string=true\)\s*')


def _others(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Returns what is in none of the ranges, as ascending ranges."""
    others, begin = [], 0
    for low, high in sorted(ranges):
        if begin < low:
            others.append((begin, low - 1))
        begin = max(begin, high + 1)
    return [*others, (begin, _LAST)] if begin <= _LAST else others


@dataclass(frozen=True)
class Characters:
    """One character of a set, as ranges; ``excluded`` turns the set around."""

    text: str
    ranges: tuple[tuple[int, int], ...]
    excluded: bool

    @property
    def spans(self) -> list[tuple[int, int]]:
        """The set as ascending ranges, without halves of characters, which UTF-8 cannot write."""
        excluded = self.ranges if self.excluded else _others(self.ranges)
        return _others([*excluded, _HALVES])

    def holds(self, character: str) -> bool:
        """Whether a character is in the set."""
        return any(low <= ord(character) <= high for low, high in self.ranges) != self.excluded


@dataclass(frozen=True)
class Literal:
    """Characters one after the other; none of them for the empty text."""

    text: str
    parts: tuple[Characters, ...]


@dataclass(frozen=True)
class Name:
    """Another rule."""

    name: str


@dataclass(frozen=True)
class Repeat:
    """A part, from ``least`` to ``most`` times; -1 is without limit."""

    part: Part
    least: int
    most: int

    @property
    def times(self) -> str:
        """Returns it as it is written."""
        return "*" if (self.least, self.most) == (0, -1) else f"{{{self.least}, {self.most}}}"


@dataclass(frozen=True)
class Choice:
    """Alternatives, each a sequence of parts."""

    sequences: tuple[tuple[Part, ...], ...]


Part = Characters | Literal | Name | Repeat | Choice


def read(
    text: str, of_pattern: Callable[[str], Mapping[str, Choice]] = lambda _: {}
) -> dict[str, Choice]:
    """Returns the rules of a printed grammar.

    Args:
        of_pattern: returns the rules of a regular expression in it.

    Raises:
        UsageError: it uses what is not known here.
    """
    rules: dict[str, Choice] = {}
    for line in text.splitlines():
        name, separator, body = line.partition(" ::= ")
        if match := _PATTERN.fullmatch(body):
            pattern = "".join(chr(point) for point, _ in _points(match[1]))
            inner = of_pattern(pattern).items()
            rules |= {f"{name}.{own}": _renamed(choice, name) for own, choice in inner}
            rules[name] = Choice(((Name(f"{name}.{ROOT}"),),))
        elif separator:
            rules[name.strip()] = _Reader(body).choice()
    return rules


def _renamed(part: Choice, within: str) -> Choice:
    """Returns a choice whose rules are called ``WITHIN.NAME``."""

    def renamed(part: Part) -> Part:
        if isinstance(part, Name):
            return Name(f"{within}.{part.name}")
        if isinstance(part, Repeat):
            return Repeat(renamed(part.part), part.least, part.most)
        return _renamed(part, within) if isinstance(part, Choice) else part

    return Choice(tuple(tuple(map(renamed, sequence)) for sequence in part.sequences))


class _Reader:
    """Reads one rule's body."""

    def __init__(self, text: str) -> None:
        self._tokens = [*_tokens(text)]
        self._place = 0

    def choice(self) -> Choice:
        sequences: list[tuple[Part, ...]] = []
        parts: list[Part] = []
        while (token := self._next()) not in (("", ""), ("mark", ")")):
            kind, text = token
            if kind == "ahead":  # a hint of xgrammar's for itself
                self.choice()
            elif token == ("mark", "|"):
                sequences.append(tuple(parts))
                parts = []
            elif kind == "times":
                parts.append(_repeated(parts.pop(), text))
            else:
                parts.append(self.choice() if kind == "mark" else _part(kind, text))
        return Choice((*sequences, tuple(parts)))

    def _next(self) -> tuple[str, str]:
        self._place += 1
        return self._tokens[self._place - 1] if self._place <= len(self._tokens) else ("", "")


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    place, text = 0, text.rstrip()
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None or match.lastgroup is None:
            raise UsageError(f"the grammar uses what is not supported: {text[place:][:60]}")
        yield match.lastgroup, match[match.lastgroup]
        place = match.end()


def _part(kind: str, text: str) -> Part:
    if kind == "name":
        return Name(text)
    if kind == "string":
        points = _points(text[1:-1])
        parts = (Characters(text, ((point, point),), excluded=False) for point, _ in points)
        return Literal(text, tuple(parts))
    inner = text[1:-1]
    excluded = inner.startswith("^")
    points = _points(inner[excluded:])
    ranges, place = [], 0
    while place < len(points):
        low = high = points[place][0]
        if place + 2 < len(points) and points[place + 1] == (ord("-"), False):
            high, place = points[place + 2][0], place + 2
        ranges.append((low, high))
        place += 1
    return Characters(text, tuple(ranges), excluded)


def _points(text: str) -> list[tuple[int, bool]]:
    """Returns each character's code, and whether it was escaped."""
    points, place = [], 0
    while place < len(text):
        match = _ESCAPE.match(text, place)
        if match is None:
            points.append((ord(text[place]), False))
            place += 1
            continue
        digits = match[1] or match[2] or match[3]
        points.append((int(digits, 16) if digits else ord(_NAMED.get(match[4], match[4])), True))
        place = match.end()
    return points


def _repeated(part: Part, text: str) -> Repeat:
    if text in "*+?":
        return Repeat(part, int(text == "+"), 1 if text == "?" else -1)
    least, separator, most = text.strip("{} ").partition(",")
    return Repeat(part, int(least), int(most.strip() or -1) if separator else int(least))


def character_sets(part: Part) -> Iterator[Characters]:
    """Yields the sets of characters of a part, those of literals too."""
    for inner in parts_of(part):
        if isinstance(inner, Characters):
            yield inner
        elif isinstance(inner, Literal):
            yield from inner.parts


def parts_of(part: Part) -> Iterator[Part]:
    """Yields a part and all parts in it."""
    yield part
    if isinstance(part, Repeat):
        yield from parts_of(part.part)
    elif isinstance(part, Choice):
        for sequence in part.sequences:
            for inner in sequence:
                yield from parts_of(inner)


def written(rules: Mapping[str, Choice]) -> str:
    """Returns rules as text that is read again as the same."""
    return "\n".join(f"{name} ::= {_written(choice)}" for name, choice in rules.items())


def _written(part: Part) -> str:
    if isinstance(part, Name):
        return part.name
    if isinstance(part, Repeat):
        return _written(part.part) + part.times
    if isinstance(part, Literal):
        return '"' + "".join(_code(one.ranges[0][0]) for one in part.parts) + '"'
    if isinstance(part, Characters):
        spans = (
            _code(low) if low == high else f"{_code(low)}-{_code(high)}" for low, high in part.spans
        )
        return f"[{''.join(spans)}]"
    if len(part.sequences) == 1 and len(part.sequences[0]) == 1:
        return _written(part.sequences[0][0])
    sequences = (" ".join(map(_written, sequence)) or '""' for sequence in part.sequences)
    return f"({' | '.join(sequences)})"


def _code(point: int) -> str:
    # As xgrammar prints it, \xe9 before an a is read again as \xe9a.
    return chr(point) if chr(point).isascii() and chr(point).isalnum() else f"\\U{point:08x}"
