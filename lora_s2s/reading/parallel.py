"""Parallel text: two files whose lines belong together, or one of two columns without a header."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from lora_s2s.errors import DataError
from lora_s2s.reading.example import Rejected, Row
from lora_s2s.reading.formats import READERS, ending, reader_of, refuse_what_is_no_data
from lora_s2s.reading.streams import COMPRESSED, BadLine, excerpt, head_of, text_lines

_SIDES = {"src": "tgt", "source": "target"}
_SIDE = re.compile(rf"(?<![^\W\d_])({'|'.join(_SIDES)})(?![^\W\d_])")


def are_parallel(first: Path, second: Path) -> bool:
    """True where the names say so: ``train.en`` and ``train.de``, ``src-train.txt`` and ``tgt-train.txt``."""
    if ending(first) in READERS or ending(second) in READERS:
        return False
    one, other = (path.with_suffix("") if path.suffix.lower() in COMPRESSED else path for path in (first, second))
    differ = one.stem == other.stem and one.suffix != other.suffix and bool(one.suffix and other.suffix)
    return differ or (one.name != other.name == _SIDE.sub(lambda found: _SIDES[found[1]], one.name))


def line_pairs(first: Path, second: Path) -> Iterator[Row | Rejected]:
    """Yields line n of one file with line n of the other.

    Raises:
        DataError: they differ in their number of lines.
    """
    for path in (first, second):
        refuse_what_is_no_data(path, head_of(path))
    sources, targets = text_lines(first), text_lines(second)
    for number, (source, target) in enumerate(itertools.zip_longest(sources, targets), start=1):
        if source is None or target is None:
            counts = [number - 1, number + sum(1 for _ in (targets if source is None else sources))]
            left, right = counts if source is None else reversed(counts)
            raise DataError(
                f"parallel files of different lengths: {first} has {left:,} lines, {second} has {right:,}",
                hint="line n of one belongs to line n of the other: find where they part",
            )
        bad = next(((path, line) for path, line in ((first, source), (second, target)) if type(line) is BadLine), None)
        if bad is not None:
            yield Rejected(str(bad[0]), number, bad[1].reason, excerpt(bad[1]))
        else:
            yield _row(number, source, target)


def parallel_rows(path: Path) -> Iterator[Row | Rejected]:
    """Yields a file's lines as two columns without header or quoting; a format with names of its own as always."""
    if ending(path) in READERS and ending(path) != ".tsv":
        yield from reader_of(path)(path)
        return
    refuse_what_is_no_data(path, head_of(path))
    for number, line in enumerate(text_lines(path), start=1):
        cells = line.split("\t")
        if type(line) is BadLine:
            yield Rejected(str(path), number, line.reason, excerpt(line))
        elif len(cells) == 2:
            yield _row(number, *cells)
        elif line.strip():
            yield Rejected(str(path), number, f"not two columns: {len(cells)}", excerpt(line))


def _row(number: int, source: str, target: str) -> Row:
    return Row(number, {"source": source.removesuffix("\r"), "target": target.removesuffix("\r")})
