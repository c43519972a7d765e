"""JSON and JSON lines: numbers as written, null as missing, the line of every record kept."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lora_s2s.data.example import Rejected
from lora_s2s.data.rows import Row, reading
from lora_s2s.errors import DataError
from lora_s2s.files import open_text

# Text stays text: 1e5 and 0.10 come as they stand in the file.
_DECODER = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=str)
_SPACE = re.compile(r"[ \t\r\n]*")
_LIST_KEY = "data"


def read_jsonl(path: Path) -> Iterator[Row | Rejected]:
    """Yields the object on each line; a line that is not one is rejected."""
    with reading(path), open_text(path) as stream:
        yield from _line_rows(path, stream)


def read_json(path: Path) -> Iterator[Row | Rejected]:
    """Yields the objects of an array, of ``{"data": [...]}``, or, under the wrong name, of JSON lines.

    Raises:
        DataError: the document is not JSON (an array cannot be read past a mistake).
    """
    with reading(path), open_text(path) as stream:
        text = stream.read()
    start = _skip(text, 0)
    if text[start : start + 1] == "[":
        yield from _array_rows(path, text, start)
        return
    inner = _list_start(text, start)
    if inner is not None:
        yield from _array_rows(path, text, inner)
    elif _is_one_value(text, start):
        yield _checked(path, text.count("\n", 0, start) + 1, _value_at(path, text, start)[0], text[start:])
    else:
        yield from _line_rows(path, text.split("\n"))


def _line_rows(path: Path, lines: Iterable[str]) -> Iterator[Row | Rejected]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _parsed(path, number, line)


def _parsed(path: Path, number: int, line: str) -> Row | Rejected:
    try:
        value = _DECODER.decode(line)
    except json.JSONDecodeError as error:
        return Rejected(str(path), number, f"not valid JSON: {error.msg} at column {error.colno}", line[:200])
    except RecursionError:
        return Rejected(str(path), number, "nested too deeply", line[:200])
    return _checked(path, number, value, line)


def _checked(path: Path, number: int, value: Any, text: str) -> Row | Rejected:
    if isinstance(value, dict):
        return Row(number, value)
    return Rejected(str(path), number, "not a JSON object", text[:200])


def _skip(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return found.end() if found else position


def _is_one_value(text: str, start: int) -> bool:
    try:
        _, end = _DECODER.raw_decode(text, start)
    except (json.JSONDecodeError, RecursionError):
        return False
    return _skip(text, end) == len(text)


def _list_start(text: str, start: int) -> int | None:
    """Returns where the list under ``"data"`` starts in an object that fills the file, or None."""
    if text[start : start + 1] != "{":
        return None
    try:
        position = _skip(text, start + 1)
        while text[position : position + 1] == '"':
            key, position = _DECODER.raw_decode(text, position)
            position = _skip(text, _skip(text, position) + 1)
            if key == _LIST_KEY:
                return position if text[position : position + 1] == "[" else None
            _, position = _DECODER.raw_decode(text, position)
            position = _skip(text, _skip(text, position) + 1)
    except (json.JSONDecodeError, RecursionError):
        pass  # not one object: the caller reads it line by line and reports each
    return None


def _array_rows(path: Path, text: str, start: int) -> Iterator[Row | Rejected]:
    position, counted, line = _skip(text, start + 1), 0, 1
    while text[position : position + 1] != "]":
        line, counted = line + text.count("\n", counted, position), position
        value, end = _value_at(path, text, position)
        yield _checked(path, line, value, text[position : position + 200])
        position = _skip(text, end)
        if text[position : position + 1] == ",":
            position = _skip(text, position + 1)
        elif text[position : position + 1] != "]":
            line += text.count("\n", counted, position)
            raise _broken("the JSON array is broken: expected ',' or ']'", path, line)


def _value_at(path: Path, text: str, position: int) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, position)
    except json.JSONDecodeError as error:
        raise _broken(f"not valid JSON: {error.msg} at column {error.colno}", path, error.lineno) from error
    except RecursionError as error:
        raise _broken("a JSON value is nested too deeply", path, text.count("\n", 0, position) + 1) from error


def _broken(message: str, path: Path, line: int) -> DataError:
    hint = "mend it there, or write one object a line (.jsonl): bad lines are then left out one by one"
    return DataError(message, hint=hint, where=f"{path}:{line}")
