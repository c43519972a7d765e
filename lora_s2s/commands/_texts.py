"""What ``predict`` reads and writes: lines of text, or rows that keep their fields."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_s2s.errors import DataError, UsageError

if TYPE_CHECKING:
    from lora_s2s.inference.loading import Predictor

STDIN = "-"
_LINES = (".txt", ".text")
_ROWS_AS_THEY_ARE = (".jsonl", ".ndjson")

Input = str | dict[str, Any]


@dataclass(frozen=True)
class Inputs:
    """Texts or rows, each with the place it came from."""

    items: list[Input]
    places: list[str]

    def written(self, predictions: Sequence[str]) -> str:
        """Returns what goes out: a line for a line, a JSON row with ``prediction`` for a row."""
        from lora_s2s.files import jsonl_line

        lines = []
        for item, text in zip(self.items, predictions, strict=True):
            if isinstance(item, str):
                # One line in, one line out, whatever the model wrote.
                lines.append(" ".join(text.splitlines()) + "\n")
            else:
                lines.append(jsonl_line({**item, "prediction": text}))
        return "".join(lines)


def read_inputs(texts: Sequence[str], file: str | None) -> Inputs:
    """Reads the texts of the command line (``-`` is stdin, a line each), or a file.

    Raises:
        UsageError: both or neither were given.
        DataError: the file is missing, empty, or holds a row that cannot be read.
    """
    if bool(texts) == bool(file):
        raise UsageError(
            "expected texts, or --input FILE" + (", not both" if texts else ""),
            hint='lora-s2s predict adapters/demo "a table for four on friday"',
        )
    if file == STDIN or list(texts) == [STDIN]:
        found: list[tuple[Input, str]] = [
            (line, f"stdin:{number}") for number, line in enumerate(_stdin_lines(), start=1)
        ]
    elif file:
        found = list(_file_items(Path(file).expanduser()))
    else:
        found = [(text, f"text {number}") for number, text in enumerate(texts, start=1)]
    if not found:
        raise DataError(f"{file or 'stdin'} is empty: nothing to answer", hint="give at least one line or row")
    return Inputs([item for item, _ in found], [place for _, place in found])


def _stdin_lines() -> list[str]:
    content = sys.stdin.buffer.read()
    try:
        return content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"stdin is not UTF-8 text (byte {error.start})") from error


def _file_items(path: Path) -> Iterator[tuple[Input, str]]:
    from lora_s2s.data.origins import find_origins
    from lora_s2s.data.rows import Row, reading
    from lora_s2s.files import open_text, read_jsonl

    kind = (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()
    with reading(path):
        if kind in _LINES:
            with open_text(path) as lines:
                yield from ((line.rstrip("\r\n"), f"{path}:{number}") for number, line in enumerate(lines, start=1))
        elif kind in _ROWS_AS_THEY_ARE:
            # Not the reader for training data: what was a number stays one on its way through.
            for number, row in enumerate(read_jsonl(path), start=1):
                if not isinstance(row, dict):
                    raise DataError("not a JSON object", where=f"{path}, row {number}")
                yield row, f"{path}, row {number}"
        else:
            for origin in find_origins(str(path)):
                for item in origin.rows():
                    if not isinstance(item, Row):
                        raise DataError(item.reason, where=f"{path}:{item.line}")
                    yield dict(item.fields), f"{path}:{item.line}"


def rendered(predictor: Predictor, inputs: Inputs) -> list[str]:
    """Returns the encoder's text of every input; an error says which one.

    Raises:
        DataError: a row lacks a column, or holds something other than text in it.
    """
    sources = []
    for item, place in zip(inputs.items, inputs.places, strict=True):
        try:
            sources.append(predictor.render(item))
        except DataError as error:
            raise DataError(error.message, hint=error.hint, where=place) from error
    return sources
