"""What ``predict`` reads and writes: lines of text, or rows that keep their fields. Heavy to import."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_s2s.commands._lengths import new_tokens
from lora_s2s.console import ProgressLine, warn
from lora_s2s.errors import DataError, UsageError
from lora_s2s.files import jsonl_line, naming
from lora_s2s.formats.choose import ending, is_lines
from lora_s2s.formats.origins import find_origins, reading
from lora_s2s.formats.rows import Row
from lora_s2s.formats.streams import BadLine, text_lines
from lora_s2s.inference import decode as decoding
from lora_s2s.inference.loading import InputSettings, Predictor
from lora_s2s.recipe.schema import EvaluationSection

STDIN = "-"
_LINES = (".txt", ".text")
_ROWS_AS_THEY_ARE = (".jsonl", ".ndjson")

Input = str | dict[str, Any]


@dataclass(frozen=True)
class Inputs:
    """Texts or rows, each with the place it came from; ``alone`` is one text whose answer may have several lines."""

    items: list[Input]
    places: list[str]
    alone: bool = False

    def written(self, predictions: Sequence[str], *, rows: bool = False) -> str:
        """Returns what goes out: a line for a line, a JSON row with ``prediction`` for a row.

        Args:
            rows: JSON rows for texts too, as ``{"text": …, "prediction": …}``.
        """
        pairs = list(zip(self.items, predictions, strict=True))
        if self.alone and not rows:
            return f"{predictions[0]}\n"
        broken = 0 if rows else sum(isinstance(item, str) and len(text.splitlines()) > 1 for item, text in pairs)
        if broken:
            # One line in, one line out, whatever the model wrote.
            warn(f"the lines of {broken:,} answers are joined by spaces; --output FILE.jsonl keeps them apart")
        return "".join(_line(item, text, rows=rows) for item, text in pairs)


def _line(item: Input, prediction: str, *, rows: bool) -> str:
    if isinstance(item, str) and not rows:
        return " ".join(prediction.splitlines()) + "\n"
    return jsonl_line({**({"text": item} if isinstance(item, str) else item), "prediction": prediction})


def takes_rows(output: str | None) -> bool:
    """Says whether an output file is one of JSON rows, by its name."""
    return output is not None and Path(output).suffix.lower() in _ROWS_AS_THEY_ARE


def read_inputs(texts: Sequence[str], file: str | None, *, parallel: bool = False) -> Inputs:
    """Reads the texts of the command line (``-`` is stdin, a line each), or a file.

    Args:
        parallel: the model was trained on two columns without a header, which is what a ``.tsv`` then holds here too.

    The file ``-`` is stdin too: rows where its first line is a JSON object, else a text in each line.

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
    if file and file != STDIN:
        found = list(_file_items(Path(file).expanduser(), parallel=parallel))
    elif file and (lines := _stdin_lines()) and lines[0].lstrip().startswith("{"):
        found = [(_json_row(line, f"stdin:{number}"), f"stdin:{number}") for number, line in enumerate(lines, start=1)]
    else:
        piped = file == STDIN or list(texts) == [STDIN]
        place = "stdin:" if piped else "text "
        lines = lines if file else _stdin_lines() if piped else list(texts)
        found = [(text, f"{place}{number}") for number, text in enumerate(lines, start=1)]
    if not found:
        raise DataError(f"{file or 'stdin'} is empty: nothing to answer", hint="give at least one line or row")
    items, places = map(list, zip(*found, strict=True))
    return Inputs(items, places, alone=len(texts) == 1 and texts[0] != STDIN)


def _stdin_lines() -> list[str]:
    if sys.stdin is None:
        raise UsageError("stdin is closed, so there is nothing to read", hint="give texts, or --input FILE")
    with naming(Path("stdin")):
        content = sys.stdin.buffer.read()
    try:
        # Not splitlines, which also breaks where a line of a file does not: at U+2028, for one.
        return [line.rstrip("\n") for line in io.StringIO(content.decode("utf-8-sig"), newline=None)]
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
            for place, line in ((f"{path}, row {number}", line) for number, line in enumerate(rows, start=1)):
                yield _json_row(line, place), place
        else:
            for origin in find_origins(str(path), parallel=parallel):
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


def decoding_settings(section: EvaluationSection, trained_on: InputSettings) -> decoding.DecodingSettings:
    """Returns the decoding part of a recipe's evaluation section, its limit that of the targets where it is auto."""
    limit = new_tokens(section, trained_on.max_target_tokens)
    return decoding.DecodingSettings(limit, num_beams=section.num_beams, batch_tokens=section.batch_tokens)


def answer(predictor: Predictor, sources: Sequence[str], section: EvaluationSection, *, label: str) -> list[str]:
    """Returns the answers to rendered sources, with a progress line called ``label``."""
    with ProgressLine(label) as line:
        answers = decoding.decode(
            predictor,
            sources,
            decoding_settings(section, predictor.settings),
            (lambda done, total: line.update({}, done=done, total=total)) if len(sources) > 1 else None,
        )
    return [answer.text for answer in answers]
