"""Parquet read in bounded memory: page headers are checked before Arrow expands a page, rows come
in small batches.

A column's dictionary stays one until its rows are taken, so that a value written once and repeated
a million times costs its own size.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lora_s2s import limits
from lora_s2s.errors import DataError
from lora_s2s.readers import streams
from lora_s2s.readers.rows import Items, Parsing, Rejected, Row
from lora_s2s.readers.streams import blocks

MAGIC = "PAR1"
_ROWS_AT_ONCE = 1024
# What a value costs in Python besides its bytes.
_OBJECT = 64
_STRUCT, _STOP = 12, 0
_DICTIONARY_PAGE = 2
# Encodings that say lengths ahead of all values, or repeat the start of the value before.
_DELTA_LENGTHS, _DELTA_TEXTS = 6, 7


def read_parquet(path: Path, _: Parsing) -> Items:
    """Yields a Parquet file's rows, numbered from 1; a compressed file is unpacked beside, not in
    memory.

    Raises:
        DataError: too many columns, pages that are too large, or values that expand without end.
    """
    with path.open("rb") as plain, tempfile.TemporaryFile() as unpacked:
        uncompressed = plain.read(len(MAGIC)) == MAGIC.encode()
        unpacked.writelines([] if uncompressed else blocks(path))
        yield from _rows(path, plain if uncompressed else unpacked)


def _rows(path: Path, file: IO[bytes]) -> Items:
    size, expanded, number = file.seek(0, 2), 0, 0
    for part, cost in itertools.chain.from_iterable(map(_parts, _batches(path, file))):
        expanded += cost
        streams.refuse_endless(path, expanded, size)
        if cost > streams.LONGEST_RECORD and part.num_rows == 1:
            number += 1
            yield Rejected(str(path), number, streams.TOO_LONG, "")
            continue
        for fields in part.to_pylist():
            number += 1
            yield Row(number, fields)


def _batches(path: Path, file: IO[bytes]) -> Iterator[pa.RecordBatch]:
    """Yields batches that are small, or hold texts as dictionaries where they might not be."""
    bounds = {"thrift_string_size_limit": 16 * limits.MIB, "thrift_container_size_limit": 1_000_000}
    table = pq.ParquetFile(file, **bounds)
    streams.refuse_columns(table.schema_arrow.names, str(path))
    leaves = map(table.schema.column, range(len(table.schema)))
    texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
    encoded = pq.ParquetFile(file, read_dictionary=texts, **bounds)
    for group in range(table.num_row_groups):
        about = table.metadata.row_group(group)
        rows, repeated = _rows_at_once(path, file, about)
        if repeated:
            first = next(
                encoded.iter_batches(batch_size=1, row_groups=[group], use_threads=False), None
            )
            repeated = (
                first is not None
                and repeated * max(map(_longest, first.columns)) > limits.PARQUET_BATCH
            )
        reader = encoded if repeated else table
        yield from reader.iter_batches(batch_size=rows, row_groups=[group], use_threads=False)


def _rows_at_once(path: Path, file: IO[bytes], group: pq.RowGroupMetaData) -> tuple[int, int]:
    """Checks the pages of a row group; returns how many of its rows to take, and how often those
    may repeat one text.

    Raises:
        DataError: a page, or what one row may hold, is too large.
    """
    memory, widest, most_repeated = 0, 1.0, 0
    for index in range(group.num_columns):
        column = group.column(index)
        nested = column.num_values > group.num_rows or "." in column.path_in_schema
        largest = values = 0
        for page in _pages(file, column):
            if page.is_dictionary:
                memory += 2 * page.size  # the page and what is decoded of it
                repeated = column.num_values if nested else min(group.num_rows, _ROWS_AT_ONCE)
                most_repeated = max(most_repeated, repeated)
                continue
            values += page.values
            ahead = 8 * page.values if page.encoding in (_DELTA_LENGTHS, _DELTA_TEXTS) else 0
            largest = max(largest, page.size, ahead)
            widest = max(
                widest,
                page.size if page.encoding == _DELTA_TEXTS else page.size / max(1, page.values),
            )
        memory += largest + (_OBJECT * values // 8 if nested else 0)
    if memory > limits.LARGEST_PARQUET_PAGES:
        most = limits.in_words(limits.LARGEST_PARQUET_PAGES)
        raise DataError(
            f"{path} expands to more than {most} of memory at once (pages of "
            f"{limits.in_words(memory)})",
            hint="write it with smaller pages, or as JSON lines",
        )
    return max(1, min(_ROWS_AT_ONCE, int(limits.PARQUET_BATCH / widest))), most_repeated


@dataclass(frozen=True)
class _Page:
    """A page's header: its size when expanded, its values and their encoding."""

    size: int
    values: int
    encoding: int
    is_dictionary: bool


def _pages(file: IO[bytes], column: pq.ColumnChunkMetaData) -> Iterator[_Page]:
    """Yields the pages of a column chunk, where Arrow will look for them."""
    start, first = column.data_page_offset, column.dictionary_page_offset
    position = min(start, first) if first else start
    end = position + column.total_compressed_size
    while position < end:
        file.seek(position)
        header = _Thrift(file).struct()
        detail: dict[int, Any] = next(
            (header[key] for key in (5, 7, 8) if isinstance(header.get(key), dict)), {}
        )
        kind, size, stored = (_number(header.get(key)) for key in (1, 2, 3))
        yield _Page(
            size,
            _number(detail.get(1)),
            _number(detail.get(4 if 8 in header else 2)),
            kind == _DICTIONARY_PAGE,
        )
        position = file.tell() + stored


def _number(value: object) -> int:
    if isinstance(value, int) and value >= 0:
        return value
    raise OSError(
        "a page header lacks a size" if value is None else "a page header has a negative size"
    )


class _Thrift:
    """Thrift's compact protocol, as far as a page header goes; texts and lists are skipped."""

    _DEEPEST, _LONGEST = 8, 1 << 24

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def _byte(self) -> int:
        one = self._file.read(1)
        if not one:
            raise OSError("a page header is cut off")
        return one[0]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
            if shift > 63:
                raise OSError("a page header holds a number that is too long")

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """Takes a struct and returns its fields by their numbers."""
        fields: dict[int, Any] = {}
        number = 0
        while (byte := self._byte()) != _STOP:
            number = number + (byte >> 4) if byte >> 4 else self._zigzag()
            fields[number] = self._value(byte & 0x0F, depth)
        return fields

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _value(self, kind: int, depth: int) -> Any:
        if depth > self._DEEPEST:
            raise OSError("a page header is nested too deeply")
        if kind in (1, 2):
            return kind == 1
        if kind == 3:
            return self._byte()
        if kind in (4, 5, 6):
            return self._zigzag()
        if kind in (7, 8):
            length = 8 if kind == 7 else self._varint()
            if length > self._LONGEST:
                raise OSError("a page header holds a text that is too long")
            self._file.seek(length, 1)
            return None
        if kind == _STRUCT:
            return self.struct(depth + 1)
        raise OSError(f"a page header holds a value of unknown type {kind}")


def _parts(batch: pa.RecordBatch) -> Iterator[tuple[pa.RecordBatch, int]]:
    """Yields a batch in parts whose rows fit in memory as Python objects, with what they cost:
    halves what does not.
    """
    waiting = [batch] if batch.num_rows else []
    while waiting:
        part = waiting.pop()
        cost = sum(map(_cost, part.columns))
        if cost > limits.PARQUET_BATCH and part.num_rows > 1:
            half = part.num_rows // 2
            waiting += [part.slice(half), part.slice(0, half)]
        else:
            yield part, cost


def _cost(array: pa.Array) -> int:
    """Returns about how many bytes an array takes as Python objects, without making them."""
    if isinstance(array, pa.DictionaryArray):
        lengths = pc.binary_length(array.dictionary).take(array.indices)
        return int(pc.sum(lengths).as_py() or 0) + _OBJECT * len(array)
    return (
        sum(map(_cost, _children(array)))
        + _OBJECT * len(array)
        + (0 if _children(array) else int(array.nbytes))
    )


def _longest(array: pa.Array) -> int:
    """Returns the bytes of the longest text that a dictionary in an array holds."""
    if isinstance(array, pa.DictionaryArray):
        return int(pc.max(pc.binary_length(array.dictionary)).as_py() or 0)
    return max(map(_longest, _children(array)), default=0)


def _children(array: pa.Array) -> list[pa.Array]:
    if isinstance(array, (pa.ListArray, pa.LargeListArray, pa.FixedSizeListArray)):
        return [array.flatten()]
    return array.flatten() if isinstance(array, pa.StructArray) else []
