"""What translators have: TMX, two files whose lines belong together, and two columns without a
header.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.parsers import expat

from lora_s2s import limits
from lora_s2s.errors import DataError
from lora_s2s.readers import streams
from lora_s2s.readers.rows import Item, Items, Parsing, Rejected, Row
from lora_s2s.readers.streams import BadLine, blocks, excerpt, text_lines

# Inside a segment these hold another format's codes, which are no text.
_CODES = {"bpt", "ept", "it", "ph", "ut"}


class _Units:
    """Expat's callbacks: collects the complete translation units."""

    def __init__(self, path: Path) -> None:
        self.path, self.found = path, list[Item]()
        self._root, self._language, self._reason, self._line = "", "", "", 0
        self._fields, self._text = dict[str, str](), list[str]()
        self._length, self._segment, self._codes = 0, False, 0
        self.parser = parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler, parser.EndElementHandler = self._start, self._end
        parser.CharacterDataHandler = self._characters
        # Entities can grow a small file without end, and those defined elsewhere would be lost
        # text.
        parser.EntityDeclHandler = parser.SkippedEntityHandler = self._refuse_entity

    def _refuse_entity(self, name: str, *_: Any) -> None:
        where = f"{self.path}:{self.parser.CurrentLineNumber}"
        raise DataError(
            f"the file defines the XML entity '{name}'", hint="write out its text", where=where
        )

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._root = self._root or name
        if self._root != "tmx":
            raise DataError(
                f"{self.path} is XML of the type '{name}', expected 'tmx'",
                hint="convert it to TMX or CSV",
            )
        if name == "tu":
            self._line, self._reason, self._fields, self._length = (
                self.parser.CurrentLineNumber,
                "",
                {},
                0,
            )
        elif name == "tuv":
            self._language = attributes.get("xml:lang", attributes.get("lang", ""))
        elif name == "seg":
            self._segment, self._text = True, []
        self._codes += name in _CODES

    def _characters(self, text: str) -> None:
        if self._segment and not self._codes:
            self._length += len(text)
            self._reason = (
                streams.TOO_LONG if self._length > streams.LONGEST_RECORD else self._reason
            )
            self._text.append(text)
            if self._reason:
                self._text.clear()

    def _end(self, name: str) -> None:
        self._codes -= name in _CODES
        if name == "seg":
            if self._language in self._fields:
                self._reason = self._reason or f"two texts in one language: '{self._language}'"
            self._fields[self._language], self._segment = "".join(self._text), False
            if len(self._fields) > limits.MOST_COLUMNS:
                self._reason, self._fields = f"more than {limits.MOST_COLUMNS:,} languages", {}
        elif name == "tu" and self._reason:
            shown = excerpt(" | ".join(self._fields.values()))
            self.found.append(Rejected(str(self.path), self._line, self._reason, shown))
        elif name == "tu":
            self.found.append(Row(self._line, self._fields))


def read_tmx(path: Path, _: Parsing) -> Items:
    """Yields a row for every translation unit: the text of each ``xml:lang``.

    Raises:
        DataError: it is no TMX, not well-formed, or has entities of its own.
    """
    units = _Units(path)
    try:
        for block in itertools.chain(blocks(path), [b""]):
            units.parser.Parse(block, not block)
            yield from units.found
            units.found.clear()
    except expat.ExpatError as error:
        where = f"{path}:{error.lineno}:{error.offset + 1}"
        raise DataError(
            f"not well-formed XML: {expat.ErrorString(error.code)}", where=where
        ) from error
    except (LookupError, ValueError) as error:
        raise DataError(
            f"{path} has an encoding that cannot be read: {error}", hint="convert it to UTF-8"
        ) from error


def line_pairs(
    first: Path,
    targets: Sequence[Path],
    names: tuple[str, str] = ("source", "target"),
    encoding: str = streams.UTF8,
) -> Items:
    """Yields line n of one file with line n of each other; of several targets a list, without those
    that are blank.

    Args:
        first: the file of the sources.
        targets: one file, or several whose lines are references of one source.
        names: the columns of the two sides.
        encoding: of files that are not UTF-8.

    Raises:
        DataError: they differ in their number of lines.
    """
    files = (first, *targets)
    lines = [text_lines(file, encoding) for file in files]
    for number, texts in enumerate(itertools.zip_longest(*lines), start=1):
        if None in texts:
            raise _different_lengths(files, lines, texts, number)
        bad = next(
            (
                (path, line)
                for path, line in zip(files, texts, strict=True)
                if type(line) is BadLine
            ),
            None,
        )
        if bad is not None:
            yield Rejected(str(bad[0]), number, bad[1].reason, excerpt(bad[1]))
            continue
        source, *others = (text.removesuffix("\r") for text in texts)
        references = [text for text in others if text.strip()] or others[:1]
        target = references if len(references) > 1 else references[0]
        yield Row(number, dict(zip(names, (source, target), strict=True)))


def _different_lengths(
    files: Sequence[Path], lines: Sequence[Iterator[str]], texts: Sequence[str | None], number: int
) -> DataError:
    counts = [
        number - 1 if text is None else number + sum(1 for _ in rest)
        for text, rest in zip(texts, lines, strict=True)
    ]
    sizes = [f"{file} has {count:,}" for file, count in zip(files, counts, strict=True)]
    listed = ", ".join([f"{sizes[0]} lines", *sizes[1:]])
    message = f"parallel files of different lengths: {listed}"
    return DataError(
        message, hint="line n of one must belong to line n of the other: find where they diverge"
    )


def two_columns(path: Path, parsing: Parsing) -> Items:
    """Yields a source and a target for every line: two columns parted by a tab, without header or
    quoting.
    """
    for number, line in enumerate(text_lines(path, parsing.encoding), start=1):
        cells = line.removesuffix("\r").split("\t")
        reason = getattr(
            line, "reason", "" if len(cells) == 2 else f"not two columns: {len(cells)}"
        )
        if reason and (line.strip() or type(line) is not str):
            yield Rejected(str(path), number, reason, excerpt(line))
        elif not reason:
            yield Row(number, {"source": cells[0], "target": cells[1]})
