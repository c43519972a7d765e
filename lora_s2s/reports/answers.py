"""Scored sources with the answers of one or more systems, and what is wrong with each answer.

Rows can be untrusted: values of any type are shown as text.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from lora_s2s.reports.marks import Comparison, compare_words, words_of
from lora_s2s.reports.samples import Row
from lora_s2s.reports.summary import shown

# What an answer can be, in the order in which it is checked.
RIGHT, EMPTY, FORM = "right", "empty", "only case, spaces or punctuation differ"
NOT_JSON, COPIED, REPEATS = "not valid JSON", "copies the source", "repeats itself"
NUMBERS, ONE_WORD = "only numbers differ", "one word differs"
CUT, LONGER = "words missing, none added", "words added, none missing"
UNLIKE, OTHER = "no word in common", "several words differ"
# Where references are labels.
LABEL, NO_LABEL = "another label", "not a label"
KINDS = (
    RIGHT,
    FORM,
    LABEL,
    NO_LABEL,
    NUMBERS,
    ONE_WORD,
    CUT,
    LONGER,
    OTHER,
    UNLIKE,
    REPEATS,
    COPIED,
    NOT_JSON,
    EMPTY,
)
# So many equal runs of words in a row are a repetition.
_TIMES, _LONGEST_RUN = 4, 8


@dataclass(frozen=True)
class Answer:
    """One system's answer, compared with the nearest reference.

    Attributes:
        agreement: the share of words in common, 0 to 1.
        kind: one of ``KINDS``.
    """

    text: str
    nearest: str
    agreement: float
    kind: str

    @property
    def right(self) -> bool:
        """Whether it equals a reference."""
        return self.kind == RIGHT


@dataclass(frozen=True)
class Example:
    """One source, its references, and an answer of each system; ``place`` counts from 1."""

    place: int
    source: str
    references: tuple[str, ...]
    answers: tuple[Answer, ...]

    @property
    def gain(self) -> float:
        """How much nearer the last system is to its reference than the first."""
        return self.answers[-1].agreement - self.answers[0].agreement


def read_examples(
    rows: Mapping[int, Row], keys: Sequence[str], labels: Collection[str] = ()
) -> list[Example]:
    """The rows of a ``predictions.jsonl`` by place as examples.

    Args:
        keys: the row's key of each system's answer, such as ``baseline``, ``prediction``.
        labels: those that the references are, if they are labels: their words do not matter.
    """
    return [_example(place, row, keys, labels) for place, row in rows.items()]


def _example(place: int, row: Row, keys: Sequence[str], labels: Collection[str]) -> Example:
    listed = row.get("references")
    references = tuple(map(_text, listed)) if isinstance(listed, list) else ()
    source = _text(row.get("source"))
    answers = (judged(_text(row.get(key)), references, source, labels) for key in keys)
    return Example(place, source, references, tuple(answers))


def _text(value: object) -> str:
    return value if isinstance(value, str) else shown(value)


def judged(
    text: str, references: Sequence[str], source: str, labels: Collection[str] = ()
) -> Answer:
    """Compares an answer with each reference, and says what is wrong with it."""
    words = words_of(text)
    candidates = [(compare_words(words, _words(other)), other) for other in references or ("",)]
    best, nearest = max(candidates, key=lambda item: item[0].agreement)
    right = _plain(text) in map(_plain, references)
    kind = RIGHT if right else _what_is_wrong(text, nearest, source, best)
    if not labels:
        return Answer(text, nearest, best.agreement, kind)
    if kind not in (RIGHT, EMPTY, FORM):
        kind = LABEL if _plain(text) in labels else NO_LABEL
    return Answer(text, nearest, float(right), kind)


@lru_cache(maxsize=4096)
def _words(reference: str) -> list[str]:
    return words_of(reference)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text.strip())


def _what_is_wrong(text: str, nearest: str, source: str, best: Comparison) -> str:
    if not text.strip():
        return EMPTY
    if _is_json(nearest) and not _is_json(text):
        return NOT_JSON
    if _form(text) == _form(nearest):
        return FORM
    if _plain(text) == _plain(source):
        return COPIED
    if _repeats(best.answer):
        return REPEATS
    return _how_words_differ(best)


def _how_words_differ(best: Comparison) -> str:
    pairs = best.pairs()
    if not pairs:
        return UNLIKE
    mine, theirs = {place for place, _ in pairs}, {row for _, row in pairs}
    added = [word for place, word in enumerate(best.answer) if place not in mine]
    missing = [word for row, word in enumerate(best.reference) if row not in theirs]
    if added and len(added) == len(missing) and all(map(_has_digit, [*added, *missing])):
        return NUMBERS
    if len(added) <= 1 and len(missing) <= 1:
        return ONE_WORD
    if not added:
        return CUT
    return LONGER if not missing else OTHER


def _has_digit(word: str) -> bool:
    return any(char.isdigit() for char in word)


def _form(text: str) -> str:
    letters = "".join(char for char in text if unicodedata.category(char)[0] not in "CPZ")
    return unicodedata.normalize("NFC", letters).casefold()


def _is_json(text: str) -> bool:
    if not text.lstrip().startswith(("{", "[")):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _repeats(words: list[str]) -> bool:
    """Whether a run of words occurs several times in a row."""
    for size in range(1, min(_LONGEST_RUN, len(words) // _TIMES) + 1):
        equal = 0
        for one, other in zip(words, words[size:], strict=False):
            equal = equal + 1 if one == other else 0
            if equal == size * (_TIMES - 1):
                return True
    return False
