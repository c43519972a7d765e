"""What ``predict`` reads and writes: lines of text, or rows that keep their fields."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_s2s.console import warn
from lora_s2s.errors import DataError, UsageError
from lora_s2s.files import jsonl_line, naming
from lora_s2s.readers.choose import ending, is_lines
from lora_s2s.readers.origins import find_origins, reading
from lora_s2s.readers.rows import Row
from lora_s2s.readers.streams import COMPRESSED, BadLine, head_of, text_lines
from lora_s2s.readers.tables import delimiter_of

STDIN = "-"
_LINES = (".txt", ".text")
_ROWS_AS_THEY_ARE = (".jsonl", ".ndjson")
_TABLES, _SPREADSHEETS = (".csv", ".tsv"), (".xlsx", ".xls", ".ods")
_PREDICTION = "prediction"

# A spreadsheet runs what begins with one of these.
_FORMULA = ("=", "+", "-", "@")
_FILE_NAME = re.compile(r"\S+\.(txt|text|csv|tsv|jsonl?|ndjson|parquet)(\.(gz|zst|zip))?")
_NUMBER = re.compile(r"[+-]?[0-9][0-9.,]*%?")

Input = str | dict[str, Any]


@dataclass(frozen=True)
class Table:
    """How a CSV or TSV file was written; ``header`` is false where its first line is data."""

    delimiter: str
    header: bool = True

    def named(self, kind: str) -> Table:
        """Returns how a file with the ending ``kind`` is written: ``.tsv`` by tabs, ``.csv`` never
        by tabs.
        """
        delimiter = "," if kind == ".csv" and self.delimiter == "\t" else self.delimiter
        return Table("\t" if kind == ".tsv" else delimiter, self.header)


@dataclass(frozen=True)
class Inputs:
    """Texts or rows, each with the place it came from.

    ``alone`` is one text whose answer may have several lines; ``table`` is how a CSV or TSV file's
    rows were written.
    """

    items: list[Input]
    places: list[str]
    alone: bool = False
    table: Table | None = None

    def written(self, predictions: Sequence[str], *, output: str | None = None) -> str:
        """Returns what goes out: a line for a line, a row with ``prediction`` for a row.

        Rows of CSV and TSV go out as such, unless the output's name says JSON lines; other rows are
        JSON lines.

        Args:
            output: a file's name; one of JSON lines takes texts too, as ``{"text": …, "prediction":
                …}``.
        """
        kind = "" if output is None else Path(output).suffix.lower()
        rows, pairs = kind in _ROWS_AS_THEY_ARE, list(zip(self.items, predictions, strict=True))
        if self.table is not None and kind in ("", *_TABLES):
            records = [(item, text) for item, text in pairs if isinstance(item, dict)]
            return _csv_text(records, self.table.named(kind))
        if self.alone and not rows:
            return f"{predictions[0]}\n"
        broken = (
            0
            if rows
            else sum(isinstance(item, str) and len(text.splitlines()) > 1 for item, text in pairs)
        )
        if broken:
            # One line in, one line out, whatever the model wrote.
            warn(
                f"the lines of {broken:,} answers are joined by spaces; --output FILE.jsonl keeps "
                "them apart"
            )
        return "".join(_line(item, text, rows=rows) for item, text in pairs)


def _line(item: Input, prediction: str, *, rows: bool) -> str:
    if isinstance(item, str) and not rows:
        return " ".join(prediction.splitlines()) + "\n"
    return jsonl_line(
        {**({"text": item} if isinstance(item, str) else item), "prediction": prediction}
    )


def _csv_text(pairs: Sequence[tuple[dict[str, Any], str]], table: Table) -> str:
    """Returns rows with every column they had and ``prediction``, which stands last unless it was a
    column already.
    """
    names = list(dict.fromkeys([*(name for row, _ in pairs for name in row), _PREDICTION]))
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=table.delimiter, lineterminator="\n")
    writer.writerows([names] if table.header else [])
    writer.writerows(
        [{**row, _PREDICTION: text}.get(name, "") for name in names] for row, text in pairs
    )
    formulas = sum(text.startswith(_FORMULA) and not _NUMBER.fullmatch(text) for _, text in pairs)
    if formulas:
        begin = f"{formulas:,} predictions begin with {' '.join(_FORMULA[:-1])} or {_FORMULA[-1]}"
        warn(f"{begin}, which a spreadsheet may run as formulas: import that column as text")
    return buffer.getvalue()


def check_kind(output: str, inputs: Inputs) -> None:
    """Refuses an output whose name says a format that predictions are not written in.

    Raises:
        UsageError: a spreadsheet, a table of texts that were none, or a compressed file.
    """
    path, kind = Path(output), Path(output).suffix.lower()
    if kind in _SPREADSHEETS or (kind in _TABLES and inputs.table is None):
        what = "lines or JSON lines, never a spreadsheet's; a CSV or TSV file's go into one too"
        raise UsageError(
            f"{path.name}: predictions are {what}", hint=f"--output {path.with_suffix('.jsonl')}"
        )
    if kind in COMPRESSED:
        raise UsageError(
            f"{path.name}: predictions are not compressed", hint=f"--output {path.with_suffix('')}"
        )


def read_inputs(texts: Sequence[str], file: str | None, *, parallel: bool = False) -> Inputs:
    """Reads the texts of the command line (``-`` is stdin, a line each), or a file.

    Args:
        parallel: the model was trained on two columns without a header, which is what a ``.tsv``
            then holds here too.

    The file ``-`` is stdin too: rows where its first line is a JSON object, else a text in each
    line.

    Raises:
        UsageError: both or neither were given.
        DataError: the file is missing, empty, or holds a row that cannot be read.
    """
    if bool(texts) == bool(file):
        raise UsageError(
            "expected texts, or --input FILE" + (", not both" if texts else ""),
            hint='lora-s2s predict adapters/demo "a table for four on friday"',
        )
    found: list[tuple[Input, str]]
    table = None
    if file and file != STDIN:
        found = list(_file_items(Path(file).expanduser(), parallel=parallel))
        table = (
            _table(Path(file).expanduser(), parallel=parallel)
            if found and isinstance(found[0][0], dict)
            else None
        )
    elif file and (lines := _stdin_lines()) and lines[0].lstrip().startswith("{"):
        found = [
            (_json_row(line, f"stdin:{number}"), f"stdin:{number}")
            for number, line in enumerate(lines, start=1)
        ]
    else:
        piped = file == STDIN or list(texts) == [STDIN]
        place = "stdin:" if piped else "text "
        lines = lines if file else _stdin_lines() if piped else list(texts)
        found = [(text, f"{place}{number}") for number, text in enumerate(lines, start=1)]
    if not found:
        raise DataError(
            f"{file or 'stdin'} is empty: nothing to answer", hint="give at least one line or row"
        )
    items, places = map(list, zip(*found, strict=True))
    return Inputs(items, places, alone=len(texts) == 1 and texts[0] != STDIN, table=table)


def _table(path: Path, *, parallel: bool) -> Table | None:
    """Returns how a CSV or TSV file is written, by its name; None for other files, and for
    several.
    """
    kind = ending(path) if path.is_file() else ""
    if kind not in _TABLES:
        return None
    tabs = kind == ".tsv" and "\t" in head_of(path).partition("\n")[0]
    return Table("\t" if tabs else delimiter_of(path), header=not (parallel and kind == ".tsv"))


def refuse_file_names(texts: Sequence[str]) -> None:
    """Refuses texts that name files here: the name would be answered in place of what is in the
    file.

    A text that looks like a file's name, and names none, is answered with a warning.

    Raises:
        UsageError: hints at both ways.
    """
    for text in texts:
        if text != STDIN and os.path.isfile(os.path.expanduser(text)):
            name = shlex.quote(text)
            raise UsageError(
                f"'{text}' is a file, and would be answered as a text",
                hint=f"--input {name} answers what is in the file, --text {name} the words "
                "themselves",
            )
        if _FILE_NAME.fullmatch(text):
            warn(f"there is no file '{text}': answering these words as a text")


def _stdin_lines() -> list[str]:
    if sys.stdin is None:
        raise UsageError(
            "stdin is closed, so there is nothing to read", hint="give texts, or --input FILE"
        )
    with naming(Path("stdin")):
        content = sys.stdin.buffer.read()
    try:
        # Not splitlines, which also breaks where a line of a file does not: at U+2028, for one.
        return [
            line.rstrip("\n") for line in io.StringIO(content.decode("utf-8-sig"), newline=None)
        ]
    except UnicodeDecodeError as error:
        raise DataError(f"stdin is not UTF-8 text (byte {error.start})") from error


def _json_row(line: str, place: str) -> dict[str, Any]:
    try:
        return _object(json.loads(line), place)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not a JSON line: {error}", where=place) from error


def _object(row: object, place: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise DataError("not a JSON object", where=place)
    return row


def _file_lines(path: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text_lines(path), start=1):
        if isinstance(line, BadLine):
            raise DataError(line.reason, where=f"{path}:{number}")
        yield number, line.removesuffix("\r")


def _file_items(path: Path, *, parallel: bool) -> Iterator[tuple[Input, str]]:
    # Of what is no file, find_origins tells what it is, or finds the files in it.
    kind = ending(path) if path.is_file() else ""
    with reading(path):
        if kind in _LINES or (path.is_file() and is_lines(path, parallel=parallel)):
            yield from ((line, f"{path}:{number}") for number, line in _file_lines(path))
        elif kind in _ROWS_AS_THEY_ARE:
            # Not the reader for training data: what was a number stays one on its way through.
            rows = (line for _, line in _file_lines(path) if line.strip())
            for place, line in (
                (f"{path}, row {number}", line) for number, line in enumerate(rows, start=1)
            ):
                yield _json_row(line, place), place
        else:
            for origin in find_origins(str(path), parallel=parallel):
                for item in origin.rows():
                    if not isinstance(item, Row):
                        raise DataError(item.reason, where=f"{path}:{item.line}")
                    yield dict(item.fields), f"{path}:{item.line}"
