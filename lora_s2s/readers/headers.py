"""Whether a table's first record is a header: names of columns look unlike the rows below.

kat     k a t        no header: the second column has three letters with spaces in every row
word    phonemes     a header: nothing in it is like a row
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from lora_s2s.readers.names import KNOWN, language_of, normalised

_NUMBER = re.compile(r"[-+]?[0-9][0-9.,]*(e[-+]?[0-9]+)?", re.IGNORECASE)
_SENTENCE_END = (".", "!", "?", "…", "。", "！", "？", "؟", "।")
_LONG_WORDS, _LONG = 6, 60
_ROWS_FOR_LABELS = 4
_PAIR = ("source", "target")


def names_without_header(width: int) -> list[str]:
    """Returns the names of a headerless table's columns: source and target, or column1, column2,
    …
    """
    return (
        list(_PAIR)
        if width == len(_PAIR)
        else [f"column{number}" for number in range(1, width + 1)]
    )


def are_known(names: Sequence[str]) -> bool:
    """Whether one of the names is a usual column name, or all are languages."""
    names = [normalised(name) for name in names]
    return any(name in KNOWN for name in names) or all(map(language_of, names))


def is_header(first: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first record names columns; True unless something speaks against it.

    Args:
        first: the first record's cells.
        rows: some records that follow, those of as many cells.
    """
    names = [normalised(cell) for cell in first]
    if are_known(names) or not rows:
        return True
    if (
        any("_" in name and " " not in name for name in names)
        or _counts(names)
        or list(first) in map(list, rows)
    ):
        return True  # also where tables were joined with their headers
    return not any(_is_data(cell, [row[index] for row in rows]) for index, cell in enumerate(first))


def _counts(names: Sequence[str]) -> bool:
    """True for ``0,1,2``, the header that pandas writes for columns without names."""
    numbers = [name for name in names if name]
    return numbers in (
        [str(n) for n in range(len(numbers))],
        [str(n) for n in range(1, len(numbers) + 1)],
    )


def _is_data(cell: str, column: Sequence[str]) -> bool:
    """Whether a first cell looks like the cells below it rather than like a name."""
    cell = cell.strip()
    if not cell:
        return False
    if _NUMBER.fullmatch(cell):
        return all(_NUMBER.fullmatch(below.strip()) or not below.strip() for below in column)
    if cell.endswith(_SENTENCE_END) and any(
        text.strip().endswith(_SENTENCE_END) for text in column
    ):
        return True
    words, below = len(cell.split()), [len(text.split()) for text in column]
    if (words >= _LONG_WORDS or len(cell) > _LONG) and max(below) > 2:
        return True
    if (
        words >= 3
        and min(below) >= 2
        and min(below) - 1 <= words <= max(below) + 1
        and max(below) - min(below) <= 4
    ):
        return True
    # A label repeats in its column, a name does not.
    again = sum(text.strip() == cell for text in column)
    return again > 0 and len(column) >= _ROWS_FOR_LABELS and 2 * len(set(column)) <= len(column)
