"""The file formats: CSV, TSV, Parquet, JSON and JSON lines. Every cell as written, the line of every record kept."""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from lora_s2s.errors import DataError
from lora_s2s.files import open_text
from lora_s2s.reading.example import Rejected, Row

_LARGEST_CELL = 1 << 28
_ROWS_AT_ONCE = 1024
Record: TypeAlias = tuple[int, list[str]]  # the line it starts on, its cells
# Text stays text: 1e5 and 0.10 come as they stand in the file.
_DECODER = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=str)
_SPACE = re.compile(r"[ \t\r\n]*")
_LIST_KEY = "data"


def read_csv(path: Path) -> Iterator[Row | Rejected]:
    """Yields a CSV file's rows; the header decides between commas, semicolons and tabs."""
    with open_text(path) as stream:
        head = list(itertools.islice(stream, 1))
        delimiter = _delimiter_of(head[0]) if head else ","
        yield from _rows(path, itertools.chain(head, stream), delimiter, csv.QUOTE_MINIMAL)


def read_tsv(path: Path) -> Iterator[Row | Rejected]:
    """Yields a TSV file's rows. Quotes are quoting only where the whole file is quoted correctly, else plain text."""
    with open_text(path) as stream:
        broken = any(isinstance(item, Rejected) for item in _records(path, stream, "\t", csv.QUOTE_MINIMAL))
    with open_text(path) as stream:
        yield from _rows(path, stream, "\t", csv.QUOTE_NONE if broken else csv.QUOTE_MINIMAL)


def _delimiter_of(header: str) -> str:
    bare = re.sub(r'"[^"]*"', "", header)
    return max(",;\t", key=bare.count)


def _records(path: Path, lines: Iterable[str], delimiter: str, quoting: int) -> Iterator[Record | Rejected]:
    csv.field_size_limit(_LARGEST_CELL)
    # strict: a quote closed in the wrong place is reported, where the default quietly changes the text.
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)  # type: ignore[arg-type]
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Rejected(str(path), line, f"broken quoting: {error}, lines {line} to {reader.line_num}", "")
            continue
        if cells:
            yield line, cells


def _rows(path: Path, lines: Iterable[str], delimiter: str, quoting: int) -> Iterator[Row | Rejected]:
    records = _records(path, lines, delimiter, quoting)
    first = next(records, None)
    if first is None:
        return
    if isinstance(first, Rejected):
        raise DataError(f"{path}: the header cannot be read ({first.reason})", where=f"{path}:{first.line}")
    names = [name.strip() for name in first[1]]
    # Of columns with one name the first keeps it; the others get their number.
    header = [name if name not in names[:index] else f"{name}.{index + 1}" for index, name in enumerate(names)]
    for item in records:
        yield item if isinstance(item, Rejected) else _named(path, header, *item)


def _named(path: Path, header: list[str], line: int, cells: list[str]) -> Row | Rejected:
    if len(cells) > len(header) and any(cells[len(header) :]):
        reason = f"more fields than the header: {len(cells)}, expected {len(header)} (is a text with a comma unquoted?)"
        return Rejected(str(path), line, reason, " | ".join(cells)[:200])
    return Row(line, dict(zip(header, cells, strict=False)))


def read_parquet(path: Path) -> Iterator[Row | Rejected]:
    """Yields a Parquet file's rows, numbered from 1; a gzip-compressed file is unpacked in memory."""
    zipped = path.suffix.lower() == ".gz"
    table = pq.ParquetFile(pa.BufferReader(gzip.decompress(path.read_bytes())) if zipped else path)
    batches = table.iter_batches(batch_size=_ROWS_AT_ONCE)
    yield from itertools.starmap(Row, enumerate((row for batch in batches for row in batch.to_pylist()), start=1))


def read_jsonl(path: Path) -> Iterator[Row | Rejected]:
    """Yields the object on each line; a line that is not one is rejected."""
    with open_text(path) as stream:
        yield from _line_rows(path, stream)


def read_json(path: Path) -> Iterator[Row | Rejected]:
    """Yields the objects of an array, of ``{"data": [...]}``, or, under the wrong name, of JSON lines.

    Raises:
        DataError: the document is not JSON (an array cannot be read past a mistake).
    """
    with open_text(path) as stream:
        text = stream.read()
    start = _skip(text, 0)
    first = start if text[start : start + 1] == "[" else _list_start(text, start)
    if first is not None:
        yield from _array_rows(path, text, first)
    elif _is_one_value(text, start):
        yield _checked(path, text.count("\n", 0, start) + 1, _value_at(path, text, start)[0], text[start:])
    else:
        yield from _line_rows(path, text.split("\n"))


def _line_rows(path: Path, lines: Iterable[str]) -> Iterator[Row | Rejected]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield _checked(path, number, _DECODER.decode(line), line)
        except json.JSONDecodeError as error:
            yield Rejected(str(path), number, f"not valid JSON: {error.msg} at column {error.colno}", line[:200])
        except RecursionError:
            yield Rejected(str(path), number, "nested too deeply", line[:200])


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
