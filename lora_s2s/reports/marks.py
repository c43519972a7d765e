"""Words that an answer shares with a reference, and those that it lacks or adds.

The page's script (``templates/examples.js``) marks words by the same rules with the same pattern.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Literal

Kind = Literal["same", "added", "missing"]

# Characters of scripts without spaces are words; elsewhere runs of letters and digits are, and each
# punctuation character. Literal characters, so that Python and JavaScript read it alike.
_UNSPACED = (
    "\u0e01-\u0ed9\u1000-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3005-\u30ff\u3400-\u9fff\uf900-\ufaff"
)
_PUNCTUATION = "!-/:-@\\[-`{-~¡-¿‐-⁞、-〟！-／：-＠"
WORD_PATTERN = f"[{_UNSPACED}]|[{_PUNCTUATION}]|[^\\s{_UNSPACED}{_PUNCTUATION}]+"
# Of longer texts, only the first words are compared: the cost is their product.
MOST_WORDS = 2000
_WORD = re.compile(WORD_PATTERN)


@dataclass(frozen=True)
class Piece:
    """A run of words of one kind, and the space before it."""

    kind: Kind
    space: str
    text: str


@dataclass(frozen=True)
class Comparison:
    """An answer's words beside a reference's, in the longest common order.

    Attributes:
        rows: the bits of each reference word's row of the table of common lengths; a zero bit is
            an answer's word at which the length grows.
    """

    answer: list[str]
    reference: list[str]
    rows: list[int]

    @property
    def common(self) -> int:
        """Words in common, in order."""
        return len(self.answer) - self.rows[-1].bit_count() if self.rows else 0

    @property
    def agreement(self) -> float:
        """The share of the words of both that are in common, 0 to 1."""
        words = len(self.answer) + len(self.reference)
        return 2 * self.common / words if words else 1.0

    def pairs(self) -> list[tuple[int, int]]:
        """The places of the common words in the answer and the reference."""
        pairs, place, row = list[tuple[int, int]](), len(self.answer), len(self.reference)
        while place and row:
            grows = 1 << (place - 1)
            if self.rows[row - 1] & grows:
                place -= 1
            elif row > 1 and not self.rows[row - 2] & grows:
                row -= 1
            else:
                row, place = row - 1, place - 1
                pairs.append((place, row))
        return pairs[::-1]


def words_of(text: str) -> list[str]:
    """The words that are compared."""
    return _WORD.findall(text)[:MOST_WORDS]


def compare_words(answer: list[str], reference: list[str]) -> Comparison:
    """Finds the longest common order of words, a bit for each word of the answer at once
    (Hyyrö 2004).
    """
    places: dict[str, int] = {}
    for place, word in enumerate(answer):
        places[word] = places.get(word, 0) | 1 << place
    every = (1 << len(answer)) - 1
    row, rows = every, []
    for word in reference:
        used = row & places.get(word, 0)
        row = ((row + used) | (row - used)) & every
        rows.append(row)
    return Comparison(answer, reference, rows)


def marked(answer: str, reference: str) -> list[Piece]:
    """An answer in runs of equal, added and missing words; the last are the reference's."""
    mine, theirs = _spaced(answer), _spaced(reference)
    comparison = compare_words([word for _, word in mine], [word for _, word in theirs])
    if not comparison.common:
        return _runs(("added", *unit) for unit in mine)
    units, place, row = list[tuple[Kind, str, str]](), 0, 0
    for next_place, next_row in [*comparison.pairs(), (len(mine), len(theirs))]:
        units += [("missing", *unit) for unit in theirs[row:next_row]]
        units += [("added", *unit) for unit in mine[place:next_place]]
        units += [("same", *unit) for unit in mine[next_place : next_place + 1]]
        place, row = next_place + 1, next_row + 1
    return _runs(units)


def _spaced(text: str) -> list[tuple[str, str]]:
    """The space before each word, and the word."""
    units, end = [], 0
    for match in islice(_WORD.finditer(text), MOST_WORDS):
        units.append((text[end : match.start()], match.group()))
        end = match.end()
    return units


def _runs(units: Iterable[tuple[Kind, str, str]]) -> list[Piece]:
    runs = []
    for kind, group in groupby(units, key=lambda unit: unit[0]):
        (_, space, first), *others = group
        runs.append(Piece(kind, space, first + "".join(gap + word for _, gap, word in others)))
    return runs
