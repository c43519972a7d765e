"""How a file is read: its format, its used and unused columns, with notes and warnings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lora_s2s.examples.columns import is_record
from lora_s2s.examples.shapes import FORMATS, Converter
from lora_s2s.examples.suggested import is_joined, may_replace
from lora_s2s.examples.template import Template
from lora_s2s.readers.names import (
    LANGUAGE_COLUMNS,
    SPLIT_COLUMNS,
    SPLIT_OF,
    is_identifier,
    is_language_code,
    normalised,
)
from lora_s2s.readers.rows import Fields

_WORDS = 2.5  # of a text on average; a person's name has two
# Unset if several files differ in it; collected from all files.
_DECIDED = ("source_column", "target_column", "template", "split_column")
_LISTED = ("notes", "warnings")
_NONE: Mapping[str, str] = {}
_OUTPUTS = ("output", "response")  # the targets of formats that have their own columns


@dataclass(frozen=True)
class UnusedColumn:
    """A column that no example is made of, measured on the first rows.

    Attributes:
        filled: fraction of the rows with a value.
        distinct: number of distinct values, as a fraction of the filled rows.
        is_text: whether most rows have a text of several words: no numbers, dates or names.
        role: ``source`` or ``target`` where its name is as usual for that as the guessed one's.
    """

    name: str
    filled: float
    distinct: float
    is_text: bool
    role: str = ""


@dataclass(frozen=True)
class Reading:
    """How a file's rows become examples, decided on its first rows.

    Attributes:
        source_column: None if a template builds the source or the format has its own columns.
        target_column: None if the format has its own columns.
        convert: makes a row's examples.
        unused: columns that no example is made of.
        split_column: the column that assigns rows to train, validation and test.
        notes: further decisions, one sentence each.
        warnings: likely problems, one sentence each.
    """

    format: str
    source_column: str | None
    convert: Converter = field(repr=False, compare=False)
    template: Template = None
    target_column: str | None = None
    unused: tuple[UnusedColumn, ...] = ()
    split_column: str | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def distinguishing(self) -> list[str]:
        """Unused columns except row numbers and identifiers."""
        return [column.name for column in self.unused if not is_identifier(column.name)]

    @property
    def used(self) -> str:
        """Source and target columns, or the format that has its own."""
        if self.format in FORMATS or self.target_column is None:
            return f"read as {self.format}"
        source = f"'{self.source_column}'" if self.template is None else "from the template"
        return f"source {source}, target '{self.target_column}'"

    def rivals(self, role: str) -> list[str]:
        """The columns that could be the source or target as well as the guessed one."""
        guessed = getattr(self, f"{role}_column") is not None
        return [column.name for column in self.unused if guessed and column.role == role]

    def with_notes(self, notes: Iterable[str]) -> Reading:
        """The reading with further notes, which come first."""
        return replace(self, notes=(*notes, *self.notes))

    def to_json(self) -> dict[str, Any]:
        """All but the converter, for the manifest."""
        kept = ("format", "source_column", "target_column", "template", "split_column")
        unused = [
            {"name": column.name, "filled": column.filled, "distinct": column.distinct}
            for column in self.unused
        ]
        lists = {"unused": unused, "notes": list(self.notes), "warnings": list(self.warnings)}
        return {**{name: getattr(self, name) for name in kept}, **lists}


def agreed(readings: Sequence[Reading]) -> Reading:
    """The common reading of several files; what differs is unset (``auto``, None).

    Unused columns, notes and warnings are collected without repetition.

    Raises:
        ValueError: no reading.
    """
    if not readings:
        raise ValueError("no file was read")
    first = readings[0]
    open_values: dict[str, Any] = {"format": "auto", **dict.fromkeys(_DECIDED)}
    for key in list(open_values):
        if all(getattr(one, key) == getattr(first, key) for one in readings):
            del open_values[key]
    unused = {column.name: column for one in reversed(readings) for column in one.unused}
    for key in _LISTED:
        texts = (text for one in readings for text in getattr(one, key))
        open_values[key] = tuple(dict.fromkeys(texts))
    return replace(first, unused=tuple(unused.values()), **open_values)


def with_other_columns(
    reading: Reading,
    rows: Sequence[Fields],
    used: Iterable[str],
    guessed: Mapping[str, str] = _NONE,
) -> Reading:
    """Adds unused columns, a split column, and notes on languages and lists, by the first rows.

    Args:
        guessed: columns whose names decided, with their roles: ``source`` or ``target``.
    """
    taken = set(used)
    names = dict.fromkeys(name for row in rows for name in row if name not in taken)
    split = next((name for name in names if _divides(name, rows)), None)
    roles = {
        name: role
        for column, role in guessed.items()
        for name in names
        if may_replace(name, column, role, rows)
    }
    unused = tuple(_measured(name, rows, roles.get(name, "")) for name in names if name != split)
    notes = list(reading.notes)
    if split is not None:
        marks = dict.fromkeys(str(row.get(split)) for row in rows)
        notes.append(f"the column '{split}' assigns rows to splits: {', '.join(marks)}")
    if reading.target_column and any(
        isinstance(row.get(reading.target_column), list) for row in rows
    ):
        notes.append(
            f"'{reading.target_column}' contains lists: each text is a separate target in training "
            "and one of several references in eval"
        )
    for name in sorted(taken.intersection((reading.target_column, *_OUTPUTS))):
        if any(is_record(row.get(name)) for row in rows):
            notes.append(f"'{name}' contains objects, written as JSON")
    warnings = (*reading.warnings, *_about_languages(names, rows))
    return replace(
        reading, unused=unused, split_column=split, notes=tuple(notes), warnings=warnings
    )


def _divides(name: str, rows: Sequence[Fields]) -> bool:
    if normalised(name) not in SPLIT_COLUMNS:
        return False
    # One usual value is enough, so that test rows are never trained on.
    return any(normalised(str(row.get(name))) in SPLIT_OF for row in rows)


def _about_languages(names: Iterable[str], rows: Sequence[Fields]) -> Iterator[str]:
    """Yields a warning if unused columns have a language code in each row."""
    by_name = {normalised(name): name for name in names}
    for pair in LANGUAGE_COLUMNS:
        columns = [by_name[name] for name in dict.fromkeys(pair) if name in by_name]
        codes = [dict.fromkeys(str(row.get(name)) for row in rows) for name in columns]
        if columns and all(all(map(is_language_code, values)) for values in codes):
            listed = "; ".join(
                f"'{name}': {', '.join(list(values)[:6])}"
                for name, values in zip(columns, codes, strict=True)
            )
            yield (
                f"columns with a language code in each row are not used ({listed}): "
                "data.source_language and data.target_language apply to all rows, so use one pair "
                "of languages per file"
            )
            return


def _measured(name: str, rows: Sequence[Fields], role: str) -> UnusedColumn:
    values = [row.get(name) for row in rows]
    filled = [value for value in values if value is not None and value not in ("", [], {})]
    return UnusedColumn(
        name,
        filled=round(len(filled) / max(1, len(values)), 4),
        distinct=round(len({repr(value) for value in filled}) / max(1, len(filled)), 4),
        is_text=is_joined(name, rows, _WORDS),
        role=role,
    )
