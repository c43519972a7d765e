"""Decides by a file's first rows how to read it: the format or two columns, and the template."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from lora_s2s.errors import UsageError, nearest
from lora_s2s.examples.columns import (
    TRANSLATION,
    Columns,
    check_columns,
    find_columns,
    unwrapped,
)
from lora_s2s.examples.custom import custom_converter
from lora_s2s.examples.reading import Reading, with_other_columns
from lora_s2s.examples.shapes import FORMATS, shape_of
from lora_s2s.examples.template import PromptTemplate
from lora_s2s.readers.names import language_of, normalised
from lora_s2s.readers.rows import Fields, Row
from lora_s2s.recipe.fields import FORMAT_NAMES
from lora_s2s.recipe.schema import DataSection

_ROWS_THAT_DECIDE = 100


def choose_reading(
    rows: Sequence[Row], where: str, data: DataSection, *, seed: int = 0, any_two: bool = True
) -> Reading:
    """Decides how to read a file.

    Args:
        rows: its first rows.
        where: its name, for messages.
        seed: for the choice among several templates.
        any_two: accept two columns of any name as source and target.

    Raises:
        DataError: a named column does not exist, or the columns cannot be guessed.
        UsageError: columns are named for a format that has its own, a template is invalid, or a
            function cannot be imported.
    """
    format, columns = data.format, (data.source_column, data.target_column)
    if ":" in format:
        convert = custom_converter(format, data.template, seed)
        return Reading(format, data.source_column, convert, data.template)
    if format == "auto":
        samples = [row.fields for row in rows[:_ROWS_THAT_DECIDE]]
        format = (None if any(columns) else shape_of(samples)) or "pairs"
    if format not in FORMAT_NAMES:  # from the manifest of another version
        raise UsageError(
            f"unknown format '{format}'{nearest(format, FORMAT_NAMES)}",
            hint=f"use {', '.join(FORMAT_NAMES)}, or module:function",
        )
    if format not in FORMATS:
        return _pairs(rows, where, data.model_copy(update={"format": format}), seed, any_two)
    if any(columns):
        raise UsageError(
            f"the format '{format}' has its own columns, so data.source_column and "
            "data.target_column do not apply",
            hint="omit them, or --set data.format=pairs",
        )
    return _shaped(format, rows, where, data, seed)


def _shaped(format: str, rows: Sequence[Row], where: str, data: DataSection, seed: int) -> Reading:
    shape = FORMATS[format]
    template = data.template or shape.template
    prompt = PromptTemplate.of(template)
    names = list(dict.fromkeys(name for row in rows for name in row.fields))
    others = [] if shape.is_dialogue else names
    allowed = list(dict.fromkeys([*shape.columns, *others]))
    check_columns(prompt.columns, allowed, f"{where}, read as {format}")
    used = {name for name in names if normalised(name) in shape.reads or name in prompt.columns}
    reading = Reading(format, None, partial(shape.examples, prompt, seed), template)
    return with_other_columns(reading, [row.fields for row in rows], used)


def _pairs(rows: Sequence[Row], where: str, data: DataSection, seed: int, any_two: bool) -> Reading:
    wrapped = [inner for row in rows if (inner := unwrapped(row.fields)) is not row.fields]
    records = wrapped or [row.fields for row in rows]
    names = list(dict.fromkeys(name for fields in records for name in fields))
    prompt = None if data.template is None else PromptTemplate.of(data.template)
    columns = find_columns(
        names, data, where=where, template=prompt, any_two=any_two, records=records
    )
    pairs = columns.pairs if prompt is None else partial(columns.pairs, seed=seed)
    convert = (lambda fields, where: pairs(unwrapped(fields), where)) if wrapped else pairs
    used = _used(columns, prompt, names)
    guessed = {} if data.target_column else {columns.target: "target"}
    if columns.source and not data.source_column:
        guessed[columns.source] = "source"
    notes = () if prompt is None else _openings(prompt, records, seed)
    reading = Reading(
        data.format, columns.source, convert, data.template, columns.target, notes=notes
    )
    if not wrapped:
        return with_other_columns(reading, records, used, guessed)
    around = [{**row.fields, **unwrapped(row.fields), TRANSLATION: None} for row in rows]
    return with_other_columns(reading, around, {*used, TRANSLATION}, guessed)


def _used(columns: Columns, prompt: PromptTemplate | None, names: Iterable[str]) -> set[str]:
    """The columns that examples are made of, including further columns of the same languages."""
    chosen = [name for name in (columns.source, columns.target) if name]
    languages = {language_of(name) for name in chosen} - {None}
    used = {*chosen, *([] if prompt is None else prompt.columns)}
    return used | {name for name in names if language_of(name) in languages}


def _openings(prompt: PromptTemplate, records: Sequence[Fields], seed: int) -> tuple[str, ...]:
    """A note if texts already begin with the template's first words."""
    begun = [one for fields in records if (one := prompt.chosen(fields, seed)).begun(fields)]
    if not begun:
        return ()
    share, opening = len(begun) / len(records), begun[0].opening
    note = f"{share:.0%} of the first rows already begin with the template's '{opening}'"
    return (f"{note}, which is not repeated",)
