"""What ``predict`` reads: lines of text, or rows that keep their fields."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_s2s.console import warn
from lora_s2s.errors import DataError, UsageError, quoted
from lora_s2s.examples.asking import check_takes_text
from lora_s2s.examples.causes import hint_for
from lora_s2s.examples.template import check_recorded
from lora_s2s.files import naming
from lora_s2s.outputs import appears_whole
from lora_s2s.readers.choose import SPREADSHEETS, ending, is_lines
from lora_s2s.readers.encodings import checked_lines, guess_encoding
from lora_s2s.readers.origins import find_origins, reading, say_encoding
from lora_s2s.readers.rows import Parsing, Row
from lora_s2s.readers.streams import COMPRESSED, UTF8, head_of
from lora_s2s.readers.tables import delimiter_of
from lora_s2s.records import ModelManifest, has_manifest

STDIN = "-"
TABLES = (".csv", ".tsv")
JSON_LINES = (".jsonl", ".ndjson")
PARQUET = ".parquet"
_LINES = (".txt", ".text")

_FILE_NAME = re.compile(r"\S+\.(txt|text|csv|tsv|jsonl?|ndjson|parquet)(\.(gz|zst|zip))?")

Input = str | dict[str, Any]
Placed = tuple[Input, str]


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
    """Texts or rows to be answered, each with the place it came from; iterating again reads a file
    again, so that no more than a few are in memory.

    Attributes:
        opened: begins a new reading.
        count: how many there are.
        columns: those of the rows, by first appearance; empty for texts.
        alone: one text, whose answer may have several lines.
        table: how a CSV or TSV file's rows were written.
        file: the file, if it is one.
    """

    opened: Callable[[], Iterable[Placed]] = field(repr=False)
    count: int
    columns: Sequence[str] = ()
    alone: bool = False
    table: Table | None = None
    file: Path | None = None

    def __iter__(self) -> Iterator[Placed]:
        return iter(self.opened())

    @classmethod
    def of(cls, items: Sequence[Input], places: Sequence[str], *, alone: bool = False) -> Inputs:
        """Returns inputs that are in memory."""
        placed = list(zip(items, places, strict=True))
        return cls(lambda: placed, len(placed), _columns(placed)[1], alone=alone)


def _columns(placed: Iterable[Placed]) -> tuple[int, list[str]]:
    """Returns the number of inputs and the columns of the rows."""
    names: dict[str, None] = {}
    count = 0
    for item, _ in placed:
        count += 1
        if isinstance(item, dict) and not names.keys() >= item.keys():
            names.update(dict.fromkeys(item))
    return count, list(names)


def read_inputs(
    texts: Sequence[str], file: str | None, *, parallel: bool = False, encoding: str = UTF8
) -> Inputs:
    """Reads the texts of the command line (``-`` is stdin, a line each), or a file.

    Args:
        parallel: the model was trained on two columns without a header, which is what a ``.tsv``
            then holds here too.
        encoding: of a file that is not UTF-8.

    The file ``-`` is stdin too: rows where its first line is a JSON object, else a text in each
    line.

    Raises:
        DataError: the file is missing, empty, or holds a row that cannot be read.
    """
    if file and file != STDIN:
        inputs = _file_inputs(Path(file).expanduser(), parallel, encoding)
    elif file and (lines := _stdin_lines()) and lines[0].lstrip().startswith("{"):
        places = [f"stdin:{number}" for number in range(1, len(lines) + 1)]
        rows = [_json_row(line, place) for line, place in zip(lines, places, strict=True)]
        inputs = Inputs.of(rows, places)
    else:
        piped = file == STDIN or list(texts) == [STDIN]
        place = "stdin:" if piped else "text "
        lines = lines if file else _stdin_lines() if piped else list(texts)
        places = [f"{place}{number}" for number in range(1, len(lines) + 1)]
        inputs = Inputs.of(lines, places, alone=len(texts) == 1 and texts[0] != STDIN)
    if not inputs.count:
        raise DataError(
            f"{file or 'stdin'} is empty: nothing to answer", hint="give at least one line or row"
        )
    return inputs


def _file_inputs(path: Path, parallel: bool, encoding: str) -> Inputs:
    def opened() -> Iterator[Placed]:
        return _file_items(path, parallel, encoding)

    say_encoding(str(path), encoding)
    count, columns = _columns(opened())
    table = _table(path, parallel=parallel) if columns else None
    return Inputs(opened, count, columns, table=table, file=path)


def _table(path: Path, *, parallel: bool) -> Table | None:
    """Returns how a CSV or TSV file is written, by its name; None for other files, and for
    several.
    """
    kind = ending(path) if path.is_file() else ""
    if kind not in TABLES:
        return None
    tabs = kind == ".tsv" and "\t" in head_of(path).partition("\n")[0]
    return Table("\t" if tabs else delimiter_of(path), header=not (parallel and kind == ".tsv"))


def check_kind(output: str, inputs: Inputs) -> None:
    """Refuses an output whose name says a format that predictions are not written in.

    Raises:
        UsageError: a spreadsheet, a table of texts that were none, a compressed file, or the input
            itself.
    """
    if (
        inputs.file is not None
        and appears_whole(Path(output))
        and _is_in(Path(output), inputs.file)
    ):
        raise UsageError(
            f"--output {output} is the input, which would be replaced",
            hint="give another file: --output FILE",
        )
    path, kind = Path(output), Path(output).suffix.lower()
    if kind in SPREADSHEETS or (kind in TABLES and inputs.table is None):
        what = "lines, JSON lines or Parquet, never a spreadsheet's; those of a CSV or TSV file too"
        raise UsageError(
            f"{path.name}: predictions are {what}", hint=f"--output {path.with_suffix('.jsonl')}"
        )
    if kind in COMPRESSED:
        raise UsageError(
            f"{path.name}: predictions are not compressed", hint=f"--output {path.with_suffix('')}"
        )
    if kind == PARQUET and not appears_whole(path):
        raise UsageError(f"{path.name}: Parquet is written to a regular file")


def _is_in(output: Path, given: Path) -> bool:
    """Whether an output is the input file, or one in the input folder, also by links."""
    try:
        if output.samefile(given):
            return True
    except OSError:  # the output is new
        return False
    return given.is_dir() and output.resolve().is_relative_to(given.resolve())


def refuse_file_names(model: str, texts: Sequence[str]) -> None:
    """Refuses texts that name files here: the name would be answered in place of what is in the
    file.

    A text that looks like a file's name, and names none, is answered with a warning; several of
    one word each are too, since quotes may have been forgotten.

    Raises:
        UsageError: hints at both ways.
    """
    for text in texts:
        if text != STDIN and os.path.isfile(os.path.expanduser(text)):
            name = quoted(text)
            raise UsageError(
                f"'{text}' is a file, and would be answered as a text",
                hint=f"--input {name} answers what is in the file, --text {name} the words "
                "themselves",
            )
        if _FILE_NAME.fullmatch(text):
            warn(f"there is no file '{text}': answering these words as a text")
    if len(texts) > 1 and all(len(text.split()) == 1 for text in texts):
        joined = f"lora-s2s predict {quoted(model)} {quoted(' '.join(texts))}"
        warn(f"each of the {len(texts)} words is answered as a text of its own; as one: {joined}")


def check_texts(model: str, inputs: Inputs) -> None:
    """Refuses texts, before a model is loaded, where its template needs several columns.

    Raises:
        UsageError: hints at a file of rows.
        DataError: the model's manifest is damaged.
    """
    folder = Path(model).expanduser()
    first, _ = next(iter(inputs))
    if isinstance(first, str) and has_manifest(folder):
        how = ModelManifest.read(folder).input
        check_recorded(how.template, where=str(ModelManifest.path(folder)))
        check_takes_text(format=how.format, template=how.first_template)


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
        hint = (
            f"convert it before (iconv -f {guess_encoding(content)[0]} -t UTF-8), or --input FILE"
        )
        raise DataError(f"stdin is not UTF-8 text (byte {error.start})", hint=hint) from error


def _json_row(line: str, place: str) -> dict[str, Any]:
    try:
        return _object(json.loads(line), place)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not a JSON line: {error}", where=place) from error


def _object(row: object, place: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise DataError("not a JSON object", where=place)
    return row


def _file_items(path: Path, parallel: bool, encoding: str) -> Iterator[Placed]:
    # Of what is no file, find_origins tells what it is, or finds the files in it.
    kind = ending(path) if path.is_file() else ""
    with reading(path):
        if kind in _LINES or (path.is_file() and is_lines(path, parallel=parallel)):
            lines = enumerate(checked_lines(path, encoding), start=1)
            yield from ((line, f"{path}:{number}") for number, line in lines)
        elif kind in JSON_LINES:
            # Not the reader for training data: what was a number stays one on its way through.
            rows = (line for line in checked_lines(path, encoding) if line.strip())
            for place, line in (
                (f"{path}, row {number}", line) for number, line in enumerate(rows, start=1)
            ):
                yield _json_row(line, place), place
        else:
            for origin in find_origins(str(path), parallel=parallel):
                for item in origin.rows(Parsing(encoding=encoding)):
                    if not isinstance(item, Row):
                        where = f"{path}:{item.line}"
                        raise DataError(item.reason, hint=hint_for(item), where=where)
                    yield dict(item.fields), f"{path}:{item.line}"
