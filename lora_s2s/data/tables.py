"""CSV, TSV and Parquet: records with named columns, every cell as written."""

from __future__ import annotations

import csv
import gzip
import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from lora_s2s.data.example import Rejected
from lora_s2s.data.rows import Row, reading
from lora_s2s.errors import DataError
from lora_s2s.files import open_text

_LARGEST_CELL = 1 << 28
_ROWS_AT_ONCE = 1024
Record: TypeAlias = tuple[int, list[str]]  # the line it starts on, its cells


def read_csv(path: Path) -> Iterator[Row | Rejected]:
    """Yields a CSV file's rows; the header decides between commas, semicolons and tabs."""
    with reading(path), open_text(path) as stream:
        head = list(itertools.islice(stream, 1))
        delimiter = _delimiter_of(head[0]) if head else ","
        yield from _rows(path, itertools.chain(head, stream), delimiter, csv.QUOTE_MINIMAL)


def read_tsv(path: Path) -> Iterator[Row | Rejected]:
    """Yields a TSV file's rows. Quotes are quoting only where the whole file is quoted correctly, else plain text."""
    with reading(path):
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
    header = _distinct([name.strip() for name in first[1]])
    for item in records:
        yield item if isinstance(item, Rejected) else _named(path, header, *item)


def _distinct(names: list[str]) -> list[str]:
    """Of columns with one name the first keeps it; the others get their number."""
    return [name if name not in names[:index] else f"{name}.{index + 1}" for index, name in enumerate(names)]


def _named(path: Path, header: list[str], line: int, cells: list[str]) -> Row | Rejected:
    if len(cells) > len(header) and any(cells[len(header) :]):
        reason = f"more fields than the header: {len(cells)}, expected {len(header)} (is a text with a comma unquoted?)"
        return Rejected(str(path), line, reason, " | ".join(cells)[:200])
    return Row(line, dict(zip(header, cells, strict=False)))


def read_parquet(path: Path) -> Iterator[Row | Rejected]:
    """Yields a Parquet file's rows, numbered from 1; a gzip-compressed file is unpacked in memory."""
    with reading(path):
        zipped = path.suffix.lower() == ".gz"
        table = pq.ParquetFile(pa.BufferReader(gzip.decompress(path.read_bytes())) if zipped else path)
        line = 0
        for batch in table.iter_batches(batch_size=_ROWS_AT_ONCE):
            for fields in batch.to_pylist():
                line += 1
                yield Row(line, fields)
