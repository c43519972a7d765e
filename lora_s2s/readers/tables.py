"""CSV and TSV: every cell as written, the line of every record kept."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from lora_s2s import limits
from lora_s2s.errors import DataError
from lora_s2s.readers import streams
from lora_s2s.readers.encodings import WrongEncoding
from lora_s2s.readers.headers import are_known, is_header, names_without_header
from lora_s2s.readers.names import normalised
from lora_s2s.readers.rows import Items, Parsing, Rejected, Row
from lora_s2s.readers.streams import blocks, excerpt, head_of, text_lines

_RECORDS_COMPARED = 2000
_BACKSLASHES = re.compile(r'(\\+)("?)')
_RECORDS_LOOKED_AT = 20
_SEP = re.compile(
    r'"?sep=([,;\t|])"?[\r\n]'
)  # how Excel names the delimiter, on a first line of its own
Record: TypeAlias = tuple[int, list[str]]  # the line it starts on, its cells


def read_csv(path: Path, parsing: Parsing) -> Items:
    """Yields a CSV file's rows; the first records decide on the delimiter, on a header, and on
    escaped quotes.
    """
    skip = 1 if _SEP.match(head_of(path)) else 0
    dialect = Dialect(delimiter_of(path), skip=skip, encoding=parsing.encoding)
    if _has_escaped_quotes(path) and _reads_better(path, dialect, replace(dialect, escaped=True)):
        dialect = replace(dialect, escaped=True)
        parsing.note('quotes inside cells are escaped as \\"; other backslashes are text')
    yield from _rows(path, dialect, parsing)


def read_tsv(path: Path, parsing: Parsing) -> Items:
    """Yields a TSV file's rows. Quotes are text unless the entire file is quoted correctly."""
    if "\t" not in next(io.StringIO(head_of(path)), "\t"):
        yield from read_csv(path, parsing)
        return
    quoted = Dialect("\t", encoding=parsing.encoding)
    plain = not any(b'"' in block for block in blocks(path))
    plain = plain or any(isinstance(item, Rejected) for item in _records(path, quoted))
    yield from _rows(path, replace(quoted, quoting=csv.QUOTE_NONE) if plain else quoted, parsing)


@dataclass(frozen=True)
class Dialect:
    """How a table's cells are separated.

    Attributes:
        escaped: a quote inside a quoted cell is written ``\\"``, as MySQL and Spark do, beside
            ``""``.
        skip: lines before the first record.
        encoding: of a file that is not UTF-8.
    """

    delimiter: str
    quoting: int = csv.QUOTE_MINIMAL
    escaped: bool = False
    skip: int = 0
    encoding: str = streams.UTF8


def _has_escaped_quotes(path: Path) -> bool:
    return any(b'\\"' in block for block in blocks(path))


def _reads_better(path: Path, plain: Dialect, escaped: Dialect) -> bool:
    """Whether the first records are all valid with escaped quotes, and not without."""
    return _faults(path, escaped) == 0 < _faults(path, plain)


def _faults(path: Path, dialect: Dialect) -> int:
    width, faults = 0, 0
    for item in itertools.islice(_records(path, dialect), _RECORDS_COMPARED):
        width = width or (0 if isinstance(item, Rejected) else len(item[1]))
        faults += isinstance(item, Rejected) or len(item[1]) != width
    return faults


def delimiter_of(path: Path) -> str:
    """Returns the delimiter of a CSV file: the one it names, else the one that its first records
    agree on.
    """
    head = head_of(path)
    named = _SEP.match(head)
    return named[1] if named else agreed_delimiter(head)[0]


def agreed_delimiter(head: str) -> tuple[str, bool]:
    """Returns the delimiter that gives the header two columns or more, and the first records most
    often as many.

    Also returns whether two records or more were there, and all agreed.
    """
    lines = list(io.StringIO(head, newline=""))
    lines = lines[:-1] if len(lines) > 2 else lines  # the last may be cut
    best, chosen, sure = (0.0, 1), ",", False
    for delimiter in ",;\t|":
        counts: list[int] = []
        with suppress(csv.Error):
            for cells in itertools.islice(
                csv.reader(lines, delimiter=delimiter), _RECORDS_LOOKED_AT
            ):
                counts += [len(cells)] if cells else []
        found = (counts.count(counts[0]) / len(counts), counts[0]) if counts else best
        if found[1] > 1 and found > best:
            best, chosen, sure = found, delimiter, len(counts) > 1 and found[0] == 1
    return chosen, sure


class _Feed:
    """The lines csv takes, and why the record they make up cannot be used."""

    def __init__(self, lines: Iterator[str], escaped: bool) -> None:
        self._lines, self._escaped = lines, escaped
        self.number, self.length, self.reason, self.text = 0, 0, "", ""

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.number += 1
        self.reason = self.reason or getattr(line, "reason", "")
        self.text = self.text if self.length else line
        self.length += len(line) + 1
        if self.length > streams.LONGEST_RECORD:
            raise csv.Error(streams.TOO_LONG)
        return (_BACKSLASHES.sub(_kept, line) if self._escaped and "\\" in line else line) + "\n"


def _kept(found: re.Match[str]) -> str:
    """Returns backslashes for csv with an escape character: all stay as they stand but one that
    escapes a quote.
    """
    run, quote = found[1], found[2]
    if quote and len(run) % 2:
        return "\\\\" * (len(run) - 1) + '\\"'
    return "\\\\" * len(run) + quote


def _records(path: Path, dialect: Dialect) -> Iterator[Record | Rejected]:
    csv.field_size_limit(streams.LONGEST_RECORD)
    skip = dialect.skip
    feed = _Feed(itertools.islice(text_lines(path, dialect.encoding), skip, None), dialect.escaped)
    # strict: reports a misplaced quote, where the default silently changes the text.
    reader = csv.reader(
        feed,
        delimiter=dialect.delimiter,
        quoting=dialect.quoting,  # type: ignore[arg-type]
        escapechar="\\" if dialect.escaped else None,
        strict=True,
    )
    while True:
        line, cells, feed.length, feed.reason = skip + feed.number + 1, list[str](), 0, ""
        last = line
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            last = skip + feed.number
            broken = f"broken quoting: {error}, lines {line} to {last}"
            feed.reason = feed.reason or (
                streams.TOO_LONG if str(error) == streams.TOO_LONG else broken
            )
        if feed.reason:
            yield Rejected(str(path), line, feed.reason, excerpt(feed.text))
            # Most likely a row each, which an open quote swallowed.
            reason = f"broken quoting: taken into the quotes of line {line}"
            yield from (Rejected(str(path), n, reason, "") for n in range(line + 1, last + 1))
        elif cells:
            yield line, cells


def _rows(path: Path, dialect: Dialect, parsing: Parsing) -> Items:
    records = _records(path, dialect)
    first = next(records, None)
    if first is None:
        return
    if isinstance(first, Rejected):
        where = f"{path}:{first.line}"
        if first.reason.startswith("invalid"):
            raise WrongEncoding(str(path), first.reason, "the header cannot be read", where)
        raise DataError(
            f"{path}: the header cannot be read ({first.reason})",
            hint='inside a quoted cell write a quote twice ("")',
            where=where,
        )
    if len(first[1]) > limits.MOST_COLUMNS:
        streams.refuse_columns(first[1], f"{path}:{first[0]}")
    names = [name.strip() for name in first[1]]
    following = _some(records)
    shown = ", ".join(f"'{name:.40}'" for name in names[:4])
    if _has_header(names, following, parsing):
        header = _header(names, f"{path}:{first[0]}")
        parsing.header = tuple(names)
        if len(names) > 1 and not parsing.columns and not are_known(names):
            parsing.note(
                f"the first line ({shown}) was read as a header; if it is data: "
                "--set data.source_column=column1 --set data.target_column=column2"
            )
    else:
        numbered = _numbered(names)
        header = (
            numbered if _named_by_number(parsing, numbered) else names_without_header(len(names))
        )
        streams.refuse_columns(header, str(path))
        following.insert(0, first)
        parsing.note(
            f"the first line ({shown}) was read as data, not as a header, so the columns are "
            f"{', '.join(header[:4])}{', …' if len(header) > 4 else ''}; if it is a header, name a "
            "column of it as data.source_column"
        )
    yield from _fields(path, header, itertools.chain(following, records))


def _some(records: Iterator[Record | Rejected]) -> list[Record | Rejected]:
    """Takes some records, fewer where they are long."""
    taken: list[Record | Rejected] = []
    size = 0
    for item in records:
        taken.append(item)
        size += sum(map(len, item[1])) + len(item[1]) if isinstance(item, tuple) else 0
        if len(taken) == _RECORDS_LOOKED_AT or size > streams.BLOCK:
            break
    return taken


def _numbered(names: list[str]) -> list[str]:
    return [f"column{number}" for number in range(1, len(names) + 1)]


def _named_by_number(parsing: Parsing, numbered: list[str]) -> bool:
    """Whether the user named columns by number (``column1``), as only a table without a header has
    them.
    """
    asked = {normalised(name) for name in parsing.columns}
    return bool(asked) and asked <= set(numbered)


def _has_header(names: list[str], following: list[Record | Rejected], parsing: Parsing) -> bool:
    asked = {normalised(name) for name in parsing.columns}
    if not asked.isdisjoint(name.lower() for name in names):
        return True
    if _named_by_number(parsing, _numbered(names)):
        return False
    rows = [item[1] for item in following if isinstance(item, tuple)]
    return any(len(row) != len(names) for row in rows) or len(names) < 2 or is_header(names, rows)


def _header(names: list[str], where: str) -> list[str]:
    streams.refuse_columns(names, where)
    # Of columns without a name the first stays without; the others get their number.
    unnamed = names.index("") if "" in names else len(names)
    return [
        name if name or index == unnamed else f".{index + 1}" for index, name in enumerate(names)
    ]


def _fields(path: Path, header: list[str], records: Iterable[Record | Rejected]) -> Items:
    width = len(header)
    for item in records:
        if isinstance(item, Rejected):
            yield item
        elif len(item[1]) == width or (len(item[1]) > width and not any(item[1][width:])):
            yield Row(item[0], dict(zip(header, item[1], strict=False)))
        else:
            number = len(item[1])
            reason = (
                f"{'fewer' if number < width else 'more'} fields than the header: {number}, "
                f"expected {width}"
            )
            reason += " (is a text with the delimiter unquoted?)" if number > width else ""
            yield Rejected(str(path), item[0], reason, excerpt(" | ".join(item[1])))
