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


def reject(where: str, reason: str, text: str) -> Rejected:
    """Returns the rejection of the record at ``file:line``, with an excerpt of its text."""
    file, _, line = where.rpartition(":")
    return Rejected(file, int(line), reason, text[:_EXCERPT])
