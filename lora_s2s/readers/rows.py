"""What a file's readers yield: a record, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from lora_s2s.readers.streams import UTF8

_EXCERPT = 200
# A record's fields as written: whatever JSON, a table or a database holds.
Fields: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """One record.

    Attributes:
        line: the line it starts on, from 1; the row's number in Parquet.
        fields: its fields as written.
        split: the split of a JSON document that it is in; empty where there are none.
    """

    line: int
    fields: Fields
    split: str = ""


@dataclass
class Parsing:
    """A reader's settings, and its notes about the shape of the file.

    Attributes:
        columns: names that the user gave: a first record that has one of them is a header.
        encoding: of files that are not UTF-8.
        notes: what was decided, one sentence each.
        header: the first record, where it was guessed to be a header.
    """

    columns: tuple[str, ...] = ()
    encoding: str = UTF8
    notes: list[str] = field(default_factory=list)
    header: tuple[str, ...] = ()

    def note(self, text: str) -> None:
        """Adds a sentence, once."""
        if text not in self.notes:
            self.notes.append(text)


@dataclass(frozen=True, slots=True)
class Rejected:
    """One omitted record: its place, the reason, and the start of its content."""

    file: str
    line: int
    reason: str
    text: str

    @property
    def kind(self) -> str:
        """The reason without its detail, for counting."""
        return self.reason.split(": ", 1)[0]


@dataclass(frozen=True, slots=True)
class Skipped(Rejected):
    """A valid record, or a part of one, that gives no example here: counted by its reason, not as a
    fault.
    """


Item: TypeAlias = Row | Rejected
Items: TypeAlias = Iterator[Item]


def reject(where: str, reason: str, text: str, *, fault: bool = True) -> Rejected:
    """Returns the rejection of the record at ``file:line``, with an excerpt of its text.

    Args:
        fault: False where the record is valid, and gives no example for an ordinary reason.
    """
    file, _, line = where.rpartition(":")
    return (Rejected if fault else Skipped)(file, int(line), reason, text[:_EXCERPT])
