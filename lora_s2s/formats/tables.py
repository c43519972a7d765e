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
from lora_s2s.formats import streams
from lora_s2s.formats.rows import Rejected, Row
from lora_s2s.formats.streams import blocks, excerpt, head_of, text_lines

PARQUET_MAGIC = "PAR1"
_ROWS_AT_ONCE = 1024
_RECORDS_LOOKED_AT = 20
_SEP = re.compile(r'"?sep=([,;\t|])"?[\r\n]')  # how Excel names the delimiter, on a first line of its own
Record: TypeAlias = tuple[int, list[str]]  # the line it starts on, its cells


def read_csv(path: Path) -> Iterator[Row | Rejected]:
    """Yields a CSV file's rows; header and first records decide between commas, semicolons, tabs and bars."""
    skip = 1 if _SEP.match(head_of(path)) else 0
    yield from _rows(path, delimiter_of(path), csv.QUOTE_MINIMAL, skip=skip)


def read_tsv(path: Path) -> Iterator[Row | Rejected]:
    """Yields a TSV file's rows. Quotes are quoting only where the whole file is quoted correctly, else plain text."""
    if "\t" not in next(io.StringIO(head_of(path)), "\t"):
        yield from read_csv(path)
        return
    plain = not any(b'"' in block for block in blocks(path))
    plain = plain or any(isinstance(item, Rejected) for item in _records(path, "\t", csv.QUOTE_MINIMAL, 0))
    yield from _rows(path, "\t", csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL, skip=0)


def delimiter_of(path: Path) -> str:
    """Returns the delimiter of a CSV file: the one it names, else the one that its first records agree on."""
    head = head_of(path)
    named = _SEP.match(head)
    return named[1] if named else agreed_delimiter(head)[0]


def agreed_delimiter(head: str) -> tuple[str, bool]:
    """Returns the delimiter that gives the header two columns or more, and the first records most often as many.

    Also returns whether two records or more were there, and all agreed.
    """
    lines = list(io.StringIO(head, newline=""))
    lines = lines[:-1] if len(lines) > 2 else lines  # the last may be cut
    best, chosen, sure = (0.0, 1), ",", False
    for delimiter in ",;\t|":
        counts: list[int] = []
        with suppress(csv.Error):
            for cells in itertools.islice(csv.reader(lines, delimiter=delimiter), _RECORDS_LOOKED_AT):
                counts += [len(cells)] if cells else []
        found = (counts.count(counts[0]) / len(counts), counts[0]) if counts else best
        if found[1] > 1 and found > best:
            best, chosen, sure = found, delimiter, len(counts) > 1 and found[0] == 1
    return chosen, sure


class _Feed:
    """The lines csv takes, and why the record they make up cannot be used."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self.number, self.length, self.reason = 0, 0, ""

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.number += 1
        self.reason = self.reason or getattr(line, "reason", "")
        self.length += len(line) + 1
        if self.length > streams.LONGEST_RECORD:
            raise csv.Error(streams.TOO_LONG)
        return line + "\n"


def _records(path: Path, delimiter: str, quoting: int, skip: int) -> Iterator[Record | Rejected]:
    csv.field_size_limit(streams.LONGEST_RECORD)
    feed = _Feed(itertools.islice(text_lines(path), skip, None))
    # strict: a quote closed in the wrong place is reported, where the default quietly changes the text.
    reader = csv.reader(feed, delimiter=delimiter, quoting=quoting, strict=True)  # type: ignore[arg-type]
    while True:
        line, cells, feed.length, feed.reason = skip + feed.number + 1, list[str](), 0, ""
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            broken = f"broken quoting: {error}, lines {line} to {skip + feed.number}"
            feed.reason = feed.reason or (streams.TOO_LONG if str(error) == streams.TOO_LONG else broken)
        if feed.reason:
            yield Rejected(str(path), line, feed.reason, excerpt(" | ".join(cells)))
        elif cells:
            yield line, cells


def _rows(path: Path, delimiter: str, quoting: int, *, skip: int) -> Iterator[Row | Rejected]:
    records = _records(path, delimiter, quoting, skip)
    first = next(records, None)
    if first is None:
        return
    if isinstance(first, Rejected):
        raise DataError(f"{path}: the header cannot be read ({first.reason})", where=f"{path}:{first.line}")
    names = [name.strip() for name in first[1]]
    _refuse_repeated(names, f"{path}:{first[0]}")
    # Of columns without a name the first stays without; the others get their number.
    header = [name if name not in names[:index] else f"{name}.{index + 1}" for index, name in enumerate(names)]
    width = len(header)
    for item in records:
        if isinstance(item, Rejected):
            yield item
        elif len(item[1]) == width or (len(item[1]) > width and not any(item[1][width:])):
            yield Row(item[0], dict(zip(header, item[1], strict=False)))
        else:
            number = len(item[1])
            reason = f"{'fewer' if number < width else 'more'} fields than the header: {number}, expected {width}"
            reason += " (is a text with the delimiter unquoted?)" if number > width else ""
            yield Rejected(str(path), item[0], reason, excerpt(" | ".join(item[1])))


def _refuse_repeated(names: list[str], where: str) -> None:
    for index, name in enumerate(names):
        if name and name in names[:index]:
            both = f"columns {names.index(name) + 1} and {index + 1}"
            raise DataError(f"a column named twice: '{name}' ({both})", hint="rename one of them", where=where)


def read_parquet(path: Path) -> Iterator[Row | Rejected]:
    """Yields a Parquet file's rows, numbered from 1; a compressed file is unpacked beside, not in memory."""
    with path.open("rb") as plain, tempfile.TemporaryFile() as unpacked:
        whole = plain.read(len(PARQUET_MAGIC)) == PARQUET_MAGIC.encode()
        unpacked.writelines([] if whole else blocks(path))
        table = pq.ParquetFile(path if whole else unpacked)
        _refuse_repeated(table.schema_arrow.names, str(path))
        batches = table.iter_batches(batch_size=_ROWS_AT_ONCE)
        rows = (row for batch in batches for row in batch.to_pylist())
        yield from itertools.starmap(Row, enumerate(rows, start=1))
