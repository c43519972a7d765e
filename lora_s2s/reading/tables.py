"""CSV, TSV and Parquet: every cell as written, the line of every record kept."""

from __future__ import annotations

import csv
import io
import itertools
import re
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

import pyarrow.parquet as pq

from lora_s2s.errors import DataError
from lora_s2s.reading import streams
from lora_s2s.reading.example import Rejected, Row
from lora_s2s.reading.streams import BadLine, blocks, excerpt, head_of, text_head, text_lines

PARQUET_MAGIC = b"PAR1"
_ROWS_AT_ONCE = 1024
_RECORDS_LOOKED_AT = 20
_SEP = re.compile(r'"?sep=([,;\t|])"?[\r\n]')  # how Excel names the delimiter, on a first line of its own
Record: TypeAlias = tuple[int, list[str]]  # the line it starts on, its cells


def read_csv(path: Path) -> Iterator[Row | Rejected]:
    """Yields a CSV file's rows; header and first records decide between commas, semicolons, tabs and bars."""
    head = text_head(head_of(path))
    named = _SEP.match(head)
    delimiter = named[1] if named else agreed_delimiter(head)[0]
    yield from _rows(path, delimiter, csv.QUOTE_MINIMAL, skip=1 if named else 0)


def read_tsv(path: Path) -> Iterator[Row | Rejected]:
    """Yields a TSV file's rows. Quotes are quoting only where the whole file is quoted correctly, else plain text."""
    if "\t" not in next(io.StringIO(text_head(head_of(path))), "\t"):
        yield from read_csv(path)
        return
    plain = not any(b'"' in block for block in blocks(path))
    plain = plain or any(isinstance(item, Rejected) for item in _records(path, "\t", csv.QUOTE_MINIMAL, 0))
    yield from _rows(path, "\t", csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL, skip=0)


def agreed_delimiter(head: str) -> tuple[str, bool]:
    """Returns the delimiter that gives the header two columns or more, and the first records most often as many.

    Also returns whether two records or more were there, and all agreed.
    """
    best, chosen, sure = (0.0, 1), ",", False
    for delimiter in ",;\t|":
        counts = _counts(head, delimiter)
        found = (counts.count(counts[0]) / len(counts), counts[0]) if counts else best
        if found[1] > 1 and found > best:
            best, chosen, sure = found, delimiter, len(counts) > 1 and found[0] == 1
    return chosen, sure


def _counts(head: str, delimiter: str) -> list[int]:
    lines = list(io.StringIO(head, newline=""))
    lines = lines[:-1] if len(lines) > 2 else lines  # the last may be cut
    counts: list[int] = []
    with suppress(csv.Error):
        for cells in itertools.islice(csv.reader(lines, delimiter=delimiter), _RECORDS_LOOKED_AT):
            counts += [len(cells)] if cells else []
    return counts


class _Feed:
    """The lines csv takes, and why the record they make up cannot be used."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._length = 0
        self.number = 0
        self.reason = ""

    def start_record(self) -> None:
        self._length, self.reason = 0, ""

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.number += 1
        if type(line) is BadLine:
            self.reason = self.reason or line.reason
        self._length += len(line)
        if self._length > streams.LONGEST_RECORD:
            raise csv.Error(streams.TOO_LONG)
        return line + "\n"


def _records(path: Path, delimiter: str, quoting: int, skip: int) -> Iterator[Record | Rejected]:
    csv.field_size_limit(streams.LONGEST_RECORD)
    feed = _Feed(itertools.islice(text_lines(path), skip, None))
    # strict: a quote closed in the wrong place is reported, where the default quietly changes the text.
    reader = csv.reader(feed, delimiter=delimiter, quoting=quoting, strict=True)  # type: ignore[arg-type]
    while True:
        line, cells = skip + feed.number + 1, list[str]()
        feed.start_record()
        try:
            cells = next(reader)
            reason = feed.reason
        except StopIteration:
            return
        except csv.Error as error:
            broken = f"broken quoting: {error}, lines {line} to {skip + feed.number}"
            reason = feed.reason or (streams.TOO_LONG if str(error) == streams.TOO_LONG else broken)
        if reason:
            yield Rejected(str(path), line, reason, excerpt(" | ".join(cells)))
        elif cells:
            yield line, cells


def _rows(path: Path, delimiter: str, quoting: int, *, skip: int) -> Iterator[Row | Rejected]:
    records = _records(path, delimiter, quoting, skip)
    first = next(records, None)
    if first is None:
        return
    if isinstance(first, Rejected):
        raise DataError(f"{path}: the header cannot be read ({first.reason})", where=f"{path}:{first.line}")
    header = _header(path, *first)
    width = len(header)
    for item in records:
        if isinstance(item, Rejected):
            yield item
            continue
        line, cells = item
        if len(cells) == width or (len(cells) > width and not any(cells[width:])):
            yield Row(line, dict(zip(header, cells, strict=False)))
        else:
            yield Rejected(str(path), line, _wrong_width(len(cells), width), excerpt(" | ".join(cells)))


def _header(path: Path, line: int, cells: list[str]) -> list[str]:
    names = [name.strip() for name in cells]
    _refuse_repeated(names, f"{path}:{line}")
    # Of columns without a name the first stays without; the others get their number.
    return [name if name not in names[:index] else f"{name}.{index + 1}" for index, name in enumerate(names)]


def _refuse_repeated(names: list[str], where: str) -> None:
    for index, name in enumerate(names):
        if name and name in names[:index]:
            both = f"columns {names.index(name) + 1} and {index + 1}"
            raise DataError(f"a column named twice: '{name}' ({both})", hint="rename one of them", where=where)


def _wrong_width(count: int, expected: int) -> str:
    if count < expected:
        return f"fewer fields than the header: {count}, expected {expected}"
    return f"more fields than the header: {count}, expected {expected} (is a text with the delimiter unquoted?)"


def read_parquet(path: Path) -> Iterator[Row | Rejected]:
    """Yields a Parquet file's rows, numbered from 1; a compressed file is unpacked beside, not in memory."""
    with path.open("rb") as plain, tempfile.TemporaryFile() as unpacked:
        whole = plain.read(len(PARQUET_MAGIC)) == PARQUET_MAGIC
        unpacked.writelines([] if whole else blocks(path))
        table = pq.ParquetFile(path if whole else unpacked)
        _refuse_repeated(table.schema_arrow.names, str(path))
        batches = table.iter_batches(batch_size=_ROWS_AT_ONCE)
        rows = (row for batch in batches for row in batch.to_pylist())
        yield from itertools.starmap(Row, enumerate(rows, start=1))
