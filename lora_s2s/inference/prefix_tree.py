"""The order in which candidates are scored: each beginning that several share is read once.

Beginnings are read level by level, a row for each; the tails, where rows are no longer shared, in
one pass::

    candidates of one source  card payment </s>    card lost </s>    refund </s>
    level 0  (start)                      → card, refund        1 row
    level 1  card · refund                → payment, lost, </s> 2 rows
    tails    payment · lost               → </s>, </s>          2 rows
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Candidate(NamedTuple):
    """A possible answer to one source of a group: the source's index and the answer's ids."""

    source: int
    ids: tuple[int, ...]


class Token(NamedTuple):
    """A token that a step predicts: after which row and position, and for which candidate."""

    row: int
    position: int
    token: int
    candidate: int


@dataclass(frozen=True)
class Step:
    """The rows of one forward pass, each with the tokens that it reads.

    Attributes:
        parents: the row of the step before that each row continues.
        sources: the source of each row.
        tokens: what is predicted.
    """

    parents: list[int]
    sources: list[int]
    inputs: list[tuple[int, ...]]
    tokens: list[Token]

    def parts(self, most: int) -> Iterator[Step]:
        """Yields the step in parts of at most so many rows."""
        if len(self.inputs) <= most:
            yield self
            return
        for begin in range(0, len(self.inputs), most):
            rows = slice(begin, begin + most)
            tokens = [
                token._replace(row=token.row - begin)
                for token in self.tokens
                if begin <= token.row < begin + most
            ]
            yield Step(self.parents[rows], self.sources[rows], self.inputs[rows], tokens)


def steps_of(candidates: Sequence[Candidate], *, sources: int, pass_costs: int) -> Iterator[Step]:
    """Yields the steps that predict every token of all candidates.

    The first one reads the decoder's start, a row for each source; its inputs are empty.

    Args:
        sources: how many the group has.
        pass_costs: how many rows cost as much as one more step.
    """
    lengths = [len(candidate.ids) for candidate in candidates]
    levels = [{Candidate(source, ()): source for source in range(sources)}]
    for depth in range(1, max(lengths)):
        rows = dict.fromkeys(
            Candidate(source, ids[:depth]) for source, ids in candidates if len(ids) > depth
        )
        levels.append(dict(zip(rows, range(len(rows)), strict=True)))
    count = _levels_worth_it([*map(len, levels)], lengths, pass_costs)
    for depth in range(count):
        yield _level(candidates, levels[max(0, depth - 1)], levels[depth], depth)
    if count < len(levels):
        yield _tails(candidates, levels[count - 1], count)


def _level(
    candidates: Sequence[Candidate],
    before: dict[Candidate, int],
    rows: dict[Candidate, int],
    depth: int,
) -> Step:
    return Step(
        parents=[before[Candidate(source, ids[:-1])] for source, ids in rows],
        sources=[source for source, _ in rows],
        inputs=[ids[-1:] for _, ids in rows],
        tokens=[
            Token(rows[Candidate(source, ids[:depth])], 0, ids[depth], place)
            for place, (source, ids) in enumerate(candidates)
            if len(ids) > depth
        ],
    )


def _tails(candidates: Sequence[Candidate], before: dict[Candidate, int], depth: int) -> Step:
    longer = [
        (place, *candidate)
        for place, candidate in enumerate(candidates)
        if len(candidate.ids) > depth
    ]
    return Step(
        parents=[before[Candidate(source, ids[: depth - 1])] for _, source, ids in longer],
        sources=[source for _, source, _ in longer],
        inputs=[ids[depth - 1 : -1] for _, _, ids in longer],
        tokens=[
            Token(row, position, token, place)
            for row, (place, _, ids) in enumerate(longer)
            for position, token in enumerate(ids[depth:])
        ],
    )


def _levels_worth_it(rows: Sequence[int], lengths: Sequence[int], pass_costs: int) -> int:
    """The number of levels after which the tails, padded, cost less than further levels."""
    costs, read = [], 0
    for depth, count in enumerate(rows, start=1):
        read += count + pass_costs
        tails = sum(length > depth for length in lengths)
        costs.append(read + (tails * (len(rows) - depth) + pass_costs if tails else 0))
    return costs.index(min(costs)) + 1
