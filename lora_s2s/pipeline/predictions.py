"""How ``predict`` writes answers: a line for a line, a row with ``prediction`` for a row."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lora_s2s.console import warn
from lora_s2s.data.parquet import write_rows
from lora_s2s.files import json_text, jsonl_line, staged_file
from lora_s2s.outputs import output_stream, target_of
from lora_s2s.pipeline.inputs import JSON_LINES, PARQUET, TABLES, Input, Inputs, Table

# An answer's text, or the fields that a row gains, "prediction" among them.
Answer = str | Mapping[str, object]

PREDICTION, PROBABILITY, N_BEST = "prediction", "probability", "n_best"
# A spreadsheet runs what begins with one of these.
_FORMULA = ("=", "+", "-", "@")
_NUMBER = re.compile(r"[+-]?[0-9][0-9.,]*%?")


def write_answers(
    path: Path, inputs: Inputs, answers: Iterable[Answer], more: Sequence[str] = ()
) -> None:
    """Writes an output file: all of it, or nothing.

    Args:
        more: the fields that rows gain beside ``prediction``.

    Raises:
        UsageError: rows that differ in their types, for Parquet.
    """
    if path.suffix.lower() == PARQUET:
        rows = (_row(item, answer) for (item, _), answer in zip(inputs, answers, strict=True))
        source = inputs.file if inputs.file and inputs.file.suffix.lower() == PARQUET else None
        columns = list(dict.fromkeys([*(inputs.columns or ["text"]), PREDICTION, *more]))
        with staged_file(target_of(path)) as staged:
            write_rows(staged, rows, columns, like=source, new=more)
        return
    with output_stream(path) as stream:
        for line in lines_of(inputs, answers, more, output=str(path)):
            stream.write(line.encode("utf-8", "backslashreplace"))


def lines_of(
    inputs: Inputs,
    answers: Iterable[Answer],
    more: Sequence[str] = (),
    *,
    output: str | None = None,
) -> Iterator[str]:
    """Yields what goes out: a line for a line, a row with ``prediction`` for a row.

    A line of an answer with a ``probability`` ends in a tab and that. Of ``n_best`` answers each
    has a line: the text's number, its log-probability and the answer, with tabs between.

    Rows of CSV and TSV go out as such, unless the output's name says JSON lines; other rows are
    JSON lines.

    Args:
        more: the fields that rows gain beside ``prediction``.
        output: a file's name; one of JSON lines takes texts too, as ``{"text": …, "prediction":
            …}``.
    """
    kind = "" if output is None else Path(output).suffix.lower()
    pairs = ((item, answer) for (item, _), answer in zip(inputs, answers, strict=True))
    if inputs.table is not None and kind in ("", *TABLES):
        names = list(dict.fromkeys([*inputs.columns, PREDICTION, *more]))
        yield from _csv_lines(pairs, names, inputs.table.named(kind))
        return
    as_rows, joined = kind in JSON_LINES, 0
    for number, (item, answer) in enumerate(pairs, start=1):
        if as_rows or isinstance(item, dict):
            yield jsonl_line(_row(item, answer))
            continue
        for before, text, after in _columns(fields_of(answer), number):
            lines = [text] if inputs.alone and not before else text.splitlines()
            joined += len(lines) > 1  # one line in, one line out, whatever the model wrote
            yield f"{before}{' '.join(lines)}{after}\n"
    if joined:
        warn(
            f"the lines of {joined:,} answers are joined by spaces; --output FILE.jsonl keeps "
            "them apart"
        )


def fields_of(answer: Answer) -> Mapping[str, object]:
    """Returns the fields that a row gains for an answer."""
    return {PREDICTION: answer} if isinstance(answer, str) else answer


def _columns(fields: Mapping[str, Any], number: int) -> list[tuple[str, str, str]]:
    """What a line has before a text, the text, and what comes after it, for each line."""
    if N_BEST in fields:
        return [(f"{number}\t{one['score']:.4f}\t", one["text"], "") for one in fields[N_BEST]]
    share = fields.get(PROBABILITY)
    after = "" if share is None else f"{share:.4f}"  # none without a source
    return [("", str(fields[PREDICTION]), f"\t{after}" if PROBABILITY in fields else "")]


def _row(item: Input, answer: Answer) -> dict[str, Any]:
    return {**({"text": item} if isinstance(item, str) else item), **fields_of(answer)}


def _csv_lines(
    pairs: Iterable[tuple[Input, Answer]], names: Sequence[str], table: Table
) -> Iterator[str]:
    """Yields rows with every column they had and ``prediction``, which stands behind them unless it
    was a column already.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=table.delimiter, lineterminator="\n")
    if table.header:
        writer.writerow(names)
    formulas = 0
    for item, answer in pairs:
        row = _row(item, answer)
        text = row[PREDICTION]
        formulas += text.startswith(_FORMULA) and not _NUMBER.fullmatch(text)
        writer.writerow([_cell(row.get(name, "")) for name in names])
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
    if formulas:
        begin = f"{formulas:,} predictions begin with {' '.join(_FORMULA[:-1])} or {_FORMULA[-1]}"
        warn(f"{begin}, which a spreadsheet may run as formulas: import that column as text")


def _cell(value: object) -> object:
    return json_text(value) if isinstance(value, Mapping | list) else value
