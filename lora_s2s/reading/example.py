"""What readers yield: a record, the text pair made of it, or the reason why it gives none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_EXCERPT = 200


class Unusable(ValueError):
    """A record that gives no example; the message is the reason, its detail after ``": "``."""


def checked(text: str, role: str) -> str:
    """Returns a text as it is; raises Unusable where it is blank, or no Unicode (a lone surrogate from JSON)."""
    if not text.strip():
        raise Unusable(f"empty {role}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Unusable(f"{role} is not valid Unicode") from error
    return text


@dataclass(frozen=True, slots=True)
class Row:
    """One record: the line it starts on (1-based; the row's number in Parquet) and its fields as written."""

    line: int
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Example:
    """One pair of raw texts.

    Attributes:
        source: what the encoder reads, rendered.
        target: what the decoder is to write, verbatim.
        where: ``file:line`` of the record's start.
        group: examples of one group never stand on both sides of a split; None means the source itself.
        cut_left: a source that is too long loses its beginning (a dialogue), whatever the setting.
    """

    source: str
    target: str
    where: str
    group: str | None = None
    cut_left: bool = False

    @property
    def split_key(self) -> str:
        """The text that decides the split."""
        return self.source if self.group is None else self.group


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
