"""The text pair made of a record, or the reason why it gives none."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NamedTuple


class Unusable(ValueError):
    """A record that gives no example; the message is the reason, its detail after ``": "``."""


class NotForThis(Unusable):
    """A valid record that gives no example here, such as a unit of another language pair: no fault
    of the data.
    """


def checked(text: str, role: str) -> str:
    """Returns a text as it is; raises Unusable where it is blank, holds a NUL, or is no Unicode (a
    lone surrogate).
    """
    if not text.strip():
        raise Unusable(f"empty {role}")
    if "\0" in text:
        raise Unusable(f"NUL character in {role}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Unusable(f"{role} is not valid Unicode") from error
    return text


class Turn(NamedTuple):
    """One turn of a dialogue; the role is user, assistant, system or tool."""

    role: str
    text: str


@dataclass(slots=True)
class Example:
    """One pair of raw texts. Not frozen: it is made for every row, and frozen ones take three times
    as long to make.

    Attributes:
        source: what the encoder reads, rendered.
        target: what the decoder is to write, verbatim.
        where: ``file:line`` of the record's start.
        group: examples of one group never stand on both sides of a split; None means the source
            itself.
        turns: role and text of everything before the reply, in a dialogue.
        template: what rendered ``turns``; see :func:`lora_s2s.examples.conversations.fit_turns`.
        weight: how often training is to take the rows of its file.
        split: the row's split by a column of the table (``split``, ``fold``, …) or by its JSON
            document: ``train``, ``validation`` or ``test``; empty without either.
        rest: a hash of the row's unused columns, equal within one process only; rows that differ in
            it are no duplicates of each other. 0 where every column is used.
    """

    source: str
    target: str
    where: str
    group: str | None = None
    turns: tuple[tuple[str, str], ...] = ()
    template: str | None = None
    weight: float = 1.0
    split: str = ""
    rest: int = 0

    @property
    def split_key(self) -> str:
        """The text that decides the split."""
        return self.source if self.group is None else self.group

    @property
    def is_taken(self) -> bool:
        """Whether a weight below 1 takes the row where each counts once, in validation and test: by
        a hash.
        """
        if self.weight >= 1:
            return True
        digest = hashlib.blake2b(f"{self.source}\0{self.target}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") < self.weight * 2**64
