"""What a file's readers yield: a record, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_EXCERPT = 200


@dataclass(frozen=True, slots=True)
class Row:
    """One record: the line it starts on (1-based; the row's number in Parquet) and its fields as written."""

    line: int
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Rejected:
    """One record left out: where it stands, why, and the start of what it holds."""

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
    """A valid record, or a part of one, that gives no example here: counted by its reason, not as a fault."""


def reject(where: str, reason: str, text: str, *, fault: bool = True) -> Rejected:
    """Returns the rejection of the record at ``file:line``, with an excerpt of its text.

    Args:
        fault: False where the record is valid, and gives no example for an ordinary reason.
    """
    file, _, line = where.rpartition(":")
    return (Rejected if fault else Skipped)(file, int(line), reason, text[:_EXCERPT])
