"""The text pair of a record, or the reason why there is none."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

from lora_s2s.readers.json_rows import json_text


class Unusable(ValueError):
    """A record without an example; the message is the reason, with details after ``": "``."""


class NotForThis(Unusable):
    """A valid record that is skipped on purpose, such as one in another language pair."""


def checked(text: str, role: str) -> str:
    """Returns the text; raises Unusable if it is blank, has a NUL or a lone surrogate."""
    if not text.strip():
        raise Unusable(f"empty {role}")
    if "\0" in text:
        raise Unusable(f"NUL character in {role}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Unusable(f"{role} is not valid Unicode") from error
    return text


def as_json(value: object, role: str) -> str:
    """An object of a row as text: JSON, keys in the row's order, numbers as written.

        {"team": "billing", "id": 3}  →  '{"team": "billing", "id": 3}'

    Raises:
        Unusable: it is nested too deeply, or JSON has no form for a value.
    """
    try:
        return json_text(value)
    except RecursionError as error:
        raise Unusable(f"{role} is nested too deeply") from error
    except ValueError as error:
        raise Unusable(f"{role} is not JSON: {error}") from error


def hash64(text: str) -> int:
    """A hash of 64 bits, the same on every machine."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


class Turn(NamedTuple):
    """One turn of a dialogue; the role is user, assistant, system or tool."""

    role: str
    text: str


@dataclass(slots=True)
class Example:
    """One pair of raw texts. Not frozen, as creating frozen objects takes three times as long.

    Attributes:
        source: the encoder's text, rendered.
        target: the decoder's text, verbatim.
        where: ``file:line`` of the record's start.
        group: examples of one group go to the same split; None: grouped by source.
        turns: role and text of each turn before the reply, in a dialogue.
        template: renders ``turns``; see :func:`lora_s2s.examples.conversations.fit_turns`.
        weight: how many times training uses the rows of the file.
        split: ``train``, ``validation`` or ``test`` if a column of the table (``split``, ``fold``,
            …) or the JSON document assigns it, else empty.
        rest: a hash of the unused columns; rows that differ in it are not duplicates. 0 if every
            column is used.
        task: the task that a column of the table names, else empty.
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
    task: str = ""

    @property
    def split_key(self) -> str:
        """The text whose hash decides the split."""
        return self.source if self.group is None else self.group

    @property
    def is_taken(self) -> bool:
        """Whether validation and test use the row: if its weight is below 1, decided by a hash."""
        if self.weight >= 1:
            return True
        digest = hashlib.blake2b(f"{self.source}\0{self.target}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") < self.weight * 2**64
