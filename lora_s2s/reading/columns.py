"""Which columns are the source and the target: named by the user, or known by their names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_s2s.errors import DataError, nearest
from lora_s2s.reading.example import Example, Unusable, checked
from lora_s2s.reading.template import TURNS, PromptTemplate

# Looked for in this order, whatever the case of the letters.
KNOWN_PAIRS = (
    ("source", "target"), ("input", "output"), ("input", "target"), ("question", "answer"), ("text", "summary"),
    ("mr", "ref"), ("prompt", "completion"), ("instruction", "output"), ("src", "tgt"), ("document", "summary"),
    ("article", "highlights"), ("dialogue", "summary"), ("prompt", "response"), ("question", "answers"),
    ("instruction", "response"), ("query", "response"), ("input_text", "target_text"), ("inputs", "targets"),
)  # fmt: skip
_ALPACA = {"instruction", "input", "output"}
_TRANSLATION = "translation"
_LANGUAGE = re.compile(r"[a-z]{2}([-_][a-z]{2,4})?|[a-z]{3}[-_][a-z]{4}", re.IGNORECASE)


def two_languages(source: str | None, target: str | None) -> bool:
    """Says whether two columns, or the endings of two files, are named by languages, such as ``en`` and ``de-AT``."""
    names = [name.lower() for name in (source, target) if name and _LANGUAGE.fullmatch(name)]
    return len(set(names)) == 2 and tuple(names) not in KNOWN_PAIRS


@dataclass(frozen=True)
class Columns:
    """The columns of one file: the source's (unless a template builds it) and the target's."""

    source: str | None
    target: str
    template: PromptTemplate | None = None

    def pairs(self, fields: Mapping[str, Any], where: str, *, seed: int = 0) -> Iterator[Example]:
        """Yields the row's one example; of several templates, ``seed`` takes part in the choice.

        Raises:
            Unusable: a source or target that is missing, empty or not text.
        """
        target = text_in(fields, self.target, "target")
        if self.template is not None:
            source = self.template.render(texts_of(fields, self.template), seed)
            yield Example(checked(source, "source"), target, where)
        elif self.source is not None:
            yield Example(text_in(fields, self.source, "source"), target, where)


def unwrapped(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns what stands under ``translation``, where the hub's data sets keep a row's languages, else the row."""
    inner = fields.get(_TRANSLATION)
    return inner if isinstance(inner, Mapping) else fields


def texts_of(fields: Mapping[str, Any], template: PromptTemplate) -> dict[str, Any]:
    """Returns the texts of the columns that a template names, and the turns; those it can do without may lack.

    Raises:
        Unusable: a column is missing, or holds no text.
    """
    texts: dict[str, Any] = {}
    for name, needed in template.columns.items():
        value = fields.get(name)
        if isinstance(value, tuple) and name == TURNS:
            texts[name] = value
        elif needed or value is not None:
            texts[name] = text_of(value, f"column '{name}'")
    return texts


def text_in(fields: Mapping[str, Any], column: str, role: str) -> str:
    """Returns a field's text verbatim; ``role`` names it in the reason when there is none."""
    value = fields.get(column)
    return checked(value if isinstance(value, str) else text_of(value, role), role)


def text_of(value: object, role: str) -> str:
    """Returns a value's text as written: never that of nothing, or of something with parts; raises Unusable."""
    if value is None:
        raise Unusable(f"missing {role}")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (Mapping, list, tuple, bytes)):
        raise Unusable(f"{role} is not text: {type(value).__name__}")
    return str(value)


def find_columns(
    names: Sequence[str],
    *,
    where: str,
    source_column: str | None = None,
    target_column: str | None = None,
    template: PromptTemplate | None = None,
) -> Columns:
    """Chooses the columns of a file that has the columns ``names``.

    Raises:
        DataError: a named column does not exist, or no pair of names is known; the message lists what exists.
    """
    known = {**{name.strip().lower(): name for name in reversed(names)}, **{name: name for name in names}}
    if template is not None:
        check_columns(template.columns, names, where)
    source = _named(source_column, known, names, where) if source_column is not None else None
    target = _named(target_column, known, names, where) if target_column is not None else None
    needs_source = source is None and template is None
    languages = needs_source and target is None and len(names) == 2 and all(map(_LANGUAGE.fullmatch, names))
    if languages and tuple(name.lower() for name in names) not in KNOWN_PAIRS:
        return Columns(names[0], names[1], template)
    if needs_source:
        _refuse_alpaca(known, where)
    if template is None and len(names) == 2 and (source is None) != (target is None):
        # Of two columns the one that is not named is the other side.
        other = next((name for name in names if name not in (source, target)), None)
        source, target = source or other, target or other
        needs_source = source is None
    if target is None:
        # The partner of the source's name first, then whatever is known.
        partners = [last for first, last in KNOWN_PAIRS if source is not None and first == source.strip().lower()]
        others = [last for first, last in KNOWN_PAIRS if not needs_source or first in known]
        target = _first_known("target", [*partners, *others], known, source, names, where)
    if needs_source:
        partners = [first for first, last in KNOWN_PAIRS if last == target.strip().lower()]
        source = _first_known("source", [*partners, *dict(KNOWN_PAIRS)], known, target, names, where)
    return Columns(source, target, template)


def check_columns(columns: Iterable[str], names: Sequence[str], where: str) -> None:
    """Raises DataError at the first of a template's columns that the file does not have; the message lists its own."""
    for column in columns:
        _named(column, {name: name for name in names}, names, where)


def _first_known(
    role: str, wanted: Sequence[str], known: Mapping[str, str], taken: str | None, names: Sequence[str], where: str
) -> str:
    found = next((known[name] for name in wanted if name in known and known[name] != taken), None)
    if found is None:
        raise DataError(
            f"no {role} column is known by its name; the file has {_listed(names)}",
            hint="name them: lora-s2s prepare … --set data.source_column=NAME --set data.target_column=NAME",
            where=where,
        )
    return found


def _named(column: str, known: Mapping[str, str], names: Sequence[str], where: str) -> str:
    found = known.get(column) or known.get(column.strip().lower())
    if found is None:
        raise DataError(
            f"there is no column '{column}'{nearest(column, names)}; the file has {_listed(names)}",
            hint="name one of them, or leave it out to have the columns found by their names",
            where=where,
        )
    return found


def _refuse_alpaca(known: Mapping[str, str], where: str) -> None:
    # Taking (input, output) here would drop every instruction without a word.
    if known.keys() >= _ALPACA:
        raise DataError(
            "the columns 'instruction', 'input' and 'output' need a template that joins the first two",
            hint="--set data.format=alpaca, or --set data.template='{instruction} {input}'",
            where=where,
        )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:20])
    return (f"the columns {shown}" if names else "no columns") + (", …" if len(names) > 20 else "")
