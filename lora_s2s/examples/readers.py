"""Files to examples: rows of any readable format, through columns, a known shape or the user's own
function.
"""

from __future__ import annotations

import importlib
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

from lora_s2s.errors import DataError, UsageError, nearest
from lora_s2s.examples.causes import Causes
from lora_s2s.examples.columns import TRANSLATION, check_columns, find_columns, text_in, unwrapped
from lora_s2s.examples.example import Example, NotForThis, Unusable, checked
from lora_s2s.examples.record import Reading, looked_over
from lora_s2s.examples.shapes import SHAPES, Converter, shape_of
from lora_s2s.examples.template import PromptTemplate, Template
from lora_s2s.readers.names import SPLIT_OF, language_of
from lora_s2s.readers.origins import READERS, Origin, find_origins
from lora_s2s.readers.rows import Parsing, Rejected, Row, reject

__all__ = [
    "FORMATS",
    "READERS",
    "Reading",
    "column_names",
    "how_read",
    "read_examples",
    "user_function",
]

_PARALLEL, TRAIN = "parallel", "train"
FORMATS = ("auto", "pairs", _PARALLEL, *SHAPES)
# The first rows decide how a file is read; if none of the first faults leaves a row, reading ends.
_ROWS_LOOKED_AT, _CHARACTERS_LOOKED_AT = 1000, 1 << 25
_ROWS_THAT_DECIDE = 100
_FAULTS_IN_A_ROW = 1000
_TOLD = ("notes", "warnings")
_COLUMNS_AGREED = ("source_column", "target_column", "template", "split_column")
Paths: TypeAlias = str | Sequence[str]


Choice: TypeAlias = Callable[[Sequence[Row], str, bool], Reading]


def read_examples(
    paths: Paths,
    *,
    format: str = "auto",
    source_column: str | None = None,
    target_column: str | None = None,
    template: Template = None,
    seed: int = 0,
    split: str = TRAIN,
) -> Iterator[Example | Rejected]:
    """Yields an example or a rejection for every record, in order; of a target that is a list, one
    for each text in it.

    Of several files of one folder or glob, those whose columns are not known are left out, each
    with one rejection. A column ``split``, ``fold`` or ``subset`` whose values name splits marks
    the examples (:class:`Example`).

    Args:
        paths: files, folders, globs, ``hf:NAME[:SPLIT]`` or ``demo:SPLIT``.
        format: one of :data:`FORMATS`, or ``module:function`` for a function of the user's own that
            takes a row (a dict) and returns one (source, target) pair or several.
        source_column: the source's column; None finds it by name.
        target_column: the target's column; None finds it by name.
        template: builds the source from several columns; see :mod:`lora_s2s.examples.template`. Of
            several templates each row has one, chosen by what it holds and ``seed``.
        split: what the paths are read for. Of a table that has rows of this split by its own mark,
            validation and test data are those rows only; as training data all rows come, with their
            marks.

    Raises:
        DataError: no such file or column, a file that cannot be read, or no usable row in all of
            them.
        UsageError: an unknown format, a function that cannot be imported, or a template that is
            refused.
    """
    columns = {"source_column": source_column, "target_column": target_column}
    settings: dict[str, Any] = {**columns, "template": template, "seed": seed}
    asked = _asked(format, source_column, target_column, template)

    def choose(rows: Sequence[Row], where: str, any_two: bool) -> Reading:
        return _reading(rows, where, format, any_two=any_two, **settings)

    return _read(_groups(paths, format), choose, asked, split)


def _asked(
    format: str, source_column: str | None, target_column: str | None, template: Template
) -> tuple[str, ...]:
    """Returns the columns that the user named: a table's first line that has one of them is a
    header.
    """
    columns = (
        [] if template is None or format in SHAPES else list(PromptTemplate.of(template).columns)
    )
    return tuple(name for name in (source_column, target_column, *columns) if name)


def how_read(paths: Paths, *, format: str = "auto", **settings: Any) -> Reading:
    """Returns how rows are read: format, columns, template, unused columns, found out where they
    were not named.

    What several files do not agree on is left open, to be found out at each row: ``auto``, or None.
    Of unused columns, notes and warnings each stands once.

    Takes the settings of :func:`read_examples`, and raises what it raises.
    """
    refused: DataError | None = None
    found: list[Reading] = []
    named = {key: settings.get(key) for key in ("source_column", "target_column", "template")}
    for rows, name, parsing, alone in _heads(paths, format, _asked(format, **named)):
        try:
            reading = _reading(rows, name, format, any_two=alone, **settings)
            found.append(replace(reading, notes=(*parsing.notes, *reading.notes)))
        except DataError as error:
            refused = refused or _about_header(error, parsing)
    if not found:
        raise refused or _nothing_usable(str(paths), Causes())
    left_open: dict[str, Any] = {"format": "auto", **dict.fromkeys(_COLUMNS_AGREED)}
    agreed = [
        key
        for key in left_open
        if all(getattr(one, key) == getattr(found[0], key) for one in found)
    ]
    unused = {column.name: column for one in reversed(found) for column in one.unused}
    merged: dict[str, Any] = {"unused": tuple(unused.values())}
    merged |= {
        key: tuple(dict.fromkeys(text for one in found for text in getattr(one, key)))
        for key in _TOLD
    }
    merged |= {key: value for key, value in left_open.items() if key not in agreed}
    return replace(found[0], **merged)


def column_names(paths: Paths) -> set[str]:
    """Returns the names of the columns, looked for in the first rows.

    Raises:
        DataError: there is no row, or no file.
    """
    for rows, *_ in _heads(paths, "auto", ()):
        return {name for row in rows for name in unwrapped(row.fields)}
    raise _nothing_usable(str(paths), Causes())


def _groups(paths: Paths, format: str) -> list[list[Origin]]:
    """Returns the origins of each path: those of one folder or glob together."""
    origins = find_origins(paths, parallel=format == _PARALLEL)
    if format == _PARALLEL:
        return [origins]
    return [list(group) for _, group in itertools.groupby(origins, key=lambda origin: origin.given)]


def _heads(
    paths: Paths, format: str, asked: tuple[str, ...]
) -> Iterator[tuple[list[Row], str, Parsing, bool]]:
    """Yields the first rows of each file that has any, its name, what was noted, and whether it is
    alone.
    """
    for origins in _groups(paths, format):
        for origin in origins:
            parsing = Parsing(asked)
            _, rows = _head(origin.rows(parsing))
            if rows:
                yield rows, origin.name, parsing, len(origins) == 1


def _reading(
    rows: Sequence[Row],
    where: str,
    format: str,
    template: Template = None,
    seed: int = 0,
    any_two: bool = True,
    **columns: str | None,
) -> Reading:
    if ":" in format:
        return Reading(
            format, columns.get("source_column"), _own_converter(format, template, seed), template
        )
    if format not in FORMATS:
        raise UsageError(
            f"the format '{format}' is not in this version{nearest(format, FORMATS)}",
            hint=f"use {', '.join(FORMATS)}, or module:function",
        )
    if format == "auto":
        deciding = [row.fields for row in rows[:_ROWS_THAT_DECIDE]]
        format = (None if any(columns.values()) else shape_of(deciding)) or "pairs"
    if format in SHAPES:
        if any(columns.values()):
            raise UsageError(
                f"the format '{format}' has its own columns; data.source_column and "
                "data.target_column are for pairs",
                hint="leave them out, or --set data.format=pairs",
            )
        return _shaped(format, rows, where, template, seed)
    wrapped = [inner for row in rows if (inner := unwrapped(row.fields)) is not row.fields]
    records = wrapped or [row.fields for row in rows]
    names = list(dict.fromkeys(name for fields in records for name in fields))
    prompt = None if template is None else PromptTemplate.of(template)
    found = find_columns(names, template=prompt, where=where, any_two=any_two, **columns)
    pairs = found.pairs if prompt is None else partial(found.pairs, seed=seed)
    convert = (lambda fields, where: pairs(unwrapped(fields), where)) if wrapped else pairs
    used = {
        found.target,
        *([] if prompt is None else prompt.columns),
        *filter(None, [found.source]),
    }
    languages = {language_of(name) for name in (found.source, found.target) if name} - {None}
    used |= {name for name in names if language_of(name) in languages}
    around = (
        [{**row.fields, **unwrapped(row.fields), TRANSLATION: None} for row in rows]
        if wrapped
        else records
    )
    notes = () if prompt is None else _begun(prompt, records, seed)
    reading = Reading(format, found.source, convert, template, found.target, notes=notes)
    return looked_over(reading, around, {*used, TRANSLATION} if wrapped else used)


def _begun(
    prompt: PromptTemplate, records: Sequence[Mapping[str, Any]], seed: int
) -> tuple[str, ...]:
    """Returns a note where texts begin with what the template puts before them."""
    begun = [one for fields in records if (one := prompt.chosen(fields, seed)).begun(fields)]
    if not begun:
        return ()
    share, opening = len(begun) / len(records), begun[0].opening
    return (
        f"{share:.0%} of the first rows begin with the template's '{opening}' already: it stands "
        "once there",
    )


def _shaped(format: str, rows: Sequence[Row], where: str, template: Template, seed: int) -> Reading:
    shape = SHAPES[format]
    chosen = template or shape.template
    prompt = PromptTemplate.of(chosen)
    names = list(dict.fromkeys(name for row in rows for name in row.fields))
    others = [] if shape.is_dialogue else names
    check_columns(
        prompt.columns, list(dict.fromkeys([*shape.columns, *others])), f"{where}, read as {format}"
    )
    used = {name for name in names if name.strip().lower() in shape.reads or name in prompt.columns}
    reading = Reading(format, None, partial(shape.examples, prompt, seed), chosen)
    return looked_over(reading, [row.fields for row in rows], used)


def _read(
    groups: Sequence[Sequence[Origin]], choose: Choice, asked: tuple[str, ...], split: str
) -> Iterator[Example | Rejected]:
    good, causes = 0, Causes()
    name = ", ".join(origin.name for group in groups for origin in group[:3])
    for item in itertools.chain.from_iterable(
        _examples_of(origins, choose, asked, split) for origins in groups
    ):
        if isinstance(item, Rejected):
            causes.add(item)
            if not good and causes.faults >= _FAULTS_IN_A_ROW:
                raise _nothing_usable(f"the first {causes.faults:,} of {name}", causes)
        else:
            good += 1
        yield item
    if not good:
        raise _nothing_usable(name, causes)


def _examples_of(
    origins: Sequence[Origin], choose: Choice, asked: tuple[str, ...], split: str
) -> Iterator[Example | Rejected]:
    refused: DataError | None = None
    usable = False
    for origin in origins:
        parsing = Parsing(asked)
        items = origin.rows(parsing)
        head, rows = _head(items)
        try:
            reading = choose(rows, origin.name, len(origins) == 1) if rows else None
        except DataError as error:
            refused = refused or _about_header(error, parsing)
            if len(origins) > 1:
                yield Rejected(
                    origin.name, 0, f"no columns known in this file: {error.message}", ""
                )
            continue
        usable = usable or reading is not None
        only = (
            split
            if reading is not None and split != TRAIN and _divided(origin, reading, rows, split)
            else None
        )
        yield from _converted(itertools.chain(head, items), reading, origin, only)
    if refused is not None and not usable:
        raise refused


def _about_header(error: DataError, parsing: Parsing) -> DataError:
    """Adds, where columns are not known, how the first line was read, which may be why."""
    if parsing.header and error.hint and "NAME" in error.hint:
        error.hint += (
            "; the first line was read as a header: where it is data, use "
            "data.source_column=column1 and data.target_column=column2"
        )
    elif parsing.notes and error.hint:
        error.hint = (
            f"{error.hint.replace('=NAME', '=column1', 1).replace('=NAME', '=column2')}; "
            f"{parsing.notes[0]}"
        )
    return error


def _divided(origin: Origin, reading: Reading, rows: Sequence[Row], split: str) -> bool:
    """Says whether a table has rows that it marks as of this split."""
    if reading.split_column is None and not any(row.split for row in rows):
        return False
    everywhere = (item for item in origin.rows() if isinstance(item, Row))
    return any(
        _mark(row, reading.split_column) == split for row in itertools.chain(rows, everywhere)
    )


def _mark(row: Row, column: str | None) -> str:
    """Returns the split that a row is marked with, or an empty text.

    Raises:
        Unusable: the mark is none that is known.
    """
    if column is None:
        return row.split
    value = str(row.fields.get(column))
    mark = SPLIT_OF.get(value.strip().lower())
    if mark is None:
        raise Unusable(f"unknown split: {value.strip()[:40] or 'nothing'}")
    return mark


def _converted(
    items: Iterator[Row | Rejected], reading: Reading | None, origin: Origin, only: str | None
) -> Iterator[Example | Rejected]:
    """Yields what comes of a file's rows; ``only`` those of one split."""
    weight = origin.weight
    unused = (
        []
        if reading is None
        else [column.name for column in reading.unused if not column.is_identifier]
    )
    for item in items:
        if isinstance(item, Rejected):
            yield item
        elif reading is not None:
            where = f"{origin.name}:{item.line}"
            try:
                split = (
                    _mark(item, reading.split_column) if reading.split_column or item.split else ""
                )
                if only is not None and split != only:
                    raise NotForThis(f"row of another split: {split}")
                rest = _rest(item.fields, unused) if unused else 0
                for made in reading.convert(item.fields, where):
                    if isinstance(made, Example):
                        made.weight, made.rest, made.split = weight, rest, split
                    yield made
            except Unusable as error:
                fault = not isinstance(error, NotForThis)
                yield reject(where, str(error), _excerpt(item.fields), fault=fault)


def _rest(fields: Mapping[str, Any], unused: Sequence[str]) -> int:
    """Returns a hash of a row's unused columns; see :class:`Example`."""
    values = tuple(map(fields.get, unused))
    try:
        number = hash(values)
    except TypeError:  # lists and objects
        number = hash(repr(values))
    return number & (1 << 64) - 1 or 1


def _head(items: Iterator[Row | Rejected]) -> tuple[list[Row | Rejected], list[Row]]:
    """Takes items until enough rows, or enough text, are among them; returns all, and the rows."""
    head: list[Row | Rejected] = []
    rows: list[Row] = []
    characters = 0
    while (
        len(rows) < _ROWS_LOOKED_AT
        and len(head) < 2 * _ROWS_LOOKED_AT
        and characters < _CHARACTERS_LOOKED_AT
    ):
        item = next(items, None)
        if item is None:
            break
        head.append(item)
        if isinstance(item, Row):
            rows.append(item)
            characters += _size(item.fields)
    return head, rows


def _size(value: object) -> int:
    """Returns about how many bytes a value holds."""
    if isinstance(value, str):
        return 50 + len(value)
    if isinstance(value, Mapping):
        return 50 + sum(map(_size, value.values()))
    return 50 + sum(map(_size, value)) if isinstance(value, (list, tuple)) else 50


def _excerpt(fields: Mapping[str, Any]) -> str:
    shown = (
        value if isinstance(value, str) else f"({type(value).__name__})"
        for value in fields.values()
    )
    return " | ".join(shown)


def _nothing_usable(name: str, causes: Causes) -> DataError:
    listed = causes.listed()
    if not listed:
        return DataError(
            f"{name} is empty: no row in it", hint="give a file with a header or keys, and rows"
        )
    message = f"no row of {name} has a usable source and target: {listed}"
    return DataError(message, hint=causes.hint(), where=causes.places())


def user_function(name: str) -> Callable[..., Any]:
    """Imports ``module:function``; modules of the current folder count too.

    Raises:
        UsageError: there is no such module, or no such function in it.
    """
    module_name, _, function_name = name.partition(":")
    sys.path.append(os.getcwd())
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, SyntaxError, ValueError) as error:
        raise UsageError(
            f"the format '{name}' cannot be imported: {error}",
            hint="write module:function, the module in this folder or installed",
        ) from error
    finally:
        sys.path.pop()
    if not callable(function):
        raise UsageError(f"the format '{name}' is not a function")
    return function  # type: ignore[no-any-return]


def _own_converter(name: str, template: Template, seed: int) -> Converter:
    function = user_function(name)
    prompt = PromptTemplate.of(template)

    def convert(fields: Mapping[str, Any], where: str) -> Iterator[Example]:
        try:
            result = function(dict(fields))
            pairs = (
                [result] if isinstance(result, tuple) and len(result) == 2 else list(result or [])
            )
            texts = [{"source": source, "target": target} for source, target in pairs]
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise Unusable(f"{name} failed: {type(error).__name__}: {error}") from error
        for pair in texts:
            source = prompt.render({"source": text_in(pair, "source", "source")}, seed)
            yield Example(checked(source, "source"), text_in(pair, "target", "target"), where)

    return convert
