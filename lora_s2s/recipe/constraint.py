"""The key ``evaluation.constraint``: what answers may be.

>>> parse("regex: [0-9]+")
Constraint(kind='regex', text='[0-9]+', labels=())
>>> parse(["yes", "no"]).labels
('yes', 'no')
>>> parse("json: schema.json").file, parse('json: {"type": "object"}').file
('schema.json', None)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lora_s2s import limits

LABELS = "labels"
KINDS = ("regex", "json", "grammar")
Value = str | tuple[str, ...]
_FORM = re.compile(rf"\s*({'|'.join(KINDS)})\s*:\s*(.*)", re.DOTALL)
_EXPECTED = "expected labels, a list of labels, `regex: …`, `json: FILE` or `grammar: FILE`"


@dataclass(frozen=True)
class Constraint:
    """A constraint as it was written.

    Attributes:
        kind: ``labels``, ``regex``, ``json`` or ``grammar``.
        text: the expression, or the schema or grammar itself, or its file.
        labels: the only answers; empty for those of the training data.
    """

    kind: str
    text: str = ""
    labels: tuple[str, ...] = ()

    @property
    def file(self) -> str | None:
        """The file that holds the schema or grammar; None where the text itself does."""
        inline = {"json": self.text.startswith("{"), "grammar": "::=" in self.text}
        return None if inline.get(self.kind, True) else self.text

    @property
    def is_complete(self) -> bool:
        """Whether nothing else has to be read."""
        return self.file is None and (self.kind != LABELS or bool(self.labels))

    @property
    def value(self) -> Value:
        """What a recipe says for it."""
        if self.kind == LABELS:
            return self.labels or LABELS
        return f"{self.kind}: {self.text}"


def parse(value: str | Sequence[str]) -> Constraint:
    """Returns what a recipe's value means.

    Raises:
        ValueError: it means nothing, has no content, or is too large.
    """
    if not isinstance(value, str):
        return Constraint(LABELS, labels=_checked(value))
    if value.strip() == LABELS:
        return Constraint(LABELS)
    match = _FORM.fullmatch(value)
    if match is None:
        raise ValueError(_EXPECTED)
    kind, text = match.groups()
    if not text:
        raise ValueError(f"{kind} is empty: {_EXPECTED}")
    if len(text) > limits.LARGEST_CONSTRAINT:
        raise ValueError(f"should have at most {limits.LARGEST_CONSTRAINT:,} characters")
    return Constraint(kind, text)


def _checked(labels: Sequence[str]) -> tuple[str, ...]:
    distinct = tuple(dict.fromkeys(labels))
    if "" in distinct:
        raise ValueError("a label is empty")
    if len(distinct) < 2:
        only = f" of one, {distinct[0]!r:.100}" if distinct else ""
        raise ValueError(f"a set of labels{only}: expected two different ones at least")
    if len(distinct) > limits.MOST_CONSTRAINT_LABELS:
        most = limits.MOST_CONSTRAINT_LABELS
        raise ValueError(f"{len(distinct):,} labels: should be at most {most:,}")
    if sum(map(len, distinct)) > limits.LARGEST_CONSTRAINT:
        raise ValueError(
            f"the labels should have at most {limits.LARGEST_CONSTRAINT:,} characters together"
        )
    return distinct
