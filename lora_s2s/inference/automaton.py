"""A regular expression's grammar made deterministic: one way to read every text.

xgrammar follows all ways at once, and of ``(([a-z]*)*)*`` there are so many that a token takes
seconds. The states here are sets of places in the expression, as in the textbook's subset
construction; an expression of exponential size is refused.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from lora_s2s import limits
from lora_s2s.errors import UsageError
from lora_s2s.inference.ebnf import ROOT, Characters, Choice, Literal, Name, Part, Repeat

Range = tuple[int, int]


class _Places:
    """Places in an expression: where each leads by a character, and where without one."""

    def __init__(self, rules: Mapping[str, Choice]) -> None:
        self._rules = rules
        self.moves: list[list[tuple[int, int, int]]] = []
        self.free: list[list[int]] = []
        self._open: dict[str, tuple[int, int]] = {}
        self.first, self.last = self._new(), self._new()
        self._add(Name(ROOT), self.first, self.last)

    def _new(self) -> int:
        self.moves.append([])
        self.free.append([])
        return len(self.moves) - 1

    def _add(self, part: Part, start: int, end: int) -> None:
        """Adds the ways of a part from one place to another."""
        if isinstance(part, Characters):
            self.moves[start] += ((low, high, end) for low, high in part.spans)
        elif isinstance(part, Literal):
            self._add_all(part.parts, start, end)
        elif isinstance(part, Choice):
            for sequence in part.sequences:
                self._add_all(sequence, start, end)
        elif isinstance(part, Name):
            self._add_rule(part.name, start, end)
        else:
            self._add_repeated(part, start, end)

    def _add_all(self, parts: Sequence[Part], start: int, end: int) -> None:
        for part in parts[:-1]:
            behind = self._new()
            self._add(part, start, behind)
            start = behind
        if parts:
            self._add(parts[-1], start, end)
        else:
            self.free[start].append(end)

    def _add_rule(self, name: str, start: int, end: int) -> None:
        first, last = self._open.get(name, (start, end))
        if name in self._open:  # repeats itself at its own end
            if last != end:
                raise UsageError("evaluation.constraint is not a regular expression")
            self.free[start].append(first)
            return
        entry = self._new()
        self.free[start].append(entry)
        self._open[name] = (entry, end)
        self._add(self._rules[name], entry, end)
        del self._open[name]

    def _add_repeated(self, part: Repeat, start: int, end: int) -> None:
        for _ in range(part.least):
            behind = self._new()
            self._add(part.part, start, behind)
            start = behind
        if part.most < 0:
            again = self._new()
            self.free[start].append(again)
            self._add(part.part, again, again)
            self.free[again].append(end)
            return
        for _ in range(part.most - part.least):
            self.free[start].append(end)
            behind = self._new()
            self._add(part.part, start, behind)
            start = behind
        self.free[start].append(end)

    def reached(self, places: Iterator[int] | Sequence[int]) -> frozenset[int]:
        """Returns places and all that they lead to without a character."""
        reached: set[int] = set()
        waiting = [*places]
        while waiting:
            place = waiting.pop()
            if place not in reached:
                reached.add(place)
                waiting += self.free[place]
        return frozenset(reached)


def deterministic(rules: Mapping[str, Choice]) -> dict[str, Choice]:
    """Returns the same language with one way to read each text.

    Raises:
        UsageError: it needs too many states, or the rules are not those of a regular expression.
    """
    places = _Places(rules)
    begin = places.reached([places.first])
    names, waiting = {begin: ROOT}, [begin]
    made: dict[str, Choice] = {}
    work = 0
    while waiting:
        state = waiting.pop()
        sequences: list[tuple[Part, ...]] = [()] if places.last in state else []
        for target, ranges in _steps(places, state).items():
            if target not in names:
                names[target] = f"{ROOT}_{len(names)}"
                waiting.append(target)
            text = ""
            sequences.append((Characters(text, tuple(ranges), excluded=False), Name(names[target])))
            work += len(target)
        made[names[state]] = Choice(tuple(sequences))
        if len(names) > limits.MOST_STATES or work > limits.MOST_STATES * 200:
            raise UsageError(
                f"evaluation.constraint: the regular expression needs more than "
                f"{limits.MOST_STATES:,} states",
                hint="lower its repetition counts; longer text needs no count: [a-z]* instead of "
                "[a-z]{0,9999}",
            )
    return made


def _steps(places: _Places, state: frozenset[int]) -> dict[frozenset[int], list[Range]]:
    """Returns the states behind a state, each with the characters that lead to it."""
    moves = [move for place in state for move in places.moves[place]]
    edges = sorted({edge for low, high, _ in moves for edge in (low, high + 1)})
    targets: dict[int, list[int]] = defaultdict(list)
    position = {edge: number for number, edge in enumerate(edges)}
    for low, high, target in moves:
        for number in range(position[low], position[high + 1]):
            targets[number].append(target)
    steps: dict[frozenset[int], list[Range]] = defaultdict(list)
    closed: dict[frozenset[int], frozenset[int]] = {}
    for number in sorted(targets):
        ends = frozenset(targets[number])
        if ends not in closed:
            closed[ends] = places.reached([*ends])
        ranges = steps[closed[ends]]
        low, high = edges[number], edges[number + 1] - 1
        if ranges and ranges[-1][1] == low - 1:
            low = ranges.pop()[0]
        ranges.append((low, high))
    return steps
