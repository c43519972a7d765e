"""How a file is read: its format, the columns that are used and not used, and what a user should know about that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lora_s2s.reading.shapes import Converter
from lora_s2s.reading.template import Template

_SAMPLE = 60


@dataclass(frozen=True)
class UnusedColumn:
    """A column that no example is made of, measured on the first rows.

    Attributes:
        filled: share of the rows that have a value in it.
        distinct: different values, as a share of those.
        is_text: whether its values are texts with letters, rather than numbers, lists or objects.
        sample: the start of its first value.
    """

    name: str
    filled: float
    distinct: float
    is_text: bool
    sample: str


@dataclass(frozen=True)
class Reading:
    """How a file's rows become examples, decided on its first rows; a shape's own template is spelled out.

    Attributes:
        source_column: None where a template builds the source, or the format has columns of its own.
        target_column: None where the format has columns of its own.
        convert: makes a row's examples.
        unused: columns that no example is made of.
        split_column: the column that divides the table into train, validation and test.
        notes: what else was decided, one sentence each.
        warnings: what probably needs a change, one sentence each.
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

    def to_json(self) -> dict[str, Any]:
        """Returns all but the converter, as a manifest stores it."""
        kept = ("format", "source_column", "target_column", "template", "split_column")
        unused = [{"name": column.name, "filled": column.filled, "distinct": column.distinct} for column in self.unused]
        lists = {"unused": unused, "notes": list(self.notes), "warnings": list(self.warnings)}
        return {**{name: getattr(self, name) for name in kept}, **lists}


def unused_columns(rows: Sequence[Mapping[str, Any]], used: Iterable[str]) -> tuple[UnusedColumn, ...]:
    """Returns the columns of ``rows`` besides those used, each with how full it is."""
    taken = set(used)
    names = dict.fromkeys(name for row in rows for name in row if name not in taken)
    return tuple(_measured(name, [row.get(name) for row in rows]) for name in names)


def _measured(name: str, values: Sequence[object]) -> UnusedColumn:
    filled = [value for value in values if value is not None and value not in ("", [], {})]
    texts = [value for value in filled if isinstance(value, str) and any(char.isalpha() for char in value)]
    shown = filled[0] if filled else ""
    return UnusedColumn(
        name,
        filled=round(len(filled) / max(1, len(values)), 4),
        distinct=round(len({repr(value) for value in filled}) / max(1, len(filled)), 4),
        is_text=2 * len(texts) > len(filled),
        sample=(shown if isinstance(shown, str) else f"({type(shown).__name__})")[:_SAMPLE],
    )
