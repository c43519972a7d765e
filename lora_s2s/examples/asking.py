"""Rows and texts to answer, rendered like the training rows."""

from __future__ import annotations

import json
from typing import Any

from lora_s2s.errors import UsageError
from lora_s2s.examples.columns import text_in, texts_of, unwrapped
from lora_s2s.examples.example import Example, Unusable, checked
from lora_s2s.examples.shapes import FORMATS, Shape, shape_of
from lora_s2s.examples.template import TURNS, PromptTemplate
from lora_s2s.readers.names import KNOWN_PAIRS, normalised
from lora_s2s.readers.rows import Fields

_PLACE = "row:1"
# Columns that a row without its answer lacks, but that formats are recognised by.
_NO_TARGETS: dict[str, Any] = {"output": "", "answers": [], "targets": ""}


def question_of(
    row: str | Fields, *, format: str, source_column: str | None, template: str | None
) -> Example:
    """The example of a row or plain text, with an empty target.

    A plain text stands for the source column, or the only column of the template.

    Raises:
        UsageError: a plain text, but the template needs several columns.
        Unusable: the row lacks a column, has no text in it, or has no question.
    """
    shape = _shape(row, format, template)
    if shape is None:
        prompt = None if template is None else PromptTemplate.of(template)
        source = (
            _from_text(row, prompt)
            if isinstance(row, str)
            else _from_columns(row, source_column, prompt)
        )
        return Example(source, "", _PLACE)
    prompt = PromptTemplate.of(template or shape.template)
    if isinstance(row, str):
        return Example(_from_text(row, prompt), "", _PLACE)
    values = shape.unanswered(row)
    source = checked(prompt.render(texts_of(values, prompt)), "source")
    turns = values[TURNS] if shape.is_dialogue else ()
    return Example(source, "", _PLACE, turns=turns, template=prompt.templates[0].text)


def is_blank(
    row: str | Fields, *, format: str, source_column: str | None, template: str | None
) -> bool:
    """Whether a text, or what a row has for its source or for all columns of a template, is
    empty.
    """
    if isinstance(row, str):
        return not row.strip()
    if _shape(row, format, template) is not None:
        return False
    fields = unwrapped(row)
    try:
        columns = PromptTemplate.of(template).columns if template else None
        names = columns or [_source_column(fields, source_column)]
    except Unusable:
        return False
    return all(name in fields and not _written(fields[name]) for name in names)


def _written(value: object) -> bool:
    return bool(value.strip()) if isinstance(value, str) else value is not None


def _shape(row: str | Fields, format: str, template: str | None) -> Shape | None:
    if format == "auto" and template is None and not isinstance(row, str):
        return FORMATS.get(shape_of([{**_NO_TARGETS, **row}]) or "")
    return FORMATS.get(format)


def _from_text(text: str, prompt: PromptTemplate | None) -> str:
    if prompt is None:
        return text
    return prompt.render({_only_column(prompt): text})


def check_takes_text(*, format: str, template: str | None) -> None:
    """Refuses plain texts where a template needs several columns; renders nothing.

    Raises:
        UsageError: hints at a file of rows.
    """
    shape = _shape("", format, template)
    if shape is not None:
        template = None if shape.is_dialogue else template or shape.template
    if template is not None:
        _only_column(PromptTemplate.of(template))


def _only_column(prompt: PromptTemplate) -> str:
    needed = prompt.needed
    if len(needed) > 1:
        row = json.dumps(dict.fromkeys(needed, "…"), ensure_ascii=False)
        raise UsageError(
            f"the template needs {len(needed)} columns ({', '.join(needed)}), got a plain text",
            hint=f"give a CSV or JSONL file with these columns, --input FILE; a row is {row}",
        )
    return needed[0]


def _from_columns(row: Fields, source_column: str | None, prompt: PromptTemplate | None) -> str:
    fields = unwrapped(row)
    if prompt is not None:
        return checked(prompt.render(texts_of(fields, prompt)), "source")
    return text_in(fields, _source_column(fields, source_column), "source")


def _source_column(fields: Fields, named: str | None) -> str:
    by_name = {normalised(name): name for name in fields}
    for column in (normalised(named),) if named else (source for source, _ in KNOWN_PAIRS):
        if column in by_name:
            return by_name[column]
    raise Unusable(f"no column '{named}'" if named else "cannot guess the source column")
