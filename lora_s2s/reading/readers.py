"""Files to examples: rows of any readable format, through columns, conversations or the user's own function."""

from __future__ import annotations

import importlib
import itertools
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from lora_s2s.errors import DataError, UsageError, nearest
from lora_s2s.reading.columns import find_columns, text_in
from lora_s2s.reading.conversations import CONVERSATIONS, conversation_pairs
from lora_s2s.reading.example import Example, Rejected, Row, Unusable, reject
from lora_s2s.reading.origins import READERS, Origin, find_origins

__all__ = ["FORMATS", "READERS", "Reading", "column_names", "how_read", "read_examples", "user_function"]

FORMATS = ("auto", "pairs", CONVERSATIONS)
_ROWS_LOOKED_AT = 100
Converter: TypeAlias = Callable[[Mapping[str, Any], str], Iterable[Example | Rejected]]
Paths: TypeAlias = str | Sequence[str]


@dataclass(frozen=True)
class Reading:
    """How a file's rows become examples, decided on its first rows."""

    format: str
    source_column: str | None
    convert: Converter


Choice: TypeAlias = Callable[[Sequence[Row], str], Reading]


def read_examples(
    paths: Paths,
    *,
    format: str = "auto",
    source_column: str | None = None,
    target_column: str | None = None,
    template: str | None = None,
) -> Iterator[Example | Rejected]:
    """Yields an example or a rejection for every record, in order.

    Args:
        paths: files, folders, globs, ``hf:NAME[:SPLIT]`` or ``demo:SPLIT``.
        format: ``auto``, ``pairs``, ``conversations``, or ``module:function`` for a function of the user's own that
            takes a row (a dict) and returns one (source, target) pair or several.
        source_column: the source's column; None finds it by name.
        target_column: the target's column; None finds it by name.
        template: builds the source from several columns; see :mod:`lora_s2s.reading.template`.

    Raises:
        DataError: no such file or column, a file that cannot be read, or no usable row in all of them.
        UsageError: an unknown format, or a function that cannot be imported.
    """
    choose = partial(
        _reading, format=format, source_column=source_column, target_column=target_column, template=template
    )
    return _read(find_origins(paths), choose)


def how_read(paths: Paths, *, format: str = "auto", **columns: Any) -> Reading:
    """Returns how the first rows are read: the format and the source's column, found out where they were not named.

    Takes the settings of :func:`read_examples`, and raises what it raises.
    """
    return _reading(*_first_rows(paths), format=format, **columns)


def column_names(paths: Paths) -> set[str]:
    """Returns the names of the columns, looked for in the first rows.

    Raises:
        DataError: there is no row, or no file.
    """
    return {name for row in _first_rows(paths)[0] for name in row.fields}


def _first_rows(paths: Paths) -> tuple[list[Row], str]:
    for origin in find_origins(paths):
        _, rows = _head(origin.rows())
        if rows:
            return rows, origin.name
    raise _nothing_usable(str(paths), Counter())


def _reading(
    rows: Sequence[Row],
    where: str,
    *,
    format: str,
    source_column: str | None = None,
    target_column: str | None = None,
    template: str | None = None,
) -> Reading:
    if ":" in format:
        return Reading(format, source_column, _own_converter(format))
    if format not in FORMATS:
        raise UsageError(
            f"the format '{format}' is not in this version{nearest(format, FORMATS)}",
            hint=f"use {', '.join(FORMATS)}, or module:function",
        )
    talks = any(isinstance(row.fields.get(CONVERSATIONS), list) for row in rows)
    if format == CONVERSATIONS or (format == "auto" and talks):
        return Reading(CONVERSATIONS, None, conversation_pairs)
    names = list(dict.fromkeys(name for row in rows for name in row.fields))
    named = {"source_column": source_column, "target_column": target_column}
    columns = find_columns(names, template=template, where=where, **named)
    return Reading("pairs", columns.source, columns.pairs)


def _read(origins: Sequence[Origin], choose: Choice) -> Iterator[Example | Rejected]:
    good, reasons = 0, Counter[str]()
    for origin in origins:
        for item in _examples_of(origin, choose):
            if isinstance(item, Rejected):
                reasons[item.kind] += 1
            else:
                good += 1
            yield item
    if not good:
        raise _nothing_usable(", ".join(origin.name for origin in origins[:3]), reasons)


def _examples_of(origin: Origin, choose: Choice) -> Iterator[Example | Rejected]:
    items = origin.rows()
    head, rows = _head(items)
    reading = choose(rows, origin.name) if rows else None
    for item in itertools.chain(head, items):
        if isinstance(item, Rejected):
            yield item
        elif reading is not None:
            where = f"{origin.name}:{item.line}"
            try:
                yield from reading.convert(item.fields, where)
            except Unusable as error:
                yield reject(where, str(error), _excerpt(item.fields))


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


def _own_converter(name: str) -> Converter:
    function = user_function(name)

    def convert(fields: Mapping[str, Any], where: str) -> Iterator[Example]:
        try:
            result = function(dict(fields))
            pairs = [result] if isinstance(result, tuple) and len(result) == 2 else list(result or [])
            texts = [{"source": source, "target": target} for source, target in pairs]
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise Unusable(f"{name} failed: {type(error).__name__}: {error}") from error
        for pair in texts:
            yield Example(text_in(pair, "source", "source"), text_in(pair, "target", "target"), where)

    return convert
