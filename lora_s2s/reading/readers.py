"""Files to examples: rows of any readable format, through columns, a known shape or the user's own function."""

from __future__ import annotations

import importlib
import itertools
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

from lora_s2s.errors import DataError, UsageError, nearest
from lora_s2s.formats.origins import READERS, Origin, find_origins
from lora_s2s.formats.rows import Rejected, Row, reject
from lora_s2s.reading.columns import check_columns, find_columns, text_in, unwrapped
from lora_s2s.reading.example import Example, Unusable, checked
from lora_s2s.reading.record import Reading, unused_columns
from lora_s2s.reading.shapes import SHAPES, Converter, shape_of
from lora_s2s.reading.template import PromptTemplate, Template

__all__ = ["FORMATS", "READERS", "Reading", "column_names", "how_read", "read_examples", "user_function"]

_PARALLEL = "parallel"
FORMATS = ("auto", "pairs", _PARALLEL, *SHAPES)
_ROWS_LOOKED_AT = 100
_TOLD = ("notes", "warnings")
Paths: TypeAlias = str | Sequence[str]


Choice: TypeAlias = Callable[[Sequence[Row], str], Reading]


def read_examples(
    paths: Paths,
    *,
    format: str = "auto",
    source_column: str | None = None,
    target_column: str | None = None,
    template: Template = None,
    seed: int = 0,
) -> Iterator[Example | Rejected]:
    """Yields an example or a rejection for every record, in order.

    Of several files of one folder or glob, those whose columns are not known are left out, each with one rejection.

    Args:
        paths: files, folders, globs, ``hf:NAME[:SPLIT]`` or ``demo:SPLIT``.
        format: one of :data:`FORMATS`, or ``module:function`` for a function of the user's own that takes a row (a
            dict) and returns one (source, target) pair or several.
        source_column: the source's column; None finds it by name.
        target_column: the target's column; None finds it by name.
        template: builds the source from several columns; see :mod:`lora_s2s.reading.template`. Of several templates
            each row has one, chosen by what it holds and ``seed``.

    Raises:
        DataError: no such file or column, a file that cannot be read, or no usable row in all of them.
        UsageError: an unknown format, a function that cannot be imported, or a template that is refused.
    """
    columns = {"source_column": source_column, "target_column": target_column}
    settings: dict[str, Any] = {**columns, "template": template, "seed": seed}
    return _read(_groups(paths, format), lambda rows, where: _reading(rows, where, format, **settings))


def how_read(paths: Paths, *, format: str = "auto", **settings: Any) -> Reading:
    """Returns how rows are read: format, columns, template, unused columns, found out where they were not named.

    What several files do not agree on is left open, to be found out at each row: ``auto``, or None. Of unused columns,
    notes and warnings each stands once.

    Takes the settings of :func:`read_examples`, and raises what it raises.
    """
    refused: DataError | None = None
    found: list[Reading] = []
    for rows, name in _heads(paths, format):
        try:
            found.append(_reading(rows, name, format, **settings))
        except DataError as error:
            refused = refused or error
    if not found:
        raise refused or _nothing_usable(str(paths), Counter())
    left_open: dict[str, Any] = {"format": "auto", "source_column": None, "target_column": None, "template": None}
    agreed = [key for key in left_open if all(getattr(one, key) == getattr(found[0], key) for one in found)]
    unused = {column.name: column for one in reversed(found) for column in one.unused}
    merged: dict[str, Any] = {"unused": tuple(unused.values())}
    merged |= {key: tuple(dict.fromkeys(text for one in found for text in getattr(one, key))) for key in _TOLD}
    merged |= {key: value for key, value in left_open.items() if key not in agreed}
    return replace(found[0], **merged)


def column_names(paths: Paths) -> set[str]:
    """Returns the names of the columns, looked for in the first rows.

    Raises:
        DataError: there is no row, or no file.
    """
    for rows, _ in _heads(paths, "auto"):
        return {name for row in rows for name in unwrapped(row.fields)}
    raise _nothing_usable(str(paths), Counter())


def _groups(paths: Paths, format: str) -> list[list[Origin]]:
    """Returns the origins of each path: those of one folder or glob together."""
    together = find_origins(paths, parallel=format == _PARALLEL)
    if format == _PARALLEL or together[0].targets is not None:
        return [together]
    named = [paths] if isinstance(paths, str) else [name for name in paths if name]
    return [find_origins([name]) for name in named]


def _heads(paths: Paths, format: str) -> Iterator[tuple[list[Row], str]]:
    """Yields the first rows of each file that has any, with its name."""
    for origin in itertools.chain.from_iterable(_groups(paths, format)):
        _, rows = _head(origin.rows())
        if rows:
            yield rows, origin.name


def _reading(
    rows: Sequence[Row], where: str, format: str, template: Template = None, seed: int = 0, **columns: str | None
) -> Reading:
    if ":" in format:
        return Reading(format, columns.get("source_column"), _own_converter(format, template, seed), template)
    if format not in FORMATS:
        raise UsageError(
            f"the format '{format}' is not in this version{nearest(format, FORMATS)}",
            hint=f"use {', '.join(FORMATS)}, or module:function",
        )
    if format == "auto":
        format = (None if any(columns.values()) else shape_of(row.fields for row in rows)) or "pairs"
    if format in SHAPES:
        if any(columns.values()):
            raise UsageError(
                f"the format '{format}' has its own columns; data.source_column and data.target_column are for pairs",
                hint="leave them out, or --set data.format=pairs",
            )
        return _shaped(format, rows, where, template, seed)
    wrapped = [inner for row in rows if (inner := unwrapped(row.fields)) is not row.fields]
    names = list(dict.fromkeys(name for fields in wrapped or [row.fields for row in rows] for name in fields))
    prompt = None if template is None else PromptTemplate.of(template)
    found = find_columns(names, template=prompt, where=where, **columns)
    pairs = found.pairs if prompt is None else partial(found.pairs, seed=seed)
    convert = (lambda fields, where: pairs(unwrapped(fields), where)) if wrapped else pairs
    used = {found.target, *([] if prompt is None else prompt.columns), *filter(None, [found.source])}
    unused = unused_columns(wrapped or [row.fields for row in rows], used)
    return Reading(format, found.source, convert, template, found.target, unused)


def _shaped(format: str, rows: Sequence[Row], where: str, template: Template, seed: int) -> Reading:
    shape = SHAPES[format]
    chosen = template or shape.template
    prompt = PromptTemplate.of(chosen)
    names = list(dict.fromkeys(name for row in rows for name in row.fields))
    others = [] if shape.is_dialogue else names
    check_columns(prompt.columns, list(dict.fromkeys([*shape.columns, *others])), f"{where}, read as {format}")
    used = {name for name in names if name.strip().lower() in shape.reads or name in prompt.columns}
    unused = unused_columns([row.fields for row in rows], used)
    return Reading(format, None, partial(shape.examples, prompt, seed), chosen, unused=unused)


def _read(groups: Sequence[Sequence[Origin]], choose: Choice) -> Iterator[Example | Rejected]:
    good, reasons = 0, Counter[str]()
    for item in itertools.chain.from_iterable(_examples_of(origins, choose) for origins in groups):
        if isinstance(item, Rejected):
            reasons[item.kind] += 1
        else:
            good += 1
        yield item
    if not good:
        raise _nothing_usable(", ".join(origin.name for group in groups for origin in group[:3]), reasons)


def _examples_of(origins: Sequence[Origin], choose: Choice) -> Iterator[Example | Rejected]:
    refused: DataError | None = None
    usable = False
    for origin in origins:
        items = origin.rows()
        head, rows = _head(items)
        try:
            reading = choose(rows, origin.name) if rows else None
        except DataError as error:
            refused = refused or error
            if len(origins) > 1:
                yield Rejected(origin.name, 0, f"no columns known in this file: {error.message}", "")
            continue
        usable = usable or reading is not None
        yield from _converted(itertools.chain(head, items), reading, origin)
    if refused is not None and not usable:
        raise refused


def _converted(items: Iterator[Row | Rejected], reading: Reading | None, origin: Origin) -> Iterator[Any]:
    weight = origin.weight
    unused = [] if reading is None else [column.name for column in reading.unused]
    for item in items:
        if isinstance(item, Rejected):
            yield item
        elif reading is not None:
            where = f"{origin.name}:{item.line}"
            try:
                rest = _rest(item.fields, unused) if unused else 0
                for made in reading.convert(item.fields, where):
                    if isinstance(made, Example) and (rest or weight != 1):
                        made = replace(made, weight=weight, rest=rest)
                    yield made
            except Unusable as error:
                yield reject(where, str(error), _excerpt(item.fields))


def _rest(fields: Mapping[str, Any], unused: Sequence[str]) -> int:
    """Returns a hash of a row's unused columns; see :class:`Example`."""
    values = tuple(map(fields.get, unused))
    try:
        number = hash(values)
    except TypeError:  # lists and objects
        number = hash(repr(values))
    return number & (1 << 64) - 1 or 1


def _head(items: Iterator[Row | Rejected]) -> tuple[list[Row | Rejected], list[Row]]:
    """Takes items until enough rows are among them; returns all, and the rows."""
    head: list[Row | Rejected] = []
    rows: list[Row] = []
    while len(rows) < _ROWS_LOOKED_AT and (item := next(items, None)) is not None:
        head.append(item)
        if isinstance(item, Row):
            rows.append(item)
    return head, rows


def _excerpt(fields: Mapping[str, Any]) -> str:
    shown = (value if isinstance(value, str) else f"({type(value).__name__})" for value in fields.values())
    return " | ".join(shown)


def _nothing_usable(name: str, reasons: Counter[str]) -> DataError:
    if not reasons:
        return DataError(f"{name} is empty: no row in it", hint="give a file with a header or keys, and rows")
    listed = ", ".join(f"{count:,} × {reason}" for reason, count in reasons.most_common(4))
    role = "target" if any(reason.endswith("target") for reason in reasons) else "source"
    return DataError(
        f"no row of {name} has a usable source and target: {listed}",
        hint=f"name the right column: lora-s2s prepare … --set data.{role}_column=NAME",
    )


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
            pairs = [result] if isinstance(result, tuple) and len(result) == 2 else list(result or [])
            texts = [{"source": source, "target": target} for source, target in pairs]
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise Unusable(f"{name} failed: {type(error).__name__}: {error}") from error
        for pair in texts:
            source = prompt.render({"source": text_in(pair, "source", "source")}, seed)
            yield Example(checked(source, "source"), text_in(pair, "target", "target"), where)

    return convert
